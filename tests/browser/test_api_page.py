"""API Krea and the list of paid jobs, as a user meets them on the page, against stand-in providers."""

import re

import pytest
from comfyui import until
from page_driver import (
    HIDDEN_WITHOUT_IMAGE,
    RUN,
    VALUES,
    WIDGETS,
    api_flow,
    flow,
    graph_of,
    load,
    node,
    saved,
    screen,
    set_value,
    shown,
    wait_for_text,
)

RANGE = """(name) => {
  const { min, max } = app.graph.getNodeById(1).widgets.find((w) => w.name == name).options; return [min, max];
}"""
CHOICES = "() => app.graph.getNodeById(1).widgets.find((w) => w.name == 'output_format').options.values"
TOOLTIP = "(name) => app.graph.getNodeById(1).widgets.find((w) => w.name == name).tooltip"
ON_CANVAS = """(name) => {
  const node = app.graph.getNodeById(1);
  const widget = node.widgets.find((w) => w.name == name);
  const [x, y] = app.canvas.ds.convertOffsetToCanvas([node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + 10]);
  const canvas = app.canvas.canvas.getBoundingClientRect();
  return [x + canvas.x, y + canvas.y];
}"""
AT_REST = """() => {
  const node = app.graph.getNodeById(1), bar = document.querySelector(".flux-krea-card .bar");
  return app.runningNodeId == null && node.progress == null && bar.hidden
    && !node.widgets.some((w) => w.name.includes("preview"));
}"""
PROMPT = "A red fox asleep on mossy stones in a birch forest, early morning fog, soft light, 35 mm photograph"
ADD = """() => {
  const node = LiteGraph.createNode("FluxKreaAPI");
  node.showAdvanced = true;
  app.graph.add(node);
}"""
ROWS = """() => {
  const node = app.graph.getNodeById(1);
  const drawn = node.widgets.filter((w) => !w.hidden && w.type != "hidden" && node.isWidgetVisible(w));
  return Object.fromEntries(drawn.map((w) => [w.name, w.y]));
}"""
HEIGHT = "() => app.graph.getNodeById(1).size[1]"
FIRST_ROWS = {
    "provider",
    "prompt",
    "width",
    "height",
    "seed",
    "control_after_generate",
    "images",
    "lora_list",
    "report",
}
FOLD = "Advanced inputs"  # the canvas renderer's button
TITLE = 30  # pixels; the Vue renderer of 1.32 counts the title in when it loads a node and not when it saves it


@pytest.fixture(autouse=True)
def quick(standins):
    for standin in standins.values():
        standin.set(job_seconds=0.2, queue_seconds=0)


@pytest.mark.parametrize("origin", ["loaded", "added"])
def test_only_what_the_provider_knows_is_shown_and_all_values_are_kept(page, renderer, origin):
    load(page, api_flow() if origin == "loaded" else flow())
    if origin == "added":
        page.evaluate(ADD)
        page.wait_for_timeout(300)
    set_value(page, "output_format", "jpeg")
    before = graph_of(page)["1"]["inputs"]
    for provider, hidden in {
        "auto": set(),
        "fal": {"quality"},
        "replicate": set(),
        "one_min": {"output_format"},
    }.items():
        set_value(page, "provider", provider)
        page.wait_for_timeout(300)
        assert set(WIDGETS) - shown(page) == hidden | HIDDEN_WITHOUT_IMAGE, provider
        if renderer == "vue":
            on_page = page.locator("[data-node-id='1']").inner_text()
            assert ("quality" in on_page) == ("quality" not in hidden), provider
        assert graph_of(page)["1"]["inputs"] == {**before, "provider": provider}
        page.screenshot(path=screen(f"api-{provider}-{renderer}.png"))
    set_value(page, "provider", "replicate")
    set_value(page, "output_format", "png")
    assert set(WIDGETS) - shown(page) == {"quality"} | HIDDEN_WITHOUT_IMAGE


