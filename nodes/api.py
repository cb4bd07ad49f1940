"""API Krea: FLUX.1 Krea [dev] at a provider. What was paid for is fetched again, not paid twice."""

from __future__ import annotations

from comfy_api.latest import io

from .bridge import delivery, execution, inputs
from .bridge.newer_schema import found_by


class FluxKreaAPI(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaAPI",
            display_name="API Krea",
            category="FLUX Krea",
            description="FLUX.1 Krea [dev] at a provider, with your own key. It costs money there. The prompt and the image "
            "are sent to the provider.",
            inputs=inputs.generation_inputs(),
            outputs=delivery.output_sockets(),
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
        execution.record_collected()  # what the last run received; else seed -1 could pick it again
        return await delivery.outputs(inputs.start(provider, max_cost_usd, reuse, values, keeps_drawn_seed=True))


NODES = [FluxKreaAPI]
