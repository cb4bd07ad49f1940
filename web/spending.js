// @ts-check
// Settings → FLUX Krea → Spending: what was spent today, what is left, and the server's limits. Only for its own machine.
import { element } from "./elements.js";
import { money } from "./reports.js";
import { ask, tell } from "./server.js";
import { say } from "./words.js";

/** Nothing is stored under this id: the limits are the server's. */
export const spendingSettings = [
  {
    id: "FluxKrea.Spending",
    category: ["FLUX Krea", "Spending", "Limits"],
    name: say("Spending"),
    tooltip: say("What API nodes may spend on this server. Kept on the server; a value in its environment comes first."),
    type: page,
    defaultValue: null,
  },
];

const NAMES = {
  per_run: say("Most for one run, in US dollars"),
  per_24_hours: say("Most in any 24 hours, in US dollars"),
  unknown_price: say("What a picture counts as where nobody knows its price, in US dollars"),
};

function page() {
  const today = element("p");
  const outcome = element("p");
  outcome.setAttribute("role", "status");
  const fields = Object.entries(NAMES).map(([name, label]) => limitField(name, label, show, outcome));
  const frame = element("fieldset", {}, element("legend", { textContent: say("Spending") }), today);
  frame.append(...fields.map((field) => field.row), outcome);

  function show(spent) {
    const values = { spent: money(spent.spent_24h), left: money(spent.left_24h) };
    today.textContent = say("{spent} spent in the last 24 hours, {left} left.", values);
    for (const field of fields) field.show(spent.limits[field.name]);
  }
  ask("/flux_krea/spending").then(show, ({ message }) => (outcome.textContent = message));
  return element("div", { className: "flux-krea-keys" }, frame);
}

function limitField(name, label, show, outcome) {
  const input = element("input", { type: "number", min: "0", step: "any" });
  input.setAttribute("aria-label", label);
  input.addEventListener("keydown", (event) => event.stopPropagation()); // ComfyUI's shortcuts are not for an amount
  const set = async (usd) => {
    if (Number.isNaN(usd)) return (outcome.textContent = say("Give an amount in US dollars, such as 2.50."));
    outcome.textContent = "…";
    try {
      show(await tell("/flux_krea/limits", { limit: name, usd }));
      outcome.textContent = say("Saved.");
    } catch (problem) {
      outcome.textContent = problem.message;
    }
  };
  const save = element("button", { type: "button", textContent: say("Save") });
  save.setAttribute("aria-label", `${label}: ${say("Save")}`);
  save.addEventListener("click", () => set(input.valueAsNumber));
  const reset = element("button", { type: "button", textContent: say("Default") });
  reset.setAttribute("aria-label", `${label}: ${say("Default")}`);
  reset.addEventListener("click", () => set(null));
  const source = element("p");
  const row = element("div", {}, element("p", { textContent: label }), element("div", { className: "row" }, input, save, reset), source);
  return {
    name,
    row,
    show({ usd, source: where, variable }) {
      input.value = String(usd);
      const isFixed = where === "environment";
      for (const part of [input, save, reset]) part.disabled = isFixed;
      source.textContent = isFixed ? say("Set by {variable} in the server's environment, which comes first.", { variable }) : "";
    },
  };
}