def test_the_rarer_inputs_are_folded_away_where_the_page_can_fold(comfyui, page, renderer):
    load(page, flow(node(1, "FluxKreaAPI", (240, 200), VALUES.values(), size=(360, 100))))
    api = comfyui.object_info()["FluxKreaAPI"]["input"]
    said = {**api["required"], **api["optional"]}
    rarer = {name for name in said if said[name][1].get("advanced")} - {"quality"}  # which has no effect on png
    assert not rarer & FIRST_ROWS
    on_page = page.locator("[data-node-id='1']")
    if renderer == "canvas":
        rows, height = page.evaluate(ROWS), page.evaluate(HEIGHT)
        assert set(rows) == FIRST_ROWS | (set() if not rarer else {FOLD}) | (set(WIDGETS) & shown(page) - rarer)
        for above, below in zip(sorted(rows.values()), sorted(rows.values())[1:], strict=False):
            assert below > above, rows
        if rarer:
            assert rows["seed"] - rows["height"] == rows["height"] - rows["width"]  # no gap where steps would be
            page.mouse.click(*place_of(page, renderer, FOLD))
            page.wait_for_timeout(300)
            assert set(page.evaluate(ROWS)) == set(rows) | rarer
            assert page.evaluate(HEIGHT) > height + 24 * (len(rarer) - 1)
            page.screenshot(path=screen("advanced-canvas.png"))
            again = saved(page)
            page.mouse.click(*place_of(page, renderer, FOLD))
            page.wait_for_timeout(300)
            assert page.evaluate(ROWS) == rows and page.evaluate(HEIGHT) == height
            load(page, again)  # what was unfolded stays so in the file
            assert set(page.evaluate(ROWS)) == set(rows) | rarer
    elif rarer:
        assert not rarer & set(on_page.inner_text().split())
        on_page.get_by_role("button", name="Show advanced inputs").press("Enter")
        page.wait_for_function("() => document.querySelector(`[data-node-id='1']`).innerText.includes('guidance')")
        assert rarer - {"extra"} <= set(on_page.inner_text().split())


def test_the_provider_narrows_what_can_be_entered_and_changes_no_value_by_itself(page, renderer):
    load(page, api_flow(provider="fal", guidance=30, output_format="avif"))
    assert page.evaluate(RANGE, "guidance") == [1, 30]  # fal takes 20, and the value stays in reach
    assert page.evaluate(CHOICES) == ["png", "jpeg", "webp", "avif"]
    set_value(page, "provider", "replicate")
    assert page.evaluate(RANGE, "guidance") == [0, 30]
    set_value(page, "provider", "auto")
    assert page.evaluate(RANGE, "guidance") == [0, 50]
    assert page.evaluate(CHOICES) == ["png", "jpeg", "webp", "avif", "gif"]
    set_value(page, "provider", "fal")
    look_at(page, renderer, "guidance")
    load(page, saved(page))
    values = graph_of(page)["1"]["inputs"]
    assert (values["guidance"], values["output_format"]) == (30, "avif")
    wait_for_text(page, "avif")  # the estimate says what becomes of it

    enter(page, renderer, "guidance", 7)
    assert page.evaluate(RANGE, "guidance") == [1, 20]
    enter(page, renderer, "guidance", 25)
    assert graph_of(page)["1"]["inputs"]["guidance"] == 20


