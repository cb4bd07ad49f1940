"""Krea Size: a picture size that FLUX takes, and what each provider would make of it."""

from __future__ import annotations

import comfy.model_management
import torch
from comfy_api.latest import io

from .bridge.newer_schema import found_by
from .bridge.sizes import EXACT, FROM_RATIO, RATIOS, asked_size, describe, presets, to_legal


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
            **found_by(
                io.Schema,
                "resolution, aspect ratio, megapixels, empty latent, width height, flux size, dimensions",
            ),
        )

    @classmethod
    def execute(cls, preset, aspect_ratio, megapixels, width, height, batch_size):
        asked = asked_size(preset, aspect_ratio, megapixels, width, height)
        width, height = to_legal(*asked)
        return io.NodeOutput(width, height, empty_latent(width, height, batch_size), ui={"text": (describe(asked),)})


def empty_latent(width: int, height: int, batch_size: int) -> dict:
    """Zeros [B,16,H/8,W/8] where ComfyUI keeps its intermediates."""
    management = comfy.model_management
    dtype = getattr(management, "intermediate_dtype", lambda: torch.float32)()  # newer cores may keep them in half
    samples = torch.zeros(
        [batch_size, 16, height // 8, width // 8], device=management.intermediate_device(), dtype=dtype
    )
    return {"samples": samples}


NODES = [FluxKreaSize]
