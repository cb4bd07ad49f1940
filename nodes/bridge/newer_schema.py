"""What newer ComfyUIs let a node say about itself, and 0.3.75 does not know: search words, the shelf, advanced inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def if_known(kind: Callable[..., Any], **words: Any) -> dict[str, Any]:
    """Those of the keyword arguments that this ComfyUI's `kind` takes; an older one goes without the others."""
    known = inspect.signature(kind).parameters
    return {name: value for name, value in words.items() if name in known}


def found_by(schema: Callable[..., Any], words: str, shelf: str | None = None) -> dict[str, Any]:
    """For `io.Schema`: what people type when they look for the node, with commas between, and its Essentials shelf."""
    return if_known(schema, search_aliases=words.split(", "), essentials_category=shelf)
