// What the page adds to our own nodes. Every node works without this file.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

/** Nodes that report in words: what they send as `ui.text` is shown in a read-only box. */
const TALKING_NODES = new Set(["FluxKreaSize"]);

app.registerExtension({
  name: "flux_krea.text",
  nodeCreated(node) {
    if (!TALKING_NODES.has(node.comfyClass)) return;
    const box = addTextBox(node);
    const onExecuted = node.onExecuted;
    node.onExecuted = function (output) {
      onExecuted?.call(this, output);
      showText(box, output?.text);
    };
  },
});

/** A box that is neither saved with the workflow nor sent to the server. */
function addTextBox(node) {
  const box = ComfyWidgets.STRING(node, "result", ["STRING", { multiline: true }], app).widget;
  box.serialize = false;
  box.options.serialize = false;
  box.options.read_only = true;
  (box.inputEl ?? box.element).readOnly = true;
  return box;
}

function showText(box, lines) {
  box.value = (lines ?? []).join("\n");
  box.callback?.(box.value); // the Vue renderer shows the old value without this
}
