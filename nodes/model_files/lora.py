"""Applying a LoRA through ComfyUI, and seeing what it did: which tensors were used, and how much they change.

The application is core's own, unchanged: `comfy.sd.load_lora_for_models`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import comfy.lora
import comfy.lora_convert
import comfy.quant_ops
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import get_key_weight

from .header import WeightFileError
from .lora_files import LoraFile, layer_of

ROWS = 64  # of a weight, evenly spread, that its size is estimated from: within a few per cent of all rows
UNPACKED = 4  # weights of a group that are unpacked where only whole ones can be
SHOWN = 8  # names in a list for people


class Used(dict[str, torch.Tensor]):  # core wants a plain dictionary
    """The tensors of a LoRA by name; remembers which of them core read."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__(tensors)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.names.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default


@dataclass(frozen=True)
class Change:
    """What a LoRA changes in one weight: both are Frobenius norms, `weight` of the whole weight, None if unknown."""

    key: str
    update: float | None
    weight: float | None

    @property
    def share(self) -> float | None:
        return self.update / self.weight if self.update is not None and self.weight else None


@dataclass(frozen=True)
class Applied:
    """`model` and `clip` as core returns them; `report` what to tell the user."""

    model: Any
    clip: Any
    report: str


def apply(model: Any, clip: Any, file: LoraFile, strength: float, strength_clip: float) -> Applied:
    """The model and, where one is given, the text encoders with the LoRA. WeightFileError where nothing of it fits."""
    tensors = Used(comfy.lora_convert.convert_lora(comfy.utils.load_torch_file(str(file.path), safe_load=True)))
    try:
        patched, patched_clip = comfy.sd.load_lora_for_models(model, clip, tensors, strength, strength_clip)
    except (KeyError, AttributeError, IndexError, RuntimeError) as problem:
        raise WeightFileError(
            f"{file.name}: ComfyUI cannot read it as a LoRA ({type(problem).__name__}: {problem}): download it again"
        ) from problem
    unused = sorted(tensors.keys() - tensors.names)
    for_encoders = [name for name in unused if _is_for_encoders(name)] if clip is None else []
    strangers = [name for name in unused if name not in for_encoders]
    patches = _new_patches(model, patched)
    misfits = [patch for patch in patches if not _fits(patched, patch)]
    encoders = {patch.key for patch in _new_patches(clip.patcher, patched_clip.patcher)} if clip is not None else set()
    if len(misfits) == len(patches) and not encoders:
        first = misfits[0].key if misfits else unused[0]
        raise WeightFileError(
            f"{file.name}: none of its {len(tensors)} tensors fits this model, first {first}: it was made for another "
            "one, or for the text encoders alone, and they are not connected. Choose a LoRA for FLUX.1 dev or Krea"
        )
    matched = (
        f"{len(tensors.names)} of {len(tensors)} tensors matched: {len({patch.key for patch in patches})} weights of "
    )
    matched += f"the model at strength {strength:g}"
    lines = [str(file), matched + (f", {len(encoders)} of the text encoders at {strength_clip:g}" if encoders else "")]
    if file.warning:
        lines.append(f"Note: {file.warning}.")
    if for_encoders:
        lines.append(f"{len(for_encoders)} tensors are for the text encoders: connect clip to use them.")
    if strangers:
        lines.append(f"{len(strangers)} tensors matched nothing and do nothing: {_some(map(layer_of, strangers))}.")
    if misfits:
        keys = [patch.key for patch in misfits]
        lines.append(f"{len(keys)} updates have another shape than their weight and do nothing: {_some(keys)}.")
    with torch.inference_mode():
        lines += _table(patched, [patch for patch in patches if patch not in misfits])
    return Applied(patched, patched_clip, "\n".join(lines))


def _is_for_encoders(name: str) -> bool:
    return name.startswith(("lora_te", "text_encoder", "text_encoders."))


@dataclass(frozen=True, eq=False)
class Patch:
    """One update as core keeps it: which rows of which weight it changes (`offset`: dimension, start, length), and how."""

    key: str
    strength: float
    update: Any
    offset: tuple[int, int, int] | None


def _new_patches(before: Any, after: Any) -> list[Patch]:
    """The updates that `after` has and `before` had not. Several may belong to one weight: q, k and v of one qkv."""
    old = {key: len(patches) for key, patches in before.patches.items()}
    return [
        Patch(key, entry[0], entry[1], entry[3])
        for key, entries in after.patches.items()
        for entry in entries[old.get(key, 0) :]
    ]


