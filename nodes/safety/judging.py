"""The verdict on each image, what is done with a flagged one, and the report. Whatever is not certain is flagged.

A score passes by being below the threshold; a NaN is below nothing, so it does not pass.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch.nn import functional

from .detector import Scored
from .pictures import SafetyError, check_images, visible

BLACK, BLUR, DROP, BLOCK, ERROR, LABEL_ONLY = ACTIONS = ("black", "blur", "drop", "block", "error", "label_only")
BLUR_CELLS = 12  # on the long side: a detector still found faces in 16 cells, in none of 12
PIXELS_A_CELL = 8  # so that a thumbnail is blurred too
BLANK = 2 / 255


@dataclass(frozen=True)
class Verdict:
    """One image's. `score` and `labels` are None where the detector gave no number."""

    index: int
    flagged: bool
    score: float | None
    labels: dict[str, float | None]
    provider: bool | None  # True flagged, False not flagged, None not checked or no provider
    reasons: tuple[str, ...]
    blank: bool


def check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise SafetyError(f"threshold must be above 0 and at most 1, got {threshold}.")


def provider_flags(report: str, count: int) -> list[bool | None]:
    """API Krea's report → one flag an image: True, False, or None for "not checked"."""
    try:
        flags = json.loads(report)["has_nsfw_concepts"]
    except (ValueError, KeyError, TypeError):
        raise SafetyError(
            "provider_report is no report of API Krea: has_nsfw_concepts is missing. Connect API Krea's report output."
        ) from None
    if not isinstance(flags, list) or not all(flag is None or isinstance(flag, bool) for flag in flags):
        raise SafetyError(f"has_nsfw_concepts in provider_report must be a list of true, false or null, got {flags!r}.")
    if len(flags) != count:
        raise SafetyError(
            f"provider_report has {len(flags)} flags for {count} images. Connect image and report of the same node."
        )
    return flags


def provider_part(report: str | None) -> dict[str, object]:
    """API Krea's report as a part of ours, so that who saves the images has both; nothing where none is wired."""
    if report is None:
        return {}
    # A number that JSON does not know is nobody's price: null.
    return {"provider_report": json.loads(report, parse_constant=lambda _: None, parse_float=_finite)}


def judge(
    images: torch.Tensor, scored: Sequence[Scored], threshold: float, provider: Sequence[bool | None] | None = None
) -> list[Verdict]:
    """One verdict for each of images [B, H, W, 3 or 4] as they came; `provider` is None when no provider had a say."""
    check_images(images)
    check_threshold(threshold)
    if len(scored) != len(images) or (provider is not None and len(provider) != len(images)):
        raise SafetyError(f"{len(images)} images, but {len(scored)} scores and {len(provider or ())} provider flags.")
    verdicts = []
    for index, (image, answer) in enumerate(zip(images, scored, strict=True)):
        reasons = []
        if not bool(torch.isfinite(image).all()):
            reasons.append("non_finite_pixels")
        if not math.isfinite(answer.score):
            reasons.append("score_not_a_number")
        elif not answer.score < threshold:
            reasons.append("score")
        if provider is not None and provider[index] is not False:
            reasons.append("provider" if provider[index] else "provider_unknown")
        verdicts.append(
            Verdict(
                index=index,
                flagged=bool(reasons),
                score=_number(answer.score),
                labels={label: _number(value) for label, value in answer.labels.items()},
                provider=provider[index] if provider is not None else None,
                reasons=tuple(reasons),
                blank=bool((image[..., :3] <= BLANK).all()),
            )
        )
    return verdicts


def release(images: torch.Tensor, flagged: Sequence[bool], action: str) -> torch.Tensor | None:
    """What may leave: a new tensor of what was scored (`pictures.visible`), or None when nothing may.

    The input is left as it was. Raises SafetyError for `error`, for another action, and for what are no images.
    """
    images = visible(images)
    if len(flagged) != len(images):
        raise SafetyError(f"{len(images)} images, but {len(flagged)} flags.")
    if action not in ACTIONS:
        raise SafetyError(f"on_flagged must be one of {', '.join(ACTIONS)}, got {action!r}.")
    if action == LABEL_ONLY or not any(flagged):
        return images
    flags = torch.tensor(flagged, device=images.device)
    if action == ERROR:
        raise SafetyError(f"Safety Check flagged image {_numbers(flagged)} of {len(images)}; on_flagged is error.")
    if action == BLOCK or (action == DROP and all(flagged)):
        return None
    if action == DROP:
        return images[~flags]
    images[flags] = _blurred(images[flags]) if action == BLUR else 0
    images[flags, ..., 3:] = 1  # opaque: a redacted picture hides nothing under its alpha
    return images


def report(verdicts: Sequence[Verdict], action: str, **about: object) -> str:
    """JSON. images = flagged + passed; `returned` lists the images, by index, that leave the node, redacted or not."""
    flagged = [verdict.flagged for verdict in verdicts]
    summary = {
        **about,
        "action": action,
        "images": len(verdicts),
        "flagged": sum(flagged),
        "passed": len(verdicts) - sum(flagged),
        "returned": _returned(flagged, action),
        "has_nsfw_concepts": flagged,
        "per_image": [asdict(verdict) for verdict in verdicts],
    }
    return json.dumps(summary, indent=2, allow_nan=False)


def _returned(flagged: Sequence[bool], action: str) -> list[int]:
    if action == BLOCK and any(flagged):
        return []
    return [index for index, flag in enumerate(flagged) if not (flag and action == DROP)]


def _blurred(images: torch.Tensor) -> torch.Tensor:
    """Averages over at most 12 cells a side, smoothly enlarged. There is no strength: a weak blur is a leak."""
    planes = images.movedim(-1, 1)
    height, width = planes.shape[-2:]
    longest = max(height, width)
    most = min(BLUR_CELLS, longest // PIXELS_A_CELL)
    cells = [max(1, side * most // longest) for side in (height, width)]
    averages = functional.adaptive_avg_pool2d(planes, cells)
    return functional.interpolate(averages, size=(height, width), mode="bicubic").clamp(0, 1).movedim(1, -1)


def _finite(digits: str) -> float | None:
    return _number(float(digits))


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _numbers(flagged: Sequence[bool]) -> str:
    return ", ".join(str(index + 1) for index, flag in enumerate(flagged) if flag)
