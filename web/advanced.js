// @ts-check
// Advanced inputs on the canvas. The Vue renderer folds them away by itself; the canvas draws them like all others, and
// keeps their rows free where a pack folds them with ComfyUI's own `advanced`.
import { app } from "../../scripts/app.js";
import { isWired, NO_ROOM, resize, spareOf } from "./widgets.js";
import { say } from "./words.js";

/**
 * Folds away what the node's schema calls advanced until `node.showAdvanced`, which ComfyUI saves and its menu switches,
 * and adds the button that switches it too. Older servers call nothing advanced: there nothing changes.
 * @param {ComfyNode} node
 */
export function foldAdvanced(node) {
  const advanced = node.widgets.filter(({ options }) => options?.advanced);
  if (!advanced.length || app.extensionManager?.setting?.get("Comfy.Node.AlwaysShowAdvancedWidgets")) return;
  for (const widget of advanced) fold(node, widget);
  const press = () => node.toggleAdvanced();
  const button = node.addWidget("button", say("Advanced inputs"), null, press, { serialize: false, canvasOnly: true });
  button.serialize = false;
  const place = node.widgets.findIndex(({ serialize }) => serialize === false); // below all that is saved
  node.widgets.splice(place, 0, node.widgets.pop() ?? button);
  const toggle = node.toggleAdvanced;
  node.toggleAdvanced = function () {
    const spare = spareOf(node);
    toggle.call(node);
    resize(node, (least) => least + spare);
  };
}

/** @param {ComfyNode} node @param {ComfyWidget} widget */
function fold(node, widget) {
  let own = widget.computeSize;
  const isFolded = () => !node.showAdvanced && !isWired(node, widget.name);
  widget.advanced = true; // of the canvas alone, where the schema says it already
  Object.defineProperty(widget, "computeSize", {
    configurable: true,
    enumerable: true,
    get: () => (isFolded() ? NO_ROOM : own),
    set: (value) => (own = value),
  });
}
