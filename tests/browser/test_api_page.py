"""API Krea and the list of paid jobs, as a user meets them on the page, against stand-in providers."""

import pytest
from page_driver import (
    RUN,
    VALUES,
    WIDGETS,
    api_flow,
    graph_of,
    load,
    saved,
    screen,
    set_value,
    shown,
    until,
    wait_for_text,
)

TITLE = 30  # pixels; the Vue renderer of 1.32 counts the title in when it loads a node and not when it saves it


@pytest.fixture(autouse=True)
def quick(standins):
    for standin in standins.values():
        standin.set(job_seconds=0.2, queue_seconds=0)


@pytest.mark.parametrize(
    "provider, hidden",
    [
        ("auto", set()),
        ("fal", {"image_use", "strength", "quality"}),
        ("replicate", {"image_use", "strength"}),
        ("one_min", {"image_use", "strength", "output_format"}),
    ],
)
def test_only_what_the_provider_knows_is_shown_and_all_values_are_kept(page, renderer, provider, hidden):
    load(page, api_flow())
    before = graph_of(page)["1"]["inputs"]
    set_value(page, "provider", provider)
    page.wait_for_timeout(300)
    assert set(WIDGETS) - shown(page) == hidden
    if renderer == "vue":
        on_page = page.locator("[data-node-id='1']").inner_text()
        assert ("quality" in on_page) == ("quality" not in hidden)
    assert graph_of(page)["1"]["inputs"] == {**before, "provider": provider}
    page.screenshot(path=screen(f"api-{provider}-{renderer}.png"))


def test_a_wired_image_brings_its_widgets_and_its_mode(page):
    load(page, api_flow(provider="fal"))
    page.evaluate(
        """() => {
          const image = LiteGraph.createNode("LoadImage"); app.graph.add(image);
          const api = app.graph.getNodeById(1);
          image.connect(0, api, api.inputs.findIndex((input) => input.name == "image"));
        }"""
    )
    page.wait_for_timeout(300)
    assert {"image_use", "strength"} <= shown(page) and not {"width", "height"} & shown(page)
    set_value(page, "image_use", "redux")
    page.wait_for_timeout(300)
    assert not {"prompt", "strength"} & shown(page) and {"image_use", "width"} <= shown(page)


def test_the_estimate_follows_every_change_and_says_what_will_be_changed(page):
    load(page, api_flow(provider="fal"))
    wait_for_text(page, "≈ $0.025, 1024 × 1024 (1.05 MP) at fal")
    set_value(page, "height", 2048)
    assert "guidance" not in wait_for_text(page, "≈ $0.05, 1024 × 2048 (2.10 MP) at fal")
    set_value(page, "guidance", 0.5)
    wait_for_text(page, "guidance 0.5 → 1: fal takes 1 to 20")
    set_value(page, "max_cost_usd", 0.01)
    wait_for_text(page, "max_cost_usd is 0.01: the run will be refused.")
    set_value(page, "extra", "not JSON")
    wait_for_text(page, "extra is not JSON")


def test_values_and_size_survive_saving_and_opening_again(page):
    load(page, api_flow(provider="fal", guidance=3.5, prompt="two foxes", quality=77))
    wait_for_text(page, "at fal")
    before, workflow = graph_of(page), saved(page)
    assert workflow["nodes"][0]["widgets_values"][: len(WIDGETS)] == list(
        {**VALUES, "provider": "fal", "guidance": 3.5, "prompt": "two foxes", "quality": 77}.values()
    )
    assert len(workflow["nodes"][0]["widgets_values"]) == len(WIDGETS)  # no box and no button is saved
    workflow["nodes"][0]["size"] = [420, 1300]
    load(page, workflow)
    wait_for_text(page, "at fal")
    assert graph_of(page) == before
    width, height = saved(page)["nodes"][0]["size"]
    assert width == 420 and abs(height - 1300) <= TITLE  # the room that a user gave stays


@pytest.mark.parametrize("type", ["FluxKreaAPI", "FluxKreaSubmit"])
def test_a_run_shows_its_report_and_is_saved_without_it(page, standins, renderer, type):
    seed = {"canvas": 7100, "vue": 7200}[renderer] + len(type)
    load(page, api_flow(type, provider="fal", seed=seed))
    assert page.evaluate(RUN) == "execution_success: "
    if type == "FluxKreaSubmit":
        assert wait_for_text(page, "fal/").startswith("fal/")
    else:
        report = wait_for_text(page, f"seed {seed}")
        assert report.startswith("fal · 1 × 1024 × 1024")
        assert "1 not flagged" in report
    page.screenshot(path=screen(f"{type}-{renderer}-done.png"))
    assert standins["fal"].state()["billed"] == 1
    values = graph_of(page)["1"]["inputs"]
    load(page, saved(page))
    assert graph_of(page)["1"]["inputs"] == values
    assert not wait_for_text(page, "at fal").count(f"seed {seed}")


def test_cancel_on_the_page_cancels_at_the_provider(page, standins, renderer):
    standins["fal"].set(job_seconds=20)
    load(page, api_flow(provider="fal", seed={"canvas": 7301, "vue": 7302}[renderer]))
    page.evaluate(f"() => {{ window.ended = ({RUN})() }}")
    until(lambda: standins["fal"].state()["requests"])
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Interrupt')")
    assert page.evaluate("() => window.ended") == "execution_interrupted: "
    until(lambda: standins["fal"].state()["cancels"])
