"""ComfyUI's IMAGE to an encoded PNG and back."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy
import torch
from PIL import Image, ImageOps

from ..providers.contract import Picture, RequestRefused

THUMBNAIL = 320  # pixels


def to_png(image: torch.Tensor) -> bytes:
    """[1,H,W,3 or 4] in 0..1 → PNG in RGB. What is transparent becomes white, as no provider keeps it."""
    if image.ndim != 4 or image.shape[0] != 1:
        raise RequestRefused(
            f"image is a batch of {len(image)}; a provider takes one: pick it with ImageFromBatch. Nothing was paid."
        )
    if not bool(torch.isfinite(image).all()):
        raise RequestRefused("image has pixels that are not finite numbers. Nothing was sent, nothing was paid.")
    pixels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    picture = Image.fromarray(pixels)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return png_of(picture)


def mask_to_png(mask: torch.Tensor, image: torch.Tensor) -> bytes:
    """[1,H,W] or [H,W] in 0..1 → grey PNG of the image's size; white is 1."""
    mask = mask if mask.ndim == 3 else mask[None]
    if mask.ndim != 3 or len(mask) != 1:
        raise RequestRefused(f"mask is a batch of {len(mask)}; a provider takes one. Nothing was paid.")
    if not bool(torch.isfinite(mask).all()):
        raise RequestRefused("mask has values that are not finite numbers. Nothing was sent, nothing was paid.")
    grey = Image.fromarray((mask[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    height, width = image.shape[1:3]
    return png_of(grey.resize((width, height), Image.Resampling.BILINEAR) if grey.size != (width, height) else grey)


def png_of(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def to_batch(pictures: Sequence[Picture]) -> torch.Tensor:
    """[B,H,W,3]. Pictures of several sizes stand in the middle of the largest, on black: nothing is resampled."""
    decoded = [decode(picture) for picture in pictures]
    height, width = (max(picture.shape[side] for picture in decoded) for side in (0, 1))
    batch = torch.zeros([len(decoded), height, width, 3])
    for place, pixels in zip(batch, decoded, strict=True):
        top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
        place[top : top + pixels.shape[0], left : left + pixels.shape[1]] = torch.from_numpy(pixels)
    return batch.div_(255)


def decode(picture: Picture) -> numpy.ndarray:
    """[H,W,3] in 0..255, upright."""
    with Image.open(picture.path) as opened:
        return numpy.array(ImageOps.exif_transpose(opened).convert("RGB"))


def thumbnail(picture: Picture) -> bytes:
    """A small PNG, upright, at most THUMBNAIL pixels a side."""
    with Image.open(picture.path) as opened:
        opened.draft("RGB", (THUMBNAIL, THUMBNAIL))
        small = ImageOps.exif_transpose(opened).convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return png_of(small)
