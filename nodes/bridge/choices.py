"""A combo's value, checked where it is used: ComfyUI 0.3.75 does not check it, and no version checks a wired one."""

from __future__ import annotations

from collections.abc import Iterable


def check_choice(name: str, value: object, allowed: Iterable[str], error: type[Exception] = ValueError) -> None:
    """Raises `error` with the value that is wrong and those that are right."""
    names = list(allowed)
    if value not in names:
        raise error(f"{name} is {value!r:.80}; it can be {', '.join(names)}.")
