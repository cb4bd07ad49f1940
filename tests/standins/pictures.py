"""Pictures a stand-in delivers, reads and weaponises."""

import base64
import binascii
import hashlib
import io
import math
import struct
import zlib
from functools import lru_cache
from random import Random
from typing import NamedTuple

from PIL import Image, ImageDraw

BLACK = (0, 0, 0)
LEAST_SCENE = 128  # pixels of the shorter side; what is smaller stays plain
SKY_BANDS, HILLS = 9, 3
MIME = {
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "avif": "image/avif",
    "gif": "image/gif",
}


class Canvas(NamedTuple):
    """An input picture, and the mask whose white is repainted and whose black is kept."""

    picture: Image.Image
    mask: Image.Image


def expected_pixel(prompt: str, seed: int, index: int = 0) -> tuple[int, int, int]:
    """The colour in the middle of picture `index`: which request it answers can be read off it. Never black."""
    digest = hashlib.sha256(f"{prompt}\n{seed}\n{index}".encode()).digest()
    return tuple(32 + byte % 192 for byte in digest[:3])


@lru_cache(maxsize=64)
def encode(size: tuple[int, int], colour: tuple[int, int, int], form: str, quality: int = 95) -> bytes:
    """A picture of `size` (width, height) whose middle has this colour: a scene, or plain where it is black or small."""
    picture = Image.new("RGB", size, colour)
    if colour != BLACK and min(size) >= LEAST_SCENE:
        draw_scene(picture, colour)
    return _encoded(picture, form, quality)


def encode_repainted(
    canvas: Canvas, size: tuple[int, int], colour: tuple[int, int, int], form: str, quality: int = 95
) -> bytes:
    """The input picture, brought to `size`, with `colour` where its mask is white."""
    kept, mask = canvas.picture.convert("RGB").resize(size), canvas.mask.convert("L").resize(size)
    return _encoded(Image.composite(Image.new("RGB", size, colour), kept, mask), form, quality)


def _encoded(picture: Image.Image, form: str, quality: int) -> bytes:
    out = io.BytesIO()
    pillow_name = {"jpg": "jpeg"}.get(form, form)
    options = {"png": {"compress_level": 1}, "gif": {}}.get(pillow_name, {"quality": quality})
    if pillow_name == "webp":
        options["method"] = 0
    picture.save(out, pillow_name, **options)
    return out.getvalue()


def draw_scene(picture: Image.Image, colour: tuple[int, int, int]) -> None:
    """A sun of this colour in the middle, behind hills and before a sky that the same colour decides."""
    draw, (width, height), chance = ImageDraw.Draw(picture), picture.size, Random(str(colour))
    high, low = mixed(colour, (18, 32, 74), 0.72), mixed(colour, (255, 236, 214), 0.72)
    for band in range(SKY_BANDS):
        top = height * band // SKY_BANDS
        draw.rectangle((0, top, width, height), fill=mixed(high, low, band / (SKY_BANDS - 1)))
    middle, radius = (width / 2, height / 2), min(width, height) * 0.21
    for halo in (1.5, 1.25):
        draw.circle(middle, radius * halo, fill=mixed(colour, low, 0.55 * (halo - 0.5)))
    draw.circle(middle, radius, fill=colour)
    for hill in range(HILLS):
        ridge, depth = height * (0.66 + 0.1 * hill), (hill + 1) / HILLS
        phase, waves = chance.uniform(0, math.tau), chance.uniform(0.6, 1.4) + 0.4 * hill
        steps = [(x, math.sin(phase + math.tau * waves * x / 48)) for x in range(49)]
        outline = [(width * x / 48, ridge - height * 0.06 * (1 - 0.3 * depth) * rise) for x, rise in steps]
        draw.polygon([(0, height), *outline, (width, height)], fill=mixed(low, (20, 42, 46), 0.35 + 0.6 * depth))


def mixed(one: tuple[int, ...], other: tuple[int, ...], share: float) -> tuple[int, ...]:
    """`share` of the other colour, the rest of the one."""
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def read_image(data: bytes) -> Image.Image:
    """Decodes an input picture wholly; ValueError when it is not a PNG, JPEG or WebP that can be decoded."""
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))
        picture.load()
    except Exception as error:
        raise ValueError(f"not a PNG, JPEG or WebP picture that can be decoded ({type(error).__name__})") from error
    return picture


def read_data_uri(text: str) -> bytes:
    """The bytes of a base64 `data:image/...` URI; ValueError otherwise."""
    head, comma, payload = text.partition(",")
    if not comma or not head.startswith("data:image/") or not head.endswith(";base64"):
        raise ValueError("not a base64 data URI of an image")
    try:
        return base64.b64decode(payload, validate=True)
    except binascii.Error as error:
        raise ValueError("the data URI is not base64") from error


def data_uri(data: bytes, form: str) -> str:
    return f"data:{MIME[form]};base64,{base64.b64encode(data).decode()}"


def summary(picture: Image.Image) -> dict:
    """What a test needs to recognise the input picture that arrived."""
    colour = picture.convert("RGB").resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return {"size": list(picture.size), "format": picture.format, "mode": picture.mode, "mean": list(colour)}


def to_multiple_of_16(size: tuple[int, int]) -> tuple[int, int]:
    return tuple(max(16, 16 * round(side / 16)) for side in size)


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims a giant."""
    rows = zlib.compress(bytes(64))
    return _png(width, height, rows)


@lru_cache(maxsize=1)
def white_png(width: int, height: int) -> bytes:
    """A valid white one-bit PNG: some 20 kB that decode to width x height pixels."""
    row = b"\0" + b"\xff" * ((width + 7) // 8)
    return _png(width, height, zlib.compress(row * height, 6))


def _png(width: int, height: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
