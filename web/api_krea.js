// @ts-check
// API Krea and API Krea Submit: the widgets that the chosen provider knows, what a run would cost, and the key's state.
import { openKeySettings } from "./key_settings.js";
import { changeLines, estimateLine, labelOf, parameterLine } from "./reports.js";
import { keys, providers, tell } from "./server.js";
import { addButton, addTextBox, after, isWired, onChange, onExecuted, showOnly, showText, takeOnly, widgetOf } from "./widgets.js";
import { say, tooltipOf } from "./words.js";

const PAUSE = 300; // milliseconds without a change before the server is asked
const AUTO = "auto";
/** Widgets that are about the run, not about the picture; the server's estimate does not take them. */
const ABOUT_THE_RUN = new Set(["provider", "max_cost_usd", "reuse"]);
const IMAGES = "images"; // more than a provider makes in one call become several calls

/** @param {(text: string) => string} readable what the node sends after a run, as words */
export function setUpGeneration(node, readable) {
  const inputs = node.widgets.filter((widget) => widget.name !== "control_after_generate");
  const box = addTextBox(node, "status", say("status"));
  const keyButton = addButton(node, say("Set the key…"), openKeySettings);
  /** @type {any} */
  const view = { node, inputs, box, keyButton, asked: 0, timer: 0, estimate: ["…"], report: "" };

  onChange(node, (widget) => {
    if (widget === box) return;
    // A report is about the values of its run; the seed is changed by the page itself, right after queueing.
    if (widget.name !== "seed") view.report = "";
    refresh(view);
  });
  onExecuted(node, ({ text = [] }) => {
    view.report = text.map((words) => readable(words)).join("\n");
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
  const { node, inputs, keyButton } = view;
  const hidden = new Set(inputs.filter((widget) => !isKnown(node, widget.name) && !isWired(node, widget.name)));
  const needsKey = keys.states[chosen(node)] === "missing";
  takeOnly(node, (widget) => limitsOf(node, widget));
  showOnly(node, (widget) => (widget === keyButton ? needsKey : !hidden.has(widget)), savedHeight);
  display(view);
  clearTimeout(view.timer);
  view.timer = setTimeout(() => askForEstimate(view), PAUSE);
}

/** A wired provider is known only when the graph runs: until then it may be any. */
const chosen = (node) => (isWired(node, "provider") ? AUTO : widgetOf(node, "provider").value);

/** The mode, in the server's words: image_use says it with spaces. */
function modeOf(node) {
  return isWired(node, "image") ? widgetOf(node, "image_use").value.replaceAll(" ", "_") : "text_to_image";
}

function tableOf(node) {
  return providers[chosen(node)]?.modes[modeOf(node)];
}

/** Whether the chosen provider does anything with this widget. What no provider lists is the pack's own. */
function isKnown(node, name) {
  const table = tableOf(node);
  if (!table) return true; // auto, or a mode that the provider does not have: the estimate says so
  if (name === "image_use") return isWired(node, "image");
  if (name in table) return table[name].how !== "unsupported";
  return !isOfAnyProvider(name);
}

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
  const values = Object.fromEntries(
    inputs.filter(({ name }) => !ABOUT_THE_RUN.has(name)).map(({ name, value }) => [name, value]),
  );
  // A prompt may be wired, and does not change the price; without one the server would speak of nothing else.
  values.prompt ||= "…";
  const question = { provider: chosen(node), has_image: isWired(node, "image"), values };
  const estimate = await tell("/flux_krea/estimate", question).catch(({ message }) => ({ refused: message }));
  if (turn !== view.asked) return; // a later question is under way
  view.estimate = estimateLines(node, estimate);
  display(view);
}

function estimateLines(node, estimate) {
  if (estimate.refused) return [estimate.refused];
  const hasImage = isWired(node, "image");
  const changes = estimate.changes.filter(({ input }) => !hasImage || !["image", "width", "height"].includes(input));
  return [
    estimateLine(estimate, widgetOf(node, "images").value, !hasImage),
    estimate.note,
    overBudget(node, estimate.usd),
    ...changeLines(changes),
    ...wiredLines(node),
  ];
}

function overBudget(node, usd) {
  const limit = widgetOf(node, "max_cost_usd").value;
  return limit >= 0 && (usd === null || usd > limit) && say("max_cost_usd is {limit}: the run will be refused.", { limit });
}

/** A wired value is known only when the graph runs. */
function wiredLines(node) {
  const names = (node.inputs ?? []).filter((input) => input.widget && input.link != null).map((input) => input.name);
  return names.length ? [say("Wired, and not counted yet: {names}", { names: names.join(", ") })] : [];
}

/** After a run its report; before it the price and the key, which a small box has room for, then the details. */
function display({ node, box, report, estimate: [price, ...details] }) {
  showText(node, box, report || [price, keyLine(chosen(node)), ...details].filter(Boolean).join("\n"));
}

function keyLine(provider) {
  const values = { provider: labelOf(provider) };
  if (provider === AUTO || keys.states[provider] === undefined) return "";
  if (keys.states[provider] === "missing") return say("{provider}: no key – set it in Settings → FLUX Krea", values);
  return say("{provider}: key is set", values);
}
