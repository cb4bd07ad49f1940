// @ts-check
// A paid call whose answer was lost is never sent again by itself. This is the button with which a person does it.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { toned } from "./reports.js";
import { tell } from "./server.js";
import { after } from "./widgets.js";
import { say } from "./words.js";

const JOB = /\(job ([0-9a-f]{32})\)/; // at the end of the server's own sentence

/**
 * @param {ComfyNode} node
 * @param {(content: import("./card.js").CardContent) => void} show
 */
export function offerToOrderAgain(node, show) {
  /** @param {any} event */
  const look = ({ detail }) => {
    if (String(detail?.node_id).split(":").pop() !== String(node.id)) return;
    const message = String(detail.exception_message ?? "");
    const job = message.match(JOB)?.[1];
    if (!job) return;
    const press = async () => {
      const { put_aside: done } = await tell("/flux_krea/waiting/put_aside", { id: job }).catch(() => ({}));
      if (!done) return show({ lines: [toned(say("It is under way again, or the page may not do this from here."), "warning")] });
      show({ lines: [say("Ordered again.")] });
      await app.queuePrompt(0, 1);
    };
    const actions = [{ label: say("Order again, and perhaps pay twice"), press }];
    show({ lines: [toned(message.replace(JOB, "").trim(), "bad")], actions });
  };
  api.addEventListener("execution_error", look);
  after(node, "onRemoved", () => api.removeEventListener("execution_error", look));
}
