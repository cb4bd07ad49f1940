// @ts-check
// The list of LoRAs on API Krea: a row each, added and removed by mouse or keyboard. What is saved is the text of `loras`,
// one a line, which is shown instead where this list cannot be.
import { heightAt, passToCanvas } from "./card.js";
import { element } from "./elements.js";
import { setValue, widgetOf } from "./widgets.js";
import { say } from "./words.js";

const MARGIN = 10; // pixels that the canvas renderer leaves around a widget's element
const TYPE = "flux_krea_loras"; // no widget of ComfyUI's: every renderer then shows the element itself
const FIELD = "min-width: 0; padding: 4px 6px; border-radius: 6px; font: inherit; color: inherit; background: transparent; border: 1px solid var(--border-color, #8888);";

/** @typedef {{ path: string, strength: string }} Row */

export class LoraList {
  /** @param {any} node @param {ComfyWidget} below the widget that it stands above */
  constructor(node, below) {
    this.node = node;
    this.text = widgetOf(node, "loras");
    /** @type {Row[]} */
    this.rows = [];
    this.written = null; // the text that the rows were read from, or written to
    this.measured = { width: 0, height: 0 };
    this.list = element("div", { className: "said" });
    this.list.setAttribute("role", "list");
    this.add = element("button", { type: "button", textContent: say("Add a LoRA") });
    this.add.addEventListener("click", () => this.#insert(this.rows.length));
    this.body = element("div", { className: "body" }, this.list, element("div", { className: "row" }, this.add));
    const frame = element("div", { className: "flux-krea-card" }, this.body);
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", say("LoRAs"));
    frame.addEventListener("wheel", passToCanvas);
    this.widget = node.addDOMWidget("lora_list", TYPE, frame, {
      serialize: false,
      margin: MARGIN,
      getValue: () => this.text.value,
      setValue: () => {}, // what ComfyUI would put back stands in `loras`
      getMinHeight: () => this.#height(),
      getMaxHeight: () => this.#height(),
    });
    this.widget.label = say("LoRAs");
    this.widget.serialize = false;
    node.widgets.splice(node.widgets.indexOf(below), 0, node.widgets.pop());
    this.follow();
  }

  /** Shows the text as rows, unless it is what the rows wrote. */
  follow() {
    if (this.written === this.text.value) return;
    this.written = String(this.text.value ?? "");
    this.rows = this.written.split("\n").filter((line) => line.trim()).map(rowOf);
    this.#draw();
  }

  #draw() {
    this.list.replaceChildren(...this.rows.map((row, index) => this.#row(row, index)));
    this.measured.width = 0;
  }

  /** @param {Row} row @param {number} index */
  #row(row, index) {
    const path = element("input", { type: "text", value: row.path, placeholder: say("https address, owner/name or AIR id") });
    path.setAttribute("aria-label", say("LoRA {number}", { number: index + 1 }));
    path.style.cssText = `${FIELD} flex: 1 1 120px;`;
    const strength = element("input", { type: "number", min: "-4", max: "4", step: "0.05", value: row.strength });
    strength.setAttribute("aria-label", say("Strength of LoRA {number}", { number: index + 1 }));
    strength.style.cssText = `${FIELD} flex: 0 0 64px;`;
    const remove = element("button", { type: "button", textContent: "✕" });
    remove.setAttribute("aria-label", say("Remove LoRA {number}", { number: index + 1 }));
    remove.style.flex = "none";
    path.addEventListener("input", () => this.#write(row, { path: path.value }));
    strength.addEventListener("input", () => this.#write(row, { strength: strength.value }));
    remove.addEventListener("click", () => this.#remove(index));
    for (const field of [path, strength])
      field.addEventListener("keydown", (event) => {
        event.stopPropagation(); // no shortcut of the page
        if (event.key === "Enter") this.#insert(index + 1);
      });
    const made = element("div", { className: "row" }, path, strength, remove);
    made.setAttribute("role", "listitem");
    return made;
  }

  /** @param {number} index */
  #insert(index) {
    this.rows.splice(index, 0, { path: "", strength: "1" });
    this.#draw();
    this.#write();
    this.list.children[index].querySelector("input")?.focus();
  }

  /** The focus goes to the row that takes the place, or to the button that adds one. @param {number} index */
  #remove(index) {
    this.rows.splice(index, 1);
    this.#draw();
    this.#write();
    const next = /** @type {HTMLElement | null} */ (this.list.children[index]?.querySelector("button") ?? this.add);
    next?.focus();
  }

  /** @param {Row} [row] @param {Partial<Row>} [change] */
  #write(row, change = {}) {
    if (row) Object.assign(row, change);
    const lines = this.rows.filter(({ path }) => path.trim()).map(({ path, strength }) => `${path.trim()} ${strength || "1"}`);
    this.written = lines.join("\n");
    setValue(this.text, this.written);
  }

  #height() {
    const width = Math.round(this.node.size[0]) - 2 * MARGIN;
    if (this.measured.width !== width) this.measured = { width, height: heightAt(this.body, width) };
    return this.measured.height + 2 * MARGIN;
  }
}

/** The last word of a line is the strength, if it is a number. @param {string} line @returns {Row} */
function rowOf(line) {
  const [, path, strength] = /^\s*(.*?)(?:\s+([-+]?[\d.]+))?\s*$/.exec(line) ?? [];
  return { path: path ?? "", strength: strength ?? "1" };
}
