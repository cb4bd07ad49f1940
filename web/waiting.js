// @ts-check
// The sidebar tab that lists jobs that were paid and not collected, and brings them into the graph.
import { app } from "../../scripts/app.js";
import { element } from "./elements.js";
import { labelOf } from "./reports.js";
import { ask } from "./server.js";
import { setValue, widgetOf } from "./widgets.js";
import { say } from "./words.js";

const PAUSE = 3000; // milliseconds between looks

export const waitingTab = {
  id: "flux_krea.waiting",
  icon: "pi pi-wallet",
  title: say("Paid and waiting"),
  tooltip: say("FLUX Krea: paid and waiting"),
  type: "custom",
  render,
};

/** @param {HTMLElement} place */
function render(place) {
  const list = element("div");
  list.setAttribute("role", "list");
  const title = element("h3", { textContent: say("Paid and waiting") });
  place.replaceChildren(element("div", { className: "flux-krea-waiting" }, title, list));
  keepFilled(list, "");
}

/** Looks again while the tab is open; what did not change is left alone, for the sake of the keyboard's focus. */
async function keepFilled(list, before) {
  const jobs = await ask("/flux_krea/waiting").catch(({ message }) => message);
  const now = JSON.stringify(jobs);
  if (now !== before) list.replaceChildren(...cards(jobs));
  await new Promise((resolve) => setTimeout(resolve, PAUSE));
  if (list.isConnected) keepFilled(list, now);
}

/** @param {object[] | string} jobs or why they are not known */
function cards(jobs) {
  if (typeof jobs === "string") return [element("p", { textContent: jobs })];
  return jobs.length ? jobs.map(card) : [element("p", { textContent: say("Nothing waits.") })];
}

function card({ ticket, provider, state, prompt, seed }) {
  const collect = element("button", { type: "button", textContent: say("Collect in this graph") });
  collect.addEventListener("click", () => addCollectNode(ticket));
  const item = element(
    "article", {},
    element("strong", { textContent: `${labelOf(provider)} · seed ${seed} · ${state}` }),
    element("p", { textContent: prompt || say("(no prompt)") }),
    collect,
  );
  item.setAttribute("role", "listitem");
  return item;
}

function addCollectNode(ticket) {
  const node = window["LiteGraph"].createNode("FluxKreaCollect");
  const [left, top, width, height] = app.canvas.visible_area;
  node.pos = [left + width / 2 - node.size[0] / 2, top + height / 3];
  app.canvas.graph.add(node);
  setValue(widgetOf(node, "ticket"), ticket);
  app.canvas.selectNode?.(node);
  app.canvas.setDirty(true, true);
}
