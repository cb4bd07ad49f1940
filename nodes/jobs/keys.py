"""The providers' keys: from the environment, else from keys.json in the private folder. And what hides them in texts.

Only the client is handed a key. The page learns where a key comes from, never the key.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from mmap import mmap
from pathlib import Path

from ..providers.contract import KeyRefused, Provider
from . import environment, key_patterns
from .limits import write_private_json

FROM_ENVIRONMENT, FROM_FILE, MISSING = "environment", "file", "missing"

LONGEST_MESSAGE = 600  # characters; a provider's error may echo a whole picture
HIDDEN = "[hidden]"
MARKS = re.compile(
    r"\b(?:Key|Bearer|Basic)\s+[^\s\"']{12,}"
    r"|\br8_\w+|\blmnfl_[\w.\-]+|\bcdt_\w+"
    r"|\b[0-9a-f-]{36}:[0-9a-f]{16,}"
    r"|(?<=X-Amz-Signature=)[^&\s\"']+|(?<=X-Amz-Credential=)[^&\s\"']+"
    r"|(?<=X-Amz-Security-Token=)[^&\s\"']+"
    r"|(?<=;base64,)[A-Za-z0-9+/=_\-]{16,}",
    re.IGNORECASE,
)


class Keys:
    def __init__(self, folder: Path, providers: Mapping[str, Provider]):
        self._path = Path(folder) / "keys.json"
        self._providers = providers
        self._lock = threading.Lock()

    def get(self, provider_id: str) -> str | None:
        """For the client only."""
        key = self._environment(provider_id) or _clean(self._stored().get(provider_id, ""))
        if key and not (key.isascii() and key.isprintable() and " " not in key):
            label = self._providers[provider_id].label
            raise KeyRefused(f"The {label} key has a space or a sign no key has. Copy it again, whole and alone.")
        return key or None

    def state(self, provider_id: str) -> str:
        if self._environment(provider_id):
            return FROM_ENVIRONMENT
        return FROM_FILE if self._stored().get(provider_id) else MISSING

    def set(self, provider_id: str, key: str) -> None:
        key = _clean(key)
        if not key:
            raise KeyRefused("The key is empty. To take a stored key away, remove it.")
        with self._lock:
            write_private_json(self._path, {**self._stored(), provider_id: key})

    def remove(self, provider_id: str) -> None:
        with self._lock:
            write_private_json(self._path, {name: key for name, key in self._stored().items() if name != provider_id})

    def without_keys(self, content: bytes | mmap) -> bytes | mmap:
        """An answer without any key that is known here, whichever provider it belongs to: also where it is split by
        white space, escaped, or written in hex or base64. Done before anything is cut out of the answer.

        The inside of a long run of base64 is left alone: it is a picture, of which no byte may change and which is shown
        to nobody. The very object is returned where nothing was found.
        """
        return key_patterns.hidden(content, tuple(self._known()), HIDDEN.encode())

    def redacted(self, text: str) -> str:
        """A text fit to be shown: no known key, nothing that looks like one, and short."""
        text = MARKS.sub(HIDDEN, bytes(self.without_keys(text.encode("utf-8", "replace"))).decode("utf-8", "replace"))
        return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"

    def _known(self) -> Iterator[str]:
        known = {self._environment(name) for name in self._providers} | set(self._stored().values())
        return (key for key in sorted(known, key=len, reverse=True) if len(key) >= 4)

    def _environment(self, provider_id: str) -> str:
        provider = self._providers.get(provider_id)
        return _clean(environment.variable(provider.key_variable)) if provider else ""

    def _stored(self) -> dict[str, str]:
        """An unreadable file counts as empty: the node then says that the key is missing and where to set it."""
        try:
            stored = json.loads(self._path.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(stored, dict):
            return {}
        return {name: key for name, key in stored.items() if isinstance(key, str) and key}


def _clean(key: str) -> str:
    """People paste keys with the quotes and spaces of the shell line they came from."""
    return key.strip().strip("\"'").strip()
