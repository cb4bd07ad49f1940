"""The report: what was asked, what was delivered, what it cost. JSON, as Krea Safety Check reads it."""

from __future__ import annotations

import json

import torch

from ..providers import providers
from ..providers.contract import GenerationResult


def flags_of(result: GenerationResult, images: torch.Tensor) -> list[bool | None]:
    """The provider's flags; a picture that is black all over was not passed by anybody, whatever the flag says."""
    return [flag or (None if not picture.any() else flag) for flag, picture in zip(result.flags, images, strict=True)]


def report_of(result: GenerationResult, flags: list[bool | None]) -> str:
    provider = providers()[result.provider]
    return json.dumps(
        {
            "provider": result.provider,
            "provider_name": provider.label,
            "mode": result.mode,
            "seed": result.seed,
            "has_nsfw_concepts": flags,
            "pictures": [{"width": picture.width, "height": picture.height} for picture in result.pictures],
            "withheld_by_provider": result.withheld,
            "billed_usd": rounded(result.cost_usd),
            "estimated_usd": rounded(result.estimate.usd),
            "already_paid_pictures": result.reused,
            "changes": [change.as_dict() for change in result.changes],
            "notes": [*result.notes, *black_notes(flags, result)],
            "request_ids": result.request_ids,
            "seconds": {step: round(seconds, 2) for step, seconds in result.seconds.items()},
        },
        indent=2,
        ensure_ascii=False,
    )


def rounded(usd: float | None) -> float | None:
    """Without the dust of adding floats: 0.075, not 0.07500000000000001."""
    return None if usd is None else round(usd, 6)


def black_notes(flags: list[bool | None], result: GenerationResult) -> list[str]:
    black = [index + 1 for index, (ours, theirs) in enumerate(zip(flags, result.flags, strict=True)) if ours != theirs]
    return [f"Picture {index} is black all over: kept back by the provider's filter, or empty." for index in black]
