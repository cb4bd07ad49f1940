"""Krea Size: a picture size that FLUX takes, and what each provider would make of it."""

from __future__ import annotations

import math

import comfy.model_management
import torch
from comfy_api.latest import io

from .providers import providers
from .providers._contract import GenerationRequest, ProviderError

FROM_RATIO, EXACT = "aspect ratio", "exact size"
RATIOS = ("1:1", "5:4", "4:3", "3:2", "16:9", "21:9", "4:5", "3:4", "2:3", "9:16", "9:21")
SIDE = 16  # FLUX works on patches of 2 latent pixels of 8 pixels each
MEGAPIXEL = 1024 * 1024
RECOMMENDED_MEGAPIXELS = (0.25, 2.0)


def presets() -> dict[str, tuple[int, int]]:
    """Every provider's own sizes, by the name they have in saved workflows: `fal: square_hd` → (1024, 1024)."""
    return {
        f"{provider.label}: {name}": size
        for provider in providers().values()
        for name, size in provider.presets.items()
    }


def to_legal(width: float, height: float) -> tuple[int, int]:
    """The nearest size the local model takes."""
    return max(SIDE, round(width / SIDE) * SIDE), max(SIDE, round(height / SIDE) * SIDE)


def asked_size(preset: str, aspect_ratio: str, megapixels: float, width: int, height: int) -> tuple[float, float]:
    if preset == EXACT:
        return width, height
    if preset == FROM_RATIO:
        across, down = map(int, aspect_ratio.split(":"))
        return math.sqrt(megapixels * MEGAPIXEL * across / down), math.sqrt(megapixels * MEGAPIXEL * down / across)
    return presets()[preset]


def describe(asked: tuple[float, float], local: tuple[int, int]) -> str:
    """What the node shows: the local size, then each provider's."""
    width, height = local
    lines = [f"{width} × {height}, {width * height / MEGAPIXEL:.2f} MP"]
    least, most = RECOMMENDED_MEGAPIXELS
    if not least <= width * height / MEGAPIXEL <= most:
        lines.append(f"Krea was trained around 1 MP; outside {least:g} to {most:g} MP pictures fall apart.")
    request = GenerationRequest(prompt="size", width=round(asked[0]), height=round(asked[1]))
    for provider in providers().values():
        lines.append(f"{provider.label}: {delivered(provider, request)}")
    return "\n".join(lines)


def delivered(provider, request: GenerationRequest) -> str:
    try:
        size = provider.plan(request).size
    except ProviderError as problem:
        return str(problem)
    return f"{size[0]} × {size[1]}" if size else "decided by the provider"


class FluxKreaSize(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaSize",
            display_name="Krea Size",
            category="FLUX Krea",
            description="A size FLUX.1 Krea [dev] takes (multiples of 16), an empty latent of it, and what providers deliver.",
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[FROM_RATIO, EXACT, *presets()],
                    default=FROM_RATIO,
                    tooltip="aspect ratio uses aspect_ratio and megapixels, exact size uses width and height; the others are "
                    "the providers' own sizes, rounded to multiples of 16 for the local model.",
                ),
                io.Combo.Input("aspect_ratio", options=list(RATIOS), default="1:1", tooltip="Used by: aspect ratio."),
                io.Float.Input(
                    "megapixels",
                    default=1.0,
                    min=0.1,
                    max=4.0,
                    step=0.05,
                    tooltip="Used by: aspect ratio. 1.0 is 1024 × 1024.",
                ),
                io.Int.Input("width", default=1024, min=16, max=14142, tooltip="Used by: exact size."),
                io.Int.Input("height", default=1024, min=16, max=14142, tooltip="Used by: exact size."),
                io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Latents in the batch."),
            ],
            outputs=[
                io.Int.Output(display_name="width"),
                io.Int.Output(display_name="height"),
                io.Latent.Output(display_name="LATENT"),
            ],
        )

    @classmethod
    def execute(cls, preset, aspect_ratio, megapixels, width, height, batch_size):
        asked = asked_size(preset, aspect_ratio, megapixels, width, height)
        width, height = to_legal(*asked)
        return io.NodeOutput(
            width, height, empty_latent(width, height, batch_size), ui={"text": (describe(asked, (width, height)),)}
        )


def empty_latent(width: int, height: int, batch_size: int) -> dict:
    """Zeros [B,16,H/8,W/8] where ComfyUI keeps its intermediates."""
    management = comfy.model_management
    dtype = getattr(management, "intermediate_dtype", lambda: torch.float32)()  # newer cores may keep them in half
    samples = torch.zeros(
        [batch_size, 16, height // 8, width // 8], device=management.intermediate_device(), dtype=dtype
    )
    return {"samples": samples}


NODES = [FluxKreaSize]
