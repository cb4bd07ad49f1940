// @ts-check
// Settings → FLUX Krea: the providers' keys. A key goes from the field to the server once and stays nowhere in the page.
import { element } from "./elements.js";
import { keys, providers, tell } from "./server.js";
import { say } from "./words.js";

/** Nothing is ever stored under this id: ComfyUI's settings are readable for every page and every other pack. */
export const keySettings = [
  {
    id: "FluxKrea.Keys",
    category: ["FLUX Krea", "API keys", "Providers"],
    name: say("API keys"),
    tooltip: say("Stored on the server, for this ComfyUI only; never in a workflow. A key in the server's environment comes first."),
    type: page,
    defaultValue: null,
  },
];

/**
 * The same fields in a window of their own, one step away from the node that needs a key.
 * @param {string} provider whose field gets the keyboard; the first one where it is none of the providers
 */
export function openKeys(provider) {
  const done = element("button", { textContent: say("Done") });
  const form = element("form", { method: "dialog" }, page(), done);
  const dialog = element("dialog", { className: "flux-krea-dialog" }, form);
  dialog.setAttribute("aria-label", say("API keys"));
  dialog.addEventListener("keydown", (event) => event.stopPropagation()); // ComfyUI's shortcuts are not for a window
  const closeOnEscape = (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation(); // ComfyUI's own Escape would keep the window open
    dialog.close();
  };
  window.addEventListener("keydown", closeOnEscape, true);
  dialog.addEventListener("close", () => {
    window.removeEventListener("keydown", closeOnEscape, true);
    dialog.remove();
  });
  document.body.append(dialog);
  dialog.showModal();
  const fields = [...dialog.querySelectorAll("input")];
  (fields[Object.keys(providers).indexOf(provider)] ?? fields[0])?.focus();
}

/** The cards on the page, each with a way to show its key's state. Opening the settings again replaces them. */
let cards = [];
keys.addEventListener("change", () => cards.forEach(({ show }) => show()));

function page() {
  const list = element("div", { className: "flux-krea-keys" });
  cards = Object.entries(providers).map(([name, provider]) => card(name, provider));
  list.append(...cards.map(({ frame }) => frame));
  keys.refresh().catch((problem) => list.prepend(element("p", { textContent: problem.message })));
  return list;
}

function card(name, provider) {
  const says = { provider: provider.label };
  const state = element("p");
  const outcome = element("p");
  outcome.setAttribute("role", "status");
  const field = element("input", { type: "password", autocomplete: "new-password", spellcheck: false });
  field.placeholder = say("Paste the key");
  field.setAttribute("aria-label", say("{provider} key", says));

  const act = (label, path, bodyOf, done) => {
    const button = element("button", { type: "button", textContent: label });
    button.setAttribute("aria-label", `${provider.label}: ${label}`);
    button.addEventListener("click", async () => {
      const body = { provider: name, ...bodyOf() };
      field.value = "";
      outcome.textContent = "…";
      outcome.textContent = await outcomeOf(path, body, done);
      await keys.refresh().catch(() => {});
    });
    return button;
  };
  const save = act(say("Save"), "/flux_krea/keys", () => ({ key: field.value }), say("Saved."));
  const test = act(say("Test"), "/flux_krea/keys/test", () => ({}), say("{provider} takes this key.", says));
  const remove = act(say("Remove"), "/flux_krea/keys/remove", () => ({}), say("Removed."));
  field.addEventListener("keydown", (event) => {
    event.stopPropagation(); // ComfyUI's shortcuts are not for a key
    if (event.key !== "Enter") return;
    event.preventDefault(); // in a form it would press the form's own button
    save.click();
  });

  const show = () => {
    const where = keys.states[name];
    state.textContent = stateText(where, provider);
    test.disabled = where === "missing";
    remove.disabled = where !== "file";
  };
  show();

  const link = element("a", { href: provider.key_page, target: "_blank", rel: "noopener noreferrer" });
  link.textContent = say("Get a key at {provider}", says);
  const row = element("div", { className: "row" }, field, save, test, remove);
  const frame = element("fieldset", {}, element("legend", { textContent: provider.label }), state, row, outcome, link);
  return { frame, show };
}

async function outcomeOf(path, body, done) {
  try {
    await tell(path, body);
    return done;
  } catch (problem) {
    return problem.message;
  }
}

function stateText(where, { key_variable: variable }) {
  if (where === "environment") return say("Set by {variable} in the server's environment, which comes first.", { variable });
  if (where === "file") return say("A key is stored on the server.");
  if (where === "missing") return say("No key. Paste one here, or set {variable} in the server's environment.", { variable });
  return "…";
}
