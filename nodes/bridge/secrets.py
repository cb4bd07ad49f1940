"""What must not get into a file that people share: keys, and addresses that carry a signature."""

from __future__ import annotations

import json
import re
from typing import Any

from ..jobs.keys import HIDDEN, Keys

KEY_SHAPES = re.compile(
    r"\br8_\w{30,}|\blmnfl_[\w.-]{16,}|\bcdt_\w{16,}|\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}:[0-9a-f]{32}\b"
)
# JSON on top of JSON may write an address's & as \u0026; any other backslash ends it.
ADDRESS = re.compile(r"(?:https?|wss?|ftps?|s3|gs)://(?:[^\s\"'<>\\]|\\+u0026)+", re.IGNORECASE)
SIGNATURE = re.compile(
    r"(?:(?<=[?&;#])|(?<=u0026))((?:X-Amz-|X-Goog-)?(?:Signature|Credential|Security-Token)|sig|token"
    r"|(?:access|auth|id)_token|auth|authorization|api[_-]?key|key)=[^&;#\\]+",
    re.IGNORECASE,
)
PASSWORD = re.compile(r"(?<=://)[^/@?#]+@")


def without_secrets(text: str, keys: Keys) -> str:
    """The text without any key that is known here or has a provider's own form, and with addresses unsigned.

    JSON stays JSON. What has none of these comes back as it is.
    """
    cleaned = _cleaned(text, keys)
    if cleaned == text or not text.startswith(("{", "[")):
        return cleaned
    try:
        told = json.loads(text)
    except (ValueError, RecursionError):
        return cleaned
    try:
        json.loads(cleaned)
        return cleaned
    except ValueError:  # a key all of digits stood in a number
        return json.dumps(_each_cleaned(told, keys))


def _each_cleaned(value: Any, keys: Keys) -> Any:
    if isinstance(value, dict):
        return {_cleaned(name, keys): _each_cleaned(one, keys) for name, one in value.items()}
    if isinstance(value, list):
        return [_each_cleaned(one, keys) for one in value]
    if isinstance(value, str):
        return _cleaned(value, keys)
    written = json.dumps(value)
    return value if _cleaned(written, keys) == written else HIDDEN


def _cleaned(text: str, keys: Keys) -> str:
    text = bytes(keys.without_keys(text.encode("utf-8", "surrogatepass"))).decode("utf-8", "surrogatepass")
    return ADDRESS.sub(_unsigned, KEY_SHAPES.sub(HIDDEN, text))


def _unsigned(found: re.Match[str]) -> str:
    address = SIGNATURE.sub(lambda part: f"{part[1]}={HIDDEN}", found[0])
    return PASSWORD.sub(f"{HIDDEN}@", address)
