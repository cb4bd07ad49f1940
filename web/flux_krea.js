// What the page adds to our own nodes. Every node works without this folder.
import { app } from "../../scripts/app.js";
import { setUpGeneration } from "./api_krea.js";
import { keySettings } from "./key_settings.js";
import { setUpProgress } from "./progress.js";
import { generationText } from "./reports.js";
import { setUpReview } from "./review.js";
import { setUpSafetyCheck } from "./safety_check.js";
import { setUpSize } from "./size.js";
import { waitingTab } from "./waiting.js";
import { addTextBox, onExecuted, showText } from "./widgets.js";
import { say } from "./words.js";

/** Each node's set-up. Nodes that report in words show what they send as `ui.text`. */
const SET_UP = {
  FluxKreaSize: setUpSize,
  FluxKreaSampler: (node) => showItsWords(node, String), // most of the time it has nothing to say
  FluxKreaLora: (node) => showItsWords(node, String),
  FluxKreaSafetyCheck: setUpSafetyCheck,
  FluxKreaReview: setUpReview,
  FluxKreaAPI: (node) => setUpGeneration(node, generationText),
  FluxKreaSubmit: (node) => setUpGeneration(node, String),
  FluxKreaCollect: (node) => showItsWords(node, generationText, addResult(node)),
};

app.registerExtension({
  name: "flux_krea",
  settings: keySettings,
  setup() {
    app.extensionManager.registerSidebarTab(waitingTab);
  },
  nodeCreated(node) {
    if (!(node.comfyClass in SET_UP)) return;
    SET_UP[node.comfyClass](node);
    setUpProgress(node);
  },
});

const addResult = (node) => addTextBox(node, "result", say("result"));

/** Without a box, one comes with the node's first words. */
function showItsWords(node, readable, box) {
  onExecuted(node, ({ text = [] }) => {
    if (!text.length && !box) return;
    box ??= addResult(node);
    showText(node, box, text.map((words) => readable(words)).join("\n"));
  });
}
