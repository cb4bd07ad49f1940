// @ts-check
// Krea Size: the widgets that its preset uses, and what they come to, here and at each provider.
import { toned } from "./reports.js";
import { providers, tell } from "./server.js";
import { after, isWired, onChange, onExecuted, showOnly, widgetOf } from "./widgets.js";
import { say } from "./words.js";

const PAUSE = 200; // milliseconds without a change before the server is asked
const BATCH = "batch_size"; // the one widget that is not about the size
/** Under any other preset, a provider's own size, none of them counts. */
const USED_BY = { aspect_ratio: "aspect ratio", megapixels: "aspect ratio", width: "exact size", height: "exact size" };

/** @param {ComfyNode} node @param {() => import("./card.js").Card} cardOf */
export function setUpSize(node, cardOf) {
  const inputs = node.widgets.filter(({ name }) => name !== BATCH);
  const card = cardOf();
  let timer = 0;
  let asked = 0;

  const refresh = (savedHeight) => {
    const preset = isWired(node, "preset") ? undefined : widgetOf(node, "preset").value;
    const isUsed = (name) => !preset || !(name in USED_BY) || USED_BY[name] === preset || isWired(node, name);
    showOnly(node, ({ name }) => isUsed(name), savedHeight);
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const turn = ++asked;
      const content = await contentFor(node, inputs);
      if (turn === asked) card.show(content);
    }, PAUSE);
  };
  onChange(node, () => refresh());
  onExecuted(node, ({ text = [] }) => text.length && card.show(sizeContent(text.join("\n"))));
  after(node, "onConnectionsChange", () => refresh());
  after(node, "onConfigure", (saved) => refresh(saved?.size?.[1]));
  after(node, "onRemoved", () => clearTimeout(timer));
  requestAnimationFrame(() => refresh()); // a node is made before its values are set
}

/** A wired value is known only when the graph runs. */
async function contentFor(node, inputs) {
  const wired = inputs.map(({ name }) => name).filter((name) => isWired(node, name));
  if (wired.length) return { lines: [say("Wired, and not counted yet: {names}", { names: wired.join(", ") })] };
  const values = Object.fromEntries(inputs.map(({ name, value }) => [name, value]));
  return tell("/flux_krea/size", values).then(
    ({ text }) => sizeContent(text),
    ({ message }) => ({ lines: [toned(message, "bad")] }),
  );
}

/**
 * The local size, a warning where it is far from what the model knows, and each provider's size.
 * @param {string} text
 * @returns {import("./card.js").CardContent}
 */
function sizeContent(text) {
  const [size, ...lines] = text.split("\n");
  const isOfProvider = (line) => Object.values(providers).some(({ label }) => line.startsWith(`${label}: `));
  const [headline, ...about] = size.split(", ");
  return {
    headline,
    about: about.join(", "),
    lines: lines.filter((line) => !isOfProvider(line)).map((line) => toned(line, "warning")),
    details: lines.filter(isOfProvider),
  };
}
