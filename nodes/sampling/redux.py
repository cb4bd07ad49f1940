"""Redux: what a picture looks like, as tokens after the prompt, and how strongly everything else sees them."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import comfy.conds
import comfy.hooks
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.flux.redux import ReduxImageEncoder
from comfy.patcher_extension import WrappersMP
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad
from torch.utils.weak import WeakIdKeyDictionary

from .attention_bias import (
    BiasedAttention,
    Kind,
    Layout,
    Span,
    core_attention,
    dense_mask,
    honours_masks,
    query_biases,
)
from .flux_call import ModelCall, core_flux, has_foreign_forward, token_grid

KEY = "flux_krea_redux"
ATTN_BIAS, MULTIPLY = "attn_bias", "multiply"  # core's words
STRENGTH_TYPES = (ATTN_BIAS, MULTIPLY)
SQUASH, CENTER, LETTERBOX, MASK_AREA = "squash", "center", "letterbox", "mask area"
CROPS = (SQUASH, CENTER, LETTERBOX, MASK_AREA)
FULL_DETAIL = 27  # SigLIP at 384 pixels sees 27 × 27 patches of 14 pixels
MARGIN = 0.1  # around the mask, as a share of its longer side
PADDING = 0.5  # what SigLIP normalises to zero


# --- from pictures to tokens ----------------------------------------------------------------------------------------


def reference_tokens(style_model, clip_vision, images, *, crop=SQUASH, mask=None, detail=FULL_DETAIL) -> torch.Tensor:
    """Tokens [n,4096] of all `images` [B,H,W,3], one reference after the other.

    `mask` [1 or B,H,W] keeps the tokens that it touches. `detail` is the number of tokens along each side.
    """
    if not isinstance(style_model.model, ReduxImageEncoder):
        kind = type(style_model.model).__name__
        raise ValueError(f"style_model is {kind}, not Redux: load flux1-redux-dev.safetensors with Load Style Model.")
    seen = None if mask is None else mask_for(mask, images)
    if crop == MASK_AREA:
        if seen is None:
            raise ValueError("crop is mask area, but no mask is wired: wire one, or choose another crop.")
        views = [mask_area(images[i : i + 1], seen[i : i + 1]) for i in range(len(images))]
    elif crop == LETTERBOX:
        views = [letterbox(images, torch.ones(images.shape[:3]) if seen is None else seen)]
    else:
        views = [(images, seen if seen is None or crop == SQUASH else center_square(seen))]
    return torch.cat([view_tokens(style_model, clip_vision, *view, crop == CENTER, detail) for view in views])


def view_tokens(style_model, clip_vision, images, seen, center: bool, detail: int) -> torch.Tensor:
    tokens = all_tokens(style_model, clip_vision, images, center)
    side = math.isqrt(tokens.shape[1])
    wanted_side = side if detail >= FULL_DETAIL else min(detail, side)
    if seen is None and wanted_side == side:
        return tokens.flatten(0, 1)
    grid = tokens.mT.unflatten(2, (side, side))
    weights = torch.ones(1, 1, side, side) if seen is None else (adaptive_avg_pool2d(seen[:, None], side) > 0).float()
    weights = weights.to(grid).expand(len(grid), -1, -1, -1)
    if wanted_side < side:
        share = adaptive_avg_pool2d(weights, wanted_side)
        grid = adaptive_avg_pool2d(grid * weights, wanted_side) / share.clamp(min=torch.finfo(grid.dtype).tiny)
        weights = share
    return grid.flatten(2).mT[weights.flatten(1) > 0]


def all_tokens(style_model, clip_vision, images, center: bool) -> torch.Tensor:
    """[B,729,4096]; kept as long as the images are, so that another strength or detail takes no time."""
    for style, vision, centered, tokens in _tokens.get(images, ()):
        if (style(), vision(), centered) == (style_model, clip_vision, center):
            return tokens
    features = clip_vision.encode_image(images, crop=center)
    width, wanted = features.last_hidden_state.shape[-1], style_model.model.redux_up.in_features
    if width != wanted:
        raise ValueError(
            f"clip_vision has {width} features, Redux needs {wanted}: load sigclip_vision_patch14_384.safetensors with "
            "Load CLIP Vision."
        )
    tokens = style_model.get_cond(features)
    _tokens[images] = [(weakref.ref(style_model), weakref.ref(clip_vision), center, tokens)]
    return tokens


_tokens = WeakIdKeyDictionary()


def mask_for(mask, images) -> torch.Tensor:
    """The mask at the images' size, one for each: [B,H,W]."""
    mask = mask.reshape(-1, *mask.shape[-2:]).float().cpu()
    if len(mask) not in (1, len(images)):
        raise ValueError(f"{len(mask)} masks for {len(images)} images: wire one mask, or one for each image.")
    if mask.shape[1:] != images.shape[1:3]:
        mask = interpolate(mask[:, None], images.shape[1:3], mode="nearest-exact")[:, 0]
    mask = mask.expand(len(images), -1, -1)
    if not mask.flatten(1).any(dim=1).all():
        raise ValueError("mask is empty, so nothing of the reference would be left: paint where to look, or unwire it.")
    return mask


