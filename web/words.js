// @ts-check
// The page's sentences in the user's language. As in gettext, the English sentence is the key: locales/<lang>/main.json.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const { flux_krea: sentences = {}, nodeDefs: nodes = {} } = await translations();

async function translations() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  if (language === "en") return {};
  try {
    const locales = await (await api.fetchApi("/i18n")).json();
    return locales[language] ?? {};
  } catch {
    return {}; // English, then
  }
}

/**
 * The sentence in the user's language, with `{name}` replaced by `values.name`.
 * @param {string} sentence
 * @param {Record<string, unknown>} values
 */
export function say(sentence, values = {}) {
  return (sentences[sentence] ?? sentence).replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** What a node's input says of itself. vue-i18n wants its own signs quoted, as in `{'@'}`. */
export function tooltipOf(node, name) {
  const { required = {}, optional = {} } = node.constructor.nodeData?.input ?? {};
  const english = { ...required, ...optional }[name]?.[1]?.tooltip ?? "";
  return (nodes[node.comfyClass]?.inputs?.[name]?.tooltip ?? english).replace(/\{'(.)'\}/g, "$1");
}
