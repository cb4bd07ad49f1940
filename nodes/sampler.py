"""Krea Sampler: FLUX.1 Krea [dev] with its own guidance and schedule, on ComfyUI's engine."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from .bridge.newer_schema import found_by
from .sampling import acceleration as accelerating
from .sampling import sample

MAX_SEED = 0xFFFFFFFFFFFFFFFF


class FluxKreaSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="FluxKreaSampler",
            display_name="Krea Sampler",
            category="FLUX Krea",
            description="Samples FLUX.1 Krea [dev]: guidance, steps and the reference schedule in one node.",
            inputs=[
                io.Model.Input("model", tooltip="From Krea Loader, or any FLUX.1 [dev] model: fp8, GGUF, with LoRAs."),
                io.Conditioning.Input("positive", tooltip="The prompt, from CLIP Text Encode."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="Where sampling starts: Krea Size for text to image, VAE Encode for image to image. "
                    "A noise mask in it is honoured.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The same seed, settings and files give the same picture.",
                ),
                io.Int.Input("steps", default=28, min=1, max=1000, tooltip="The reference uses 28 to 32."),
                io.Float.Input(
                    "guidance",
                    default=4.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="FLUX's distilled guidance; it costs nothing. The reference uses 3.5 to 5.0. It replaces what a "
                    "FluxGuidance node set on the positive.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1.0 ignores what is in the latent, lower values keep more of it.",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.SAMPLER_NAMES,
                    default="euler",
                    tooltip="The reference uses euler; acceleration is made for it.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=sample.scheduler_names(),
                    default=sample.KREA,
                    tooltip="krea is the reference's schedule, computed for the latent's own size. The others are ComfyUI's.",
                ),
                io.Combo.Input(
                    "acceleration",
                    options=accelerating.words(),
                    default=accelerating.NONE,
                    tooltip="none computes every step. regular computes two steps of three and high every second one, neither "
                    "fewer than seven; the others are predicted from them: faster, slightly different pictures. The node "
                    "says how many evaluations were computed.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What to stay away from; takes effect with cfg above 1. It keeps its own guidance: ComfyUI's 3.5 "
                    "unless a FluxGuidance node sets another.",
                ),
                io.Float.Input(
                    "cfg",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    tooltip="True classifier-free guidance against the negative. Anything but 1.0 doubles the time.",
                ),
                io.Int.Input(
                    "computed_steps",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="So many of the steps are computed, the others predicted: 14 with 28 steps takes half the time. 0 "
                    "leaves it to acceleration. The first step and the last two are always computed.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="LATENT")],
            **found_by(
                io.Schema,
                "ksampler, flux sampler, flux guidance, distilled guidance, first block cache, teacache, "
                "wavespeed, accelerate, krea dev, bfl",
                shelf="Image Generation",
            ),
        )

    @classmethod
    def execute(
        cls, model, positive, latent_image, seed, steps, guidance, denoise, sampler_name, scheduler, acceleration,
        negative=None, cfg=1.0, computed_steps=0,
    ):  # fmt: skip
        if negative is None and cfg != 1.0:
            raise ValueError(f"cfg is {cfg:g}, but no negative is wired: connect one, or set cfg back to 1.0.")
        notes: list[str] = []
        wanted = accelerating.budget(acceleration, computed_steps, steps)
        report = None
        if wanted:
            model, report = accelerating.accelerate(model, wanted)
        latent = sample.sample(
            model,
            positive,
            latent_image,
            seed=seed,
            steps=steps,
            guidance=guidance,
            denoise=denoise,
            sampler_name=sampler_name,
            scheduler=scheduler,
            negative=negative,
            cfg=cfg,
            say=notes.append,
        )
        return io.NodeOutput(latent, ui={"text": (*notes, report()) if report else tuple(notes)})


NODES = [FluxKreaSampler]
