"""Acceleration: where FLUX's first block changes little between two evaluations, the other blocks are not run again.

What they added last time is added once more (first-block cache, after ParaAttention). Everything happens through
ComfyUI's wrappers and `patches_replace`: no copied forward code, nothing set on the model itself.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from comfy.ldm.flux.model import Flux
from comfy.patcher_extension import WrappersMP

from .flux_call import arguments_of

KEY = "flux_krea_block_cache"
NONE = "none"
SAME_LEVEL = 1e-4  # two noise levels nearer than this, relatively, are one: samplers recompute them


class Settings(NamedTuple):
    """`threshold`: mean change of the first block's residual, relative to its mean, below which the rest is reused.

    `start`: share of the steps that is always computed. `in_a_row`: so many reuses at most, then a full evaluation.
    `pattern`: exactly these evaluations of each prompt are reused, by number, from 0: for tests and benchmarks.
    """

    threshold: float = 0.0
    start: float = 0.1
    in_a_row: int = 2
    pattern: frozenset[int] | None = None


# The thresholds are those of others for FLUX.1 [dev] at 28 steps: diffusers' default is 0.05, unsloth measured 1.40
# times the speed at 0.08 (LPIPS 0.08), WaveSpeed's default and the upper end of Nunchaku's useful range are 0.12. The
# limits in a row are ours. `python dev.py bench acceleration --model FILE` prints the curve for real weights.
LEVELS = {
    "regular": Settings(threshold=0.08, in_a_row=2),
    "high": Settings(threshold=0.12, in_a_row=3),
}

# What other caches put into a model's transformer options.
OTHER_CACHES = {
    "easycache": "EasyCache or LazyCache",
    "enable_teacache": "TeaCache",
    "rel_l1_thresh": "TeaCache",
}


def levels() -> list[str]:
    return [NONE, *LEVELS]


def accelerate(model, level: str) -> tuple[object, Callable[[], str]]:
    """A clone of the model with the cache around it, and what to ask, after sampling, for what it did."""
    if level not in LEVELS:
        raise ValueError(f"acceleration must be one of {', '.join(levels())}, got {level!r}.")
    require_alone(model)
    reason = why_not(model)
    if reason:
        logging.warning("Krea Sampler: no acceleration on this model: %s.", reason)
        return model, lambda: f"No acceleration on this model: {reason}."
    cache = BlockCache(LEVELS[level])
    return cache.attach(model), cache.report


def require_alone(model) -> None:
    """Two caches would each measure the other's shortcuts."""
    options = model.model_options["transformer_options"]
    for key, name in OTHER_CACHES.items():
        if key in options:
            raise ValueError(f"{name} is already on this model: remove it, or set acceleration to none.")


def why_not(model) -> str | None:
    """Why this model cannot be accelerated, if so. None: it can."""
    network = model.get_model_object("diffusion_model")
    if not isinstance(network, Flux):
        return f"{type(network).__name__} is not ComfyUI's FLUX"
    if not network.double_blocks or not network.single_blocks:
        return "it has no blocks that could be left out"
    return None


class Slot:
    """What one prompt (or batch of prompts) left behind: two tensors [B, image tokens, hidden]."""

    def __init__(self):
        self.evaluations = self.in_a_row = 0
        self.first: torch.Tensor | None = None  # what block 0 added, at the last full evaluation
        self.rest: torch.Tensor | None = None  # what all other blocks added


class Run:
    """One sampling: its noise levels and its slots. It lives in the run's own options and ends with them."""

    def __init__(self, sigmas: torch.Tensor):
        self.sigmas = sigmas.tolist()
        self.slots: dict[tuple, Slot] = {}

    def step(self, sigma: float) -> int:
        return sum(level > sigma * (1 + SAME_LEVEL) for level in self.sigmas)

    def is_open(self, sigma: float, start: float) -> bool:
        """Whether this step may be reused: neither one of the first ones nor the last."""
        steps = len(self.sigmas) - 1
        return start * steps <= self.step(sigma) < steps - 1