def center_square(mask) -> torch.Tensor:
    """What clip_vision's own centre crop leaves of the mask [B,H,W]."""
    side = min(mask.shape[1:])
    top, left = (mask.shape[1] - side) // 2, (mask.shape[2] - side) // 2
    square = mask[:, top : top + side, left : left + side]
    if not square.flatten(1).any(dim=1).all():
        raise ValueError("mask lies outside of the centre that crop keeps: choose crop squash, letterbox or mask area.")
    return square


def letterbox(images, seen) -> tuple[torch.Tensor, torch.Tensor]:
    """Pads to a square; the padding is not `seen`."""
    height, width = seen.shape[1:]
    down, across = max(0, width - height), max(0, height - width)
    sides = across // 2, across - across // 2, down // 2, down - down // 2
    return pad(images, (0, 0, *sides), value=PADDING), pad(seen, sides)


def mask_area(image, seen) -> tuple[torch.Tensor, torch.Tensor]:
    """The part of one image around its mask: a square with a margin, letterboxed where the image is too narrow."""
    rows, columns = seen[0].any(dim=1).nonzero(), seen[0].any(dim=0).nonzero()
    side = max(int(line.max() - line.min()) + 1 for line in (rows, columns))
    side = math.ceil(side * (1 + 2 * MARGIN))
    down, across = (stretch(line, side, size) for line, size in zip((rows, columns), seen.shape[1:], strict=True))
    return letterbox(image[:, down, across], seen[:, down, across])


def stretch(marked, length: int, size: int) -> slice:
    """`length` pixels around the marked ones, moved inside an edge of `size`."""
    length = min(length, size)
    start = int(marked.min() + marked.max() + 1 - length) // 2
    start = max(0, min(start, size - length))
    return slice(start, start + length)


# --- from tokens to conditioning ------------------------------------------------------------------------------------


class Reference(NamedTuple):
    """Tokens `start` to `stop` of a prompt: how strongly everything else sees them, and when.

    The strength goes in equal parts from `strength` at the first step of the window to `end_strength` at its last one.
    Outside of the window a reference is taken out of the prompt; the prompt itself (`is_prompt`) counts as it is.
    """

    start: int
    stop: int
    strength: float = 1.0
    end_strength: float = 1.0
    where: torch.Tensor | None = None  # [1,1,H,W], 0 to 1: the places in the result where it counts
    start_percent: float = 0.0
    end_percent: float = 1.0
    is_prompt: bool = False

    @property
    def has_window(self) -> bool:
        return self.start_percent > 0 or self.end_percent < 1

    @property
    def is_core_redux(self) -> bool:
        """Whether it is what core's StyleModelApply does."""
        return self.strength == self.end_strength == 1 and self.where is None and not self.has_window


