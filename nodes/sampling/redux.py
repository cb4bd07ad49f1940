"""Redux: what a picture looks like, as tokens after the prompt, and how strongly everything else sees them."""

from __future__ import annotations

import logging
import math
import weakref

import comfy.conds
import comfy.hooks
import torch
from comfy.ldm.flux.redux import ReduxImageEncoder
from comfy.patcher_extension import WrappersMP
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad
from torch.utils.weak import WeakIdKeyDictionary

from .attention_bias import BiasedAttention, Span
from .flux_call import arguments_of, image_tokens

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


def apply(conditioning, tokens, strength: float, strength_type: str = ATTN_BIAS, result_mask=None) -> list:
    """Appends `tokens` [n,4096] to every prompt. Strength 1 everywhere is core's StyleModelApply, bit for bit.

    `result_mask` [1,H,W] says where in the picture they count.
    """
    if strength_type == MULTIPLY:
        tokens, strength = tokens * strength, 1.0
    if strength == 0 or (result_mask is not None and not result_mask.any()):
        return conditioning
    where = None if result_mask is None else result_mask[:1].reshape(1, 1, *result_mask.shape[-2:]).float().cpu()
    return [extended(text, options, tokens, strength, where) for text, options in conditioning]


def extended(text, options: dict, tokens, strength: float, where) -> list:
    if "attention_mask" in options:
        return extended_by_core(text, options, tokens, strength, where)
    wrapper, others = split_hooks(options.get("hooks"))
    if wrapper or strength != 1 or where is not None:
        spans = (*(wrapper.spans if wrapper else ()), Span(text.shape[1], text.shape[1] + len(tokens), strength, where))
        others.add(hook_for(spans))
        options = {**options, "hooks": others}
    return [torch.cat((text, tokens.expand(len(text), -1, -1)), dim=1), options]


def extended_by_core(text, options: dict, tokens, strength: float, where) -> list:
    """The graph carries an attention mask of core's, which must grow with the tokens: core's own node does that."""
    import nodes

    logging.info("Krea Redux: an attention mask is in the conditioning, so the strength goes into it, as core does it.")
    if where is not None:
        logging.warning("Krea Redux: result_mask has no effect together with an attention mask of core's.")

    class Encoded:
        @staticmethod
        def get_cond(_):
            return tokens[None].clone()

    (extended,) = nodes.StyleModelApply().apply_stylemodel([[text, options]], Encoded, None, strength, ATTN_BIAS)
    return extended[0]


def split_hooks(hooks) -> tuple[ReduxWrapper | None, comfy.hooks.HookGroup]:
    """What the Redux nodes before this one left, and a group of all other hooks."""
    wrapper, others = None, comfy.hooks.HookGroup()
    for hook in hooks.hooks if hooks else ():
        options = getattr(hook, "transformers_dict", None) or {}
        ours = options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).get(KEY)
        if ours:
            wrapper = ours[0]
        else:
            others.add(hook)
    return wrapper, others


def hook_for(spans: tuple[Span, ...]) -> comfy.hooks.TransformerOptionsHook:
    """A wrapper, not the attention override itself: a model's own override is merged later and would win silently."""
    wrappers = {WrappersMP.DIFFUSION_MODEL: {KEY: [ReduxWrapper(spans)]}}
    return comfy.hooks.TransformerOptionsHook({"wrappers": wrappers}, comfy.hooks.EnumHookScope.HookedOnly)


class ReduxWrapper:
    """Around every evaluation of the prompt that it came with."""

    def __init__(self, spans: tuple[Span, ...]):
        self.spans = spans

    def __call__(self, executor, *arguments, **keywords):
        call = arguments_of(executor, arguments, keywords)
        if call is None:
            return executor(*arguments, **keywords)
        options = call.arguments["transformer_options"]
        if call.arguments["kwargs"].get("attention_mask") is not None:
            if is_first_step(options):
                logging.warning("Krea Redux: an attention mask of core's came later; strength counts as 1.")
            return executor(*arguments, **keywords)
        text, grid = call.arguments["context"].shape[1], image_tokens(executor.class_obj, call.arguments["x"])
        override = BiasedAttention(self.spans, text, grid, options.get("optimized_attention_override"))
        call.arguments["transformer_options"] = {**options, "optimized_attention_override": override}
        return executor(*call.args, **call.kwargs)


def is_first_step(options: dict) -> bool:
    levels = options.get("sample_sigmas")
    return levels is None or bool(options["sigmas"].max() >= levels[0])


def without_hooks(model, *conditionings):
    """The same strengths carried by the model, for our own sampler: (model, *conditionings).

    ComfyUI with dynamic VRAM (0.33) loads a second, static copy of a model for any conditioning that has a hook.
    """
    lifted = [conditioning and [lift(*prompt) for prompt in conditioning] for conditioning in conditionings]
    if any(KEY in options.get("model_conds", {}) for conditioning in lifted for _, options in conditioning or ()):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, apply_lifted)
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


def apply_lifted(executor, *arguments, **keywords):
    wrapper = keywords.pop(KEY, None)
    return wrapper(executor, *arguments, **keywords) if wrapper else executor(*arguments, **keywords)