class BlockCache:
    def __init__(self, settings: Settings):
        self.settings = settings
        self.evaluations = self.computed = 0

    def attach(self, model):
        """A clone of the model with the cache around it."""
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self.around_sampling)
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, self.around_wrapped_model)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, self.around_model)
        return model

    def report(self) -> str:
        return f"{self.computed} of {self.evaluations} evaluations computed"

    def around_sampling(self, executor, noise, latent_image, sampler, sigmas, *arguments, **keywords):
        guider = executor.class_obj
        if changes_with_time(guider.conds):
            logging.warning("Krea Sampler: hook keyframes change the model during the run, so every step is computed.")
            return executor(noise, latent_image, sampler, sigmas, *arguments, **keywords)
        run = guider.model_options["transformer_options"][KEY] = Run(sigmas)
        try:
            return executor(noise, latent_image, sampler, sigmas, *arguments, **keywords)
        finally:
            logging.info("Krea Sampler: %s", self.report())
            run.slots.clear()
            del guider.model_options["transformer_options"][KEY]

    def around_wrapped_model(self, executor, *arguments, **keywords):
        if not isinstance(executor.class_obj.diffusion_model, Flux):
            raise ValueError(
                "acceleration does not work on a model that is compiled as a whole: compile its blocks only, remove "
                "torch.compile, or set acceleration to none."
            )
        return executor(*arguments, **keywords)

    def around_model(self, executor, *arguments, **keywords):
        if "forward_orig" in vars(executor.class_obj):
            raise ValueError(
                "another node has replaced FLUX's forward pass (TeaCache, WaveSpeed and PuLID do): remove it, or set "
                "acceleration to none."
            )
        call = arguments_of(executor, arguments, keywords)
        options = call.arguments["transformer_options"]
        run = options.get(KEY)
        self.evaluations += 1
        self.computed += 1
        if run is None:
            return executor(*arguments, **keywords)
        key = (*options["uuids"], call.arguments["x"].shape, call.arguments["context"].shape)
        if call.arguments["control"] is not None:  # a ControlNet adds to the blocks that would be left out
            run.slots.pop(key, None)
            return executor(*arguments, **keywords)
        slot = run.slots.setdefault(key, Slot())
        evaluation = Evaluation(slot, functools.partial(self.may_reuse, run, slot, options["sigmas"]))
        call.arguments["transformer_options"] = evaluation.installed_in(options, executor.class_obj)
        output = executor(*call.args, **call.kwargs)
        self.computed -= evaluation.reused
        return output

    def may_reuse(self, run: Run, slot: Slot, sigmas, change) -> bool:
        if self.settings.pattern is not None:
            return slot.evaluations in self.settings.pattern
        if slot.in_a_row >= self.settings.in_a_row or not run.is_open(float(sigmas.max()), self.settings.start):
            return False
        return relative_change(change, slot.first) < self.settings.threshold


class Evaluation:
    """One pass through the network: block 0 always, then all other blocks or what they added last time."""

    def __init__(self, slot: Slot, may_reuse: Callable[[torch.Tensor], bool]):
        self.slot, self.may_reuse = slot, may_reuse
        self.reused = False
        self.after_first: torch.Tensor | None = None

    def installed_in(self, options: dict, network: Flux) -> dict:
        """Transformer options with a patch on every block; patches that are there already are called inside."""
        replace = options.get("patches_replace", {})
        blocks = dict(replace.get("dit", {}))
        names = [("double_block", i) for i in range(len(network.double_blocks))]
        names += [("single_block", i) for i in range(len(network.single_blocks))]
        roles = [self.first_block, *[self.middle_block] * (len(names) - 2), self.last_block]
        for name, role in zip(names, roles, strict=True):
            blocks[name] = functools.partial(role, blocks.get(name, original_block))
        return {**options, "patches_replace": {**replace, "dit": blocks}}

    def first_block(self, block, arguments, extra):
        before = arguments["img"].clone()  # blocks write into their input
        out = block(arguments, extra)
        change = out["img"] - before
        self.reused = self.slot.rest is not None and self.may_reuse(change)
        self.slot.evaluations += 1
        if self.reused:
            self.slot.in_a_row += 1
        else:
            self.slot.in_a_row, self.slot.first, self.slot.rest = 0, change, None
            self.after_first = out["img"].clone()
        return out

    def middle_block(self, block, arguments, extra):
        return passed_on(arguments) if self.reused else block(arguments, extra)

    def last_block(self, block, arguments, extra):
        if self.reused:
            arguments["img"][:, -self.slot.rest.shape[1] :] += self.slot.rest
            return passed_on(arguments)
        out = block(arguments, extra)
        self.slot.rest = out["img"][:, -self.after_first.shape[1] :] - self.after_first
        self.after_first = None
        return out


def original_block(arguments, extra):
    return extra["original_block"](arguments)


def passed_on(arguments) -> dict:
    return {name: arguments[name] for name in ("img", "txt") if name in arguments}


def relative_change(new, old) -> float:
    """Of the image in the batch that changed most."""
    change = (new - old).abs().flatten(1).mean(1) / old.abs().flatten(1).mean(1)
    return math.inf if change.isnan().any() else float(change.max())


def changes_with_time(conds: dict) -> bool:
    hooks = [cond.get("hooks") for prompts in conds.values() for cond in prompts]
    return any(hook.hook_keyframe.keyframes for group in hooks if group for hook in group.hooks)
