// @ts-check
// What the page asks the pack's own routes. No answer ever holds a key.
import { api } from "../../scripts/api.js";

/** @param {string} path */
export async function ask(path) {
  return answerOf(await api.fetchApi(path, { cache: "no-store" }));
}

/** @param {string} path @param {object} body */
export async function tell(path, body) {
  const headers = { "Content-Type": "application/json" };
  return answerOf(await api.fetchApi(path, { method: "POST", headers, body: JSON.stringify(body) }));
}

/** The answer as JSON; an error is thrown with the server's own sentence. @param {Response} response */
async function answerOf(response) {
  const text = await response.text();
  if (response.ok) return parsed(text);
  throw new Error(sentenceOf(text) || `${response.status} ${response.statusText}`);
}

/** JSON as Python writes it: NaN and Infinity, which JSON does not know, become texts, which ComfyUI reads as those. */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    const words = /"[^"\\]*(?:\\.[^"\\]*)*"|-?Infinity|NaN/g;
    return JSON.parse(text.replace(words, (it) => (it[0] === '"' ? it : `"${it}"`)));
  }
}

function sentenceOf(text) {
  try {
    return JSON.parse(text).error;
  } catch {
    return text;
  }
}

/** Each provider's words for the widgets. Empty where the routes are absent: then every widget is shown. */
export const providers = await ask("/flux_krea/providers").catch(() => ({}));

/** Where each provider's key comes from: environment, file or missing. Says "change" when the page changed one. */
class KeyStates extends EventTarget {
  /** @type {Record<string, string>} */
  states = {};

  async refresh() {
    this.states = await ask("/flux_krea/keys");
    this.dispatchEvent(new Event("change"));
  }
}

export const keys = new KeyStates();
keys.refresh().catch(() => {}); // without an answer no node says anything about keys
