"""What the benches of API Krea share: a ComfyUI beside the stand-ins, and the wall time of a graph."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from api_graphs import ApiGraph
from comfyui import ComfyUI, link_folder
from standins import Standins, start_all

PROBE = Path(__file__).parents[1] / "integration" / "probe"


@contextmanager
def comfyui_and_standins(**settings) -> Iterator[tuple[ComfyUI, Standins]]:
    with tempfile.TemporaryDirectory() as folder, start_all(**settings) as standins:
        comfyui = ComfyUI(Path(folder), arguments=("--cpu",), environment=standins.env)
        comfyui.prepare()
        link_folder(comfyui.base / "custom_nodes" / "probe", PROBE)
        with comfyui:
            yield comfyui, standins


def seconds(comfyui: ComfyUI, graph: ApiGraph) -> float:
    began = time.perf_counter()
    comfyui.run(graph)
    return time.perf_counter() - began


def api_nodes(count: int, provider: str = "fal") -> ApiGraph:
    graph = ApiGraph()
    for _ in range(count):
        preview(graph, graph.api(provider, seed=random.randrange(1, 2**31)))
    return graph


def preview(graph: ApiGraph, node: str) -> None:
    graph.add("PreviewImage", images=[node, 0])


def probe(graph: ApiGraph, class_type: str, seconds: float) -> None:
    """A node that waits, and shows a picture of the size that the API nodes show."""
    preview(graph, graph.add(class_type, seconds=seconds, again=random.randrange(2**31)))


def rounds(arguments: list[str], default: int) -> int:
    return int(arguments[0]) if arguments else default
