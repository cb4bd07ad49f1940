"""Eight API nodes whose pictures take 3 s to arrive, beside one such node."""

from bench import _api, _pairs


def run(arguments):
    with _api.comfyui_and_standins(job_seconds=0.5, download_seconds=3.0) as (comfyui, _):

        def graph_of(count: int):
            return lambda turn: _api.seconds(comfyui, _api.api_nodes(count))

        unit = "s, 8 nodes and 1, pictures of 3 s"
        yield _pairs.paired("api_slow_download", graph_of(8), graph_of(1), _api.rounds(arguments, 5), unit)
