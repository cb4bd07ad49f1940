// @ts-check
// The nodes' reports, which are JSON for other nodes, as sentences for people.
import { providers } from "./server.js";
import { say } from "./words.js";

const DOLLARS = new Intl.NumberFormat("en-US", {
  style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: 4,
});

export const labelOf = (provider) => providers[provider]?.label ?? provider;

/**
 * The price, and what it is for: "≈ $0.05" and "1024 × 1024 (1.05 MP) at fal".
 * @param {Record<string, any>} estimate as /flux_krea/estimate answers
 * @param {number} images
 * @param {boolean} hasSize
 * @returns {{ headline: string, about: string }}
 */
export function priceOf(estimate, images, hasSize) {
  const provider = labelOf(estimate.provider);
  const size = hasSize && estimate.size ? sizeOf(...estimate.size) : "";
  const what = [images > 1 ? `${images} ×` : "", size].filter(Boolean).join(" ");
  return {
    headline: estimate.usd === null ? say("Price unknown") : `≈ ${money(estimate.usd)}`,
    about: what ? say("{what} at {provider}", { what, provider }) : say("at {provider}", { provider }),
  };
}

/** "guidance 0.5 → 1: fal takes 1 to 20" */
export function changeLines(changes) {
  return changes.map(({ input, asked, delivered, because }) => `${input} ${asked} → ${delivered}: ${because}`);
}

/**
 * "fal: guidance_scale, 1 to 20; its own default is 4.5"
 * @param {string} provider
 * @param {Record<string, any>} parameter as /flux_krea/providers answers
 */
export function parameterLine(provider, { field, minimum, maximum, default: value, note }) {
  const range = minimum !== null && maximum !== null && say("{minimum} to {maximum}", { minimum, maximum });
  // A switch often has the opposite name there: its default would read wrong.
  const ownDefault = value !== null && typeof value !== "boolean" && say("its own default is {value}", { value });
  const words = [[field, range].filter(Boolean).join(", "), ownDefault, note].filter(Boolean).join("; ");
  return say("{provider}: {words}", { provider: labelOf(provider), words });
}

/**
 * What API Krea and API Krea Collect tell after a run.
 * @param {string} text
 * @returns {import("./card.js").CardContent}
 */
export function generationContent(text) {
  const report = JSON.parse(text);
  const sizes = new Set(report.pictures.map(({ width, height }) => `${width} × ${height}`));
  const pictures = `${report.pictures.length} × ${[...sizes].join(", ")}`;
  return {
    ...paidFor(report),
    lines: [[report.provider_name, pictures, `seed ${report.seed}`].join(" · "), flagsLine(report.has_nsfw_concepts)],
    details: [...changeLines(report.changes), ...report.notes],
  };
}

/** @param {Record<string, any>} report */
function paidFor({ provider_name: provider, pictures, already_paid_pictures: old, billed_usd: billed, estimated_usd: estimated }) {
  if (old >= pictures.length) return { headline: money(0), about: say("paid before, taken from disk") };
  if (billed !== null) return { headline: money(billed), about: say("billed by {provider}", { provider }) };
  const about = say("{provider} does not say what it billed.", { provider });
  return { headline: estimated === null ? say("Price unknown") : `≈ ${money(estimated)}`, about };
}

function flagsLine(flags) {
  const count = (value) => flags.filter((flag) => flag === value).length;
  const [flagged, passed, unchecked] = [count(true), count(false), count(null)];
  const what = [
    flagged && say("{count} flagged", { count: flagged }),
    passed && say("{count} not flagged", { count: passed }),
    unchecked && say("{count} not checked", { count: unchecked }),
  ];
  const line = say("The provider's safety check: {what}", { what: what.filter(Boolean).join(", ") });
  return flagged ? toned(line, "warning") : unchecked ? line : toned(line, "good");
}

/** @param {string} text @param {"good" | "warning" | "bad"} tone */
export const toned = (text, tone) => ({ text, tone });

/**
 * Krea Safety Check: the batch, then a line for each image.
 * @param {string} text
 * @returns {import("./card.js").CardContent}
 */
export function verdictContent(text) {
  const report = JSON.parse(text);
  return {
    headline: say("{flagged} of {images} flagged", report),
    about: say("below {threshold} passes ({detector})", report),
    lines: report.per_image.map(verdictLine),
  };
}

function verdictLine({ index, flagged, score, reasons }) {
  const why = {
    provider: say("flagged by the provider"),
    provider_unknown: say("not checked by the provider"),
    non_finite_pixels: say("pixels that are not numbers"),
  };
  const verdict = flagged ? say("flagged") : say("passed");
  const number = score === null ? say("no score") : score.toFixed(3);
  const line = [`${index + 1}: ${verdict}`, number, ...reasons.map((reason) => why[reason]).filter(Boolean)].join(" · ");
  return toned(line, flagged ? "warning" : "good");
}

/** What a node says in plain words, a line each. @param {string[]} texts @returns {import("./card.js").CardContent} */
export const wordsContent = (texts) => ({ lines: texts.flatMap((text) => text.split("\n")).filter(Boolean) });

function sizeOf(width, height) {
  return `${width} × ${height} (${((width * height) / 1e6).toFixed(2)} MP)`;
}

export function money(usd) {
  return usd === null ? "?" : DOLLARS.format(usd);
}
