// @ts-check
// API Krea and API Krea Submit: the widgets that the chosen provider knows, what a run would cost, and the key's state.
import { foldAdvanced } from "./advanced.js";
import { openKeys } from "./key_settings.js";
import { LoraList } from "./loras.js";
import { offerToOrderAgain } from "./order_again.js";
import { changeLines, labelOf, parameterLine, priceOf, toned } from "./reports.js";
import { keys, providers, tell } from "./server.js";
import { after, isWired, onChange, onExecuted, showOnly, takeOnly, widgetOf, wiredNames } from "./widgets.js";
import { say, tooltipOf } from "./words.js";

const PAUSE = 300; // milliseconds without a change before the server is asked
const AUTO = "auto";
/** Widgets that are about the run, not about the picture; the server's estimate does not take them. */
const ABOUT_THE_RUN = new Set(["provider", "max_cost_usd", "reuse"]);
const IMAGES = "images"; // more than a provider makes in one call become several calls
const OF_AN_IMAGE = ["image_use", "strength"];

/**
 * @param {ComfyNode} node
 * @param {import("./card.js").Card} card
 * @param {(texts: string[]) => import("./card.js").CardContent} contentOf what the node sends after a run
 */
export function setUpGeneration(node, card, contentOf) {
  const inputs = inputsOf(node);
  /** @type {any} */
  const view = { node, inputs, card, asked: 0, timer: 0, estimate: { headline: "…" }, payee: "", report: null };
  view.loras = new LoraList(node, card.widget);
  foldAdvanced(node);

  onChange(node, (widget) => {
    // A report is about the values of its run; the seed is changed by the page itself, right after queueing.
    if (widget.name !== "seed") view.report = null;
    refresh(view);
  });
  onExecuted(node, ({ text = [] }) => {
    view.report = text.length ? contentOf(text) : null;
    display(view);
  });
  offerToOrderAgain(node, (content) => {
    view.report = content;
    display(view);
  });
  after(node, "onConnectionsChange", () => refresh(view));
  after(node, "onConfigure", (saved) => refresh(view, saved?.size?.[1]));
  const whenKeysChange = () => refresh(view);
  keys.addEventListener("change", whenKeysChange);
  after(node, "onRemoved", () => {
    keys.removeEventListener("change", whenKeysChange);
    clearTimeout(view.timer);
  });
  // A node is made before its values are set: the next frame sees the real ones.
  requestAnimationFrame(() => refresh(view));
}

function refresh(view, savedHeight) {
  const { node, inputs, loras } = view;
  loras.follow();
  const hidden = new Set(inputs.filter((widget) => !hasEffect(node, widget.name) && !isWired(node, widget.name)));
  const isListed = !hidden.has(loras.text) && !isWired(node, loras.text.name);
  hidden.add(isListed ? loras.text : loras.widget);
  takeOnly(node, (widget) => limitsOf(node, widget));
  showOnly(node, (widget) => !hidden.has(widget), savedHeight);
  display(view);
  clearTimeout(view.timer);
  view.timer = setTimeout(() => askForEstimate(view), PAUSE);
}

/** A wired provider is known only when the graph runs: until then it may be any. */
const chosen = (node) => (isWired(node, "provider") ? AUTO : widgetOf(node, "provider").value);

/** The mode, in the server's words: image_use says it with spaces. */
function modeOf(node) {
  if (!isWired(node, "image")) return "text_to_image";
  const mode = widgetOf(node, "image_use").value.replaceAll(" ", "_");
  return mode === "image_to_image" && isWired(node, "mask") ? "inpainting" : mode;
}

/** A LoRA makes it another app at some providers, with ranges of its own. */
function tableOf(node) {
  const modes = providers[chosen(node)]?.modes ?? {};
  const mode = modeOf(node);
  return (hasLoras(node) && modes[`${mode}_with_lora`]) || modes[mode];
}

const hasLoras = (node) => !!widgetOf(node, "loras").value?.trim();

/** Whether this widget changes anything: with these other values, at the chosen provider. */
function hasEffect(node, name) {
  if (OF_AN_IMAGE.includes(name) && !isWired(node, "image")) return false;
  if (name === "quality" && makesPng(node)) return false;
  if (name === "loras" && hasLoras(node)) return true; // also where they are refused: the estimate says so
  return name === "image_use" || isKnown(node, name);
}

function makesPng(node) {
  const format = "output_format";
  return isKnown(node, format) && !isWired(node, format) && widgetOf(node, format).value === "png";
}

/** What no provider lists is the pack's own, and always counts; with auto, what any provider knows counts. */
function isKnown(node, name) {
  const mode = modeOf(node);
  const table = tableOf(node);
  if (!isOfAnyProvider(name)) return true;
  if (table) return knows(table, name);
  if (chosen(node) !== AUTO) return true; // it does not have this mode: the estimate says so
  return Object.values(providers).some(({ modes }) => modes[mode] && knows(modes[mode], name));
}

