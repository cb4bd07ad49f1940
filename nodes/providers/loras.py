"""LoRAs as a person writes them, one a line, and as each provider takes them. Nothing is fetched."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import parse_qsl, urlsplit

from .contract import GenerationRequest, Lora, RequestRefused, Unsupported

MOST_LORAS = 16
STRENGTHS = (-4.0, 4.0)
_HUGGING_FACE_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_AIR_ID = re.compile(r"[a-z0-9-]{1,40}:[\w-]{1,60}@[\w.-]{1,60}", re.ASCII)
# A name whose last part is no number, in any of the ways in which addresses write numbers.
_HOST = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+([a-z]{2,63}|xn--[a-z0-9-]{1,59})")
_SECRET = re.compile(r"token|key|secret|passw|pwd|jwt|auth|sig(nature)?$|credential|session", re.IGNORECASE)
_TOKEN = re.compile(r"(?<![A-Za-z0-9])(hf_|r8_|sk-|ghp_|eyJ)[\w-]{16,}")
_HOW_TO = "Write one a line: an https address or owner/name on Hugging Face, or an AIR id, then the strength."


def loras_of(text: str) -> tuple[Lora, ...]:
    """The LoRAs that a text names, one a line: what it is, then its strength, 1 where there is none.

    Raises RequestRefused for a line that is none, and for an address that carries a secret: workflows are shared.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > MOST_LORAS:
        raise RequestRefused(f"loras names {len(lines)}; at most {MOST_LORAS} are taken. Nothing was paid.")
    return tuple(map(_lora, lines))


def _lora(line: str) -> Lora:
    path, strength = line, 1.0
    with suppress(ValueError):  # not two words, or the second is no number
        first, last = line.split()
        strength, path = float(last), first
    if not (is_address(path) or is_hugging_face_id(path) or is_air_id(path)):
        raise RequestRefused(f"loras says “{_shown(path)}”, which is none. {_HOW_TO} Nothing was paid.")
    low, high = STRENGTHS
    if not (math.isfinite(strength) and low <= strength <= high):
        raise RequestRefused(f"The strength of {_shown(path)} is {strength:g}; it must be {low:g} to {high:g}.")
    return Lora(path, strength)


def is_address(path: str) -> bool:
    """Plain https to a named host. Raises RequestRefused where it carries a secret."""
    if not path.startswith("https://") or not re.fullmatch(r"[!-\[\]-~]{1,2048}", path):
        return False
    try:
        parts = urlsplit(path)
        port = parts.port
    except ValueError:
        return False
    if parts.username is not None or _has_secret(path, f"{parts.query}&{parts.fragment}"):
        raise RequestRefused(
            f"The address of a LoRA at {parts.hostname} carries a key or a password, and a workflow is shared: use an "
            "address that works without one. Nothing was paid."
        )
    return port in (None, 443) and bool(_HOST.fullmatch(parts.hostname or ""))


def _has_secret(path: str, query: str) -> bool:
    names = [name for name, _ in parse_qsl(query.replace(";", "&"), keep_blank_values=True)]
    return bool(_TOKEN.search(path)) or any(map(_SECRET.search, names))


def is_hugging_face_id(path: str) -> bool:
    return bool(_HUGGING_FACE_ID.fullmatch(path))


def is_air_id(path: str) -> bool:
    return bool(_AIR_ID.fullmatch(path))


def is_address_or_hugging_face_id(path: str) -> bool:
    return is_hugging_face_id(path) or is_address(path)


def taken_by(
    label: str,
    request: GenerationRequest,
    is_taken: Callable[[str], bool],
    kinds: str,
    strengths: tuple[float, float],
    most: int = MOST_LORAS,
) -> tuple[Lora, ...]:
    """The request's LoRAs where the provider takes every one of them; raises Unsupported where it does not.

    A strength out of its range is not brought into it: it would be another picture.
    """
    low, high = strengths
    if len(request.loras) > most:
        raise Unsupported(f"{label} takes {most} LoRAs, not {len(request.loras)}.")
    for lora in request.loras:
        if not is_taken(lora.path):
            raise Unsupported(f"{label} takes {kinds}, and {_shown(lora.path)} is none.")
        if not low <= lora.strength <= high:
            raise Unsupported(f"{label} takes a LoRA's strength from {low:g} to {high:g}, not {lora.strength:g}.")
    return request.loras


def _shown(path: str) -> str:
    """Without what may be a secret, and with a sign for each that nobody sees."""
    seen = "".join(sign if sign.isprintable() else "�" for sign in path[:4096])
    return _TOKEN.sub("…", re.sub(r"//[^/@]*@|[?#].*", "…", seen))[:80]
