// @ts-check
// Krea Safety Check: whether the chosen detector is ready, and after a run the verdict on each image.
import { toned, verdictContent } from "./reports.js";
import { ask } from "./server.js";
import { onChange, onExecuted, widgetOf } from "./widgets.js";
import { say } from "./words.js";

/** @param {ComfyNode} node @param {() => import("./card.js").Card} cardOf */
export function setUpSafetyCheck(node, cardOf) {
  const detector = widgetOf(node, "detector");
  const card = cardOf();
  const showState = async () => {
    const states = await ask("/flux_krea/detectors").catch(() => ({}));
    card.show({ lines: [stateLine(detector.value, states)] });
  };
  onChange(node, (widget) => widget === detector && showState());
  onExecuted(node, ({ text = [] }) => text.length && card.show(verdictContent(text[0])));
  requestAnimationFrame(showState);
}

function stateLine(detector, states) {
  if (!(detector in states)) return toned(say("{detector}: not installed", { detector }), "bad");
  return states[detector] ? toned(states[detector], "bad") : toned(say("{detector}: ready", { detector }), "good");
}
