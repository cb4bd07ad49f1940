"""Pictures as they arrive: what is accepted, before anything is decoded. No network here.

A file gets its final name only when it is complete, small enough and really a picture.
"""

from __future__ import annotations

import base64
import binascii
import os
import uuid
import warnings
from collections.abc import Iterable
from pathlib import Path

from ..providers.contract import BadAnswer, Picture

MAX_BYTES = 64 * 2**20
MAX_PIXELS = 64 * 2**20
HEAD = 32  # bytes that tell the format


class Incomplete(Exception):
    """The body ended too soon: worth another try."""


def format_of(head: bytes) -> str | None:
    """The format by content: file names and content types of providers are often wrong."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1"):
        return "avif"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    return None


def store(chunks: Iterable[bytes], folder: Path, stem: str, expected: int | None = None) -> Picture:
    """Writes a picture to `folder/stem.<format>`. `expected` is the announced length in bytes.

    Raises BadAnswer for what is no picture or too large, Incomplete for a body that broke off.
    """
    if expected is not None and expected > MAX_BYTES:
        raise _too_many_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{stem}.{uuid.uuid4().hex[:8]}.part"
    try:
        extension = _write(chunks, unfinished, expected)
        width, height = _measured(unfinished, extension)
        path = folder / f"{stem}.{extension}"
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return Picture(str(path), width, height)


def stored(folder: Path, stem: str) -> Picture | None:
    """The picture that an earlier download left complete, None when there is none or it was damaged since."""
    for path in folder.glob(f"{stem}.*"):
        try:
            return Picture(str(path), *_measured(path, path.suffix[1:]))
        except (BadAnswer, Incomplete, OSError):
            continue
    return None


def data_url_bytes(url: str) -> bytes:
    """The content of a base64 data: URL, under the same cap as a download."""
    header, comma, content = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise BadAnswer("The provider sent a picture as text in a form that is not base64.", paid=True)
    if len(content) * 3 // 4 > MAX_BYTES + 2:
        raise _too_many_bytes()
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise BadAnswer("The provider sent a picture as text that is not valid base64.", paid=True) from None


def _write(chunks: Iterable[bytes], path: Path, expected: int | None) -> str:
    head, size = b"", 0
    with open(path, "wb") as file:
        for chunk in chunks:
            if len(head) < HEAD:
                head += chunk[: HEAD - len(head)]
                if len(head) == HEAD and not format_of(head):
                    raise _no_picture(head)
            size += len(chunk)
            if size > MAX_BYTES:
                raise _too_many_bytes()
            file.write(chunk)
        if expected is not None and size < expected:
            raise Incomplete(f"{size} of {expected} bytes arrived")
        file.flush()
        os.fsync(file.fileno())
    extension = format_of(head)
    if not extension:
        raise _no_picture(head)
    return extension


def _measured(path: Path, extension: str) -> tuple[int, int]:
    """Width and height in pixels, from the header alone."""
    from PIL import Image, UnidentifiedImageError

    if _is_cut_off(path, extension):
        raise Incomplete("the picture's end is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                size: tuple[int, int] = image.size
                if size[0] * size[1] <= MAX_PIXELS and extension == "png":
                    image.verify()  # checksums, without decoding
    except Image.DecompressionBombError:
        raise _too_many_pixels("more than 170 megapixels") from None
    except (UnidentifiedImageError, SyntaxError, ValueError, OSError) as error:
        raise BadAnswer(f"The provider's {extension} picture is damaged ({type(error).__name__}).", paid=True) from None
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_many_pixels(f"{size[0]}×{size[1]}")
    return size


def _is_cut_off(path: Path, extension: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(12)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 4096))
        tail = file.read()
    if extension == "png":
        return b"IEND" not in tail
    if extension == "jpg":
        return b"\xff\xd9" not in tail
    if extension == "webp":
        return size < int.from_bytes(head[4:8], "little") + 8
    return False


def _too_many_bytes() -> BadAnswer:
    return BadAnswer(f"The provider's picture is larger than {MAX_BYTES >> 20} MB and was refused.", paid=True)


def _too_many_pixels(size: str) -> BadAnswer:
    limit = MAX_PIXELS >> 20
    return BadAnswer(f"The provider's picture has {size}; more than {limit} megapixels are refused.", paid=True)


def _no_picture(head: bytes) -> BadAnswer:
    text = head.lstrip().lower()
    if not head:
        found = "an empty file"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<")):
        found = "a web page"
    elif text.startswith((b"{", b"[")):
        found = "JSON"
    else:
        found = f"unknown content (it begins with {head[:8].hex()})"
    return BadAnswer(f"The provider sent {found} where the picture should be.", paid=True)
