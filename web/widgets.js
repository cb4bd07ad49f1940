// @ts-check
// What can be done to a node's widgets that holds in both renderers and on every frontend from 1.32 on.
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const LINE = 16; // pixels of a line in a text box
const LETTER = 7; // pixels, about
const MOST_LINES = 14;

/** What a hidden widget was before. */
const shownAs = new WeakMap();
/** What a widget takes of itself. */
const ownRange = new WeakMap();

export function removeWidget(node, name) {
  const widget = widgetOf(node, name);
  if (!widget) return;
  node.widgets.splice(node.widgets.indexOf(widget), 1);
  widget.onRemove?.();
  reread(node);
}

export function widgetOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

export const isWired = (node, name) => !!node.inputs?.some((input) => input.name === name && input.link != null);

/** Without the callback the Vue renderer goes on showing the old value. */
export function setValue(widget, value) {
  widget.value = value;
  widget.callback?.(value);
}

/** Calls `listener` after any of the node's own widgets changed, whoever changed it. */
export function onChange(node, listener) {
  for (const widget of node.widgets ?? []) {
    const callback = widget.callback;
    widget.callback = function (...values) {
      const answer = callback?.apply(this, values);
      listener(widget);
      return answer;
    };
  }
}

/**
 * Each renderer looks at another of these; a hidden widget keeps its value and its place in saved workflows.
 * @returns {boolean} whether anything changed
 */
function setHidden(widget, hide) {
  if (hide === shownAs.has(widget)) return false;
  if (hide) {
    shownAs.set(widget, { type: widget.type, computeSize: widget.computeSize });
    widget.type = "hidden";
    widget.computeSize = () => [0, -4];
  } else {
    const { type, computeSize } = shownAs.get(widget);
    shownAs.delete(widget);
    widget.type = type;
    if (computeSize) widget.computeSize = computeSize;
    else delete widget.computeSize;
  }
  widget.hidden = hide;
  // Newer pages keep their own record of a widget. A node that went into a subgraph gets the record of the node it was,
  // with that one's options, which are no longer its own.
  for (const options of [widget.options, widget._state?.options]) if (options) options.hidden = hide;
  return true;
}

/**
 * Narrows what can be entered, and says why; a widget without limits takes what it took of itself.
 * @param {any} node
 * @param {(widget: ComfyWidget) => {minimum?: number, maximum?: number, choices?: string[], tooltip?: string} | undefined} limitsOf
 */
export function takeOnly(node, limitsOf) {
  const changed = node.widgets.filter((widget) => widget.options && setLimits(widget, limitsOf(widget) ?? {}));
  if (changed.length) reread(node);
}

/**
 * The value that is there stays in reach: some renderers cut a number when they lose the focus.
 * @param {any} widget
 * @param {{minimum?: number, maximum?: number, choices?: string[], tooltip?: string}} limits
 * @returns {boolean} whether anything changed
 */
function setLimits(widget, { minimum, maximum, choices, tooltip }) {
  const { options, value } = widget;
  if (!ownRange.has(widget)) ownRange.set(widget, { min: options.min, max: options.max, values: options.values });
  const { min, max, values } = ownRange.get(widget);
  const before = rangeText(widget);
  if (typeof value === "number") {
    options.min = Math.min(value, Math.max(min, minimum ?? min));
    options.max = Math.max(value, Math.min(max, maximum ?? max));
  } else if (values) {
    options.values = choices?.length ? values.filter((one) => choices.includes(one) || one === value) : values;
  }
  widget.tooltip = tooltip;
  return rangeText(widget) !== before;
}

const rangeText = ({ options, tooltip }) => [options.min, options.max, options.values, tooltip].join();

/**
 * Shows and hides widgets, and fits the node: it keeps the room that the user gave it beyond its least height.
 * @param {any} node
 * @param {(widget: ComfyWidget) => boolean} isShown
 * @param {number} [height] of the node as it was saved
 */
export function showOnly(node, isShown, height) {
  const spare = Math.max(0, node.size[1] - node.computeSize()[1]);
  const changed = (node.widgets ?? []).filter((widget) => setHidden(widget, !isShown(widget)));
  fit(node, (least) => (height === undefined ? least + spare : Math.max(least, height)));
  if (changed.length) reread(node);
}

/**
 * The Vue renderer of 1.32 copies the widgets at a node's first change and watches the node's own no more; at the end
 * of loading a workflow, or when a node is added, it reads them anew. Widgets that know their node's id are watched.
 */
export function reread(node) {
  if (!app.extensionManager?.setting?.get("Comfy.VueNodes.Enabled") || node.widgets[0].setNodeId) return;
  if (node.onAfterGraphConfigured) node.onAfterGraphConfigured();
  else addAgain(node);
}

/** As the renderer itself does when it starts, but it wraps each callback once more. */
function addAgain(node) {
  const callbacks = node.widgets.map(({ callback }) => callback);
  node.graph?.onNodeAdded?.(node);
  node.widgets.forEach((widget, index) => (widget.callback = callbacks[index]));
}

function fit(node, heightOf) {
  node.widgets.push(node.widgets.pop()); // Vue watches the list, not the widgets in it
  const [width, least] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), heightOf(least)]);
  app.canvas?.setDirty(true, true);
}

/** A read-only box of text that is neither saved with the workflow nor sent to the server. */
export function addTextBox(node, name, label = name) {
  const box = ComfyWidgets.STRING(node, name, ["STRING", { multiline: true }], app).widget;
  box.label = label;
  box.serialize = false;
  box.options.serialize = false;
  box.options.read_only = true;
  box.options.getMinHeight = () => LINE * (1 + linesIn(box.value, node.size[0] / LETTER));
  box.element.readOnly = true;
  box.element.setAttribute("aria-label", label);
  reread(node);
  return box;
}

/** Of a text that is broken after so many letters. */
function linesIn(text, letters) {
  const lines = String(text ?? "").split("\n").map((line) => Math.max(1, Math.ceil(line.length / letters)));
  return Math.min(MOST_LINES, lines.reduce((sum, count) => sum + count));
}

/** @param {string} text */
export function showText(node, box, text) {
  if (box.value === text) return;
  setValue(box, text);
  fit(node, (least) => Math.max(least, node.size[1]));
}

/** A button that is not saved with the workflow. Older Vue renderers show the name where others show a label. */
export function addButton(node, label, onPress) {
  const button = node.addWidget("button", label, null, onPress, { serialize: false });
  button.serialize = false;
  return button;
}

/** Calls `listener` with what the server sent for this node after each run. */
export function onExecuted(node, listener) {
  after(node, "onExecuted", (output) => listener(output ?? {}));
}

/** Calls `listener` after one of the node's own methods. */
export function after(node, method, listener) {
  const before = node[method];
  node[method] = function (...values) {
    const answer = before?.apply(this, values);
    listener(...values);
    return answer;
  };
}
