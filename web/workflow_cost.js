// @ts-check
// A workflow that was opened from a file says what its API nodes cost together, before anybody presses Run.
import { app } from "../../scripts/app.js";
import { money } from "./reports.js";
import { ask } from "./server.js";
import { say } from "./words.js";

const PAYING = new Set(["FluxKreaAPI", "FluxKreaSubmit"]);
const MODES_THAT_RUN = new Set([0, 1, undefined]); // neither muted nor bypassed
const LIFE = 12_000; // milliseconds that the message stays

/** @param {(node: any) => Promise<number | null>} priceOf in US dollars; null where nobody knows it */
export async function sayWhatItCosts(priceOf) {
  const paying = payingNodes(app.graph);
  const toast = app.extensionManager?.toast;
  if (!paying.length || !toast) return;
  const prices = await Promise.all(paying.map((node) => priceOf(node).catch(() => null)));
  const known = prices.filter((price) => price !== null).reduce((sum, price) => sum + price, 0);
  const unknown = prices.filter((price) => price === null).length;
  const limit = await ask("/flux_krea/spending").then(({ limits }) => limits.per_run.usd, () => null);
  const isTooMuch = limit !== null && known > limit;
  if (paying.length === 1 && !isTooMuch) return; // its own card says it
  const lines = [
    say("{count} API nodes: a run costs about {price}.", { count: paying.length, price: money(known) }),
    unknown ? say("The price of {count} of them is not known.", { count: unknown }) : "",
    isTooMuch ? say("This server allows {limit} a run: it would be refused.", { limit: money(limit) }) : "",
  ];
  toast.add({ severity: "info", summary: "FLUX Krea", detail: lines.filter(Boolean).join(" "), life: LIFE });
}

/** Also those inside subgraphs. @param {any} graph @returns {any[]} */
function payingNodes(graph) {
  return (graph?.nodes ?? []).flatMap((node) => {
    if (!MODES_THAT_RUN.has(node.mode)) return [];
    return [...(PAYING.has(node.comfyClass) ? [node] : []), ...payingNodes(node.subgraph)];
  });
}
