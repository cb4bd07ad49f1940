"""Krea Text Encoders: CLIP-L and T5-XXL, told apart by content. A part of Krea Loader, and on its own for GGUF users."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge.newer_schema import found_by
from .model_files import installed_files, loading


def encoder_inputs() -> list:
    names = installed_files.choices("text_encoders")
    tooltip = "CLIP-L or T5-XXL, in models/text_encoders. The order does not matter: files are told apart by content."
    return [
        io.Combo.Input("clip_name1", options=names, default=installed_files.likely(names, "clip_l"), tooltip=tooltip),
        io.Combo.Input(
            "clip_name2", options=names, default=installed_files.likely(names, "t5xxl", "t5"), tooltip=tooltip
        ),
    ]


class FluxKreaTextEncoders(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaTextEncoders",
            display_name="Krea Text Encoders",
            category="FLUX Krea/parts",
            description="Loads FLUX.1's two text encoders alone, for a diffusion model from another loader, such as GGUF's.",
            inputs=encoder_inputs(),
            outputs=[io.Clip.Output(display_name="CLIP")],
            **found_by(
                io.Schema,
                "dual clip, clip loader, clip_l, t5xxl, flux text encoder, bfl",
            ),
        )

    @classmethod
    def validate_inputs(cls, clip_name1=None, clip_name2=None):
        """Naming the files leaves them to `execute`, which says more about an absent one than core's check does."""
        return True

    @classmethod
    def execute(cls, clip_name1, clip_name2):
        return io.NodeOutput(loading.encoders(*installed_files.find_encoders(clip_name1, clip_name2)))


NODES = [FluxKreaTextEncoders]
