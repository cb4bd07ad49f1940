"""Krea LoRA: a LoRA for the model, and a report of what it does."""

from __future__ import annotations

import logging
import os

from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from .bridge.newer_schema import found_by
from .model_files import header, installed_files, lora, lora_files

FOLDER = "loras"


class FluxKreaLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = installed_files.choices(FOLDER)
        return io.Schema(
            node_id="FluxKreaLora",
            display_name="Krea LoRA",
            category="FLUX Krea",
            description="Applies a LoRA as ComfyUI does and says what nobody else says: what the file was made for, how "
            "many of its tensors matched, which did not, and how much it changes each part of the model. A LoRA for "
            "another architecture is refused.",
            inputs=[
                io.Model.Input("model", tooltip="FLUX.1 Krea [dev]. Several Krea LoRA nodes may follow each other."),
                io.Combo.Input(
                    "lora_name",
                    options=names,
                    default=installed_files.likely(names, "krea", "flux"),
                    tooltip="A LoRA for FLUX.1 Krea or dev, in models/loras.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="1 is as it was trained, 0 is without it. A likeness trained on dev may need 1.2 to 1.5.",
                ),
                io.Clip.Input(
                    "clip", optional=True, tooltip="Only for a LoRA that was trained on the text encoders too."
                ),
                io.Float.Input(
                    "strength_clip",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    optional=True,
                    tooltip="The same for the text encoders.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the LoRA."),
                io.Clip.Output(display_name="CLIP", tooltip="The text encoders with the LoRA; needs clip."),
                io.String.Output(display_name="report", tooltip="What the node shows: what matched, what it changes."),
            ],
            **found_by(
                io.Schema,
                "load lora, lora loader, flux lora, krea lora, lora keys, style, civitai, bfl",
                shelf="Image Generation",
            ),
        )

    @classmethod
    def validate_inputs(cls, lora_name=None):
        """Naming the file leaves it to `execute`, which says more about an absent one than core's check does."""
        return True

    @classmethod
    def fingerprint_inputs(cls, lora_name=None, **_):
        """A file that was replaced under its name is another file. Wired or absent: execute finds out."""
        try:
            return os.stat(installed_files.locate(FOLDER, lora_name)[1]).st_mtime_ns
        except (header.WeightFileError, AttributeError, OSError):
            return float("nan")

    @classmethod
    def execute(cls, model, lora_name, strength, clip=None, strength_clip=1.0):
        file = lora_files.read_lora(installed_files.locate(FOLDER, lora_name)[1])
        applied = lora.apply(model, clip, file, strength, strength_clip)
        logging.info("Krea LoRA: %s", applied.report)
        no_clip = ExecutionBlocker("Krea LoRA: its CLIP output needs something connected to its clip input.")
        return io.NodeOutput(applied.model, applied.clip or no_clip, applied.report, ui={"text": (applied.report,)})


NODES = [FluxKreaLora]
