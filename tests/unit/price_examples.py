"""What the providers themselves say a picture costs, as requests and US dollars. `says` is where they say it."""

from dataclasses import dataclass, field
from typing import Any

from flux_krea.nodes.providers import fal
from flux_krea.nodes.providers.contract import Lora


@dataclass(frozen=True)
class Example:
    provider: str
    request: dict[str, Any] = field(hash=False)
    usd: float | None  # None where nobody knows
    says: str


MEGAPIXEL = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (1024).to_bytes(4, "big") * 2
SQUARE = {"width": 1024, "height": 1024}
EXAMPLES = [
    Example("fal", {**SQUARE, "images": 4}, 0.1, "40 generations for $1.00 at 1 MP"),
    Example("fal", {"width": 512, "height": 512}, 0.025, "rounded up to the nearest megapixel"),
    Example("fal", {"width": 1024, "height": 768}, 0.025, "$0.025 a megapixel"),
    Example("fal", {"width": 1184, "height": 896}, 0.05, "two megapixels by either count"),
    Example("fal", {"width": 2048, "height": 2048}, 0.1, "up to 4 megapixels"),
    *(
        Example("fal", {"width": width, "height": height}, 0.025, f"the preset {name} is one megapixel")
        for name, (width, height) in fal.PRESETS.items()
    ),
    Example("fal", {"mode": "image_to_image", "image": MEGAPIXEL}, 0.025, "by the size of the input"),
    Example("fal", {"mode": "redux", "prompt": "", "image": MEGAPIXEL, **SQUARE}, 0.025, "Redux: $0.025 a megapixel"),
    Example("replicate", SQUARE, 0.025, "$0.025 an output image"),
    Example("replicate", {"width": 512, "height": 512, "images": 4}, 0.1, "flat, whatever the size"),
    Example("lumenfall", SQUARE, 0.025, "$0.025 an image"),
    Example("lumenfall", {**SQUARE, "images": 3}, 0.075, "n times the cost"),
    Example("core_today", SQUARE, 0.045, "45 credits a request, 1 credit is $0.001"),
    Example("core_today", {"width": 512, "height": 512}, 0.045, "fixed, whatever the size"),
    Example("one_min", SQUARE, None, "credits, and no number for this model"),
    Example("runware", {**SQUARE, "steps": 28}, 0.0098, "$0.0098 for 1024×1024 and 28 steps"),
    Example("wavespeed", SQUARE, 0.025, "two resellers list $0.025 a call"),
    Example("wavespeed", {**SQUARE, "images": 3}, 0.075, "one picture a call"),
    Example(
        "fal", {"mode": "inpainting", "image": MEGAPIXEL, "mask": MEGAPIXEL}, 0.035, "inpainting: $0.035 a megapixel"
    ),
    Example(
        "fal",
        {"mode": "image_to_image", "image": MEGAPIXEL, "loras": (Lora("owner/style"),)},
        0.035,
        "flux-krea-lora, image to image: presumed the same",
    ),
    Example("fal", {"loras": (Lora("owner/style"),), **SQUARE}, 0.035, "flux-krea-lora: presumed the same"),
]
