"""Where a key stands in an answer, however it is written there. Fast enough for an answer of many megabytes."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from functools import cache
from mmap import mmap

SHORTEST = 4  # signs; a shorter form would be found everywhere
BLOCK = 4096  # bytes that are looked at as one, to find pictures
WINDOW, OVERLAP = 32 * 2**10, 4 * 2**10  # bytes that are searched at once; a key does not take more than OVERLAP
BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
SPACE = b" \t\r\n\v\f\\"
LOWER = bytes(range(256)).lower()

ESCAPED = re.compile(
    rb"(?<!\\)\\+(?:u00|x)([0-9a-fA-F]{2})|%(?:25)*([0-9a-fA-F]{2})|&(?:amp;)*#(?:0*([0-9]{2,3})|[xX]0*([0-9a-fA-F]{2}));?"
)
BREAKS = (rb"\n", rb"\r", rb"\t")  # as JSON writes them, behind the last of any number of backslashes
GAP = rb"(?:\s|\\{1,8}[nrt]?){0,40}"
HEX_GAP = rb"(?:\s|[:,]|\\[nrt]?){0,8}"


def hidden(content: bytes | mmap, keys: Sequence[str], instead: bytes) -> bytes | mmap:
    """The content with `instead` for each key; itself where there is none."""
    parts: list[bytes] = []
    done = 0
    for start, end in _found(content, keys) if keys else ():
        text = bytes(content[start:end])
        for key in keys:
            text = _pattern_of(key).sub(lambda found: instead, text)  # a function: other threads get their turn
        parts += [content[done:start], text]
        done = end
    return b"".join([*parts, content[done:]]) if parts else content


def _found(content: bytes | mmap, keys: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where keys stand, roughly, in order and apart from each other."""
    written = [form for key in keys for form in _forms(key)]
    in_hex = [_bytes_of(key).hex().encode() for key in keys]
    start, end = 0, 0
    for first, last in _windows(content):
        if _is_in(content[first:last], written, in_hex):
            if first > end:
                yield start, end
                start = first
            end = last
            # A key on the border stands whole in the next window, which overlaps and so joins this one.
    if end:
        yield start, end


def _windows(content: bytes | mmap) -> Iterator[tuple[int, int]]:
    """Overlapping pieces of all but the insides of pictures."""
    for first, last in _texts(content):
        for start in range(first, max(first + 1, last - OVERLAP), WINDOW - OVERLAP):
            yield start, min(start + WINDOW, last)


def _texts(content: bytes | mmap) -> Iterator[tuple[int, int]]:
    """Where the blocks lie that are not all base64, or stand beside one that is not."""
    size = len(content)
    is_base64 = [not content[start : start + BLOCK].translate(None, BASE64) for start in range(0, size, BLOCK)]
    start = None
    for index in range(len(is_base64)):
        is_inside = 0 < index < len(is_base64) - 1 and all(is_base64[index - 1 : index + 2])
        if is_inside and start is not None:
            yield start, index * BLOCK
            start = None
        elif not is_inside and start is None:
            start = index * BLOCK
    if start is not None:
        yield start, size


def _is_in(text: bytes, written: Sequence[bytes], in_hex: Sequence[bytes]) -> bool:
    """Whether one of the forms stands there once all escapes and spaces are taken out."""
    for unescaped in {text, *((_without_escapes(text),) if _has_escapes(text) else ())}:
        plain = unescaped.translate(None, SPACE)
        # JSON writes a line break as two signs; before a key that begins with n it is none.
        broken = _without_breaks(unescaped).translate(None, SPACE) if b"\\" in unescaped else plain
        for joined in {plain, broken}:
            if any(form in joined for form in written):
                return True
        numbers = broken.translate(LOWER, b":,")
        if any(form in numbers for form in in_hex):
            return True
    return False


def _has_escapes(text: bytes) -> bool:
    """Quickly, and true too often: to look for them takes a hundred times as long."""
    return any(mark in text for mark in (rb"\u00", rb"\x", b"%", b"#"))


def _without_breaks(text: bytes) -> bytes:
    """The backslashes before a break's own are left, as every other is."""
    for mark in BREAKS:
        text = text.replace(mark, b" ")  # not nothing: what then stands side by side is no break
    return text


def _without_escapes(text: bytes) -> bytes:
    def sign(found: re.Match[bytes]) -> bytes:
        code = int(found[3]) if found[3] else int(found[1] or found[2] or found[4], 16)
        return bytes([code]) if code < 256 else b""

    return ESCAPED.sub(sign, text)


@cache
def _forms(key: str) -> tuple[bytes, ...]:
    """As it is, or in base64 at any of its three offsets, in either alphabet."""
    plain = _bytes_of(key)
    forms = [plain]
    for offset, unsure in ((0, 0), (1, 2), (2, 3)):  # characters in front that the bytes before it decide, too
        encoded = base64.b64encode(b"\0" * offset + plain).rstrip(b"=")
        form = encoded[unsure:] if (offset + len(plain)) % 3 == 0 else encoded[unsure:-1]
        forms += [form, form.translate(bytes.maketrans(b"+/", b"-_"))]
    return tuple(dict.fromkeys(form for form in forms if len(form) >= SHORTEST))


@cache
def _pattern_of(key: str) -> re.Pattern[bytes]:
    """Each form, and hex; each sign as it is or escaped, with white space or JSON's escapes of it anywhere inside."""
    written = [GAP.join(map(_sign, form)) for form in _forms(key)]
    in_hex = HEX_GAP.join(f"(?i:{byte:02x})".encode() for byte in _bytes_of(key))
    return re.compile(b"|".join([*written, in_hex]))


def _sign(code: int) -> bytes:
    """One sign, also as JSON, an address or HTML may write it, once or on top of each other."""
    number = f"(?i:{code:02x})".encode()
    ways = (
        re.escape(bytes([code])),
        rb"\\{1,8}(?:u00|x)" + number,
        rb"%(?:25){0,4}" + number,
        rb"&(?:amp;){0,4}#(?:0{0,4}" + str(code).encode() + rb"|[xX]0{0,4}" + number + rb");?",
    )
    return b"(?:" + b"|".join(ways) + b")"


def _bytes_of(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
