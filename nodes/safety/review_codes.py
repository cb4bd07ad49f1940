"""The codes that say that a person has looked: bound to the very pixels and to a secret of this installation."""

from __future__ import annotations

import hmac
import os
import secrets
import tempfile
from pathlib import Path

import torch

SECRET = "review_secret"
SECRET_BYTES = 32


def review_code(image: torch.Tensor, secret: bytes) -> str:
    """Short enough to copy by hand, bound to shape and exact pixel values of [B, H, W, C] float32 and to the secret.

    Whoever made a workflow knows its pixels, so without the secret a picture that nobody saw could carry its code.
    """
    pixels = image.cpu().contiguous()
    digest = hmac.new(secret, str(list(pixels.shape)).encode(), "sha256")
    digest.update(pixels.numpy().data)
    code = digest.hexdigest()[:12]
    return "-".join((code[:4], code[4:8], code[8:]))


def installation_secret(folder: Path) -> bytes:
    """32 random bytes that only this installation has, made at the first review. Raises ValueError where none is kept.

    Codes stay valid as long as the file does. A file of another length counts as damaged and is made anew.
    """
    path = folder / SECRET
    try:
        if not path.exists() or path.stat().st_size != SECRET_BYTES:
            _write_secret(path)
        return path.read_bytes()
    except OSError as problem:
        raise ValueError(
            f"Krea Review Gate needs a secret of this installation in ComfyUI's user folder, and {SECRET} cannot be "
            f"written or read there ({problem.strerror}): nothing passes. Make the folder writable."
        ) from problem


def _write_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.parent.chmod(0o700)  # also where something else made it first
    handle, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{SECRET}-")  # with mode 0600
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(SECRET_BYTES))
    os.replace(unfinished, path)
