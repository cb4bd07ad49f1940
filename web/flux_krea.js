// @ts-check
// What the page adds to our own nodes. Every node works without this folder.
import { app } from "../../scripts/app.js";
import { priceOfNode, setUpGeneration } from "./api_krea.js";
import { openAsGraphWhereNoAppsAre } from "./apps.js";
import { Card } from "./card.js";
import { keySettings } from "./key_settings.js";
import { setUpProgress } from "./progress.js";
import { generationContent, wordsContent } from "./reports.js";
import { setUpReview } from "./review.js";
import { setUpSafetyCheck } from "./safety_check.js";
import { setUpSave } from "./save.js";
import { setUpSize } from "./size.js";
import { spendingSettings } from "./spending.js";
import { waitingTab } from "./waiting.js";
import { onExecuted } from "./widgets.js";
import { sayWhatItCosts } from "./workflow_cost.js";
import { say } from "./words.js";

/** Nodes that do more than show the words they report. */
const SET_UP = {
  FluxKreaSize: setUpSize,
  FluxKreaSafetyCheck: setUpSafetyCheck,
  FluxKreaReview: setUpReview,
  FluxKreaSave: setUpSave,
  FluxKreaAPI: (node, cardOf) => setUpGeneration(node, cardOf(), ([report]) => generationContent(report)),
  FluxKreaSubmit: (node, cardOf) => setUpGeneration(node, cardOf(), wordsContent),
  FluxKreaCollect: (node, cardOf) => showReports(node, cardOf, ([report]) => generationContent(report)),
};
const PREFIX = "FluxKrea"; // of all our nodes, and of nobody else's

app.registerExtension({
  name: "flux_krea",
  settings: [...keySettings, ...spendingSettings],
  setup() {
    app.extensionManager.registerSidebarTab(waitingTab);
  },
  beforeConfigureGraph: openAsGraphWhereNoAppsAre,
  afterConfigureGraph() {
    sayWhatItCosts(priceOfNode);
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith(PREFIX)) return;
    const cardOf = cardOnDemand(node);
    (SET_UP[node.comfyClass] ?? showReports)(node, cardOf);
    setUpProgress(node, cardOf);
  },
});

/** A node that has nothing to say has no card; one comes with its first words. @param {ComfyNode} node */
function cardOnDemand(node) {
  let card;
  return () => (card ??= new Card(node, "report", say("Report")));
}

/**
 * What a node sends as `ui.text` after each run.
 * @param {ComfyNode} node
 * @param {() => Card} cardOf
 * @param {(texts: string[]) => import("./card.js").CardContent} contentOf
 */
function showReports(node, cardOf, contentOf = wordsContent) {
  onExecuted(node, ({ text = [] }) => text.length && cardOf().show(contentOf(text)));
}
