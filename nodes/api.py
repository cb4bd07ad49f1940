"""API Krea: FLUX.1 Krea [dev] at five providers. A paid picture is never lost and never paid twice."""

from __future__ import annotations

import hashlib
import json

from comfy_api.latest import io
from comfy_execution.utils import get_executing_context

from .bridge import execution, inputs, report, tensors
from .bridge.newer_schema import found_by


class FluxKreaAPI(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaAPI",
            display_name="API Krea",
            category="FLUX Krea",
            description="FLUX.1 Krea [dev] at fal, Replicate, Lumenfall, core.today or 1min.ai, with your own key. "
            "It costs money there. The prompt and the image are sent to the provider.",
            inputs=inputs.generation_inputs(),
            outputs=[
                io.Image.Output(display_name="image"),
                io.Boolean.Output(
                    display_name="has_nsfw_concepts",
                    is_output_list=True,
                    tooltip="For each image: true flagged by the provider, false passed by it, none not checked.",
                ),
                io.Int.Output(display_name="seed", tooltip="The seed that was used, also where it was drawn."),
                io.String.Output(
                    display_name="report",
                    tooltip="JSON: what was asked and delivered, what it cost. Wire it to Krea Safety Check.",
                ),
            ],
            hidden=[io.Hidden.prompt],
            not_idempotent=True,  # two random seeds are two pictures, though the nodes look the same
            **found_by(
                io.Schema,
                "flux api, krea api, flux krea, flux.1 dev, bfl, black forest labs, fal, fal.ai, replicate, "
                "lumenfall, core.today, 1min.ai, cloud, remote, provider, text to image, txt2img, "
                "image to image, img2img",
                shelf="Image Generation",
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, seed=0, **_):
        return float("nan") if seed == inputs.RANDOM_SEED else ""

    @classmethod
    async def execute(cls, provider, max_cost_usd, reuse, **values):
        execution.settle()  # a seed that is drawn must not be that of a picture which the run before has got
        handle = execution.jobs().start(
            provider,
            inputs.request_of(**values),
            max_cost_usd=inputs.limit_of(max_cost_usd),
            purse=purse_of(cls.hidden.prompt, values["seed"]),
            reuse=reuse,
            drawn_by=get_executing_context().prompt_id if values["seed"] == inputs.RANDOM_SEED else "",
        )
        return await delivered(handle)


async def delivered(handle) -> io.NodeOutput:
    """The node's outputs, once the job has ended."""
    result = await execution.finished(handle)
    images = await execution.in_thread(tensors.to_batch, result.pictures)
    flags = report.flags_of(result, images)
    text = report.report_of(result, flags)
    execution.hand_over(handle.ticket)
    return io.NodeOutput(images, flags, result.seed, text, ui={"text": (text,)})


def purse_of(prompt: dict, seed: int) -> str:
    """What a budget is for: this very graph, also after a restart. A drawn seed makes every run a new one."""
    graph = {key: [node["class_type"], node["inputs"]] for key, node in prompt.items()}
    run = get_executing_context().prompt_id if seed == inputs.RANDOM_SEED else ""
    return hashlib.sha256((json.dumps(graph, sort_keys=True) + run).encode()).hexdigest()


NODES = [FluxKreaAPI]
