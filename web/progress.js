// @ts-check
// ComfyUI's line of progress on a node: "In fal's queue, 2 ahead".
import { api } from "../../scripts/api.js";
import { after, removeWidget, reread, widgetOf } from "./widgets.js";

const LINE = "$$node-text-preview"; // ComfyUI's name for the widget
const ENDS = ["execution_success", "execution_error", "execution_interrupted"];

/** Most frontends leave the last line standing when the run is over, and 1.32 saves it with the workflow. */
export function setUpProgress(node) {
  const show = () => requestAnimationFrame(() => showUnsaved(node)); // ComfyUI's own listener may come after this one
  const clear = () => removeWidget(node, LINE);
  api.addEventListener("progress_text", show);
  for (const end of ENDS) api.addEventListener(end, clear);
  after(node, "onRemoved", () => {
    api.removeEventListener("progress_text", show);
    for (const end of ENDS) api.removeEventListener(end, clear);
  });
}

function showUnsaved(node) {
  const line = widgetOf(node, LINE);
  if (!line) return;
  line.serialize = false;
  reread(node);
}
