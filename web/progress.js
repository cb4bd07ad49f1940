// @ts-check
// What goes on while a node runs, "In fal's queue, 2 ahead", on its card instead of on ComfyUI's own line of text.
import { api } from "../../scripts/api.js";
import { after, onExecuted, removeWidget, widgetOf } from "./widgets.js";

const LINE = "$$node-text-preview"; // ComfyUI's name for the widget; most pages leave it standing, 1.32 saves it
const NEWS = ["progress_text", "progress_state"];
const ENDS = ["execution_success", "execution_error", "execution_interrupted"];

/**
 * @param {ComfyNode} node
 * @param {() => import("./card.js").Card} cardOf makes the card where there is none yet
 */
export function setUpProgress(node, cardOf) {
  let text = "";
  const look = () => {
    const line = widgetOf(node, LINE);
    if (line) {
      text = String(line.value);
      removeWidget(node, LINE);
    }
    if (text) cardOf().showProgress(text, fractionOf(node));
  };
  const later = () => requestAnimationFrame(look); // ComfyUI's own listener may come after this one
  const end = () => {
    if (text) cardOf().endProgress();
    text = "";
    removeWidget(node, LINE);
  };
  const listen = (how) => {
    for (const name of NEWS) api[how](name, later);
    for (const name of ENDS) api[how](name, end);
  };
  listen("addEventListener");
  onExecuted(node, end);
  after(node, "onRemoved", () => listen("removeEventListener"));
}

/** Of ComfyUI's bar; nothing while it is not known. @param {any} node */
function fractionOf({ progress }) {
  return progress > 0 ? progress : undefined;
}
