"""An API node of 4 s beside local work that holds ComfyUI's event loop for 4 s, and that local work alone."""

from bench import _api, _pairs

SECONDS = 4.0


def run(arguments):
    with _api.comfyui_and_standins(job_seconds=SECONDS) as (comfyui, _):

        def both(turn: int) -> float:
            graph = _api.api_nodes(1)
            _api.probe(graph, "ProbeBlock", SECONDS)
            return _api.seconds(comfyui, graph)

        def local(turn: int) -> float:
            graph = _api.ApiGraph()
            _api.probe(graph, "ProbeBlock", SECONDS)
            return _api.seconds(comfyui, graph)

        unit = "s, an API node of 4 s beside 4 s of local work"
        yield _pairs.paired("api_overlap", both, local, _api.rounds(arguments, 5), unit)
