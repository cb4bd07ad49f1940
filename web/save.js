// @ts-check
// Krea Save: the words in filename_prefix that core's page replaces for its own nodes only, and what a run said.
import { app } from "../../scripts/app.js";
import { wordsContent } from "./reports.js";
import { onExecuted, widgetOf } from "./widgets.js";

/** %date:yyyy-MM-dd% and %Node.widget% are replaced in what is run; the saved workflow keeps them. */
export function setUpSave(node, cardOf) {
  const prefix = widgetOf(node, "filename_prefix");
  if (prefix) prefix.serializeValue = () => replaced(prefix.value);
  onExecuted(node, ({ text = [] }) => text.length && cardOf().show(wordsContent(text)));
}

/** The page's own function; a page without it runs the words as they are. */
function replaced(text) {
  const replace = window["comfyAPI"]?.utils?.applyTextReplacements;
  return typeof text === "string" && replace ? replace(app, text) : text;
}