def _factors(patch: Any) -> tuple[torch.Tensor, torch.Tensor, float] | None:
    """Up, down and scale of a plain LoRA: its update is scale · up · down. None for any other kind."""
    weights = getattr(patch, "weights", None)
    if getattr(patch, "name", "") != "lora" or not isinstance(weights, tuple) or len(weights) < 5:
        return None
    up, down, alpha, mid, dora = weights[:5]
    if mid is not None or dora is not None:
        return None
    scale = float(alpha) / down.shape[0] if alpha is not None else 1.0
    return up, down, scale


def _fits(model: Any, patch: Patch) -> bool:
    """Core only logs an error where a plain LoRA's shape is not its weight's; other kinds are core's to judge."""
    factors = _factors(patch.update)
    if factors is None or (len(patch.update.weights) > 5 and patch.update.weights[5] is not None):
        return True
    up, down, _ = factors
    shape = list(get_key_weight(model.model, patch.key)[0].shape)
    if patch.offset is not None:
        shape[patch.offset[0]] = patch.offset[2]
    joins = up.flatten(1).shape[1] == down.shape[0]
    return bool(joins and up.shape[0] * down.flatten(1).shape[1] == torch.Size(shape).numel())


def _update_norm(patch: Patch) -> float | None:
    """‖strength · scale · up · down‖ from the two small Gram matrices: the product itself is never made."""
    factors = _factors(patch.update)
    if factors is None:
        is_difference = isinstance(patch.update, tuple) and patch.update[0] == "diff"
        return abs(patch.strength) * float(patch.update[1][0].float().norm()) if is_difference else None
    up, down, scale = factors
    up, down = up.float().flatten(1), down.float().flatten(1)
    squared = ((up.T @ up) * (down @ down.T)).sum().clamp(min=0)
    return abs(patch.strength * scale) * float(squared.sqrt())


def _is_plain(weight: Any) -> bool:
    return type(weight) in (torch.Tensor, torch.nn.Parameter) and weight.is_floating_point()


def _weight_norm(weight: Any, convert: Any, offset: tuple[int, int, int] | None) -> float | None:
    """‖weight‖ over the rows that are updated, estimated from some of them; None where its packing is not known here."""
    if offset is not None and offset[0] != 0:
        return None
    rows = range(weight.shape[0]) if offset is None else range(offset[1], offset[1] + offset[2])
    chosen = rows[:: max(1, len(rows) // ROWS)]
    if _is_plain(weight):
        values = weight[chosen.start : chosen.stop : chosen.step].float()
        values = values if convert is None else convert(values, inplace=False)
    elif isinstance(weight, comfy.quant_ops.QuantizedTensor):
        values = weight.dequantize()[chosen.start : chosen.stop : chosen.step].float()
    else:
        return None
    return float(values.norm()) * math.sqrt(len(rows) / len(chosen))


def group_of(key: str) -> str:
    """`double_blocks img_attn`, `single_blocks linear1`, or the first word of a weight outside the blocks."""
    parts = key.removeprefix("diffusion_model.").split(".")
    return f"{parts[0]} {parts[2]}" if parts[0].endswith("_blocks") and len(parts) > 2 else parts[0]


def _measured(model: Any, patches: list[Patch]) -> list[Change]:
    """Updates of one group. Packed weights cost a whole unpacking each, so only some of those are looked at."""
    changes, unpacked = [], 0
    for patch in patches:
        weight, _, convert = get_key_weight(model.model, patch.key)
        unpacked += not _is_plain(weight)
        known = _is_plain(weight) or unpacked <= UNPACKED
        norm = _weight_norm(weight, convert, patch.offset) if known else None
        changes.append(Change(patch.key, _update_norm(patch), norm))
    return changes


def _table(model: Any, patches: list[Patch]) -> list[str]:
    """A line for each group of weights: how large the update is beside the weights that it changes."""
    groups: dict[str, list[Patch]] = defaultdict(list)
    for patch in patches:
        groups[group_of(patch.key)].append(patch)
    return [
        "Size of the update beside that of the weights:",
        *(_row(model, *group) for group in sorted(groups.items())),
    ]


def _row(model: Any, name: str, patches: list[Patch]) -> str:
    weights = f"  {name}: {len({patch.key for patch in patches})} weights"
    changes = [change for change in _measured(model, patches) if change.share is not None]
    if not changes:
        return f"{weights}, cannot be measured (another kind than a plain LoRA, or weights packed in an unknown way)"
    share = _root(change.update for change in changes) / _root(change.weight for change in changes)
    most = max(changes, key=lambda change: change.share or 0.0)
    where = most.key.removeprefix("diffusion_model.").removesuffix(".weight")
    of = "" if len(changes) == len(patches) else f", {len(changes)} of {len(patches)} measured"
    return f"{weights}, about {share:.2%}, most in {where} ({most.share:.2%}){of}"


def _root(norms: Iterable[float | None]) -> float:
    return math.sqrt(sum((norm or 0.0) ** 2 for norm in norms))


def _some(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
