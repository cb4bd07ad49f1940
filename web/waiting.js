// @ts-check
// The sidebar tab that lists jobs that were paid and not collected, and brings them into the graph.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { element } from "./elements.js";
import { labelOf } from "./reports.js";
import { ask, tell } from "./server.js";
import { setValue, widgetOf } from "./widgets.js";
import { say } from "./words.js";

const PAUSE = 3000; // milliseconds between looks
const GAP = 40; // pixels between new nodes

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

function card(job) {
  const item = element(
    "article", {},
    element("strong", { textContent: `${labelOf(job.provider)} · ${stateText(job.state)}` }),
    element("div", { className: "pictures" }, ...picturesOf(job)),
    element("p", { textContent: job.prompt || say("(no prompt)") }),
    element("p", { textContent: `seed ${job.seed}` }),
  );
  const collect = button(say("Collect in this graph"), () => addToGraph(job.ticket));
  const aside = button(say("Put aside"), async () => {
    const { put_aside: done } = await tell("/flux_krea/waiting/put_aside", { id: job.id }).catch(() => ({}));
    if (done) item.remove();
  });
  aside.title = say("Takes it off this list. Nothing is deleted: the same settings still find it.");
  aside.disabled = job.state === "under way";
  item.append(element("div", { className: "row" }, collect, aside));
  item.setAttribute("role", "listitem");
  return item;
}

function button(label, onPress) {
  const made = element("button", { type: "button", textContent: label });
  made.addEventListener("click", onPress);
  return made;
}

function stateText(state) {
  return {
    "under way": say("under way"),
    ready: say("ready"),
    "answer lost": say("the answer was lost: perhaps paid"),
    interrupted: say("interrupted: collecting it goes on"),
  }[state];
}

/** What the provider flagged is not shown without being asked for. */
function picturesOf({ id, pictures, flags }) {
  return Array.from({ length: pictures }, (_, index) =>
    flags[index]
      ? element("p", { textContent: say("flagged by the provider") })
      : element("img", { src: api.apiURL(`/flux_krea/waiting/${id}/${index}`), alt: say("picture {number}", { number: index + 1 }) }),
  );
}

/** API Krea Collect with the ticket, and a node that saves what it brings. */
function addToGraph(ticket) {
  const [collect, save] = ["FluxKreaCollect", "SaveImage"].map((type) => window["LiteGraph"].createNode(type));
  const [left, top, width, height] = app.canvas.visible_area;
  collect.pos = [left + width / 2 - collect.size[0], top + height / 3];
  save.pos = [collect.pos[0] + collect.size[0] + GAP, collect.pos[1]];
  for (const node of [collect, save]) app.canvas.graph.add(node);
  collect.connectByType(0, save, "IMAGE");
  setValue(widgetOf(collect, "ticket"), ticket);
  app.canvas.selectNode?.(collect);
  app.canvas.setDirty(true, true);
}
