"""API Krea Collect: the pictures of an earlier API Krea Submit. It never pays."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge import delivery, execution
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
            outputs=delivery.output_sockets(),
            **found_by(
                io.Schema,
                "flux api, fal, replicate, fetch, ticket, download, async, remote",
            ),
        )

    @classmethod
    async def execute(cls, ticket):
        if not ticket.strip():
            raise RequestRefused(f"ticket is empty. {waiting()}")
        return await delivery.outputs(execution.jobs().collect(ticket.strip()))


def waiting() -> str:
    records = execution.jobs().pending()
    if not records:
        return "No job waits to be collected."
    return "Waiting: " + "; ".join(map(in_short, records))


def in_short(record) -> str:
    return f"{record.provider}/{record.hash} ({record.request.get('prompt', '')[:40]})"


NODES = [FluxKreaCollect]