class Settings(NamedTuple):
    """How a reference counts: the inputs of Krea Redux. `end_strength` None: as `strength`."""

    strength: float = 1.0
    strength_type: str = ATTN_BIAS
    result_mask: torch.Tensor | None = None  # [1,H,W]
    start_percent: float = 0.0
    end_percent: float = 1.0
    end_strength: float | None = None
    prompt_strength: float = 1.0

    @property
    def is_nothing(self) -> bool:
        empty_mask = self.result_mask is not None and not self.result_mask.any()
        return empty_mask or (self.strength == 0 and not self.end_strength)


def apply(conditioning: list, tokens: torch.Tensor, settings: Settings) -> list:
    """Appends `tokens` [n,4096] to every prompt. Without any further setting it is core's StyleModelApply, bit for bit."""
    if settings.is_nothing and settings.strength_type == ATTN_BIAS:
        return conditioning
    if settings.strength_type == MULTIPLY:
        tokens, settings = tokens * settings.strength, settings._replace(strength=1.0)
    if settings.is_nothing:
        return conditioning
    return [extended(text, options, tokens, settings) for text, options in conditioning]


def check(settings: Settings) -> None:
    """Raises ValueError where the settings contradict each other."""
    start, end = settings.start_percent, settings.end_percent
    if start >= end:
        raise ValueError(
            f"start_percent is {start:g} and end_percent {end:g}, so the reference would never count: start before the end."
        )
    if settings.strength_type == MULTIPLY and settings.end_strength is not None:
        raise ValueError(
            "end_strength needs strength_type attn_bias: multiply scales the tokens once, before the first step. Set "
            "end_strength to -1, or take attn_bias."
        )


def extended(text: torch.Tensor, options: dict, tokens: torch.Tensor, settings: Settings) -> list:
    mask, strength = settings.result_mask, settings.strength
    reference = Reference(
        start=text.shape[1],
        stop=text.shape[1] + len(tokens),
        strength=strength,
        end_strength=strength if settings.end_strength is None else settings.end_strength,
        where=None if mask is None else mask[:1].reshape(1, 1, *mask.shape[-2:]).float().cpu(),
        start_percent=settings.start_percent,
        end_percent=settings.end_percent,
    )
    if "attention_mask" in options:
        return extended_by_core(text, options, tokens, reference, settings.prompt_strength)
    longer = torch.cat((text, tokens.expand(len(text), -1, -1)), dim=1)
    prompt = _prompt_tokens[longer] = _prompt_tokens.get(text, text.shape[1])
    earlier, others = split_hooks(options.get("hooks"))
    if earlier or not reference.is_core_redux or settings.prompt_strength != 1:
        references = (*(earlier.references if earlier else ()), reference)
        if settings.prompt_strength != 1:
            weight = settings.prompt_strength
            references += (
                reference._replace(
                    start=0, stop=prompt, strength=weight, end_strength=weight, where=None, is_prompt=True
                ),
            )
        others.add(hook_for(references))
        options = {**options, "hooks": others}
    return [longer, options]


_prompt_tokens = WeakIdKeyDictionary()  # of a text that Krea Redux made: how many tokens in front are the prompt's own


def extended_by_core(text, options: dict, tokens, reference: Reference, prompt_strength: float) -> list:
    """The graph carries an attention mask of core's, which must grow with the tokens: core's own node does that."""
    import nodes

    if reference.has_window or reference.strength != reference.end_strength or prompt_strength != 1:
        raise ValueError(
            "start_percent, end_percent, end_strength and prompt_strength do not work on top of an attention mask of "
            "core's: replace Apply Style Model (attn_bias) before this node by Krea Redux."
        )
    logging.info("Krea Redux: an attention mask is in the conditioning, so the strength goes into it, as core does it.")
    if reference.where is not None:
        logging.warning("Krea Redux: result_mask has no effect together with an attention mask of core's.")

    class Encoded:
        @staticmethod
        def get_cond(_):
            return tokens[None].clone()

    (longer,) = nodes.StyleModelApply().apply_stylemodel(
        [[text, options]], Encoded, None, reference.strength, ATTN_BIAS
    )
    return longer[0]


