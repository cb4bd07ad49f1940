// @ts-check
// The card on a node: a price, a verdict, a size, what is wrong and what goes on, as one element in both renderers.
import { app } from "../../scripts/app.js";
import { element } from "./elements.js";
import { fit } from "./widgets.js";
import { say } from "./words.js";

const MARGIN = 10; // pixels that the canvas renderer leaves around a widget's element
const TYPE = "flux_krea_card"; // no widget of ComfyUI's: every renderer then shows the element itself
const MARKS = { good: "●", warning: "▲", bad: "■" }; // a tone is never told by its colour alone

/**
 * @typedef {{ text: string, tone: "good" | "warning" | "bad" }} TonedLine
 * @typedef {object} CardContent what a card shows, from top to bottom; what is absent takes no room
 * @property {string} [headline] the one thing to see first, such as the price
 * @property {string} [about] what the headline is about
 * @property {(string | TonedLine)[]} [lines]
 * @property {{ label: string, press: () => void }[]} [actions]
 * @property {string[]} [details] folded away
 */

/** What a node shows below its widgets. Neither saved with the workflow nor sent to the server. */
export class Card {
  /** @param {ComfyNode} node @param {string} name of the widget @param {string} label for a screen reader */
  constructor(node, name, label) {
    this.node = node;
    /** @type {CardContent} */
    this.content = {};
    this.measured = { width: 0, height: 0 };
    this.made = 0; // height that the node was given for this card
    this.said = element("div", { className: "said" });
    this.said.setAttribute("role", "status");
    this.actions = element("div", { className: "row" });
    this.bar = element("div", { className: "bar", hidden: true });
    this.folded = element("details", { hidden: true });
    this.body = element("div", { className: "body" }, this.said, this.actions, this.bar, this.folded);
    const frame = element("div", { className: "flux-krea-card" }, this.body);
    frame.setAttribute("role", "group");
    frame.setAttribute("aria-label", label);
    frame.addEventListener("wheel", passToCanvas);
    this.folded.addEventListener("toggle", () => this.#grow());
    this.widget = node.addDOMWidget(name, TYPE, frame, {
      serialize: false,
      margin: MARGIN,
      getValue: () => textOf(this.content),
      setValue: () => {}, // what ComfyUI would put back: there is nothing to put
      getMinHeight: () => this.#height(),
      getMaxHeight: () => this.#height(),
    });
    this.widget.label = label;
    this.widget.serialize = false;
  }

  /** @param {CardContent} content */
  show(content) {
    const isNew = JSON.stringify(content) !== JSON.stringify(this.content); // what a button does may still have changed
    const { headline, about, lines = [], actions = [], details = [] } = (this.content = content);
    if (!isNew) return;
    const head = headline && element("p", { className: "head" }, element("strong", { textContent: headline }));
    if (head && about) head.append(" ", element("span", { textContent: about }));
    this.said.replaceChildren(...(head ? [head] : []), ...lines.map(lineOf));
    this.actions.replaceChildren(...actions.map(({ label }, index) => this.#button(label, index)));
    this.actions.hidden = !actions.length;
    const summary = element("summary", { textContent: say("Details ({count})", { count: details.length }) });
    this.folded.replaceChildren(summary, ...details.map((text) => element("p", { textContent: text })));
    this.folded.hidden = !details.length;
    this.#grow();
  }

  /** @param {string} text what goes on now @param {number} [fraction] of the work that is done; unknown without it */
  showProgress(text, fraction) {
    const known = typeof fraction === "number";
    const bar = element("progress", known ? { max: 1, value: fraction } : {});
    bar.setAttribute("aria-label", text || say("Running"));
    const wasHidden = this.bar.hidden;
    this.bar.hidden = false;
    this.bar.replaceChildren(element("p", { textContent: text }), bar);
    if (wasHidden) this.#grow();
  }

  endProgress() {
    if (this.bar.hidden) return;
    this.bar.hidden = true;
    this.#grow();
  }

  /** @param {string} label @param {number} index of the action */
  #button(label, index) {
    const button = element("button", { type: "button", textContent: label });
    button.addEventListener("click", () => this.content.actions?.[index]?.press());
    return button;
  }

  #grow() {
    this.measured.width = 0;
    this.made = fit(this.node, this.made);
  }

  /** Of the body at the node's present width, also while no renderer shows it. Asked at every drawing. */
  #height() {
    const width = Math.round(this.node.size[0]) - 2 * MARGIN;
    if (this.measured.width !== width) this.measured = { width, height: heightAt(this.body, width) };
    return this.measured.height + 2 * MARGIN;
  }
}

/** @param {HTMLElement} body @param {number} width */
export function heightAt(body, width) {
  const frame = element("div", { className: "flux-krea-card flux-krea-measured" }, body.cloneNode(true));
  frame.style.width = `${width}px`;
  document.body.append(frame);
  const height = frame.offsetHeight;
  frame.remove();
  return height;
}

/** @param {string | TonedLine} line */
function lineOf(line) {
  if (typeof line === "string") return element("p", { textContent: line });
  const mark = element("span", { className: "mark", textContent: MARKS[line.tone] });
  mark.setAttribute("aria-hidden", "true");
  return element("p", { className: line.tone }, mark, element("span", { textContent: line.text }));
}

/** The card's words, a line each: what a test reads, and what is copied. @param {CardContent} content */
function textOf({ headline, about, lines = [], details = [] }) {
  const head = [headline, about].filter(Boolean).join(", ");
  const texts = lines.map((line) => (typeof line === "string" ? line : line.text));
  return [head, ...texts, ...details].filter(Boolean).join("\n");
}

/** The canvas renderer lays the element over the canvas, which then would not zoom. @param {WheelEvent} event */
export function passToCanvas(event) {
  const overCanvas = /** @type {HTMLElement} */ (event.currentTarget).closest(".dom-widget");
  if (overCanvas) app.canvas.processMouseWheel?.(event);
}
