// @ts-check
// What can be done to a node's widgets that holds in both renderers and on every frontend from 1.32 on.
import { app } from "../../scripts/app.js";

/** What a hidden widget was before. */
const shownAs = new WeakMap();
/** What a widget takes of itself. */
const ownRange = new WeakMap();
/** @returns {[number, number]} the height of no row: the canvas adds four pixels between rows */
export const NO_ROOM = () => [0, -4];

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

export const isWired = (node, name) => wiredNames(node).includes(name);

/** @returns {string[]} the inputs that a link leads into */
export const wiredNames = (node) => (node.inputs ?? []).filter((_, slot) => node.isInputConnected(slot)).map(({ name }) => name);

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
    shownAs.set(widget, { type: widget.type, computeSize: Object.getOwnPropertyDescriptor(widget, "computeSize") });
    widget.type = "hidden";
    Object.defineProperty(widget, "computeSize", { configurable: true, writable: true, enumerable: true, value: NO_ROOM });
  } else {
    const { type, computeSize } = shownAs.get(widget);
    shownAs.delete(widget);
    widget.type = type;
    if (computeSize) Object.defineProperty(widget, "computeSize", computeSize);
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
  const spare = spareOf(node);
  const changed = (node.widgets ?? []).filter((widget) => setHidden(widget, !isShown(widget)));
  resize(node, (least) => (height === undefined ? least + spare : Math.max(least, height)));
  if (changed.length) reread(node);
}

/**
 * The Vue renderer of 1.32 copies the widgets at a node's first change and watches the node's own no more; at the end
 * of loading a workflow, or when a node is added, it reads them anew. Widgets that know their node's id are watched.
 */
export function reread(node) {
  if (!isVue() || node.widgets[0].setNodeId) return;
  if (node.onAfterGraphConfigured) node.onAfterGraphConfigured();
  else addAgain(node);
}

/** As the renderer itself does when it starts, but it wraps each callback once more. */
function addAgain(node) {
  const callbacks = node.widgets.map(({ callback }) => callback);
  node.graph?.onNodeAdded?.(node);
  node.widgets.forEach((widget, index) => (widget.callback = callbacks[index]));
}

const isVue = () => !!app.extensionManager?.setting?.get("Comfy.VueNodes.Enabled");

/** The height beyond what the node needs: the user's, or the saved file's. */
export const spareOf = (node) => Math.max(0, node.size[1] - node.computeSize()[1]);

/**
 * Makes room for what a node's card shows now, and takes back what was made for it before and is no longer needed.
 * @param {any} node
 * @param {number} made the height that was added for the card until now
 * @returns {number} the height that is added for it now
 */
export function fit(node, made) {
  const before = node.size[1];
  resize(node, (least) => Math.max(least, before - made));
  return made + node.size[1] - before;
}

/** The Vue renderer gives a node the room that its content needs by itself, and knows better how much that is. */
export function resize(node, heightOf) {
  node.widgets.push(node.widgets.pop()); // Vue watches the list, not the widgets in it
  if (isVue()) return;
  const [width, least] = node.computeSize();
  node.setSize([Math.max(node.size[0], width), heightOf(least)]);
  app.canvas?.setDirty(true, true);
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
