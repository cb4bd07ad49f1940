// @ts-check
// Krea Size: the widgets that its preset uses, and what they come to, here and at each provider.
import { tell } from "./server.js";
import { addTextBox, after, isWired, onChange, onExecuted, showOnly, showText, widgetOf } from "./widgets.js";
import { say } from "./words.js";

const PAUSE = 200; // milliseconds without a change before the server is asked
const BATCH = "batch_size"; // the one widget that is not about the size
/** Under any other preset, a provider's own size, none of them counts. */
const USED_BY = { aspect_ratio: "aspect ratio", megapixels: "aspect ratio", width: "exact size", height: "exact size" };

export function setUpSize(node) {
  const inputs = node.widgets.filter(({ name }) => name !== BATCH);
  const box = addTextBox(node, "result", say("result"));
  let timer = 0;
  let asked = 0;

  const refresh = (savedHeight) => {
    const preset = isWired(node, "preset") ? undefined : widgetOf(node, "preset").value;
    const isUsed = (name) => !preset || !(name in USED_BY) || USED_BY[name] === preset || isWired(node, name);
    showOnly(node, ({ name }) => isUsed(name), savedHeight);
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const turn = ++asked;
      const text = await textOf(node, inputs);
      if (turn === asked) showText(node, box, text);
    }, PAUSE);
  };
  onChange(node, (widget) => widget !== box && refresh());
  onExecuted(node, ({ text = [] }) => showText(node, box, text.join("\n")));
  after(node, "onConnectionsChange", () => refresh());
  after(node, "onConfigure", (saved) => refresh(saved?.size?.[1]));
  after(node, "onRemoved", () => clearTimeout(timer));
  requestAnimationFrame(() => refresh()); // a node is made before its values are set
}

/** A wired value is known only when the graph runs. */
async function textOf(node, inputs) {
  const wired = inputs.map(({ name }) => name).filter((name) => isWired(node, name));
  if (wired.length) return say("Wired, and not counted yet: {names}", { names: wired.join(", ") });
  const values = Object.fromEntries(inputs.map(({ name, value }) => [name, value]));
  const { text } = await tell("/flux_krea/size", values).catch(({ message }) => ({ text: message }));
  return text;
}
