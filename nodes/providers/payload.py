"""ComfyUI's words into a provider's: sizes, seeds, limits, and the list of what had to change on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

from .contract import (
    IMAGE_TO_IMAGE,
    INPAINTING,
    REDUX,
    TEXT_TO_IMAGE,
    Change,
    GenerationRequest,
    Parameter,
    Plan,
    RequestRefused,
    Unsupported,
)

Size = tuple[int, int]
Tables = Mapping[str, Mapping[str, Parameter]]

MEGAPIXEL = 1024 * 1024
ACCELERATIONS = ("none", "regular", "high")

# Field names of any provider that only the node's own inputs may set: the limits and the flags are counted by them.
DECIDES_SAFETY_SIZE_OR_COUNT = (
    *("num_images", "num_outputs", "n", "numberResults", "batch_size", "images"),
    *("image_size", "size", "width", "height", "aspect_ratio", "megapixels", "resolution", "target_size"),
    *("enable_safety_checker", "disable_safety_checker", "safety_checker", "checkNSFW", "safety_tolerance", "safety"),
)
# What only its inputs may send: they check it, say what it costs, and refuse it where the provider does not know it.
PICTURES_AND_STYLES = (
    *("image", "image_url", "image_prompt", "seedImage", "mask", "mask_url", "mask_image", "maskImage"),
    *("lora", "loras"),
)

# What the model's host really makes of each ratio: 16:9 is 1.75 and 21:9 is 2.4. (replicate/cog-flux, predict.py)
KREA_SIZES: dict[str, Size] = {
    "1:1": (1024, 1024),
    "16:9": (1344, 768),
    "21:9": (1536, 640),
    "3:2": (1216, 832),
    "2:3": (832, 1216),
    "4:5": (896, 1088),
    "5:4": (1088, 896),
    "3:4": (896, 1152),
    "4:3": (1152, 896),
    "9:16": (768, 1344),
    "9:21": (640, 1536),
}

_MODE_NAMES = {
    TEXT_TO_IMAGE: "text to image",
    IMAGE_TO_IMAGE: "image to image",
    INPAINTING: "inpainting",
    REDUX: "Redux",
}
_ELSEWHERE = {
    REDUX: "Choose fal, the only provider with Redux.",
    INPAINTING: "Choose fal or Runware, or unwire the mask.",
}


def nearest_ratio(width: int, height: int, sizes: Mapping[str, Size]) -> str:
    """The ratio whose real pixels have the shape nearest to width × height; of two as near, the larger picture."""

    def distance(ratio: str) -> tuple[float, int]:
        w, h = sizes[ratio]
        return round(abs(math.log(width * h / (height * w))), 9), -w * h

    return min(sizes, key=distance)


def ratio_and_megapixels(width: int, height: int, sizes: Mapping[str, Size]) -> tuple[str, str, Size]:
    """(aspect_ratio, megapixels, delivered size) for a provider that knows ratios at "1" or "0.25" megapixels."""
    ratio = nearest_ratio(width, height, sizes)
    w, h = sizes[ratio]
    if width * height < MEGAPIXEL / 2:
        return ratio, "0.25", (w // 2, h // 2)
    return ratio, "1", (w, h)


def megapixel_presets(sizes: Mapping[str, Size]) -> dict[str, Size]:
    whole = {f"{ratio} 1 MP": size for ratio, size in sizes.items()}
    return whole | {f"{ratio} 0.25 MP": (w // 2, h // 2) for ratio, (w, h) in sizes.items()}


def snap(width: int, height: int, longest: int, area: float = math.inf, step: int = 16, shortest: int = 16) -> Size:
    """The nearest size whose sides are multiples of `step`, scaled down in shape where it is over the limits."""
    width, height = max(width, 1), max(height, 1)
    scale = min(1.0, longest / max(width, height), math.sqrt(area / (width * height)))
    half = 0.5 if scale == 1.0 else 0.0  # a size that was scaled to a limit is rounded down, to stay under it
    w, h = (max(shortest, step * math.floor(side * scale / step + half)) for side in (width, height))
    while w * h > area or max(w, h) > longest:  # rounding up may have gone over by one step
        w, h = (w - step, h) if w >= h else (w, h - step)
    return w, h


def at_least(width: int, height: int, shortest: int) -> Size:
    """The size, scaled up in shape where a side is shorter."""
    scale = max(1.0, shortest / max(1, min(width, height)))
    return round(width * scale), round(height * scale)


def png_size(image: bytes) -> Size:
    """(width, height) from a PNG's header."""
    if len(image) < 24 or image[:8] != b"\x89PNG\r\n\x1a\n" or image[12:16] != b"IHDR":
        raise RequestRefused("The input image is not a PNG. Wire an IMAGE into the node.")
    return int.from_bytes(image[16:20], "big"), int.from_bytes(image[20:24], "big")


