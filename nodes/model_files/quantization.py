"""How the weights of a file are quantised: which of ComfyUI's formats, under the names that people know them by.

A file says it in one of three ways. "comfy_quant": a small tensor of JSON beside each weight. "metadata": the same JSON
for all layers in the file's header. "scaled_fp8": ComfyUI's layout of 2025, always fp8.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from .header import AGAIN, Header, WeightFileError, read_tensor

COMFY_QUANT, METADATA, SCALED_FP8 = "comfy_quant", "metadata", "scaled_fp8"
LONGEST_ENTRY = 4096  # bytes of one layer's JSON; real ones have about 70

FP8_INSTEAD = "use flux1-krea-dev_fp8_scaled.safetensors, which every ComfyUI reads"


class Format(NamedTuple):
    """`name` as people say it; `values` that one stored number holds; `since` the first ComfyUI that computes with it."""

    name: str
    values: int
    since: str


FORMATS = {
    "float8_e4m3fn": Format("fp8_scaled", 1, "0.4.0"),
    "float8_e5m2": Format("fp8_scaled (e5m2)", 1, "0.8.0"),
    "nvfp4": Format("nvfp4", 2, "0.8.0"),
    "mxfp8": Format("mxfp8", 1, "0.18.0"),
    "int8_tensorwise": Format("int8", 1, "0.27.0"),
    "convrot_w4a4": Format("int4 ConvRot (w4a4)", 2, "0.28.0"),
    "asym_w4a8_int8": Format("int4 (w4a8)", 2, "0.31.0"),
}
INT8_CONVROT = "int8 ConvRot"

# What stands beside a quantised weight: no parameters of the model.
HELPERS = {"comfy_quant", "weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "weight_s_rel"}
HELPERS |= {"weight_s_channel", "weight_codebook", "scale_weight", "scale_input", "scaled_fp8"}

_PRECISIONS = {"F32": "fp32", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "I8": "int8"}


@dataclass(frozen=True)
class Quantization:
    """`stored_as` is one of the three ways, or "" for plain weights; `formats` are ComfyUI's names of what is used.

    `precision` is the name for people of what most of the weights are in; `parameters` counts the model's own numbers.
    """

    stored_as: str
    formats: tuple[str, ...]
    precision: str
    parameters: int


def read_quantization(header: Header) -> Quantization:
    """Raises WeightFileError where the file does not say it in a way that ComfyUI could follow."""
    layers = dict(_layers(header))
    stored_as = _stored_as(header)
    numbers: Counter[str] = Counter()
    for key, tensor in header.tensors.items():
        layer, _, kind = key.rpartition(".")
        if stored_as and kind in HELPERS:
            continue
        count = prod(tensor.shape)
        if layer in layers and kind == "weight":
            format_, name = layers[layer]
            numbers[name] += count * (FORMATS[format_].values if format_ in FORMATS else 1)
        else:
            numbers[_PRECISIONS.get(tensor.dtype, tensor.dtype.lower())] += count
    precision = numbers.most_common(1)[0][0] if numbers else ""
    formats = dict.fromkeys(format_ for format_, _ in layers.values())
    if stored_as == SCALED_FP8:
        formats = {"float8_e4m3fn": None}
        precision = "fp8_scaled" if precision == "fp8" else precision
    return Quantization(stored_as, tuple(formats), precision, sum(numbers.values()))


def _stored_as(header: Header) -> str:
    if any(key.endswith(".comfy_quant") for key in header.tensors):
        return COMFY_QUANT
    if "_quantization_metadata" in header.metadata:
        return METADATA
    is_scaled = any(key.split(".")[-1] == "scaled_fp8" or key.endswith(".scale_weight") for key in header.tensors)
    return SCALED_FP8 if is_scaled else ""


def _layers(header: Header) -> Iterator[tuple[str, tuple[str, str]]]:
    """Each quantised layer with ComfyUI's name of its format, and people's."""
    entries = _parsed(header, "_quantization_metadata", header.metadata.get("_quantization_metadata", "{}"))
    layers = entries.get("layers", {})
    for layer, entry in (layers if isinstance(layers, dict) else {}).items():
        yield layer, _format_of(header, layer, entry)
    for key, tensor in header.tensors.items():
        if key.endswith(".comfy_quant"):
            layer = key.removesuffix(".comfy_quant")
            if tensor.dtype != "U8" or prod(tensor.shape) > LONGEST_ENTRY:
                raise WeightFileError(f"{header.path.name}: {key} is not the JSON that ComfyUI reads: {AGAIN}")
            yield layer, _format_of(header, layer, _parsed(header, key, read_tensor(header, key)))


def _parsed(header: Header, key: str, text: str | bytes) -> Mapping[str, object]:
    try:
        entry = json.loads(text)
    except (ValueError, RecursionError):
        raise WeightFileError(f"{header.path.name}: {key} is not the JSON that ComfyUI reads: {AGAIN}") from None
    return entry if isinstance(entry, dict) else {}


def _format_of(header: Header, layer: str, entry: object) -> tuple[str, str]:
    settings = entry if isinstance(entry, dict) else {}
    format_ = settings.get("format")
    if not isinstance(format_, str):
        raise WeightFileError(
            f"{header.path.name}: an old export of quantised weights: {layer} does not name its format, and ComfyUI "
            f'would end with "Unknown quantization format". Get a newer export of the same model, or {FP8_INSTEAD}'
        )
    inner = settings.get("params")
    rotated = settings.get("convrot", inner.get("convrot") if isinstance(inner, dict) else False)
    if format_ == "int8_tensorwise" and rotated:
        return format_, INT8_CONVROT
    return format_, FORMATS[format_].name if format_ in FORMATS else format_[:40]


def unknown_here(quantization: Quantization, known: frozenset[str], reads_entries: bool, version: str) -> str:
    """Why this ComfyUI cannot compute with these weights and what to do, or "".

    `known` are the formats that it has, `reads_entries` whether it reads comfy_quant entries (0.4.0 and newer do).
    """
    is_unread = quantization.stored_as == COMFY_QUANT and not reads_entries
    missing = [format_ for format_ in quantization.formats if is_unread or format_ not in known]
    if not missing:
        return ""
    strangers = [format_ for format_ in missing if format_ not in FORMATS]
    if strangers:
        return (
            f"weights quantised as {strangers[0][:40]!r}, which neither ComfyUI {version} nor this pack knows: "
            f"update both, or {FP8_INSTEAD}"
        )
    since = max((FORMATS[format_].since for format_ in missing), key=_order)
    if _order(version) >= _order(since):
        return (
            f"{quantization.precision}: this ComfyUI ({version}) could compute with it, but its package comfy-kitchen "
            "is missing or too old: install the requirements.txt of ComfyUI again"
        )
    return (
        f"{quantization.precision}: ComfyUI {since} or newer is needed, and this is {version}, which would leave out "
        f"its scales and draw noise: update ComfyUI, or {FP8_INSTEAD}"
    )


def slower_here(quantization: Quantization, emulated: frozenset[str]) -> str:
    """What to know about these weights on this GPU, or "". `emulated` are the formats that it cannot multiply in."""
    slow = [format_ for format_ in quantization.formats if format_ in emulated and format_ in FORMATS]
    if not slow:
        return ""
    others = "int8, where ComfyUI is 0.27.0 or newer," if "float8_e4m3fn" in emulated else "int8 or fp8 scaled"
    names = " and ".join(dict.fromkeys(FORMATS[format_].name for format_ in slow))
    return (
        f"this GPU cannot multiply in {names}: ComfyUI unpacks it at every step, which saves memory but no time. "
        f"{others} is faster here."
    )


def _order(version: str) -> tuple[int, ...]:
    return tuple(int("0" + "".join(filter(str.isdigit, part[:6]))) for part in version.split(".")[:3])
