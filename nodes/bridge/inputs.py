"""The widgets of API Krea and API Krea Submit, and the request that their values make."""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from PIL import features

from ..providers import providers
from ..providers.contract import (
    AUTO,
    IMAGE_TO_IMAGE,
    INPAINTING,
    REDUX,
    TEXT_TO_IMAGE,
    GenerationRequest,
    RequestRefused,
)
from ..providers.loras import loras_of
from ..providers.payload import ACCELERATIONS
from . import execution, tensors
from .choices import check_choice
from .newer_schema import if_known

if TYPE_CHECKING:
    from ..jobs.handle import Handle

IMAGE_USES = {"image to image": IMAGE_TO_IMAGE, "redux": REDUX}
OUTPUT_FORMATS = ("png", "jpeg", "webp", "avif", "gif")
RANDOM_SEED = -1
BLANK_IMAGE = torch.zeros([1, 64, 64, 3])  # stands in where only the price is asked
BLANK_MASK = torch.ones([1, 64, 64])
NO_LIMIT = -1.0
RANGES: dict[str, tuple[float, float]] = {  # of the widgets, and of what is wired into them
    "strength": (0.0, 1.0),
    "width": (16, 14142),
    "height": (16, 14142),
    "steps": (1, 50),
    "guidance": (0.0, 50.0),
    "seed": (RANDOM_SEED, 0xFFFFFFFFFFFFFFFF),
    "images": (1, 16),
    "quality": (0, 100),
}
DEEPEST_EXTRA = 32  # levels of lists and objects
LONGEST_EXTRA = 100_000  # characters
LONGEST_NUMBER = 40  # digits


def generation_inputs() -> list[io.Input]:
    """In the order of saved workflows: a new one goes to the end, none is ever renamed or taken away."""
    return [
        io.Combo.Input(
            "provider",
            options=[AUTO, *providers()],
            default=AUTO,
            tooltip="auto takes the cheapest provider with a key that can do what is asked, and goes on to the next one "
            "only where the first certainly did not accept the job.",
        ),
        io.String.Input(
            "prompt",
            multiline=True,
            default="",
            tooltip="What to draw. Some providers take a limited number of characters.",
        ),
        io.Image.Input("image", optional=True, tooltip="For image to image, or the reference for Redux. One image."),
        io.Combo.Input(
            "image_use",
            options=list(IMAGE_USES),
            default="image to image",
            tooltip="What the image is for. Not every provider has Redux, which takes no prompt.",
        ),
        io.Float.Input(
            "strength",
            default=0.95,
            **span("strength"),
            step=0.01,
            tooltip="Image to image: 1.0 ignores the image. fal advises high values for this model.",
        ),
        io.Int.Input("width", default=1024, **span("width"), tooltip="What the provider makes of it is in the report."),
        io.Int.Input(
            "height", default=1024, **span("height"), tooltip="What the provider makes of it is in the report."
        ),
        io.Int.Input("steps", default=28, **span("steps"), tooltip="Sampling steps.", **advanced(io.Int.Input)),
        io.Float.Input(
            "guidance",
            default=4.5,
            **span("guidance"),
            step=0.1,
            tooltip="How closely to follow the prompt. Each provider gets it under its own name and within its own limits.",
            **advanced(io.Float.Input),
        ),
        io.Int.Input(
            "seed",
            default=0,
            **span("seed"),
            control_after_generate=True,
            tooltip="-1 draws a new one at every run; the seed output and the report say which.",
        ),
        io.Int.Input(
            "images",
            default=1,
            **span("images"),
            tooltip="More than a provider makes in one call become several calls at once, with consecutive seeds.",
        ),
        io.Combo.Input(
            "acceleration",
            options=list(ACCELERATIONS),
            default="none",
            tooltip="Some providers know only fast and not fast: there regular and high are both fast. Fast pictures cannot be "
            "repeated from the seed.",
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
            tooltip="As the provider sends it; not every provider knows every format.",
            **advanced(io.Combo.Input),
        ),
        io.Int.Input(
            "quality",
            default=95,
            **span("quality"),
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
            tooltip="Refuses, before anything is sent, what would take this run's API nodes together above this. "
            "-1: only the server's own limits hold, for one run and for 24 hours.",
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
            tooltip='The provider\'s own fields, as JSON: {"go_fast": false}. Fields for which the node has an '
            "input are refused.",
            **advanced(io.String.Input),
        ),
        io.Mask.Input(
            "mask",
            optional=True,
            tooltip="For image to image: white is repainted, black is kept. It is scaled to the image. A provider without "
            "inpainting refuses it.",
        ),
        io.String.Input(
            "loras",
            multiline=True,
            optional=True,
            default="",
            tooltip="Styles, one a line: an https address, owner/name on Hugging Face, or an AIR id such as "
            "civitai:1234@5678, then the strength. A provider that does not take one refuses it; nobody else is sent it.",
        ),
    ]


def advanced(kind: type) -> dict[str, Any]:
    """Folded away until somebody asks for it, on the pages that can fold; older ones show it."""
    return if_known(kind, advanced=True)


