// @ts-check
// Krea Review Gate: the button that says a person has looked.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { toned } from "./reports.js";
import { ask } from "./server.js";
import { onExecuted, setValue, widgetOf } from "./widgets.js";
import { say } from "./words.js";

/** Which run showed the pictures of a code. @type {Map<string, string>} */
const runs = new Map();
api.addEventListener("executed", (/** @type {any} */ { detail: { output, prompt_id: run } }) => {
  for (const code of output?.review_code ?? []) runs.set(code, run);
});

/** @param {ComfyNode} node @param {() => import("./card.js").Card} cardOf */
export function setUpReview(node, cardOf) {
  const accept = async (code) => {
    try {
      await letPass(node, code);
    } catch (problem) {
      app.extensionManager.toast.add({ severity: "error", summary: "Krea Review Gate", detail: problem.message });
    }
  };
  onExecuted(node, ({ review_code: [code] = [], reviewed: [accepted = false] = [] }) => {
    if (code) cardOf().show(accepted ? LOOKED_AT : waiting(() => accept(code)));
  });
}

const LOOKED_AT = { lines: [toned(say("Looked at and accepted: these pass."), "good")] };

const waiting = (press) => ({
  lines: [toned(say("Held back until a person has looked."), "warning")],
  actions: [{ label: say("I have looked: let these pass"), press }],
});

/** Runs the very graph that made these pictures once more: a new run of the page's could draw new seeds. */
async function letPass(node, code) {
  const { prompt, outputs, id } = await runThatShowed(code);
  const widget = widgetOf(node, "reviewed");
  setValue(widget, [widget.value, code].filter(Boolean).join(" "));
  const [, , graph, extra] = prompt;
  keepDrawnSeeds(graph, outputs);
  graph[id].inputs.reviewed = [graph[id].inputs.reviewed, code].filter(Boolean).join(" ");
  await api.queuePrompt(0, { output: graph, workflow: extra?.extra_pnginfo?.workflow ?? app.graph.serialize() });
}

/** API Krea's own -1 would draw another picture; its report names the seed that this one was drawn with. */
function keepDrawnSeeds(graph, outputs) {
  for (const [id, { class_type: type, inputs }] of Object.entries(graph))
    if (type === "FluxKreaAPI" && inputs.seed === -1 && outputs[id]) inputs.seed = JSON.parse(outputs[id].text[0]).seed;
}

async function runThatShowed(code) {
  const run = runs.get(code); // alone: another pack's number that JSON does not know spoils the whole history
  const { prompt, outputs } = run ? ((await ask(`/history/${run}`))[run] ?? {}) : {};
  const id = Object.keys(outputs ?? {}).find((id) => outputs[id].review_code?.[0] === code);
  if (id) return { prompt, outputs, id };
  throw new Error(say("ComfyUI no longer knows the run that made these pictures. Run the graph again and look again."));
}
