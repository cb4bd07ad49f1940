// @ts-check
// Krea Review Gate: the button that says a person has looked.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { toned } from "./reports.js";
import { ask } from "./server.js";
import { onExecuted, setValue, widgetOf } from "./widgets.js";
import { say } from "./words.js";

/** Which run, and which node in it, showed the pictures of a code; the newest last.
 * @type {{code: string, id: string, run: string}[]} */
const shown = [];
/** Runs that have not ended: ComfyUI keeps no history of them yet. @type {Set<string>} */
const going = new Set();

api.addEventListener("execution_start", (/** @type {any} */ { detail }) => going.add(detail.prompt_id));
api.addEventListener("executed", (/** @type {any} */ { detail: { output, node, prompt_id: run } }) => {
  for (const code of output?.review_code ?? []) shown.push({ code, id: String(node), run });
});
for (const end of ["execution_success", "execution_error", "execution_interrupted"])
  api.addEventListener(end, (/** @type {any} */ { detail }) => going.delete(detail.prompt_id));
api.addEventListener("reconnected", () => going.clear()); // an end may have been missed

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

/** Runs what made these pictures once more, just as it was: a new run of the page's could draw new seeds. */
async function letPass(node, code) {
  const { prompt, outputs, id } = await runThatShowed(node, code);
  const widget = widgetOf(node, "reviewed");
  setValue(widget, [widget.value, code].filter(Boolean).join(" "));
  const [, , graph, extra, wanted] = prompt;
  keepDrawnSeeds(graph, outputs);
  graph[id].inputs.reviewed = [graph[id].inputs.reviewed, code].filter(Boolean).join(" ");
  const partialExecutionTargets = wanted.filter((target) => target in graph);
  await api.queuePrompt(0, { output: graph, workflow: extra?.extra_pnginfo?.workflow }, { partialExecutionTargets });
}

/** A seed that our nodes drew themselves (-1) would be drawn, and paid, anew. API Krea's report names it; in place of Submit
 * stands the ticket that it gave. */
function keepDrawnSeeds(graph, outputs) {
  for (const [id, { class_type: type, inputs }] of Object.entries(graph)) {
    const told = outputs[id]?.text?.[0];
    if (!told || inputs.seed >= 0) continue;
    if (type === "FluxKreaAPI") Object.assign(inputs, { seed: JSON.parse(told).seed, reuse: true });
    if (type === "FluxKreaSubmit") replaceByValue(graph, id, told);
  }
}

function replaceByValue(graph, id, value) {
  delete graph[id];
  for (const { inputs } of Object.values(graph))
    for (const name in inputs) if (Array.isArray(inputs[name]) && inputs[name][0] === id) inputs[name] = value;
}

async function runThatShowed(node, code) {
  const isOfNode = ({ id }) => id === String(node.id) || id.endsWith(`:${node.id}`);
  const found = shown.filter((each) => each.code === code && isOfNode(each)).pop();
  while (found && going.has(found.run)) await pause();
  for (let tries = 10; found && tries; tries--) {
    // Alone: another pack's number that JSON does not know spoils the whole history.
    const run = (await ask(`/history/${found.run}`))[found.run];
    if (run?.outputs[found.id]) return { ...run, id: found.id };
    await pause(); // the history is written a moment after the end
  }
  throw new Error(say("ComfyUI no longer knows the run that made these pictures. Run the graph again and look again."));
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 300));
