// @ts-check
// Plain elements in ComfyUI's colours, light and dark.

const STYLE = `
.flux-krea-keys { display: grid; gap: 14px; width: min(100%, 560px); text-align: start; }
.flux-krea-keys fieldset { display: grid; gap: 8px; margin: 0; padding: 10px 14px 14px; min-width: 0;
  border: 1px solid var(--border-color, #8888); border-radius: 8px; }
.flux-krea-keys legend { padding: 0 6px; font-weight: 600; color: var(--input-text, inherit); }
.flux-krea-keys p { margin: 0; font-size: 0.85rem; line-height: 1.4; color: var(--input-text, inherit); overflow-wrap: anywhere; }
.flux-krea-keys a { color: inherit; text-decoration: underline; }
.flux-krea-keys .row, .flux-krea-waiting .row, .flux-krea-waiting .pictures { display: flex; flex-wrap: wrap; gap: 6px; }
.flux-krea-keys input { flex: 1 1 160px; min-width: 0; }
.flux-krea-keys input, :is(.flux-krea-keys, .flux-krea-waiting, .flux-krea-card, .flux-krea-dialog) button {
  padding: 5px 10px; border-radius: 6px; font: inherit; color: var(--input-text, inherit);
  background: var(--comfy-input-bg, transparent); border: 1px solid var(--border-color, #8888); }
.flux-krea-keys ::placeholder { color: color-mix(in srgb, currentColor 80%, transparent); }
:is(.flux-krea-keys, .flux-krea-waiting, .flux-krea-card, .flux-krea-dialog) button { cursor: pointer; }
:is(.flux-krea-keys, .flux-krea-waiting) :disabled { opacity: 0.5; cursor: default; }
.flux-krea-waiting { display: grid; gap: 10px; padding: 12px; color: var(--input-text, inherit); }
.flux-krea-waiting h3 { margin: 0; font-size: 1rem; }
.flux-krea-waiting [role="list"] { display: grid; gap: 10px; }
.flux-krea-waiting article { display: grid; gap: 6px; padding: 10px; border: 1px solid var(--border-color, #8888); border-radius: 8px; }
.flux-krea-waiting img { max-width: min(100%, 160px); border-radius: 6px; }
.flux-krea-waiting p { margin: 0; overflow-wrap: anywhere; }
.flux-krea-dialog { width: min(92vw, 620px); max-height: 84vh; padding: 18px; overflow: auto; border-radius: 12px;
  color: var(--input-text, inherit); background: var(--comfy-menu-bg, Canvas); border: 1px solid var(--border-color, #8888); }
.flux-krea-dialog::backdrop { background: #0008; }
.flux-krea-dialog > form { display: grid; gap: 14px; }
.flux-krea-dialog > form > button { justify-self: end; }
.flux-krea-card { box-sizing: border-box; width: 100%; font-size: 12px; line-height: 1.45; text-align: start;
  color: var(--input-text, #ddd); cursor: default; user-select: text; }
.flux-krea-card .body { display: grid; gap: 6px; padding: 8px 10px; border-radius: 8px; background: var(--comfy-input-bg, #222); }
.flux-krea-card .body > :is([hidden], :empty) { display: none; }
.flux-krea-card .said { display: grid; gap: 4px; }
.flux-krea-card p { display: flex; gap: 6px; margin: 0; min-width: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
.flux-krea-card .head { flex-wrap: wrap; align-items: baseline; gap: 0 8px; }
.flux-krea-card .head strong { font-size: 20px; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.flux-krea-card .mark { flex: none; font-size: 10px; line-height: 1.75; }
.flux-krea-card .mark { color: color-mix(in srgb, var(--tone) 35%, currentColor); }
.flux-krea-card .good { --tone: #30a46c; }
.flux-krea-card :is(.warning, .bad) { padding: 4px 8px; border-radius: 6px; border-inline-start: 3px solid var(--tone);
  background: color-mix(in srgb, var(--tone) 16%, transparent); }
.flux-krea-card .warning { --tone: #f5a623; }
.flux-krea-card .bad { --tone: #e5484d; }
.flux-krea-card .row { display: flex; flex-wrap: wrap; gap: 6px; }
.flux-krea-card button { flex: 1 1 auto; }
.flux-krea-card .bar { display: grid; gap: 4px; }
.flux-krea-card progress { width: 100%; height: 6px; accent-color: #4a90e2; }
.flux-krea-card summary { cursor: pointer; }
.flux-krea-card details p { margin-block-start: 4px; }
.flux-krea-measured { position: absolute; inset: 0 auto auto 0; visibility: hidden; pointer-events: none; }
:is(.flux-krea-keys, .flux-krea-waiting, .flux-krea-card, .flux-krea-dialog) :focus-visible {
  outline: 2px solid #4a90e2; outline-offset: 1px; }
`;

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag @param {Record<string, any>} properties @param {...Node} children
 */
export function element(tag, properties = {}, ...children) {
  addStyle();
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function addStyle() {
  if (document.getElementById("flux-krea-style")) return;
  const style = Object.assign(document.createElement("style"), { id: "flux-krea-style", textContent: STYLE });
  document.head.append(style);
}
