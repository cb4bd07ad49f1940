"""Graphs with API Krea, for the tests and benches that run it against the stand-ins."""

from __future__ import annotations

from pathlib import Path

from graphs import Graph
from standins import PROVIDERS as STANDINS

PROVIDER_FILES = Path(__file__).parents[2] / "nodes" / "providers"
PROVIDERS = tuple(name for name in STANDINS if (PROVIDER_FILES / f"{name}.py").exists())
PHASES = {name: {route.phase for route in STANDINS[name].routes} for name in PROVIDERS}
BLOCKING = tuple(name for name in PROVIDERS if "poll" not in PHASES[name])  # their paid call answers with the picture
STOPPABLE = tuple(name for name in PROVIDERS if "cancel" in PHASES[name])
PROMPT = "a red fox in the snow"


class ApiGraph(Graph):
    def __init__(self, api_class: str = "FluxKreaAPI"):
        self.api_class = api_class

    def api(self, provider: str, **changes) -> str:
        """API Krea, with values that every provider takes."""
        values = {
            "provider": provider, "prompt": PROMPT, "image_use": "image to image", "strength": 0.8, "width": 512,
            "height": 512, "steps": 12, "guidance": 4.0, "seed": 41, "images": 1, "acceleration": "none",
            "safety_checker": True, "output_format": "png", "quality": 90, "max_cost_usd": -1.0, "reuse": True,
            "extra": "",
        }  # fmt: skip
        return self.add(self.api_class, **{**values, **changes})

    def shown(self, node: str) -> str:
        return self.add("SaveImage", images=[node, 0], filename_prefix="api")

    def api_shown(self, provider: str, **changes) -> str:
        """API Krea whose picture is saved; the id of API Krea."""
        node = self.api(provider, **changes)
        self.shown(node)
        return node


def count(standin, phase: str) -> int:
    """Requests of a phase, such as submit or poll, that the stand-in has heard."""
    return sum(entry["phase"] == phase for entry in standin.state()["requests"])
