"""What a picture takes beyond the provider's own time, beside the same graph with a node that sleeps that long."""

import statistics

from api_graphs import PROVIDERS
from bench import _api

SECONDS = 1.0


def run(arguments):
    n = _api.rounds(arguments, 5)
    for provider in PROVIDERS:
        with _api.comfyui_and_standins(job_seconds=SECONDS) as (comfyui, _):
            ours, reference = [], []
            for turn in range(n + 1):
                api = _api.seconds(comfyui, _api.api_nodes(1, provider))
                graph = _api.ApiGraph()
                _api.probe(graph, "ProbeSleep", SECONDS)
                sleeping = _api.seconds(comfyui, graph)
                if turn:
                    ours.append(1000 * (api - SECONDS))
                    reference.append(1000 * (sleeping - SECONDS))
        median, floor = statistics.median(ours), statistics.median(reference)
        yield {
            "bench": f"api_overhead {provider}",
            "ours": round(median, 1),
            "reference": round(floor, 1),
            "ratio": round(median / floor, 3),
            "unit": "ms a picture above the provider's own time, beside a node that sleeps",
            "n": n,
            "device": "cpu",
        }
