"""The widgets of API Krea and API Krea Submit, and the request that their values make."""

from __future__ import annotations

import json
import math
import random

import torch
from comfy_api.latest import io
from PIL import features

from ..providers import providers
from ..providers.contract import AUTO, IMAGE_TO_IMAGE, REDUX, TEXT_TO_IMAGE, GenerationRequest, RequestRefused
from . import tensors
from .newer_schema import if_known

IMAGE_USES = {"image to image": IMAGE_TO_IMAGE, "redux": REDUX}
ACCELERATIONS = ("none", "regular", "high")
OUTPUT_FORMATS = ("png", "jpeg", "webp", "avif", "gif")
RANDOM_SEED = -1
BLANK_IMAGE = torch.zeros([1, 64, 64, 3])  # stands in where only the price is asked
NO_LIMIT = -1.0
MOST_IMAGES = 16


def generation_inputs() -> list:
    """In the order of saved workflows: a new one goes to the end, none is ever renamed or taken away."""
    return [
        io.Combo.Input(
            "provider",
            options=[AUTO, *providers()],
            default=AUTO,
            tooltip="auto takes the cheapest provider with a key that can do what is asked, and goes on to the next one "
            "only where the first certainly did not accept the job.",
        ),
        io.String.Input("prompt", multiline=True, default="", tooltip="What to draw. Lumenfall takes 1000 characters."),
        io.Image.Input("image", optional=True, tooltip="For image to image, or the reference for Redux. One image."),
        io.Combo.Input(
            "image_use",
            options=list(IMAGE_USES),
            default="image to image",
            tooltip="What the image is for. Redux is at fal only, and takes no prompt there.",
        ),
        io.Float.Input(
            "strength",
            default=0.95,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Image to image: 1.0 ignores the image. fal advises high values for this model.",
        ),
        io.Int.Input(
            "width", default=1024, min=16, max=14142, tooltip="What the provider makes of it is in the report."
        ),
        io.Int.Input(
            "height", default=1024, min=16, max=14142, tooltip="What the provider makes of it is in the report."
        ),
        io.Int.Input("steps", default=28, min=1, max=50, tooltip="Sampling steps.", **advanced(io.Int.Input)),
        io.Float.Input(
            "guidance",
            default=4.5,
            min=0.0,
            max=50.0,
            step=0.1,
            tooltip="How closely to follow the prompt. Each provider gets it under its own name and within its own limits.",
            **advanced(io.Float.Input),
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=RANDOM_SEED,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="-1 draws a new one at every run; the seed output and the report say which.",
        ),
        io.Int.Input(
            "images",
            default=1,
            min=1,
            max=MOST_IMAGES,
            tooltip="More than a provider makes in one call become several calls at once, with consecutive seeds.",
        ),
        io.Combo.Input(
            "acceleration",
            options=list(ACCELERATIONS),
            default="none",
            tooltip="fal's words; other providers know fast and not fast. Fast pictures cannot be repeated from the seed.",
            **advanced(io.Combo.Input),
        ),
        io.Boolean.Input(
            "safety_checker",
            default=True,
            tooltip="The provider's own. Off, its flags say nothing: they come out as not checked.",
            **advanced(io.Boolean.Input),
        ),
        io.Combo.Input(
            "output_format",
            options=list(OUTPUT_FORMATS),
            default="png",
            tooltip="As the provider sends it; avif and gif are Lumenfall's.",
            **advanced(io.Combo.Input),
        ),
        io.Int.Input(
            "quality",
            default=95,
            min=0,
            max=100,
            tooltip="Of jpeg and webp, where the provider has a choice.",
            **advanced(io.Int.Input),
        ),
        io.Float.Input(
            "max_cost_usd",
            default=NO_LIMIT,
            min=NO_LIMIT,
            max=10000.0,
            step=0.005,
            round=0.000001,
            tooltip="Refuses, before anything is sent, what would take this graph's API nodes together above this. "
            "-1: no limit. With a limit, a provider whose price is unknown is refused.",
            **advanced(io.Float.Input),
        ),
        io.Boolean.Input(
            "reuse",
            default=True,
            tooltip="Takes a picture that was paid for with exactly these values, now or before a crash, instead of paying "
            "again. Off, every new run is a new job.",
            **advanced(io.Boolean.Input),
        ),
        io.String.Input(
            "extra",
            multiline=True,
            default="",
            tooltip='The provider\'s own fields, as JSON: {"go_fast": false}. They are sent as they are.',
            **advanced(io.String.Input),
        ),
    ]


def advanced(kind) -> dict:
    """Folded away until somebody asks for it, on the pages that can fold; older ones show it."""
    return if_known(kind, advanced=True)


def request_of(
    prompt, image_use, strength, width, height, steps, guidance, seed, images, acceleration, safety_checker,
    output_format, quality, extra, image=None,
) -> GenerationRequest:  # fmt: skip
    """The widgets' values as a request; raises RequestRefused, before anything is sent, with the value that is wrong."""
    check_choice("image_use", image_use, IMAGE_USES)
    check_choice("acceleration", acceleration, ACCELERATIONS)
    check_choice("output_format", output_format, OUTPUT_FORMATS)
    if output_format == "avif" and not features.check("avif"):
        raise RequestRefused("This machine's Pillow cannot read avif: choose another output_format. Nothing was paid.")
    for name, value in (("strength", strength), ("guidance", guidance)):
        if not math.isfinite(value):
            raise RequestRefused(f"{name} is {value}, not a number. Nothing was paid.")
    return GenerationRequest(
        prompt=prompt,
        mode=IMAGE_USES[image_use] if image is not None else TEXT_TO_IMAGE,
        image=None if image is None else tensors.to_png(image),
        strength=strength,
        width=width,
        height=height,
        steps=steps,
        guidance=guidance,
        seed=random.SystemRandom().randrange(1, 2**31) if seed == RANDOM_SEED else seed,
        images=images,
        acceleration=acceleration,
        safety_checker=safety_checker,
        output_format=output_format,
        quality=quality,
        extra=extra_fields(extra),
    )


def check_choice(name: str, value: str, allowed) -> None:
    """ComfyUI 0.3.75 does not check a combo's value, and no version checks a wired one."""
    if value not in allowed:
        raise RequestRefused(f"{name} is {value!r}; it can be {', '.join(allowed)}. Nothing was paid.")


def extra_fields(text: str) -> dict:
    if not text.strip():
        return {}
    try:
        fields = json.loads(text)
    except ValueError as problem:
        raise RequestRefused(f"extra is not JSON ({problem}): {text[:80]!r}. Nothing was paid.") from None
    if not isinstance(fields, dict):
        raise RequestRefused(f'extra must be a JSON object such as {{"go_fast": false}}, got {text[:80]!r}.')
    return fields


def limit_of(max_cost_usd: float) -> float | None:
    return None if max_cost_usd < 0 else max_cost_usd
