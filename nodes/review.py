"""Krea Review Gate: a person looks before anything passes. It needs no model."""

from __future__ import annotations

import hashlib
import json
import re

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from .bridge.newer_schema import found_by


class FluxKreaReview(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaReview",
            display_name="Krea Review Gate",
            category="FLUX Krea",
            description="Shows the images and lets them pass once a person has accepted these very pixels: run, look, "
            "write the code it shows into reviewed, run again. Any other image needs its own code. To be shown, the "
            "images lie unredacted in ComfyUI's temp folder until its next start.",
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The images to review, all at once."),
                io.String.Input(
                    "reviewed",
                    default="",
                    tooltip="The code of the images you have looked at and accept, as the node shows it. Several codes "
                    "may stand here, separated by spaces or commas.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The same images, once accepted; nothing before."),
                io.String.Output(display_name="report", tooltip="JSON: the images' code and whether it was accepted."),
            ],
            **found_by(
                io.Schema,
                "approve, human review, manual check, pause, gate, moderation, image chooser",
                shelf="Image Tools",
            ),
        )

    @classmethod
    def execute(cls, image, reviewed):
        code = review_code(image)
        accepted = code in re.split(r"[\s,;]+", reviewed.lower())
        report = json.dumps({"images": len(image), "review_code": code, "reviewed": accepted})
        # Without alpha: what is transparent on the page is still in a file that is saved.
        preview = ui.PreviewImage(image[..., :3], cls=cls).as_dict()
        shown = {**preview, "text": (report,), "review_code": (code,), "reviewed": (accepted,)}
        return io.NodeOutput(image if accepted else ExecutionBlocker(please_review(image, code)), report, ui=shown)


def please_review(image: torch.Tensor, code: str) -> str:
    what = "this image" if len(image) == 1 else f"these {len(image)} images"
    return f"Krea Review Gate: look at {what} on the node. To let them pass, write {code} into reviewed and run again."


def review_code(image: torch.Tensor) -> str:
    """Short enough to copy by hand, and bound to shape and exact pixel values of [B, H, W, C]."""
    if image.ndim != 4 or image.numel() == 0:
        raise ValueError(f"There is no image to review: the batch is {list(image.shape)}.")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("An image has pixels that are not finite numbers: it cannot be shown, so not be reviewed.")
    pixels = image.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{list(pixels.shape)} {pixels.dtype}".encode())
    digest.update(pixels.numpy().data)
    code = digest.hexdigest()[:12]
    return "-".join((code[:4], code[4:8], code[8:]))


NODES = [FluxKreaReview]
