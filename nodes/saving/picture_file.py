"""One picture as a file in memory, with its texts where ComfyUI's page, picture sites and photo programs look for them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

PNG, JPEG, WEBP = FORMATS = ("png", "jpeg", "webp")
EXTENSIONS = {PNG: "png", JPEG: "jpg", WEBP: "webp"}
MEDIA_TYPES = {PNG: "image/png", JPEG: "image/jpeg", WEBP: "image/webp"}
LONGEST_SIDE = {PNG: 2**31 - 1, JPEG: 65_500, WEBP: 16_383}  # pixels
COMPRESS_LEVEL = 4  # as core's Save Image
SEGMENT = 65_533  # bytes that one part of a JPEG holds, its name included

XMP_KEYWORD, XMP_NAME = "XML:com.adobe.xmp", b"http://ns.adobe.com/xap/1.0/\0"
PARAMETERS = "parameters"
MODEL, MAKE, EXIF_FOLDER, USER_COMMENT = 0x0110, 0x010F, 0x8769, 0x9286
PIXEL_CHUNKS = (b"ALPH", b"VP8 ", b"VP8L")
OTHER_TEXTS = (0x010E, 0x010D)  # where core puts what other packs add to extra_pnginfo


class SaveError(ValueError):
    """Nothing could be saved, or not all; a sentence that says why and what to do."""


@dataclass(frozen=True)
class Texts:
    """What goes into a file beside the pixels. Empty is left out."""

    prompt: str = ""  # the graph that ran, as JSON
    extra: Mapping[str, str] = field(default_factory=dict)  # `workflow`, and what other packs add, as JSON
    parameters: str = ""  # the text that picture sites read
    xmp: bytes = b""
    short_xmp: bytes = b""  # the same without the prompt, for a JPEG that cannot hold it


def check_shape(shape: Sequence[int], file_format: str) -> None:
    """SaveError unless this is [batch, height, width, 1, 3 or 4], at least one picture of a size the format can hold."""
    if len(shape) != 4 or shape[-1] not in (1, 3, 4):
        raise SaveError(f"images must be [batch, height, width, 1, 3 or 4], got {list(shape)}.")
    batch, height, width, _ = shape
    if not batch or not height or not width:
        raise SaveError(f"There is no image to save: the batch is {list(shape)}.")
    if max(height, width) > LONGEST_SIDE[file_format]:
        raise SaveError(
            f"{width} × {height} does not fit into {file_format}, which ends at {LONGEST_SIDE[file_format]} pixels a "
            "side: choose png."
        )


def as_picture(pixels: Any) -> Image.Image:
    """[H, W, 1, 3 or 4] bytes, a numpy array, as a picture in L, RGB or RGBA."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def encoded(picture: Image.Image, file_format: str, quality: int, texts: Texts) -> tuple[bytes, list[str]]:
    """The file, and sentences about what it could not hold. Raises SaveError."""
    try:
        return _encoded(picture, file_format, quality, texts)
    except (ValueError, OSError) as error:  # Pillow's, such as WebP's for a picture of too much detail
        said = f"A picture cannot be written as {file_format} ({error!s:.80})"
        raise SaveError(f"{said}: choose another format or quality.") from None


def _encoded(picture: Image.Image, file_format: str, quality: int, texts: Texts) -> tuple[bytes, list[str]]:
    file = io.BytesIO()
    if file_format == PNG:
        picture.save(file, "PNG", pnginfo=_png_texts(texts), compress_level=COMPRESS_LEVEL)
        return file.getvalue(), []
    if file_format == WEBP:
        picture.save(file, "WEBP", quality=quality, exif=_exif(texts), xmp=texts.xmp)
        return with_even_chunks(file.getvalue()), []
    notes = []
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
        notes.append("A JPEG has no transparency: what was transparent is white.")
    exif, xmp, left_out = _for_jpeg(texts)
    picture.save(file, "JPEG", quality=quality, exif=exif, xmp=xmp)
    return file.getvalue(), notes + left_out


