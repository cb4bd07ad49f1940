"""Krea Size's arithmetic: the size that is asked for, the one the local model takes, and what each provider delivers."""

from __future__ import annotations

import math

from ..providers import providers
from ..providers.contract import GenerationRequest, Provider, ProviderError
from ..providers.payload import MEGAPIXEL
from .choices import check_choice

FROM_RATIO, EXACT = "aspect ratio", "exact size"
RATIOS = ("1:1", "5:4", "4:3", "3:2", "16:9", "21:9", "4:5", "3:4", "2:3", "9:16", "9:21")
SIDE = 16  # FLUX works on patches of 2 latent pixels of 8 pixels each
RECOMMENDED_MEGAPIXELS = (0.25, 2.0)


def presets() -> dict[str, tuple[int, int]]:
    """Every provider's own sizes, by the name they have in saved workflows: `fal: square_hd` → (1024, 1024)."""
    return {
        f"{provider.label}: {name}": size
        for provider in providers().values()
        for name, size in provider.presets.items()
    }


def asked_size(preset: str, aspect_ratio: str, megapixels: float, width: int, height: int) -> tuple[float, float]:
    """Width and height in pixels, before any rounding. Raises ValueError with the value that is wrong."""
    if preset == EXACT:
        return width, height
    if preset != FROM_RATIO:
        check_choice("preset", preset, (FROM_RATIO, EXACT, *presets()))
        return presets()[preset]
    check_choice("aspect_ratio", aspect_ratio, RATIOS)
    across, down = map(int, aspect_ratio.split(":"))
    if not 0 < megapixels < math.inf:
        raise ValueError(f"megapixels is {megapixels}; it must be a number above 0, such as 1.0.")
    return math.sqrt(megapixels * MEGAPIXEL * across / down), math.sqrt(megapixels * MEGAPIXEL * down / across)


def to_legal(width: float, height: float) -> tuple[int, int]:
    """The nearest size the local model takes."""
    return max(SIDE, round(width / SIDE) * SIDE), max(SIDE, round(height / SIDE) * SIDE)


def describe(asked: tuple[float, float]) -> str:
    """What the node shows: the local size, then each provider's."""
    width, height = to_legal(*asked)
    lines = [f"{width} × {height}, {width * height / MEGAPIXEL:.2f} MP"]
    least, most = RECOMMENDED_MEGAPIXELS
    if not least <= width * height / MEGAPIXEL <= most:
        lines.append(f"Krea was trained around 1 MP; outside {least:g} to {most:g} MP pictures fall apart.")
    request = GenerationRequest(prompt="size", width=round(asked[0]), height=round(asked[1]))
    for provider in providers().values():
        lines.append(f"{provider.label}: {delivered(provider, request)}")
    return "\n".join(lines)


def delivered(provider: Provider, request: GenerationRequest) -> str:
    try:
        size = provider.plan(request).size
    except ProviderError as problem:
        return str(problem)
    return f"{size[0]} × {size[1]}" if size else "decided by the provider"
