"""What API Krea Submit hands to API Krea Collect: `fal/HASH/HASH`, and with `auto` one such choice a provider, by `|`.

A name is the hash of a payload, or the id of one job. A ticket is no secret.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """The calls that one provider was, or could have been, asked for."""

    provider_id: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return "/".join((self.provider_id, *self.names))


@dataclass(frozen=True)
class Ticket:
    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        return "|".join(map(str, self.choices))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for choice in self.choices for name in choice.names)

    @classmethod
    def parse(cls, text: str) -> Ticket:
        """Any text is a ticket; one that nobody wrote names no job."""
        parts = [choice.split("/") for choice in text.strip().split("|")]
        return cls(tuple(Choice(provider_id, tuple(names)) for provider_id, *names in parts))
