"""ComfyUI's IMAGE to an encoded PNG and back."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from PIL import Image, ImageOps

from ..providers.contract import BadAnswer, Picture, RequestRefused

THUMBNAIL = 320  # pixels
BAND = 2**20  # pixels that are converted at once
LARGEST_INPUT = 4 * 2**20  # pixels; what is larger is scaled down to that before it is sent
LARGEST_BATCH = 160 * 2**20  # pixels, the black around smaller pictures too: ten of 4096 × 4096

Size = tuple[int, int]


def size_of(image: torch.Tensor) -> Size:
    """(width, height) of [1,H,W,C]. Raises RequestRefused for what is no single picture."""
    if image.ndim != 4 or image.shape[0] != 1:
        raise RequestRefused(
            f"image is a batch of {len(image)}; a provider takes one: pick it with ImageFromBatch. Nothing was paid."
        )
    height, width, channels = image.shape[1:]
    if channels not in (3, 4) or not height or not width:
        raise RequestRefused(
            f"image is {width}×{height} with {channels} channels, not a picture in RGB or RGBA. Nothing was paid."
        )
    return width, height


def sent_size(width: int, height: int) -> Size:
    """The size in which an input image is sent: its own, or in the same shape LARGEST_INPUT pixels."""
    if width * height <= LARGEST_INPUT:
        return width, height
    scale = math.sqrt(LARGEST_INPUT / (width * height))
    width, height = (min(LARGEST_INPUT, max(1, int(side * scale + 1e-6))) for side in (width, height))
    return width, height


def size_before_scaling(image: torch.Tensor) -> Size | None:
    """(width, height) of an image that is scaled down to be sent, None for any other."""
    size = size_of(image)
    return None if sent_size(*size) == size else size


def to_png(image: torch.Tensor) -> bytes:
    """[1,H,W,3 or 4] in 0..1 → PNG in RGB, scaled down to `sent_size`. What is transparent becomes white, as no provider
    keeps it."""
    size = sent_size(*size_of(image))
    picture = Image.fromarray(_pixels_of(image[0]))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return png_of(picture)


def mask_to_png(mask: torch.Tensor, image: torch.Tensor) -> bytes:
    """[1,H,W] or [H,W] in 0..1 → grey PNG in the size in which the image is sent; white is 1."""
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3:
        raise RequestRefused(f"mask has the shape {list(mask.shape)}, which is no mask. Nothing was paid.")
    count, height, width = mask.shape
    if count != 1:
        raise RequestRefused(f"mask is a batch of {count}; a provider takes one. Nothing was paid.")
    if not height or not width:
        raise RequestRefused(f"mask is {width}×{height}, with nothing in it. Nothing was paid.")
    if not bool(torch.isfinite(mask).all()):
        raise RequestRefused("mask has values that are not finite numbers. Nothing was sent, nothing was paid.")
    grey = Image.fromarray((mask[0].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy())
    size = sent_size(*size_of(image))
    scaled = grey.resize(size, Image.Resampling.BILINEAR) if grey.size != size else grey
    if not scaled.getbbox():
        raise RequestRefused(
            "mask has no white, so nothing would be repainted: draw one, or unwire it. Nothing was paid."
        )
    return png_of(scaled)


def _pixels_of(image: torch.Tensor) -> numpy.ndarray:
    """[H,W,C] in 0..1 → [H,W,C] in 0..255, a band of rows at a time."""
    height, width, channels = image.shape
    pixels = numpy.empty([height, width, channels], numpy.uint8)
    rows = max(1, BAND // width)
    for top in range(0, height, rows):
        band = image[top : top + rows]
        if not bool(torch.isfinite(band).all()):
            raise RequestRefused("image has pixels that are not finite numbers. Nothing was sent, nothing was paid.")
        pixels[top : top + rows] = (band.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return pixels


def png_of(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def to_batch(pictures: Sequence[Picture]) -> torch.Tensor:
    """[B,H,W,3]. Pictures of several sizes stand in the middle of the largest, on black: nothing is resampled.

    Raises BadAnswer, with where the files lie, for what would be too large together, or cannot be decoded.
    """
    _refuse_above_largest_batch(sum(picture.width * picture.height for picture in pictures), pictures)
    decoded = [decode(picture) for picture in pictures]
    height, width = (max(picture.shape[side] for picture in decoded) for side in (0, 1))
    _refuse_above_largest_batch(len(decoded) * height * width, pictures)
    batch = torch.zeros([len(decoded), height, width, 3])
    for place, pixels in zip(batch, decoded, strict=True):
        top, left = (height - pixels.shape[0]) // 2, (width - pixels.shape[1]) // 2
        place[top : top + pixels.shape[0], left : left + pixels.shape[1]] = torch.from_numpy(pixels)
    return batch.div_(255)


def _refuse_above_largest_batch(pixels: int, pictures: Sequence[Picture]) -> None:
    if pixels > LARGEST_BATCH:
        sizes = ", ".join(f"{picture.width}×{picture.height}" for picture in pictures)
        raise BadAnswer(
            f"As one batch these pictures ({sizes}) would have {pixels >> 20} megapixels; more than "
            f"{LARGEST_BATCH >> 20} are not loaded. {_where(pictures)}",
            paid=True,
        )


def _where(pictures: Sequence[Picture]) -> str:
    folder = Path(pictures[0].path).parent
    names = ", ".join(Path(picture.path).name for picture in pictures)
    return f"What is paid is listed under “Paid and waiting”, and kept in {folder}: {names}."


def decode(picture: Picture) -> numpy.ndarray:
    """[H,W,3] in 0..255, upright."""
    try:
        with Image.open(picture.path) as opened:
            return numpy.array(ImageOps.exif_transpose(opened).convert("RGB"))
    except Exception as error:  # a hostile file makes Pillow raise anything
        raise _undecodable(picture, error) from None


def thumbnail(picture: Picture) -> bytes:
    """A small PNG, upright, at most THUMBNAIL pixels a side."""
    try:
        with Image.open(picture.path) as opened:
            opened.draft("RGB", (THUMBNAIL, THUMBNAIL))
            small = ImageOps.exif_transpose(opened).convert("RGB")
    except Exception as error:
        raise _undecodable(picture, error) from None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return png_of(small)


def _undecodable(picture: Picture, error: Exception) -> BadAnswer:
    return BadAnswer(
        f"The provider's picture cannot be decoded ({type(error).__name__}). {_where([picture])}",
        paid=True,
    )
