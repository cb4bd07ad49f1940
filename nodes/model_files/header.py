"""The header of a safetensors file: names, dtypes and shapes of its tensors, without reading a single weight.

A file is 8 bytes of little-endian length, that much JSON, then the weights, end to end. Anything else that people find
under the name, a web page or half a download, is refused here with a sentence that says what it is and what to do.
"""

import json
import os
import re
import stat
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

AGAIN = "download it again"
USE_SAFETENSORS = "use the .safetensors file of the same model"

# The reference implementation of the format refuses longer headers.
LONGEST_HEADER = 100_000_000

BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "BOOL": 8, "U8": 8, "I8": 8}
BITS |= {"F16": 16, "BF16": 16, "U16": 16, "I16": 16, "F32": 32, "U32": 32, "I32": 32}
BITS |= {"F64": 64, "U64": 64, "I64": 64, "C64": 64}


class WeightFileError(Exception):
    """A model file that cannot be used. The message is a sentence for the user: the file, what it is, what to do."""


class Tensor(NamedTuple):
    """`dtype` as safetensors writes it; `start` is where its bytes begin, counted from the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int = 0


@dataclass(frozen=True)
class Header:
    """`bytes` is the size of the whole file, `data` that of what stands before the weights."""

    path: Path
    bytes: int
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    data: int


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads and checks the header of a safetensors file, whatever its extension; WeightFileError says what is wrong."""
    path = Path(path)
    try:
        size = _size(path)
        with open(path, "rb") as file:
            start = file.read(512)
            length = int.from_bytes(start[:8], "little")
            if start[8:9] != b"{" or not 2 <= length <= LONGEST_HEADER:
                raise WeightFileError(f"{path.name}: {_not_safetensors(start, size)}")
            file.seek(8)
            text = file.read(length)
    except OSError as error:
        raise WeightFileError(f"{path.name}: it cannot be read: {error.strerror or error}") from error
    if len(text) < length:
        raise WeightFileError(f"{path.name}: cut off after {size:,} bytes, within its header: {AGAIN}")
    try:
        tensors, metadata, end = _parse(text)
    except (ValueError, RecursionError) as error:
        raise WeightFileError(f"{path.name}: its header is damaged ({error}): {AGAIN}") from error
    expected = 8 + length + end
    if size < expected:
        share = f"{min(100 * size / expected, 99.9):.1f} %"  # a few bytes short is not 100 %
        raise WeightFileError(f"{path.name}: cut off: {size:,} of {expected:,} bytes ({share}): {AGAIN}")
    if size > expected:
        raise WeightFileError(
            f"{path.name}: {size - expected:,} bytes too long ({size:,} instead of {expected:,}), "
            f"as after a download resumed at the wrong place: {AGAIN}"
        )
    if not tensors:
        raise WeightFileError(f"{path.name}: it holds no weights at all: {AGAIN}")
    return Header(path, size, tensors, metadata, 8 + length)


def tensor_bytes(tensor: Tensor) -> int:
    return BITS.get(tensor.dtype, 8) * prod(tensor.shape) // 8


def read_tensor(header: Header, key: str) -> bytes:
    """The bytes of one tensor. WeightFileError where the file changed or cannot be read."""
    tensor = header.tensors[key]
    size = tensor_bytes(tensor)
    try:
        with open(header.path, "rb") as file:
            file.seek(header.data + tensor.start)
            content = file.read(size)
    except OSError as error:
        raise WeightFileError(f"{header.path.name}: it cannot be read: {error.strerror or error}") from error
    if len(content) < size:
        raise WeightFileError(f"{header.path.name}: cut off within {key}: {AGAIN}")
    return content


def _size(path: Path) -> int:
    if path.is_symlink() and not path.exists():
        raise WeightFileError(
            f"{path.name}: a broken link: {os.readlink(path)} is not there: put the file back or remove the link"
        )
    if not path.exists():
        raise WeightFileError(f"{path.name}: there is no such file in {path.parent}")
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise WeightFileError(f"{path.name}: a folder or device, not a file: choose the model file itself")
    if status.st_size == 0:
        raise WeightFileError(f"{path.name}: an empty file (0 bytes), the download never began: {AGAIN}")
    return status.st_size


def _parse(text: bytes) -> tuple[dict[str, Tensor], dict[str, str], int]:
    """Tensors, metadata and the number of bytes of the weights; ValueError says what is wrong."""
    entries = json.loads(text.decode())  # a table: it begins with a brace
    metadata = entries.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        raise ValueError("its metadata is not a table")
    tensors, spans = {}, []
    for key, entry in entries.items():
        try:
            dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{key[:80]} has no dtype, shape or place") from None
        if not isinstance(dtype, str) or not isinstance(shape, list) or not all(map(_is_count, (*shape, start, end))):
            raise ValueError(f"{key[:80]} has no proper dtype, shape or place")
        if end < start or (dtype in BITS and 8 * (end - start) != BITS[dtype] * prod(shape)):
            raise ValueError(f"{key[:80]} does not have the size that its shape asks for")
        tensors[key] = Tensor(dtype, tuple(shape), start)
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        if start != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = end
    return tensors, {str(key): str(value) for key, value in metadata.items()}, at


def _is_count(value: object) -> bool:
    # The bound keeps sums and products small even where the header is hostile.
    return type(value) is int and 0 <= value < 2**63


def _not_safetensors(start: bytes, size: int) -> str:
    """What a file is whose first bytes are not those of a safetensors file, and what to do about it."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text.lower()
    if start.startswith(b"GGUF"):
        return (
            "a GGUF file, which has loaders of its own: load it with the Unet Loader (GGUF) node of ComfyUI-GGUF "
            "and connect its MODEL to Krea Sampler"
        )
    if lower.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<error")):
        return (
            "a web page, not a model: the download was refused. "
            "Accept the licence on the model's page, sign in or use a token, and download it again"
        )
    if text.startswith(b"version https://git-lfs"):
        promised = re.search(rb"size (\d+)", start)
        real = f"; the real file has {int(promised[1]):,} bytes" if promised else ""
        return f"a Git LFS pointer, not the model ({size:,} bytes{real}): run git lfs pull"
    if start.startswith(b"PK\x03\x04"):
        is_pickle = b"data.pkl" in start or b"archive/" in start
        return _pickle() if is_pickle else "a zip archive: unpack it and use the .safetensors file inside"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _pickle()
    if start.startswith((b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!")):
        return "an archive: unpack it and use the .safetensors file inside"
    if not any(start):
        return f"nothing but zeros at its beginning, so the download never got that far: {AGAIN}"
    if _is_text(start):
        quote = " ".join(text.decode().split())[:120]
        kind = "an error message" if text.startswith(b"{") else "a text"
        return f"{kind}, not a model: {quote!r}. Check the address, the licence and your token, and {AGAIN}"
    if size < 10:
        return f"cut off after {size} bytes: {AGAIN}"
    return f"not a safetensors file, or a damaged one: {AGAIN}"


def _pickle() -> str:
    return f"a PyTorch pickle (.ckpt, .pt, .bin), which can run code while it loads: {USE_SAFETENSORS}"


def _is_text(start: bytes) -> bool:
    return len(start) > 8 and all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start)
