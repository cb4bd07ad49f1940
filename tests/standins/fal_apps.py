"""fal's apps with FLUX.1 Krea [dev]: where each is, what its modes take, what it costs.

Read from the model pages and the generated schemas. Where those are silent the stricter reading holds: unknown fields
and JSON of the wrong type are refused, image-to-image follows its input's size.
"""

import math
from dataclasses import dataclass

from .checks import Field, Problem, problems

MEGAPIXEL = 1024 * 1024
PRESETS = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
DEFAULT_SIZE = "landscape_4_3"
SIDE = Field("integer", low=1, high=14142, required=True)
PROMPT, IMAGE, SIZE = Field(required=True), Field(required=True), Field("any")
STRENGTH = Field("number", 0.01, 1)
COMMON = {
    "num_inference_steps": Field("integer", 1, 50),
    "seed": Field("integer"),
    "guidance_scale": Field("number", 1, 20),
    "sync_mode": Field("boolean"),
    "num_images": Field("integer", 1, 4),
    "enable_safety_checker": Field("boolean"),
    "output_format": Field(choices=("jpeg", "png")),
    "acceleration": Field(choices=("none", "regular", "high")),
}
WITH_LORAS = {
    **COMMON,
    "image_size": SIZE,
    "guidance_scale": Field("number", 0, 35),
    "acceleration": Field(choices=("none", "regular")),
    "loras": Field("any"),
}
LORA = {"path": Field(required=True), "scale": Field("number", 0, 4)}
LORA_DEFAULTS = {"num_inference_steps": 28, "guidance_scale": 3.5, "num_images": 1, "enable_safety_checker": True,
                 "output_format": "jpeg", "acceleration": "none", "loras": [], "sync_mode": False}  # fmt: skip
KREA_DEFAULTS = {**LORA_DEFAULTS, "guidance_scale": 4.5}
del KREA_DEFAULTS["loras"]


@dataclass(frozen=True)
class Mode:
    """What one endpoint takes, and what it fills in where nothing is sent."""

    fields: dict[str, Field]
    defaults: dict


@dataclass(frozen=True)
class App:
    """`jobs` is the address under which its jobs are found: owner and app, without what follows them."""

    jobs: str
    usd_per_megapixel: float
    modes: dict[str, Mode]
    disables_safety: bool  # for every account; else only for those that fal has authorised


KREA = {
    "": Mode({"prompt": PROMPT, "image_size": SIZE, **COMMON}, {**KREA_DEFAULTS, "image_size": DEFAULT_SIZE}),
    "/image-to-image": Mode(
        {
            "prompt": PROMPT,
            "image_url": IMAGE,
            "strength": STRENGTH,
            **COMMON,
            "num_inference_steps": Field("integer", 10, 50),
        },
        {**KREA_DEFAULTS, "num_inference_steps": 40, "strength": 0.95},
    ),
    "/redux": Mode({"image_url": IMAGE, "image_size": SIZE, **COMMON}, {**KREA_DEFAULTS, "image_size": DEFAULT_SIZE}),
}
LORA_FROM_IMAGE = {"prompt": PROMPT, "image_url": IMAGE, "strength": STRENGTH, **WITH_LORAS}
KREA_LORA = {
    "": Mode({"prompt": PROMPT, **WITH_LORAS}, {**LORA_DEFAULTS, "image_size": DEFAULT_SIZE}),
    "/image-to-image": Mode(LORA_FROM_IMAGE, {**LORA_DEFAULTS, "strength": 0.85}),
    "/inpainting": Mode({**LORA_FROM_IMAGE, "mask_url": IMAGE}, {**LORA_DEFAULTS, "strength": 0.85}),
}
APPS = {
    "fal-ai/flux/krea": App("fal-ai/flux", 0.025, KREA, disables_safety=True),
    "fal-ai/flux-1/krea": App("fal-ai/flux-1", 0.025, KREA, disables_safety=True),
    "fal-ai/flux-krea-lora": App("fal-ai/flux-krea-lora", 0.035, KREA_LORA, disables_safety=False),
}


def price_of(endpoint: str) -> float | None:
    """US dollars a megapixel; None for an endpoint that is none of these."""
    found = [
        app for name, app in APPS.items() if endpoint.removeprefix(name) in app.modes and endpoint.startswith(name)
    ]
    return found[0].usd_per_megapixel if found else None


def wrong_fields(mode: Mode, given: dict) -> list[Problem]:
    found = problems(mode.fields, given)
    if "image_size" in given and "image_size" in mode.fields:
        found += _wrong_size(given["image_size"])
    if "loras" in given and "loras" in mode.fields:
        found += _wrong_loras(given["loras"])
    return found


def _wrong_size(size: object) -> list[Problem]:
    if isinstance(size, str):
        return (
            []
            if size in PRESETS
            else [Problem("image_size", "enum", f"Input should be one of {', '.join(PRESETS)}", list(PRESETS), size)]
        )
    if not isinstance(size, dict):
        return [Problem("image_size", "type", "Input should be a preset or a width and a height", "dict", size)]
    found = _within("image_size", problems({"width": SIDE, "height": SIDE}, size))
    if not found and size["width"] * size["height"] > 4 * MEGAPIXEL:
        found.append(Problem("image_size", "value_error", "Image size is limited to 4 megapixels", given=size))
    return found


def _wrong_loras(loras: object) -> list[Problem]:
    if not isinstance(loras, list):
        return [Problem("loras", "type", "Input should be a valid list", "list", loras)]
    found = []
    for index, item in enumerate(loras):
        if isinstance(item, dict):
            found += _within(f"loras.{index}", problems(LORA, item))
        else:
            found.append(Problem(f"loras.{index}", "type", "Input should be a valid dictionary", "dict", item))
    return found


def _within(place: str, found: list[Problem]) -> list[Problem]:
    return [Problem(f"{place}.{each.name}", each.rule, each.message, each.limit, each.given) for each in found]


def pixels(size: str | dict) -> tuple[int, int]:
    return PRESETS[size] if isinstance(size, str) else (size["width"], size["height"])


def megapixels(size: tuple[int, int], whole: bool) -> float:
    """Of one picture, as billed: rounded up, or exact."""
    exact = size[0] * size[1] / MEGAPIXEL
    return math.ceil(exact) if whole else exact
