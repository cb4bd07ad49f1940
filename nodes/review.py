"""Krea Review Gate: a person looks before anything passes. It needs no model."""

from __future__ import annotations

import json
import re

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from .bridge.execution import private_folder
from .bridge.newer_schema import found_by
from .safety.pictures import check_images, pictures, visible
from .safety.review_codes import installation_secret, review_code


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
        check_images(image)
        if not bool(torch.isfinite(image).all()):
            raise ValueError("An image has pixels that are not finite numbers: it cannot be shown, so not be reviewed.")
        image = visible(image)
        code = review_code(image, installation_secret(private_folder()))
        accepted = code in re.split(r"[\s,;]+", reviewed.lower())
        report = json.dumps({"images": len(image), "review_code": code, "reviewed": accepted})
        seen = torch.stack([picture for one in image for picture in pictures(one)])
        preview = ui.PreviewImage(seen, cls=cls).as_dict()
        shown = {**preview, "text": (report,), "review_code": (code,), "reviewed": (accepted,)}
        return io.NodeOutput(image if accepted else ExecutionBlocker(please_review(image, code)), report, ui=shown)


def please_review(image: torch.Tensor, code: str) -> str:
    what = "this image" if len(image) == 1 else f"these {len(image)} images"
    return f"Krea Review Gate: look at {what} on the node. To let them pass, write {code} into reviewed and run again."


NODES = [FluxKreaReview]
