"""Eight API nodes of 2 s in one graph, beside eight nodes that only sleep as long: what ComfyUI itself can do."""

from bench import _api, _pairs

SECONDS, NODES = 2.0, 8


def run(arguments):
    with _api.comfyui_and_standins(job_seconds=SECONDS) as (comfyui, _):

        def ours(turn: int) -> float:
            return _api.seconds(comfyui, _api.api_nodes(NODES))

        def sleeping(turn: int) -> float:
            graph = _api.ApiGraph()
            for _ in range(NODES):
                _api.probe(graph, "ProbeSleep", SECONDS)
            return _api.seconds(comfyui, graph)

        yield _pairs.paired("api_parallel", ours, sleeping, _api.rounds(arguments, 5), "s, 8 nodes of 2 s")