def test_a_widgets_tooltip_speaks_the_providers_words_too(page, renderer):
    load(page, api_flow(provider="fal"))
    words = "fal: guidance_scale, 1 to 20; its own default is 4.5"
    assert page.evaluate(TOOLTIP, "guidance").splitlines()[1:] == [words]
    page.mouse.move(*place_of(page, renderer, "guidance"))
    tip = page.locator(
        ".node-tooltip, .p-tooltip, [data-testid=tooltip-content]", has_text="How closely to follow the prompt."
    )
    tip.wait_for()
    # The Vue renderer of 1.32 shows what all nodes of a type say, and nothing of a single node.
    assert words in tip.inner_text() or renderer == "vue"
    set_value(page, "provider", "auto")
    assert not page.evaluate(TOOLTIP, "guidance")


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
    load(page, api_flow(provider="fal", guidance=0.5, prompt=PROMPT))
    wait_for_text(page, "≈ $0.025, 1024 × 1024 (1.05 MP) at fal")
    wait_for_text(page, "guidance 0.5 → 1: fal takes 1 to 20")
    set_value(page, "guidance", 4)
    set_value(page, "height", 2048)
    assert "guidance" not in wait_for_text(page, "≈ $0.05, 1024 × 2048 (2.10 MP) at fal")
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
        assert report.splitlines()[1] == f"fal · 1 × 1024 × 1024 · seed {seed}"
        assert "1 not flagged" in report
    page.screenshot(path=screen(f"{type}-{renderer}-done.png"))
    until(lambda: standins["fal"].state()["billed"], 10)  # Submit's job goes on
    assert standins["fal"].state()["billed"] == 1
    values = graph_of(page)["1"]["inputs"]
    load(page, saved(page))
    assert graph_of(page)["1"]["inputs"] == values
    assert not wait_for_text(page, "at fal").count(f"seed {seed}")


def test_the_node_tells_the_queue_and_the_progress_while_it_runs_and_only_then(page, standins, renderer):
    standins["fal"].set(queue_seconds=4, job_seconds=4)  # long enough to be seen on a busy machine
    standins["replicate"].set(job_seconds=5)
    load(page, api_flow(provider="fal", seed={"canvas": 7401, "vue": 7402}[renderer]))
    start(page)
    page.get_by_text(re.compile("In fal's queue, [012] ahead")).wait_for()
    assert len(saved(page)["nodes"][0]["widgets_values"]) == len(WIDGETS)
    page.get_by_text("fal is generating").wait_for()
    page.screenshot(path=screen(f"progress-{renderer}.png"))
    assert page.evaluate("() => window.ended") == "execution_success: "
    page.wait_for_function(AT_REST)

    set_value(page, "provider", "replicate")
    start(page)
    page.wait_for_function("() => app.graph.getNodeById(1).progress > 0 && app.graph.getNodeById(1).progress < 1")
    assert page.evaluate("() => window.ended") == "execution_success: "
    page.wait_for_function(AT_REST)
    assert len(saved(page)["nodes"][0]["widgets_values"]) == len(WIDGETS)


def test_cancel_on_the_page_cancels_at_the_provider(page, standins, renderer):
    standins["fal"].set(job_seconds=20)
    load(page, api_flow(provider="fal", seed={"canvas": 7301, "vue": 7302}[renderer]))
    start(page)
    page.get_by_text("fal is generating").wait_for()
    page.get_by_role("button", name="Cancel current run").click()
    assert page.evaluate("() => window.ended") == "execution_interrupted: "
    until(lambda: standins["fal"].state()["cancels"])
    page.wait_for_function(AT_REST)


def start(page) -> None:
    page.evaluate(f"() => {{ window.ended = ({RUN})() }}")


def place_of(page, renderer, name) -> tuple[float, float]:
    if renderer == "canvas":
        return page.evaluate(ON_CANVAS, name)
    box = field_of(page, name).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def field_of(page, name):
    """A number's field in the Vue renderer; older ones name the frame around it."""
    return page.locator(f"[data-node-id='1'] :is(input[aria-label='{name}'], [aria-label='{name}'] input)").first


def look_at(page, renderer, name) -> None:
    """Goes into a number's field and out again."""
    if renderer == "canvas":
        page.mouse.click(*place_of(page, renderer, name))
        page.keyboard.press("Escape")
    else:
        field_of(page, name).focus()
        page.keyboard.press("Tab")


def enter(page, renderer, name, number) -> None:
    if renderer == "canvas":
        page.mouse.click(*place_of(page, renderer, name))
    else:
        field_of(page, name).focus()
    page.keyboard.press("Control+A")
    page.keyboard.type(str(number))
    page.keyboard.press("Enter" if renderer == "canvas" else "Tab")
    page.wait_for_timeout(300)
