// @ts-check
// The page's sentences in the user's language. As in gettext, the English sentence is the key: locales/<lang>/main.json.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const sentences = await translations();

/** @returns {Promise<Record<string, string>>} */
async function translations() {
  const language = app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  if (language === "en") return {};
  try {
    const locales = await (await api.fetchApi("/i18n")).json();
    return locales[language]?.flux_krea ?? {};
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
