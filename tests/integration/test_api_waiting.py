"""What was paid and no graph has got: listed with its picture, taken by the next run, put aside by a person."""

import io

import pytest
from api_graphs import ApiGraph
from comfyui import ComfyUIError, until
from PIL import Image


@pytest.fixture(autouse=True)
def quick(standins):
    standins["fal"].set(job_seconds=0.05, queue_seconds=0)


def waiting(comfyui, prompt: str) -> list[dict]:
    return [job for job in comfyui.get("/flux_krea/waiting").json() if job["prompt"] == prompt]


def ready(comfyui, prompt: str) -> dict:
    until(lambda: [job["state"] for job in waiting(comfyui, prompt)] == ["ready"])
    return waiting(comfyui, prompt)[0]


def submitted(comfyui, prompt: str) -> dict:
    """The job, as the list has it once its picture is there."""
    graph = ApiGraph("FluxKreaSubmit")
    graph.api("fal", prompt=prompt)
    comfyui.run(graph)
    return ready(comfyui, prompt)


def drawn(prompt: str, saved_as: str = "api") -> ApiGraph:
    """API Krea draws the seed itself."""
    graph = ApiGraph()
    graph.add("SaveImage", images=[graph.api("fal", prompt=prompt, seed=-1), 0], filename_prefix=saved_as)
    return graph


def test_a_drawn_seed_is_paid_once_until_a_graph_that_has_the_picture_ends_well(comfyui, standins):
    prompt = "a fence in the snow"
    with pytest.raises(ComfyUIError, match="outside the output folder"):
        comfyui.run(drawn(prompt, saved_as="../../elsewhere/x"))
    job = ready(comfyui, prompt)
    assert (job["pictures"], job["flags"]) == (1, [False])
    shown = comfyui.get(f"/flux_krea/waiting/{job['id']}/0")
    assert Image.open(io.BytesIO(shown.content)).format == "PNG"

    assert len(comfyui.pictures(comfyui.run(drawn(prompt)))) == 1
    assert standins["fal"].state()["billed"] == 1
    comfyui.run(drawn(prompt))  # a new wish, a new picture
    assert standins["fal"].state()["billed"] == 2
    until(lambda: not waiting(comfyui, prompt))


def test_what_was_submitted_waits_until_it_is_collected_by_the_lists_own_ticket(comfyui, standins):
    prompt = "left on the counter"
    job = submitted(comfyui, prompt)
    graph = ApiGraph()
    graph.shown(graph.add("FluxKreaCollect", ticket=job["ticket"]))
    assert len(comfyui.pictures(comfyui.run(graph))) == 1
    until(lambda: not waiting(comfyui, prompt))
    assert standins["fal"].state()["billed"] == 1


def test_a_person_puts_a_job_aside_and_its_picture_stays(comfyui, standins):
    prompt = "not this one"
    job = submitted(comfyui, prompt)
    foreign = comfyui.post("/flux_krea/waiting/put_aside", {"id": job["id"]}, headers={"Origin": "null"})
    assert foreign.status_code == 403 and waiting(comfyui, prompt)
    assert comfyui.post("/flux_krea/waiting/put_aside", {"id": job["id"]}).json() == {"put_aside": True}
    assert not waiting(comfyui, prompt)
    graph = ApiGraph()
    graph.api_shown("fal", prompt=prompt)
    comfyui.run(graph)
    assert standins["fal"].state()["billed"] == 1


@pytest.mark.parametrize("name", ["0" * 32 + "/0", "..%2f..%2fkeys.json/0", "x/99"])
def test_a_picture_that_is_not_there_is_not_found(comfyui, name):
    assert comfyui.post("/flux_krea/waiting/put_aside", {"id": 7}).status_code == 400
    with pytest.raises(Exception, match="404"):
        comfyui.get(f"/flux_krea/waiting/{name}")
