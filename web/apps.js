// @ts-check
// Our templates that open as apps, on pages that came before apps.

const APPS_SINCE = 41; // of frontend 1.x

/**
 * Pages before 1.41 have a sketch of apps only, which lays one node's fields over another's: there they open as graphs.
 * @param {Record<string, any>} workflow that is about to be opened
 */
export function openAsGraphWhereNoAppsAre({ nodes = [], extra }) {
  if (!extra?.linearMode || hasApps()) return;
  if (nodes.some(({ type }) => type?.startsWith("FluxKrea"))) delete extra.linearMode;
}

function hasApps() {
  const [major, minor] = String(window.__COMFYUI_FRONTEND_VERSION__ ?? "1.0").split(".").map(Number);
  return major > 1 || minor >= APPS_SINCE;
}
