"""What API Krea and API Krea Collect hand on once a job has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import execution, report, tensors

if TYPE_CHECKING:
    from ..jobs.handle import Handle


def output_sockets() -> list[io.Output]:
    return [
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
    ]


async def outputs(handle: Handle) -> io.NodeOutput:
    """Waits for the job; Cancel interrupts. Raises ProviderError."""
    result = await execution.finished(handle)
    images = await execution.in_thread(tensors.to_batch, result.pictures)
    flags = report.flags_of(result, images)
    text = report.report_of(result, flags)
    execution.mark_received(handle.ticket)
    return io.NodeOutput(images, flags, result.seed, text, ui={"text": (text,)})
