"""The list of what was paid and no graph has got: pictures, words, and the way back into the graph."""

import zlib

import pytest
from comfyui import until
from page_driver import RUN, api_flow, load, screen, write_readme_picture

TOGGLE = "() => app.extensionManager.sidebarTab.toggleSidebarTab('flux_krea.waiting')"
LIST = ".flux-krea-waiting"
SEEN = f"() => [...document.querySelectorAll('{LIST} img')].some((image) => image.naturalWidth > 0)"


@pytest.fixture
def seed(request) -> int:
    return zlib.crc32(request.node.name.encode())


@pytest.fixture
def cards(comfyui, page, standins, seed):
    """Those of a job that is finished and of one that goes on for long."""
    for state, seconds, prompt in (("ready", 0.05, "a red fox in the snow"), ("under way", 60, "a harbour at dusk")):
        standins["fal"].set(job_seconds=seconds, queue_seconds=0)
        load(page, api_flow("FluxKreaSubmit", provider="fal", prompt=prompt, seed=seed))
        assert page.evaluate(RUN) == "execution_success: "
        until(lambda job=(seed, state): job in waiting(comfyui))
    page.evaluate(TOGGLE)
    both = page.locator(f"{LIST} article", has_text=f"seed {seed}")
    return both.filter(has_text="fal · ready"), both.filter(has_text="fal · under way")


def waiting(comfyui) -> list[tuple[int, str]]:
    return [(job["seed"], job["state"]) for job in comfyui.get("/flux_krea/waiting").json()]


def test_what_waits_is_shown_and_comes_into_the_graph(page, renderer, cards):
    ready, under_way = cards
    page.wait_for_function(SEEN)
    assert under_way.get_by_role("button", name="Put aside").is_disabled()
    page.screenshot(path=screen(f"waiting-{renderer}.png"))
    if renderer == "canvas":
        write_readme_picture(page, "waiting", page.locator(LIST).bounding_box())

    ready.get_by_role("button", name="Collect in this graph").press("Enter")
    assert page.evaluate("() => app.graph.nodes.map((n) => n.comfyClass)")[1:] == ["FluxKreaCollect", "SaveImage"]
    page.evaluate("() => app.graph.remove(app.graph.nodes[0])")  # Submit, which would run again
    assert page.evaluate(RUN) == "execution_success: "
    ready.wait_for(state="detached")
    page.screenshot(path=screen(f"waiting-{renderer}-collected.png"))


def test_what_nobody_wants_is_put_aside(comfyui, page, seed, cards):
    ready, _ = cards
    ready.get_by_role("button", name="Put aside").press("Enter")
    ready.wait_for(state="detached")
    assert [state for of, state in waiting(comfyui) if of == seed] == ["under way"]
