"""From a picture to Redux tokens: crop, mask, SigLIP, the style model, and fewer tokens where less detail is asked."""

from __future__ import annotations

import math
import weakref

import torch
from comfy.ldm.flux.redux import ReduxImageEncoder
from torch.nn.functional import adaptive_avg_pool2d, interpolate, pad
from torch.utils.weak import WeakIdKeyDictionary

SQUASH, CENTER, LETTERBOX, MASK_AREA = "squash", "center", "letterbox", "mask area"
CROPS = (SQUASH, CENTER, LETTERBOX, MASK_AREA)
FULL_DETAIL = 27  # SigLIP at 384 pixels sees 27 × 27 patches of 14 pixels
MARGIN = 0.1  # around the mask, as a share of its longer side
PADDING = 0.5  # what SigLIP normalises to zero


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
