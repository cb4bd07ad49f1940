"""Paired timing inside one running ComfyUI: ours, reference, reference, ours, … so that drift hits both alike."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path

import miniature
from comfyui import ROOT, ComfyUI, link_folder

BASE = ROOT / ".dev" / "bench"


def server(**options) -> ComfyUI:
    """A ComfyUI with miniature models and the tests' probe nodes."""
    miniature.write_set(BASE / "models")
    shutil.rmtree(BASE / "output", ignore_errors=True)
    comfyui = ComfyUI(BASE, arguments=("--cpu",), **options)
    comfyui.log_path.unlink(missing_ok=True)
    comfyui.prepare()
    link_folder(BASE / "custom_nodes" / "probe", Path(__file__).parents[1] / "integration" / "probe")
    return comfyui


def seconds_in(comfyui: ComfyUI, graph: dict, class_types: tuple[str, ...]) -> float:
    """Wall time that ComfyUI spends in nodes of these classes, from its own events."""
    spent, since = 0.0, None

    def watch(event):
        nonlocal spent, since
        if event["type"] not in ("executing", "execution_success"):
            return
        now = time.perf_counter()
        if since is not None:
            spent, since = spent + now - since, None
        node = str(event["data"].get("display_node") or event["data"].get("node"))
        if event["type"] == "executing" and graph.get(node, {}).get("class_type") in class_types:
            since = now

    comfyui.run(graph, on_event=watch)
    return spent


def paired(name: str, ours, reference, n: int, unit: str) -> dict:
    """Runs both `n` times in turn; each is a function of the round that returns seconds. The ratio is of medians."""
    ours(-1), reference(-1)
    times = {ours: [], reference: []}
    for turn in range(n):
        for side in (ours, reference) if turn % 2 else (reference, ours):
            times[side].append(side(turn))
    median = {side: statistics.median(values) for side, values in times.items()}
    return {
        "bench": name,
        "ours": round(median[ours], 4),
        "reference": round(median[reference], 4),
        "ratio": round(median[ours] / median[reference], 4),
        "unit": unit,
        "n": n,
        "device": "cpu",
    }
