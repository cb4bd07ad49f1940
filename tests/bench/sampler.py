"""Krea Sampler beside FluxGuidance + KSampler: the same picture, so the time should be the same."""

from bench import _pairs
from graphs import Graph

STEPS = 6


def run(arguments):
    with _pairs.server() as comfyui:

        def timed(ours: bool, turn: int) -> float:
            graph = Graph()
            loader = graph.loader()
            positive = graph.text([loader, 1], "a red fox")
            settings = {"seed": 1000 + turn, "steps": STEPS, "scheduler": "simple"}
            latent = graph.size(128, 128)
            if ours:
                sampled = graph.sampler([loader, 0], positive, latent, **settings)
            else:
                sampled = graph.core_sampler([loader, 0], positive, positive, latent, **settings)
            graph.add("ProbeCompare", a=sampled, b=sampled)
            return _pairs.seconds_in(comfyui, graph, ("FluxKreaSampler", "KSampler")) / STEPS

        unit = "s a step, 128 x 128, 1+1 blocks"
        yield _pairs.paired("sampler", lambda turn: timed(True, turn), lambda turn: timed(False, turn), 7, unit)