const knows = (table, name) => name in table && table[name].how !== "unsupported";

function isOfAnyProvider(name) {
  return Object.values(providers).some(({ modes }) => Object.values(modes).some((table) => name in table));
}

/** What the chosen provider takes for this widget, and its own words for it after the pack's. */
function limitsOf(node, { name }) {
  const parameter = tableOf(node)?.[name];
  if (!parameter) return;
  const tooltip = [tooltipOf(node, name), parameterLine(chosen(node), parameter)].filter(Boolean).join("\n");
  return name === IMAGES ? { tooltip } : { ...parameter, tooltip };
}

async function askForEstimate(view) {
  const { node, inputs } = view;
  const turn = ++view.asked;
  const estimate = await estimateOf(node, inputs).catch(({ message }) => ({ refused: message }));
  if (turn !== view.asked) return; // a later question is under way
  view.estimate = estimateContent(node, estimate);
  view.payee = estimate.provider;
  display(view);
}

/** What the server says of a run with these widgets' values. */
function estimateOf(node, inputs) {
  const values = Object.fromEntries(
    inputs.filter(({ name }) => !ABOUT_THE_RUN.has(name)).map(({ name, value }) => [name, value]),
  );
  // A prompt may be wired, and does not change the price; without one the server would speak of nothing else.
  values.prompt ||= "…";
  const wired = { has_image: isWired(node, "image"), has_mask: isWired(node, "mask") };
  return tell("/flux_krea/estimate", { provider: chosen(node), ...wired, values });
}

/** US dollars for a run of this node; null where nobody knows. @param {ComfyNode} node @returns {Promise<number | null>} */
export async function priceOfNode(node) {
  return (await estimateOf(node, inputsOf(node))).usd ?? null;
}

const inputsOf = (node) => node.widgets.filter((widget) => widget.name !== "control_after_generate" && widget.serialize !== false);

/** @returns {import("./card.js").CardContent} */
function estimateContent(node, estimate) {
  if (estimate.refused) return { lines: [toned(estimate.refused, "bad")] };
  const hasImage = isWired(node, "image");
  const changes = estimate.changes.filter(({ input }) => !hasImage || !["image", "width", "height"].includes(input));
  return {
    ...priceOf(estimate, widgetOf(node, "images").value, !hasImage),
    lines: [...overBudget(node, estimate), ...wiredLines(node)],
    details: [...lorasOf(estimate), ...changeLines(changes), estimate.note].filter(Boolean),
  };
}

/** Who is sent an address is said before it is. */
const lorasOf = (estimate) => estimate.loras.map((lora) => say("LoRA {path}, strength {strength}", lora));

function overBudget(node, { provider, usd }) {
  if (provider === AUTO) return []; // another machine's page: who would be paid, and so how much, is not told there
  const limit = widgetOf(node, "max_cost_usd").value;
  if (limit < 0 || (usd !== null && usd <= limit)) return [];
  return [toned(say("max_cost_usd is {limit}: the run will be refused.", { limit }), "bad")];
}

/** A wired value is known only when the graph runs. */
function wiredLines(node) {
  const names = wiredNames(node).filter((name) => widgetOf(node, name));
  return names.length ? [say("Wired, and not counted yet: {names}", { names: names.join(", ") })] : [];
}

/** After a run its report; before it the price and the key. */
function display({ node, card, report, estimate, payee }) {
  card.show(report ?? withKey(chosen(node), payee, estimate));
}

/**
 * @param {string} provider
 * @param {string} payee the provider that the estimate is for: the one that auto would take
 * @param {import("./card.js").CardContent} content
 */
function withKey(provider, payee, content) {
  const state = provider === AUTO ? (keys.states[payee] ?? stateOfAll()) : keys.states[provider];
  if (state === undefined) return content;
  const said = content.lines ?? [];
  const values = { provider: labelOf(provider === AUTO ? payee : provider) };
  if (state !== "missing") return { ...content, lines: [toned(say("{provider}: key is set", values), "good"), ...said] };
  const actions = [{ label: say("Set the key…"), press: () => openKeys(provider) }];
  // Where no provider has a key, the server can only say the same.
  if (provider === AUTO) return { lines: [toned(say("No provider has a key yet."), "warning")], actions };
  return { ...content, lines: [toned(say("{provider}: no key yet", values), "warning"), ...said], actions };
}

/** "missing" where auto has nobody to choose from. */
function stateOfAll() {
  const states = Object.values(keys.states);
  return states.length && states.every((state) => state === "missing") ? "missing" : undefined;
}
