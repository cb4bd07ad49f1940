"""kill -9 of ComfyUI in every state of a job at every provider: the same runs afterwards deliver and pay nothing twice."""

import json
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest
from api_graphs import BLOCKING, PROVIDERS, ApiGraph, count
from comfyui import ComfyUI, ComfyUIError, until
from flux_krea.nodes.providers import providers

LONG = 240.0  # seconds: each state lasts until the kill, however slow the machine
STATES = {  # how the stand-ins behave while the jobs of a state are sent; what they have heard when it is reached
    "sending": ({}, "submit"),
    "queued": ({"queue_seconds": LONG, "job_seconds": 0.5}, "submit"),
    "generating": ({"queue_seconds": 0.0, "job_seconds": LONG}, "submit"),
    "downloading": ({"job_seconds": 0.05, "download_seconds": LONG}, "picture"),
}
ALL = [(state, provider) for state in STATES for provider in PROVIDERS]
# Where the paid call had been answered, or where the provider can be asked for a job whose answer was lost.
DELIVERED = [
    (state, provider)
    for state, provider in ALL
    if providers()[provider].find_lost or state == "downloading" or (provider not in BLOCKING and state != "sending")
]
TOLD = [cell for cell in ALL if cell not in DELIVERED]


def prompt_of(state: str, provider: str) -> str:
    return f"{state} at {provider} when the power went"


def paid(standin, prompt: str) -> int:
    return sum(job["billed"] for job in standin.state()["jobs"] if job["prompt"] == prompt)


def budget_graph() -> ApiGraph:
    graph = ApiGraph()
    for seed in range(8):
        graph.api_shown("replicate", prompt="on a budget", seed=seed + 1, max_cost_usd=0.05)
    return graph


def drawn_graph() -> ApiGraph:
    graph = ApiGraph()
    graph.api_shown("fal", prompt="a seed of its own", seed=-1)
    return graph


@pytest.fixture(scope="module")
def restarted(all_standins, tmp_path_factory):
    """A ComfyUI that was killed with a job in every state at every provider, and started again."""
    for standin in all_standins.values():
        standin.reset()
    server = ComfyUI(tmp_path_factory.mktemp("mortal"), arguments=("--cpu",), environment=all_standins.env)
    with server:
        with suppress(ComfyUIError):
            server.run(budget_graph())
        for state in STATES:
            send_all(server, all_standins, state)
        before = count(all_standins["fal"], "picture")
        server.queue(drawn_graph())
        until(lambda: count(all_standins["fal"], "picture") > before, 30)
        server.kill()
        server.found = journal_states(server.base)
        for standin in all_standins.values():
            standin.set(download_seconds=0.0, job_seconds=0.05, queue_seconds=0.0)
            standin.hurry()
        server.start()
        until(lambda: all(paid(all_standins[provider], prompt_of("sending", provider)) for provider in PROVIDERS), 30)
        time.sleep(0.5)  # the last of these jobs ends
        yield server


def journal_states(base: Path) -> dict[str, str]:
    """Prompt → the state of its job on disk."""
    (path,) = (base / "user").rglob("journal.sqlite3")
    with closing(sqlite3.connect(path)) as journal:
        return {
            json.loads(request)["prompt"]: state
            for request, state in journal.execute("SELECT request, state FROM jobs")
        }


def on_disk(state: str, provider: str) -> str:
    if state == "downloading":
        return "delivered"
    return "sending" if state == "sending" or provider in BLOCKING else "accepted"


def send_all(server: ComfyUI, standins, state: str) -> None:
    """Returns when every provider has its job in this state."""
    settings, heard = STATES[state]
    graph = ApiGraph("FluxKreaSubmit")
    for provider in PROVIDERS:
        standins[provider].set(**settings)
        if state == "sending":
            standins[provider].fault("submit", "hang", 1, seconds=LONG, prompt="sending")
        graph.api(provider, prompt=prompt_of(state, provider))
    before = {provider: count(standins[provider], heard) for provider in PROVIDERS}
    server.run(graph)
    until(lambda: all(count(standins[provider], heard) > before[provider] for provider in PROVIDERS), 30)
    time.sleep(0.3)  # an answer that is on its way arrives


def test_the_kill_came_in_every_state(restarted):
    found = {cell: restarted.found[prompt_of(*cell)] for cell in ALL}
    assert found == {cell: on_disk(*cell) for cell in ALL}


def test_what_the_provider_can_still_hand_out_is_delivered_and_was_paid_once(restarted, all_standins):
    graph = ApiGraph()
    for state, provider in DELIVERED:
        graph.api_shown(provider, prompt=prompt_of(state, provider))
    history = restarted.run(graph)
    assert len(restarted.pictures(history)) == len(DELIVERED)
    assert {cell: paid(all_standins[cell[1]], prompt_of(*cell)) for cell in DELIVERED} == dict.fromkeys(DELIVERED, 1)


@pytest.mark.parametrize("state, provider", TOLD)
def test_where_it_cannot_the_user_is_told_before_any_second_payment(restarted, all_standins, state, provider):
    graph = ApiGraph()
    graph.api_shown(provider, prompt=prompt_of(state, provider))
    with pytest.raises(ComfyUIError, match="perhaps pay twice, .*change the seed or switch reuse off"):
        restarted.run(graph)
    assert paid(all_standins[provider], prompt_of(state, provider)) == 1


def test_a_seed_that_the_node_drew_is_not_drawn_and_paid_again(restarted, all_standins):
    assert len(restarted.pictures(restarted.run(drawn_graph()))) == 1
    assert paid(all_standins["fal"], "a seed of its own") == 1


def test_a_nodes_limit_holds_in_the_run_after_a_restart_and_what_was_paid_costs_nothing(restarted, all_standins):
    with pytest.raises(ComfyUIError, match="max_cost_usd, for all API nodes of the run, is \\$0.05"):
        restarted.run(budget_graph())
    assert paid(all_standins["replicate"], "on a budget") == 4  # two in each run
