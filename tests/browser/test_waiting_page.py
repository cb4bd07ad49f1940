"""The list of what was paid and no graph has got: pictures, words, and the way back into the graph."""

import pytest
from page_driver import RUN, api_flow, load, screen, until

TOGGLE = "() => app.extensionManager.sidebarTab.toggleSidebarTab('flux_krea.waiting')"
CARD = ".flux-krea-waiting article"
SEEN = "() => [...document.querySelectorAll('.flux-krea-waiting img')].some((image) => image.naturalWidth > 0)"


@pytest.fixture
def ready(comfyui, page, standins, request):
    """The card of a job that is finished; below it, one of a job that goes on for long."""
    for state, seconds in (("ready", 0.05), ("under way", 60)):
        standins["fal"].set(job_seconds=seconds, queue_seconds=0)
        prompt = f"a fox, {state}: {request.node.name}"
        load(page, api_flow("FluxKreaSubmit", provider="fal", prompt=prompt))
        assert page.evaluate(RUN) == "execution_success: "
        until(lambda job=(prompt, state): job in waiting(comfyui))
    page.evaluate(TOGGLE)
    return page.locator(CARD, has_text=f"ready: {request.node.name}")


def waiting(comfyui) -> list[tuple[str, str]]:
    return [(job["prompt"], job["state"]) for job in comfyui.get("/flux_krea/waiting").json()]


def test_what_waits_is_shown_and_comes_into_the_graph(page, renderer, request, ready):
    ready.get_by_text("fal · ready").wait_for()
    page.wait_for_function(SEEN)
    under_way = page.locator(CARD, has_text=f"under way: {request.node.name}")
    assert "fal · under way" in under_way.inner_text()
    assert under_way.get_by_role("button", name="Put aside").is_disabled()
    page.screenshot(path=screen(f"waiting-{renderer}.png"))

    ready.get_by_role("button", name="Collect in this graph").press("Enter")
    assert page.evaluate("() => app.graph.nodes.map((n) => n.comfyClass)")[1:] == ["FluxKreaCollect", "SaveImage"]
    page.evaluate("() => app.graph.remove(app.graph.nodes[0])")  # Submit, which would run again
    assert page.evaluate(RUN) == "execution_success: "
    ready.wait_for(state="detached")
    page.screenshot(path=screen(f"waiting-{renderer}-collected.png"))


def test_what_nobody_wants_is_put_aside(comfyui, page, request, ready):
    ready.get_by_role("button", name="Put aside").press("Enter")
    ready.wait_for(state="detached")
    states = [state for prompt, state in waiting(comfyui) if prompt.endswith(request.node.name)]
    assert states == ["under way"]