def request_of(
    prompt: str, image_use: str, strength: float, width: int, height: int, steps: int, guidance: float, seed: int,
    images: int, acceleration: str, safety_checker: bool, output_format: str, quality: int, extra: str,
    image: torch.Tensor | None = None, mask: torch.Tensor | None = None, loras: str = "",
) -> GenerationRequest:  # fmt: skip
    """The widgets' values as a request; raises RequestRefused, before anything is sent, with the value that is wrong."""
    check_choice("image_use", image_use, IMAGE_USES, RequestRefused)
    check_choice("acceleration", acceleration, ACCELERATIONS, RequestRefused)
    check_choice("output_format", output_format, OUTPUT_FORMATS, RequestRefused)
    if output_format == "avif" and not features.check("avif"):
        raise RequestRefused("This machine's Pillow cannot read avif: choose another output_format. Nothing was paid.")
    check_range("strength", strength)
    check_range("guidance", guidance)
    for name, value in (
        ("width", width), ("height", height), ("steps", steps), ("seed", seed), ("images", images), ("quality", quality)
    ):  # fmt: skip
        check_range(name, value, whole=True)
    for name, text in (("prompt", prompt), ("loras", loras)):
        if not isinstance(text, str):
            raise RequestRefused(f"{name} is {text!r:.80}, not a text. Nothing was paid.")
    return GenerationRequest(
        prompt=prompt,
        mode=mode_of(image_use, image is not None, mask is not None),
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
        mask=None if mask is None else tensors.mask_to_png(mask, image),
        loras=loras_of(loras),
        image_was=None if image is None else tensors.size_before_scaling(image),
    )


def mode_of(image_use: str, has_image: bool, has_mask: bool) -> str:
    """What is done follows from what is wired. A mask without its use is an error, never silently left out."""
    if has_mask and not has_image:
        raise RequestRefused("mask says which part of an image is repainted, and no image is wired. Nothing was paid.")
    if has_mask and image_use == "redux":
        raise RequestRefused("Redux takes no mask: choose image to image, or unwire the mask. Nothing was paid.")
    if has_mask:
        return INPAINTING
    return IMAGE_USES[image_use] if has_image else TEXT_TO_IMAGE


def span(name: str) -> dict[str, float]:
    least, most = RANGES[name]
    return {"min": least, "max": most}


def check_range(name: str, value: object, whole: bool = False) -> None:
    """The widget's own range: ComfyUI does not hold what is wired to it."""
    least, most = RANGES[name]
    kinds = (int,) if whole else (int, float)
    if (
        isinstance(value, bool)
        or not isinstance(value, kinds)
        or not math.isfinite(value)
        or not least <= value <= most
    ):
        kind = "a whole number" if whole else "a number"
        raise RequestRefused(f"{name} is {value!r:.80}; it must be {kind} from {least} to {most}. Nothing was paid.")


def extra_fields(text: str) -> dict[str, Any]:
    """The JSON object that `extra` is, without anything that providers and hashes could trip over."""
    if not isinstance(text, str):
        raise RequestRefused(f"extra is {text!r:.80}, not a text. Nothing was paid.")
    if not text.strip():
        return {}
    if len(text) > LONGEST_EXTRA:
        raise RequestRefused(
            f"extra has {len(text)} characters; more than {LONGEST_EXTRA} are not sent. Nothing was paid."
        )
    try:
        fields = json.loads(text, parse_int=whole_number, parse_constant=no_number)
    except ValueError as problem:
        raise RequestRefused(f"extra is not JSON ({problem}): {text[:80]!r}. Nothing was paid.") from None
    except RecursionError:
        raise too_deep(text) from None
    if not isinstance(fields, dict):
        raise RequestRefused(
            f'extra must be a JSON object such as {{"go_fast": false}}, got {text[:80]!r}. Nothing was paid.'
        )
    level: list[Any] = [fields]
    for _ in range(DEEPEST_EXTRA):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, (dict, list))]
    if level:
        raise too_deep(text)
    return fields


def too_deep(text: str) -> RequestRefused:
    return RequestRefused(
        f"extra has lists or objects inside each other more than {DEEPEST_EXTRA} deep: {text[:80]!r}. Nothing was paid."
    )


def whole_number(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def limit_of(max_cost_usd: float) -> float | None:
    return None if max_cost_usd < 0 else max_cost_usd


def start(provider: str, max_cost_usd: float, reuse: bool, values: dict[str, Any], keeps_drawn_seed: bool) -> Handle:
    """Starts what a node's widgets ask for. Raises RequestRefused, and whatever else is known before anything is sent.

    `keeps_drawn_seed`: a picture that an earlier run of this node paid for, and no graph has received, comes first.
    """
    run = get_executing_context().prompt_id
    is_drawn = values["seed"] == RANDOM_SEED
    return execution.jobs().start(
        provider,
        request_of(**values),
        max_cost_usd=limit_of(max_cost_usd),
        budget_key=run,
        reuse=reuse,
        drawn_by=run if is_drawn and keeps_drawn_seed else "",
    )
