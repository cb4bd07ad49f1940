// @ts-check
// Krea Safety Check: whether the chosen detector is ready, and after a run the verdict on each image.
import { verdictText } from "./reports.js";
import { ask } from "./server.js";
import { addTextBox, onChange, onExecuted, showText, widgetOf } from "./widgets.js";
import { say } from "./words.js";

export function setUpSafetyCheck(node) {
  const detector = widgetOf(node, "detector");
  const box = addTextBox(node, "result", say("result"));
  const showState = async () => {
    const states = await ask("/flux_krea/detectors").catch(() => ({}));
    showText(node, box, stateText(detector.value, states));
  };
  onChange(node, (widget) => widget === detector && showState());
  onExecuted(node, ({ text = [] }) => showText(node, box, text.map((words) => verdictText(words)).join("\n")));
  requestAnimationFrame(showState);
}

function stateText(detector, states) {
  if (!(detector in states)) return say("{detector}: not installed", { detector });
  return states[detector] ?? say("{detector}: ready", { detector });
}
