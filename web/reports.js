// @ts-check
// The nodes' reports, which are JSON for other nodes, as sentences for people.
import { providers } from "./server.js";
import { say } from "./words.js";

const DOLLARS = new Intl.NumberFormat("en-US", {
  style: "currency", currency: "USD", minimumFractionDigits: 2, maximumFractionDigits: 4,
});

export const labelOf = (provider) => providers[provider]?.label ?? provider;

/**
 * "≈ $0.05, 1024 × 1024 (1.05 MP) at fal"
 * @param {Record<string, any>} estimate as /flux_krea/estimate answers
 * @param {number} images
 */
export function estimateLine(estimate, images, hasSize) {
  const values = { price: money(estimate.usd), provider: labelOf(estimate.provider) };
  const size = hasSize && estimate.size ? sizeOf(...estimate.size) : "";
  const what = [images > 1 ? `${images} ×` : "", size].filter(Boolean).join(" ");
  if (estimate.usd === null) return say("Price unknown at {provider}", values) + (what && `, ${what}`);
  return what
    ? say("≈ {price}, {what} at {provider}", { ...values, what })
    : say("≈ {price} at {provider}", values);
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

/** What API Krea and API Krea Collect tell after a run. @param {string} text */
export function generationText(text) {
  const report = JSON.parse(text);
  const sizes = new Set(report.pictures.map(({ width, height }) => `${width} × ${height}`));
  return [
    [report.provider_name, `${report.pictures.length} × ${[...sizes].join(", ")}`, `seed ${report.seed}`].join(" · "),
    paidLine(report),
    flagsLine(report.has_nsfw_concepts),
    ...changeLines(report.changes),
    ...report.notes,
  ].join("\n");
}

function paidLine(report) {
  const values = { price: money(report.billed_usd ?? report.estimated_usd), provider: report.provider_name };
  if (report.already_paid_pictures >= report.pictures.length) return say("Paid before: taken from disk, nothing paid now.");
  if (report.billed_usd !== null) return say("Billed: {price}", values);
  if (report.estimated_usd !== null) return say("≈ {price}; {provider} does not say what it billed.", values);
  return say("{provider} does not say what it billed.", values);
}

function flagsLine(flags) {
  const count = (value) => flags.filter((flag) => flag === value).length;
  const parts = [
    count(true) && say("{count} flagged", { count: count(true) }),
    count(false) && say("{count} not flagged", { count: count(false) }),
    count(null) && say("{count} not checked", { count: count(null) }),
  ];
  return say("The provider's safety check: {what}", { what: parts.filter(Boolean).join(", ") });
}

/** Krea Safety Check: one line for the batch, one for each image. @param {string} text */
export function verdictText(text) {
  const report = JSON.parse(text);
  const head = say("{flagged} of {images} flagged, below {threshold} passes ({detector})", report);
  return [head, ...report.per_image.map(verdictLine)].join("\n");
}

function verdictLine({ index, flagged, score, reasons }) {
  const why = {
    provider: say("flagged by the provider"),
    provider_unknown: say("not checked by the provider"),
    non_finite_pixels: say("pixels that are not numbers"),
  };
  const verdict = flagged ? say("flagged") : say("passed");
  const number = score === null ? say("no score") : score.toFixed(3);
  return [`${index + 1}: ${verdict}`, number, ...reasons.map((reason) => why[reason]).filter(Boolean)].join(" · ");
}

function sizeOf(width, height) {
  return `${width} × ${height} (${((width * height) / 1e6).toFixed(2)} MP)`;
}

function money(usd) {
  return usd === null ? "?" : DOLLARS.format(usd);
}