def split_hooks(hooks) -> tuple[ReduxWrapper | None, comfy.hooks.HookGroup]:
    """What the Redux nodes before this one left, and a group of all other hooks."""
    wrapper, others = None, comfy.hooks.HookGroup()
    for hook in hooks.hooks if hooks else ():
        options = getattr(hook, "transformers_dict", None) or {}
        ours = options.get("wrappers", {}).get(WrappersMP.APPLY_MODEL, {}).get(KEY)
        if ours:
            wrapper = ours[0]
        else:
            others.add(hook)
    return wrapper, others


def hook_for(references: tuple[Reference, ...]) -> comfy.hooks.TransformerOptionsHook:
    """A wrapper, not the attention override itself: a model's own override is merged later and would win silently."""
    wrappers = {WrappersMP.APPLY_MODEL: {KEY: [ReduxWrapper(references)]}}
    return comfy.hooks.TransformerOptionsHook({"wrappers": wrappers}, comfy.hooks.EnumHookScope.HookedOnly)


# --- in time --------------------------------------------------------------------------------------------------------


class Timeline(NamedTuple):
    """The noise levels from which a run takes its steps, falling, and what a percentage of the run means in them."""

    levels: list[float]
    percent_to_sigma: Callable[[float], float]

    def is_open(self, reference: Reference, sigma: float) -> bool:
        """From the step at start_percent on, up to but not including the one at end_percent."""
        is_early = reference.start_percent > 0 and above(sigma, self.percent_to_sigma(reference.start_percent))
        is_late = reference.end_percent < 1 and not above(sigma, self.percent_to_sigma(reference.end_percent))
        return not is_early and not is_late

    def steps(self, reference: Reference) -> list[int]:
        """The steps of this run, from 0, in which the reference counts."""
        return [step for step, level in enumerate(self.levels) if self.is_open(reference, level)]

    def strength(self, reference: Reference, sigma: float) -> float:
        """Exactly `strength` at the window's first step and `end_strength` at its last; samplers look between, too."""
        steps = self.steps(reference)
        if len(steps) < 2 or reference.strength == reference.end_strength:
            return reference.strength
        share = (self.place(sigma) - steps[0]) / (steps[-1] - steps[0])
        share = min(max(share, 0.0), 1.0)
        return reference.strength * (1 - share) + reference.end_strength * share

    def place(self, sigma: float) -> float:
        """The step that is taken from this level; between two steps a fraction."""
        after = sum(above(level, sigma) for level in self.levels)
        if after == len(self.levels) or after == 0 or not above(sigma, self.levels[after]):
            return after
        before, behind = self.levels[after - 1], self.levels[after]
        return after - 1 + (before - sigma) / (before - behind)


SAME_LEVEL = 5e-4  # of 1: core's schedulers look levels up in a table of 10,000, percentages are computed


def above(level: float, other: float) -> bool:
    return level > other + SAME_LEVEL


def timeline(levels: torch.Tensor, model_sampling) -> Timeline:
    return Timeline(levels[:-1].tolist(), lambda percent: float(model_sampling.percent_to_sigma(percent)))


def in_words(references: Sequence[Reference], when: Timeline) -> list[str]:
    """What a run makes of references that change with time, for the log and the sampler."""
    sentences = []
    own = [reference for reference in references if not reference.is_prompt]
    for number, reference in enumerate(own, start=1):
        if not reference.has_window and reference.strength == reference.end_strength:
            continue
        steps, total = when.steps(reference), len(when.levels)
        if not steps:
            sentences.append(
                f"reference {number} of Krea Redux counts in none of {total} steps: there is none between start_percent "
                f"{reference.start_percent:g} and end_percent {reference.end_percent:g}."
            )
            continue
        first, last = (when.strength(reference, when.levels[step]) for step in (steps[0], steps[-1]))
        strength = f"{first:g}" if first == last else f"{first:g} to {last:g}"
        sentences.append(
            f"reference {number} of Krea Redux counts in {len(steps)} of {total} steps, {steps[0] + 1} to {steps[-1] + 1}, "
            f"with strength {strength}."
        )
    return sentences


