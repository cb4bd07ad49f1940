"""Cancel, whatever a job is waiting for: ComfyUI is free while the fault goes on, and what can be stopped is stopped."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from api_graphs import ApiGraph, count
from comfyui import ComfyUIError, until
from graphs import Graph

STATES = {
    "a submit that hangs": ("fal", "submit", "black_hole", {}),
    "a blocking submit that hangs": ("one_min", "submit", "black_hole", {}),
    "a provider that is too busy": ("replicate", "submit", "status", {"status": 429, "retry_after": 20}),
    "a picture that trickles": ("lumenfall", "picture", "slow", {"seconds": 60}),
    "a poll that is never answered": ("core_today", "poll", "black_hole", {}),
    "a poll that fails and fails": ("replicate", "poll", "status", {"status": 500}),
}


@pytest.fixture
def in_background():
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit


def interrupt(comfyui, running) -> None:
    comfyui.post("/interrupt", {}).raise_for_status()
    with pytest.raises(ComfyUIError, match="interrupted"):
        running.result(30)


def run_something_else(comfyui) -> None:
    graph = Graph()
    image = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=random.randrange(2**24))
    graph.add("PreviewImage", images=[image, 0])
    assert comfyui.run(graph, seconds=30)["status"]["status_str"] == "success"


@pytest.mark.parametrize("state", STATES)
def test_cancel_frees_comfyui_while_the_fault_goes_on(comfyui, standins, in_background, state):
    provider, phase, kind, options = STATES[state]
    standins[provider].fault(phase, kind, None, **options)
    graph = ApiGraph()
    graph.api_shown(provider, prompt=state)
    running = in_background(comfyui.run, graph)
    until(lambda: count(standins[provider], phase), 15)
    interrupt(comfyui, running)
    run_something_else(comfyui)
    assert standins[provider].state()["faults"], "the fault was over before the next prompt ran"


@pytest.mark.parametrize("provider", ["fal", "replicate", "core_today"])
def test_a_job_cancelled_while_its_submit_is_in_flight_is_cancelled_once_accepted(
    comfyui, standins, in_background, provider
):
    standins[provider].set(job_seconds=30)
    standins[provider].fault("submit", "hang", 1, seconds=3)
    graph = ApiGraph()
    graph.api_shown(provider, prompt="in flight")
    running = in_background(comfyui.run, graph)
    until(lambda: count(standins[provider], "submit"), 15)
    interrupt(comfyui, running)
    assert not standins[provider].state()["accepted"]
    run_something_else(comfyui)
    until(lambda: standins[provider].state()["cancels"], 15)
    assert standins[provider].state()["cancels"][0]["effective"]


def test_cancel_during_local_work_stops_the_jobs_beside_it(comfyui, standins, in_background):
    standins["fal"].set(job_seconds=60)
    graph = ApiGraph()
    for seed in (1, 2):
        graph.api_shown("fal", prompt="beside local work", seed=seed)
    graph.add("PreviewImage", images=[graph.add("ProbeBlock", seconds=60.0, again=random.randrange(2**24)), 0])
    running = in_background(comfyui.run, graph)
    until(lambda: standins["fal"].state()["accepted"] == 2, 15)
    interrupt(comfyui, running)
    until(lambda: len(standins["fal"].state()["cancels"]) == 2, 15)
    run_something_else(comfyui)
