"""Redux in a run: tokens after the prompt, and how strongly everything else sees them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import comfy.conds
import comfy.hooks
import torch
from comfy.ldm.flux.model import Flux
from comfy.patcher_extension import WrappersMP
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
from .redux_timeline import Reference, above, in_words, timeline

KEY = "flux_krea_redux"
ATTN_BIAS, MULTIPLY = "attn_bias", "multiply"  # core's words
STRENGTH_TYPES = (ATTN_BIAS, MULTIPLY)


# --- from tokens to conditioning ------------------------------------------------------------------------------------


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
