"""Stand-in providers: real HTTP servers on loopback that hold to each provider's contract.

They count what they would bill and misbehave on request. They are an independent reading of the contracts and import
nothing of the pack.
"""

from .pictures import expected_pixel
from .server import PROVIDERS, Standin

__all__ = ["PROVIDERS", "Standin", "Standins", "expected_pixel", "start_all"]


class Standins(dict[str, Standin]):
    """All by name; `env` is what the pack needs to talk to them. Closes them as a context manager."""

    @property
    def env(self) -> dict[str, str]:
        keys = {name: value for standin in self.values() for name, value in standin.env.items()}
        # Hundreds of jobs are paid here in a day; tests of the limits set their own.
        return {**keys, "FLUX_KREA_MAX_COST_USD": "100", "FLUX_KREA_MAX_COST_USD_24H": "10000"}

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
