"""API Krea Collect: the pictures of an earlier API Krea Submit. It never pays."""

from __future__ import annotations

from comfy_api.latest import io

from .api import FluxKreaAPI, delivered
from .bridge import execution
from .bridge.newer_schema import found_by
from .providers.contract import RequestRefused


class FluxKreaCollect(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaCollect",
            display_name="API Krea Collect",
            category="FLUX Krea",
            description="Waits for a job that API Krea Submit sent, or takes what it left on disk. Costs nothing.",
            inputs=[
                io.String.Input("ticket", default="", tooltip="Wire it, or paste what API Krea Submit showed."),
            ],
            outputs=FluxKreaAPI.define_schema().outputs,
            **found_by(
                io.Schema,
                "flux api, fal, replicate, fetch, ticket, download, async, remote",
            ),
        )

    @classmethod
    async def execute(cls, ticket):
        if not ticket.strip():
            raise RequestRefused(f"ticket is empty. {waiting()}")
        return await delivered(execution.jobs().collect(ticket.strip()))


def waiting() -> str:
    rows = execution.jobs().pending()
    if not rows:
        return "No job waits to be collected."
    return "Waiting: " + "; ".join(f"{row.provider}/{row.hash} ({row.request['prompt'][:40]})" for row in rows)


NODES = [FluxKreaCollect]
