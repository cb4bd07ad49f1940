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
.flux-krea-keys input, .flux-krea-keys button, .flux-krea-waiting button { padding: 5px 10px; border-radius: 6px; font: inherit;
  color: var(--input-text, inherit); background: var(--comfy-input-bg, transparent); border: 1px solid var(--border-color, #8888); }
.flux-krea-keys ::placeholder { color: color-mix(in srgb, currentColor 80%, transparent); }
.flux-krea-keys button, .flux-krea-waiting button { cursor: pointer; }
.flux-krea-keys :disabled, .flux-krea-waiting :disabled { opacity: 0.5; cursor: default; }
.flux-krea-waiting { display: grid; gap: 10px; padding: 12px; color: var(--input-text, inherit); }
.flux-krea-waiting h3 { margin: 0; font-size: 1rem; }
.flux-krea-waiting [role="list"] { display: grid; gap: 10px; }
.flux-krea-waiting article { display: grid; gap: 6px; padding: 10px; border: 1px solid var(--border-color, #8888); border-radius: 8px; }
.flux-krea-waiting img { max-width: min(100%, 160px); border-radius: 6px; }
.flux-krea-waiting p { margin: 0; overflow-wrap: anywhere; }
.flux-krea-keys :focus-visible, .flux-krea-waiting :focus-visible { outline: 2px solid #4a90e2; outline-offset: 1px; }
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
