"""Stand-in providers: five real HTTP servers on loopback that hold to each provider's contract.

They count what they would bill and misbehave on request. They are an independent reading of the contracts and import
nothing of the pack.
"""

from .pictures import expected_pixel
from .server import PROVIDERS, Standin

__all__ = ["PROVIDERS", "Standin", "Standins", "expected_pixel", "start_all"]


class Standins(dict[str, Standin]):
    """The five by name; `env` is what the pack needs to talk to all of them. Closes them as a context manager."""

    @property
    def env(self) -> dict[str, str]:
        return {name: value for standin in self.values() for name, value in standin.env.items()}

    def __enter__(self) -> "Standins":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for standin in self.values():
            standin.close()


def start_all(**settings) -> Standins:
    """Starts one of each on free ports; `settings` go to all of them."""
    return Standins({name: Standin(name, **settings) for name in PROVIDERS})
