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
MAX_SIDE = 16384  # pixels
REFUSED = "-refused"  # behind the name of a picture that is too large
NEVER_COLLECTED = "No run can collect it. To order it again, and pay again, change the seed or switch reuse off."
UNREADABLE = "-unreadable.txt"  # behind the name of a picture that came as text and is none
HEAD = 32  # bytes that tell the format


class Incomplete(Exception):
    """The body ended too soon: worth another try."""


class TooLarge(BadAnswer):
    """A picture that is complete, and too large to be decoded."""

    def __init__(self, size: str, limit: str):
        super().__init__(f"The provider's picture has {size}; {limit} are refused.", paid=True)

    def kept_as(self, path: Path) -> TooLarge:
        self.args = (f"{self} It is kept as {path}.",)
        return self


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


def store(
    chunks: Iterable[bytes], folder: Path, stem: str, expected: int | None = None, most_pixels: int = MAX_PIXELS
) -> Picture:
    """Writes a picture to `folder/stem.<format>`. `expected` is the announced length in bytes.

    Raises BadAnswer for what is no picture, Incomplete for a body that broke off, TooLarge for more than `most_pixels`:
    it was paid, so it is kept beside the others, and the error says where.
    """
    if expected is not None and expected > MAX_BYTES:
        raise _too_many_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{stem}.{uuid.uuid4().hex[:8]}.part"
    try:
        extension = _write(chunks, unfinished, expected)
        refused = folder / f"{stem}{REFUSED}.{extension}"
        try:
            width, height = _measured(unfinished, extension, most_pixels)
        except TooLarge as fault:
            os.replace(unfinished, refused)
            raise fault.kept_as(refused) from None
        path = folder / f"{stem}.{extension}"
        os.replace(unfinished, path)
        refused.unlink(missing_ok=True)
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


def keep_unreadable(text: str, folder: Path, stem: str, fault: str) -> None:
    """Writes down what came where a picture as text was due, and what is wrong with it."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{stem}.{uuid.uuid4().hex[:8]}.part"
    try:
        unfinished.write_text(f"{fault}\n{text}", "utf-8", "replace")
        os.replace(unfinished, folder / f"{stem}{UNREADABLE}")
    finally:
        unfinished.unlink(missing_ok=True)


def refuse_again(folder: Path, stem: str, most_pixels: int) -> None:
    """Raises BadAnswer where what came for that picture was kept and refused."""
    for path in folder.glob(f"{stem}{REFUSED}.*"):
        try:
            _measured(path, path.suffix[1:], most_pixels)
        except TooLarge as fault:
            raise fault.kept_as(path) from None
    unreadable = folder / f"{stem}{UNREADABLE}"
    if unreadable.exists():
        with open(unreadable, encoding="utf-8") as file:
            fault_said = file.readline(1000).strip()
        raise BadAnswer(
            f"{fault_said} What came is kept as {unreadable}. {NEVER_COLLECTED}",
            paid=True,
        )


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


def _measured(path: Path, extension: str, most_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height in pixels, from the header alone."""
    from PIL import Image

    if _is_cut_off(path, extension):
        raise Incomplete("the picture's end is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = image.size
                _refuse_above(width, height, most_pixels)
                if extension == "png":
                    image.verify()  # checksums, without decoding
    except Image.DecompressionBombError:
        raise TooLarge("more than 170 megapixels", f"more than {_megapixels(most_pixels)}") from None
    except TooLarge:
        raise
    except Exception as error:  # a hostile file makes Pillow raise anything
        raise BadAnswer(f"The provider's {extension} picture is damaged ({type(error).__name__}).", paid=True) from None
    return width, height


def _refuse_above(width: int, height: int, most_pixels: int) -> None:
    if max(width, height) > MAX_SIDE:
        raise TooLarge(f"{width}×{height} pixels", f"sides of more than {MAX_SIDE}")
    if width * height > most_pixels:
        of_asked = ", four times what was asked for," if most_pixels < MAX_PIXELS else ""
        raise TooLarge(f"{width}×{height} pixels", f"more than {_megapixels(most_pixels)}{of_asked}")


def _megapixels(pixels: int) -> str:
    return f"{pixels / 2**20:g} megapixels"


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