# --- in the run -----------------------------------------------------------------------------------------------------


class ReduxWrapper:
    """ComfyUI's APPLY_MODEL wrapper around every evaluation of the prompt that it came with."""

    def __init__(self, references: tuple[Reference, ...]):
        self.references = references
        self.changes = any(
            reference.has_window or reference.strength != reference.end_strength for reference in references
        )

    def __call__(self, executor, *arguments, **keywords) -> torch.Tensor:
        call = ModelCall.of(arguments, keywords)
        if call.others.get("attention_mask") is not None:
            if is_first_step(call.options):
                logging.warning(
                    "Krea Redux: an attention mask of core's came later; strength counts as 1, all the time."
                )
            return call.through(executor)
        counting = self.counting(call.options, executor.class_obj.model_sampling)
        spans = self.cut(call, counting)
        if all(span.strength == 1 and span.where is None for span in spans):
            return call.through(executor)
        network = core_flux(executor.class_obj)
        if network is None:
            if is_first_step(call.options):
                name = type(executor.class_obj.diffusion_model).__name__
                logging.warning("Krea Redux: this model runs %s, not ComfyUI's FLUX: its strength counts as 1.", name)
            return call.through(executor)
        return biased(executor, call, network, spans)

    def counting(self, options: dict, model_sampling) -> list[Reference]:
        """The references that count at this moment, each with its strength of this moment."""
        if not self.changes:
            return list(self.references)
        sigma = float(options["sigmas"].max())
        when = timeline(options.get("sample_sigmas", torch.tensor([sigma, 0.0])), model_sampling)
        if not above(when.levels[0], sigma):
            for sentence in in_words(self.references, when):
                logging.info(sentence)
        now = [
            reference._replace(strength=when.strength(reference, sigma))
            for reference in self.references
            if when.is_open(reference, sigma)
        ]
        return [reference for reference in now if reference.strength > 0 or reference.is_prompt]

    def cut(self, call: ModelCall, counting: list[Reference]) -> list[Span]:
        """Takes the tokens of all other references out of the prompt, and says where the counting ones lie then."""
        own = [reference for reference in self.references if not reference.is_prompt]
        starts = {reference.start for reference in counting if not reference.is_prompt}
        gone = [(reference.start, reference.stop) for reference in own if reference.start not in starts]
        call.context = without(call.context, gone)
        call.options = {**call.options, KEY: tuple(sorted(starts))}
        spans = [
            Span(reference.start - shift, reference.stop - shift, reference.strength, reference.where)
            for reference in counting
            if not reference.is_prompt
            for shift in [sum(stop - start for start, stop in gone if stop <= reference.start)]
        ]
        prompts = [reference for reference in counting if reference.is_prompt]
        if prompts:
            weight = math.prod(reference.strength for reference in prompts)
            spans.insert(0, Span(0, min(reference.stop for reference in prompts), weight))
        return spans


def without(context: torch.Tensor, gone: list[tuple[int, int]]) -> torch.Tensor:
    """The tokens [B,n,4096] that lie in none of these stretches, which are in order."""
    if not gone:
        return context
    edges = [0, *(edge for stretch in gone for edge in stretch), context.shape[1]]
    return torch.cat([context[:, start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)], dim=1)


