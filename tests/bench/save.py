"""Krea Save, with sign and receipt but unsigned, beside core's Save Image: a batch of 16 at 1024 × 1024, as PNG."""

import json
import shutil

from bench import _pairs
from graphs import Graph

BATCH, SIDE = 16, 1024
WORKFLOW_KB = 40  # of a template with a note


def run(arguments):
    with _pairs.server() as comfyui:

        def timed(ours: bool, turn: int) -> float:
            shutil.rmtree(_pairs.BASE / "output", ignore_errors=True)
            (_pairs.BASE / "output").mkdir()
            graph = Graph()
            graph.add("CLIPTextEncode", clip=["9", 0], text="a red fox " * (WORKFLOW_KB * 100))
            images = [graph.add("ProbeImages", shape=json.dumps([BATCH, SIDE, SIDE, 3]), dtype="float32", wrong=""), 0]
            named = {"images": images, "filename_prefix": f"save_{turn}"}
            if ours:
                sign = {"embed_workflow": True, "sign": "made by AI"}
                graph.add("FluxKreaSave", **named, format="png", quality=90, **sign)
            else:
                graph.add("SaveImage", **named)
            return _pairs.seconds_in(comfyui, graph, ("FluxKreaSave", "SaveImage"))

        unit = f"s, {BATCH} images of {SIDE} × {SIDE}"
        yield _pairs.paired("save", lambda turn: timed(True, turn), lambda turn: timed(False, turn), 5, unit)
