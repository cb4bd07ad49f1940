"""API Krea Submit: sends the job and lets the queue go on; API Krea Collect fetches the pictures."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge import inputs
from .bridge.newer_schema import found_by


class FluxKreaSubmit(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaSubmit",
            display_name="API Krea Submit",
            category="FLUX Krea",
            description="Sends the job to the provider and does not wait. The ticket collects the pictures later, in any "
            "workflow, also after a restart.",
            inputs=inputs.generation_inputs(),
            outputs=[io.String.Output(display_name="ticket", tooltip="For API Krea Collect. It is no secret.")],
            is_output_node=True,
            not_idempotent=True,
            **found_by(
                io.Schema,
                "flux api, fal, replicate, queue, send, async, remote, provider",
            ),
        )

    @classmethod
    def fingerprint_inputs(cls, seed=0, **_):
        return float("nan") if seed == inputs.RANDOM_SEED else ""

    @classmethod
    def execute(cls, provider, max_cost_usd, reuse, **values):
        handle = inputs.start(provider, max_cost_usd, reuse, values, keeps_drawn_seed=False)
        return io.NodeOutput(handle.ticket, ui={"text": (handle.ticket,)})


NODES = [FluxKreaSubmit]