def biased(executor, call: ModelCall, network: Flux, spans: list[Span]) -> torch.Tensor:
    """The evaluation with the spans' strengths in its attention."""
    model, heads = executor.class_obj, network.num_heads
    dtype = model.manual_cast_dtype or model.get_dtype()
    kind = Kind(len(call.x), heads, network.hidden_size // heads, dtype, call.x.device)
    layout = layout_of(network, call)
    if has_foreign_forward(network):
        if not honours_masks(core_attention(), kind):
            raise ValueError(
                "Krea Redux: another node has replaced FLUX's forward pass (TeaCache, WaveSpeed), which leaves the strength "
                "to an attention mask, and the attention chosen at the start of ComfyUI (sage) ignores masks. Remove one "
                "of the two, or set strength to 1."
            )
        if is_first_step(call.options):
            logging.info(
                "Krea Redux: another node has replaced FLUX's forward pass, so core's N×N mask carries the strength."
            )
        biases = query_biases(spans, layout.text, layout.grid, layout.tokens)
        call.others["attention_mask"] = dense_mask(spans, biases, dtype, call.x.device)
        return call.through(executor)
    previous = call.options.get("optimized_attention_override")
    override = BiasedAttention(spans, layout, kind, previous)
    call.options = watched({**call.options, "optimized_attention_override": override}, override)
    output = call.through(executor)
    if not override.was_applied and is_first_step(call.options):
        raise ValueError(
            "Krea Redux: its strength had no effect, because this model's attention does not ask for an override. Another "
            "node has replaced FLUX's code: remove it, or set strength to 1."
        )
    return output


def layout_of(network: Flux, call: ModelCall) -> Layout:
    grids = [token_grid(network, latent) for latent in call.others.get("ref_latents") or ()]  # of Kontext
    references = sum(rows * columns for rows, columns in grids)
    assert call.context is not None  # of FLUX always
    return Layout(call.context.shape[1], token_grid(network, call.x), references)


def watched(options: dict, override: BiasedAttention) -> dict:
    """Where patches of other packs may put tokens beside ours (USO does), the override hears what came of it."""
    patches = options.get("patches", {})
    others = patches.get("post_input")
    if not others:
        return options
    given = []

    def before(inputs: dict) -> dict:
        given.append(inputs["txt"])
        return inputs

    def after(inputs: dict) -> dict:
        own, text = given.pop(), inputs["txt"]
        added = text.shape[1] - own.shape[1]
        is_in_front = added > 0 and not torch.equal(text[:, : own.shape[1]], own)
        rows, columns = override.layout.grid
        layout = Layout(text.shape[1], (rows, columns), inputs["img"].shape[1] - rows * columns)
        override.lay_out(layout, shift=added if is_in_front else 0)
        return inputs

    return {**options, "patches": {**patches, "post_input": [before, *others, after]}}


def is_first_step(options: dict) -> bool:
    levels = options.get("sample_sigmas")
    return levels is None or bool(options["sigmas"].max() >= levels[0])


# --- for our own sampler --------------------------------------------------------------------------------------------


def without_hooks(model, *conditionings) -> tuple:
    """The same strengths carried by the model: (model, *conditionings).

    ComfyUI with dynamic VRAM (0.33) loads a second, static copy of a model for any conditioning that has a hook.
    """
    lifted = [conditioning and [lift(*prompt) for prompt in conditioning] for conditioning in conditionings]
    if any(KEY in options.get("model_conds", {}) for conditioning in lifted for _, options in conditioning or ()):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, apply_lifted)
    return model, *lifted


def lift(text, options: dict) -> list:
    wrapper, others = split_hooks(options.get("hooks"))
    if wrapper is None:
        return [text, options]
    conds = {**options.get("model_conds", {}), KEY: comfy.conds.CONDConstant(wrapper)}
    options = {**options, "model_conds": conds, "hooks": others}
    if not len(others):
        del options["hooks"]
    return [text, options]


def apply_lifted(executor, *arguments, **keywords) -> torch.Tensor:
    wrapper = keywords.pop(KEY, None)
    return wrapper(executor, *arguments, **keywords) if wrapper else executor(*arguments, **keywords)


def notes(conditionings: Sequence[list | None], levels: torch.Tensor, model_sampling) -> list[str]:
    """What our sampler says about references that change with time."""
    if len(levels) < 2:
        return []
    wrappers = [split_hooks(options.get("hooks"))[0] for prompts in conditionings for _, options in prompts or ()]
    when = timeline(levels, model_sampling)
    return list(dict.fromkeys(note for wrapper in wrappers if wrapper for note in in_words(wrapper.references, when)))