def seed32(seed: int) -> int:
    """ComfyUI's seeds have 64 bits, the providers' 32."""
    return seed & 0xFFFFFFFF


def nonzero_seed32(seed: int) -> int:
    """A 32-bit seed for hosts that take 0 for "random" and count modulo 2^32 - 1."""
    short = seed32(seed)
    return short if 0 < short < 0xFFFFFFFF else 0xFFFFFFFE


class PayloadBuilder:
    """A provider's fields while they are built from a request, and every value that had to change.

    `tables` is the provider's `parameters`: names, ranges and choices are read from it, so the table in docs/providers.md
    shows is the table that is obeyed.
    """

    def __init__(self, label: str, tables: Tables, request: GenerationRequest, max_images: int = 1):
        if request.mode not in tables:
            mode = _MODE_NAMES.get(request.mode, repr(request.mode))
            hint = _ELSEWHERE.get(request.mode, "Choose another provider.")
            raise Unsupported(f"{label} has no {mode} for FLUX.1 Krea [dev]. {hint}")
        self.label = label
        self.request = request
        self.table = tables[request.mode]
        self.fields: dict[str, Any] = {}
        self.changes: list[Change] = []
        self._owned = {
            field for table in tables.values() for parameter in table.values() for field in parameter.field.split(", ")
        }
        self._unpriced: list[str] = []
        self._check_inputs(max_images)
        if request.image and request.image_was:
            width, height = png_size(request.image)
            asked = "{}×{}".format(*request.image_was)
            self.record_change("image", asked, f"{width}×{height}", "an input image is sent with at most 4 megapixels")

    def _check_inputs(self, max_images: int) -> None:
        request = self.request
        if self.table["prompt"].how != "unsupported" and not request.prompt.strip():
            raise RequestRefused("The prompt is empty. Say what the picture should show.")
        if "image" in self.table and not request.image:
            raise RequestRefused(f"{_MODE_NAMES[request.mode]} needs an input image, and none is wired.")
        if "image" not in self.table and request.image is not None:
            raise RequestRefused("Text to image takes no input image. Choose image to image, or unwire the image.")
        if ("mask" in self.table) != (request.mask is not None):
            raise RequestRefused("A mask says which part of an image is repainted: wire both, for image to image.")
        if request.mask is not None and png_size(request.mask) != png_size(request.image or b""):
            raise RequestRefused("The mask has another size than the image. Give both the same size.")
        if request.loras and "loras" not in self.table:
            raise Unsupported(
                f"{self.label} takes no LoRA for {_MODE_NAMES[request.mode]}. fal, Runware and WaveSpeed do."
            )
        if not 1 <= request.images <= max_images:
            raise RequestRefused(f"{self.label} makes 1 to {max_images} pictures in a call, not {request.images}.")
        if min(request.width, request.height) < 1:
            raise RequestRefused(f"{request.width}×{request.height} is not a size. Both sides must be at least 1.")

    def pass_on(self, *names: str) -> None:
        """Pass inputs on under the provider's names, kept in its range."""
        for name in names:
            parameter = self.table[name]
            value = self._within(name, parameter, getattr(self.request, name))
            span = f"{self.label} takes {parameter.minimum:g} to {parameter.maximum:g}" if _has_range(parameter) else ""
            self.set(name, value, span)

    def set(self, name: str, delivered: Any, reason: str = "") -> None:
        """Set an input's field. With a reason, a value that is not the asked one is recorded as a change."""
        self.fields[self.table[name].field] = delivered
        asked = getattr(self.request, name)
        if reason and delivered != asked:
            self.record_change(name, asked, delivered, reason)

    def choice(self, name: str) -> Any:
        """An input that must be one of the table's choices."""
        value, choices = getattr(self.request, name), self.table[name].choices
        if value not in choices:
            raise RequestRefused(f"{self.label} has no {name} {value!r}. It takes {', '.join(choices)}.")
        return value

    def set_size(self, delivered: Size, fields: Mapping[str, Any], reason: str, asked: Size | None = None) -> Size:
        """`asked` is what the size is held against: the widgets' width and height, unless it follows an image."""
        self.fields.update(fields)
        asked = asked or (self.request.width, self.request.height)
        if delivered != asked:
            self.record_change("size", "{}×{}".format(*asked), "{}×{}".format(*delivered), reason)
        return delivered

    def record_change(self, name: str, asked: Any, delivered: Any, reason: str) -> None:
        self.changes.append(Change(name, asked, delivered, reason))

    def refuse_extra(self, *names: str) -> None:
        """Fields that no workflow may set at this provider."""
        for name in names:
            if name in self.request.extra:
                raise RequestRefused(f"extra may not set {name} at {self.label}. Take it out.")

    def merge_extra(self, known: Collection[str] = ()) -> None:
        """Merge the provider's less common fields. What the node has an input for is said there and nowhere else.

        `known` are those that cannot change the price by more than the estimate says; any other makes it unknown.
        """
        for field, value in self.request.extra.items():
            if field in self.fields:
                if self.fields[field] != value or isinstance(value, bool) != isinstance(self.fields[field], bool):
                    raise RequestRefused(
                        f"extra says {field}={value!r:.80}, and the node's own inputs say {self.fields[field]!r:.80}. "
                        "Take it out of extra."
                    )
            elif field not in known and field in (*self._owned, *DECIDES_SAFETY_SIZE_OR_COUNT, *PICTURES_AND_STYLES):
                raise RequestRefused(f"extra may not set {field}: the node has an input for it. Use that one.")
            else:
                self.fields[field] = _plain(field, value)
                if field not in known:
                    self._unpriced.append(field)

    def plan(self, endpoint: str, payload: Mapping[str, Any], size: Size | None) -> Plan:
        self._report_unsupported()
        return Plan(
            endpoint,
            payload,
            self.request.image,
            size,
            tuple(self.changes),
            tuple(self._unpriced),
            self.request.mask,
        )

    def _report_unsupported(self) -> None:
        """An unsupported input's `default` is what the provider does anyway; any other wish is reported."""
        for name, parameter in self.table.items():
            if parameter.how != "unsupported" or parameter.default is None:
                continue
            if name == "quality" and self.request.output_format == "png":
                continue  # PNG has no quality
            asked = getattr(self.request, name)
            if asked != parameter.default:
                self.record_change(name, asked, parameter.default, parameter.note)

    def _within(self, name: str, parameter: Parameter, value: Any) -> Any:
        if not _has_range(parameter):
            return value
        if not math.isfinite(value):
            raise RequestRefused(f"{name} is {value}. Give a number.")
        return min(max(value, parameter.minimum), parameter.maximum)


def _has_range(parameter: Parameter) -> bool:
    return parameter.minimum is not None and parameter.maximum is not None


def _plain(field: str, value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise RequestRefused(f"extra {field} cannot be sent: give text, a number, true or false, or a list.") from None
    return value