def _png_texts(texts: Texts) -> PngInfo:
    chunks = PngInfo()
    if texts.prompt:
        chunks.add_text("prompt", texts.prompt)
    for name, text in texts.extra.items():
        chunks.add_text(name, text)
    if texts.parameters:
        chunks.add_text(PARAMETERS, printable(texts.parameters))
    if texts.xmp:
        chunks.add_itxt(XMP_KEYWORD, texts.xmp.decode())
    return chunks


def _exif(texts: Texts) -> bytes:
    """The page reads `prompt:{…}` and `workflow:{…}`; picture sites read the comment."""
    exif = Image.Exif()
    if texts.prompt:
        exif[MODEL] = f"prompt:{texts.prompt}"
    others = iter(OTHER_TEXTS)
    for name, text in texts.extra.items():
        tag = MAKE if name == "workflow" else next(others, None)
        if tag:
            exif[tag] = f"{name}:{text}"
    if texts.parameters:
        exif.get_ifd(EXIF_FOLDER)[USER_COMMENT] = b"UNICODE\0" + printable(texts.parameters).encode("utf-16-be")
    return exif.tobytes() if len(exif) or exif.get_ifd(EXIF_FOLDER) else b""


def _for_jpeg(texts: Texts) -> tuple[bytes, bytes, list[str]]:
    """EXIF and XMP that fit into a JPEG's 64 kB each, and what had to stay out for it."""
    notes = []
    xmp = texts.xmp
    if len(XMP_NAME) + len(xmp) > SEGMENT:
        xmp = texts.short_xmp
        notes.append("The prompt is too long for a JPEG's XMP (64 kB) and was left out of it: png and webp hold it.")
    exif = _exif(texts)
    if len(exif) > SEGMENT:
        exif = _exif(Texts(parameters=texts.parameters))
        notes.append(
            f"The workflow ({len(texts.prompt) + sum(map(len, texts.extra.values())) >> 10} kB) does not fit into a JPEG, "
            "which holds 64 kB: it is not in the file. png and webp hold it."
        )
    if len(exif) > SEGMENT:
        exif = b""
    return exif, xmp, notes


def printable(text: str) -> str:
    """What a PNG's text or an EXIF comment may hold: without NUL, and without halves of a character."""
    return text.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def with_even_chunks(webp: bytes) -> bytes:
    """A WebP in which the byte that pads an odd chunk counts as part of it, as libwebp itself writes VP8.

    ComfyUI's page up to frontend 1.32 does not skip that byte, and would not find the workflow behind it.
    """
    file, at = bytearray(webp), 12
    while at + 8 <= len(file):
        size = int.from_bytes(file[at + 4 : at + 8], "little")
        if size % 2 and bytes(file[at : at + 4]) in PIXEL_CHUNKS:
            file[at + 4 : at + 8] = (size + 1).to_bytes(4, "little")
        at += 8 + size + size % 2
    return bytes(file)


def embedded(prompt: object, extra: object) -> tuple[str, dict[str, str], list[str]]:
    """ComfyUI's hidden `prompt` and `extra_pnginfo` as the JSON that core writes, and the names of what no file can hold."""
    named = dict(extra) if isinstance(extra, dict) else {}
    texts = {name: text for name, value in named.items() if _is_keyword(name) and (text := _as_json(value))}
    whole = (_as_json(prompt) or _as_json(_without_answers(prompt))) if prompt else ""
    left_out = [str(name) for name in named if name not in texts] + ([] if whole or not prompt else ["prompt"])
    return whole, texts, left_out


def _as_json(value: object) -> str:
    """ "" for what is no JSON."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return ""


def _without_answers(prompt: object) -> object:
    """Without what nodes of other packs said of whether they have changed, which may be anything."""
    nodes = prompt.items() if isinstance(prompt, dict) else ()
    return {id: {name: part for name, part in node.items() if name != "is_changed"} for id, node in nodes}


def _is_keyword(name: object) -> bool:
    """Whether it can name a text in a PNG, and is none of ours."""
    can_be_one = isinstance(name, str) and 0 < len(name) < 80 and name.isascii() and name.isprintable()
    return can_be_one and name not in ("prompt", PARAMETERS, XMP_KEYWORD)
