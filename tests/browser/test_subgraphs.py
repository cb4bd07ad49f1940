"""Our nodes inside subgraphs: the blueprints that come with the pack, and graphs that a user puts into one."""

from comfyui import until
from page_driver import (
    HIDDEN_WITHOUT_IMAGE,
    RUN,
    WIDGETS,
    accept_pictures,
    api_flow,
    close_dialog,
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

PROMPT = ":is(textarea.comfy-multiline-input, [data-node-id] textarea):visible"  # not the one of a panel beside it
CONVERT = """(ids) => {
  app.graph.convertToSubgraph(new Set(ids.map((id) => app.graph.getNodeById(id))));
}"""
HOST = "app.graph.nodes.find((node) => node.isSubgraphNode?.())"
ENTER = f"""(type) => {{
  const host = {HOST};
  app.canvas.openSubgraph(host.subgraph, host);
  return host.subgraph.nodes.find((node) => node.type == type).id;
}}"""

WIRE = f"""() => {{
  const host = {HOST}, image = host.inputs.findIndex((input) => input.type == "IMAGE");
  const add = (type, left) => {{
    const node = LiteGraph.createNode(type);
    node.pos = [host.pos[0] + left, host.pos[1]];
    app.graph.add(node);
    return node;
  }};
  host.connect(0, add("PreviewImage", 500), 0);
  if (image >= 0) add("LoadImage", -400).connect(0, host, image);
}}"""
PROMOTE = """([id, name]) => {
  const node = app.canvas.graph.getNodeById(id), slot = node.inputs.find((input) => input.name == name);
  app.canvas.graph.addInput(name, String(slot.type)).connect(slot, node);
}"""


def add_from_search(page, name: str) -> int:
    """As a user does: search, choose, and click where the node shall go; older pages put it down by themselves."""
    page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.wait_for_timeout(500)
    page.keyboard.type(name)
    page.wait_for_timeout(1000)
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => {HOST}")

    def is_put_down() -> bool:
        page.mouse.click(500, 250)
        return not page.evaluate(f"() => {HOST}.flags.ghost")

    until(is_put_down)
    return page.evaluate(f"() => {HOST}.id")


def inputs_of(graph: dict, type: str) -> dict:
    (inputs,) = (node["inputs"] for node in graph.values() if node["class_type"] == type)
    return inputs


def with_blueprint(page, name: str, prompt: str) -> dict:
    """A graph of the blueprint with a picture where it takes one; its values are set on the outside."""
    load(page, flow())
    host = add_from_search(page, name)
    page.evaluate(WIRE)
    page.locator(PROMPT).fill(prompt)
    set_value(page, "megapixels", 0.1, host)
    set_value(page, "steps", 1, host)
    set_value(page, "unet_name", "flux1-krea-dev.safetensors", host)
    graph = graph_of(page)
    assert inputs_of(graph, "CLIPTextEncode")["text"] == prompt
    assert inputs_of(graph, "FluxKreaSize")["megapixels"] == 0.1
    assert inputs_of(graph, "FluxKreaSampler")["steps"] == 1
    assert inputs_of(graph, "FluxKreaLoader")["unet_name"] == "flux1-krea-dev.safetensors"
    return graph


def test_a_blueprint_from_the_search_runs_with_what_is_set_on_the_outside(comfyui, page, renderer):
    before = with_blueprint(page, "Krea Text to Image", f"a red fox, {renderer}")
    assert page.evaluate(RUN) == "execution_success: "
    (run,) = comfyui.get("/history", max_items=1).json().values()
    assert inputs_of(run["prompt"][2], "FluxKreaSampler") == inputs_of(before, "FluxKreaSampler")
    (picture,) = comfyui.pictures(run)
    assert picture.stat().st_size
    page.screenshot(path=screen(f"blueprint-{renderer}.png"))
    after = graph_of(page)
    assert inputs_of(after, "FluxKreaSampler")["seed"] != inputs_of(before, "FluxKreaSampler")["seed"]
    load(page, saved(page))
    assert graph_of(page) == after


def test_the_redux_blueprint_takes_a_picture_and_a_strength_and_keeps_them(page, renderer):
    with_blueprint(page, "Krea Reference to Image (Redux)", f"a red fox, {renderer}")
    set_value(page, "strength", 0.7, page.evaluate(f"() => {HOST}.id"))
    graph = graph_of(page)
    redux = inputs_of(graph, "FluxKreaRedux")
    assert redux["strength"] == 0.7
    assert graph[redux["image"][0]]["class_type"] == "LoadImage"
    page.screenshot(path=screen(f"blueprint-redux-{renderer}.png"))
    load(page, saved(page))
    assert graph_of(page) == graph


def test_api_krea_in_a_subgraph_shows_its_estimate_and_its_report(page, standins, renderer):
    standins["fal"].set(job_seconds=0.2, queue_seconds=0)
    seed = {"canvas": 8100, "vue": 8200}[renderer]
    load(page, api_flow(provider="fal", seed=seed, output_format="jpeg"))
    values = inputs_of(graph_of(page), "FluxKreaAPI")
    page.evaluate(CONVERT, [1])
    assert inputs_of(graph_of(page), "FluxKreaAPI") == values
    inner = page.evaluate(ENTER, "FluxKreaAPI")
    wait_for_text(page, "≈ $0.025, 1024 × 1024 (1.05 MP) at fal", inner)
    assert set(WIDGETS) - shown(page, inner) == HIDDEN_WITHOUT_IMAGE | {"quality"}
    set_value(page, "provider", "replicate", inner)
    if renderer == "vue":
        # What was hidden before the conversion comes back; on the Vue renderer of 1.32 when the subgraph is next entered.
        page.evaluate("() => app.canvas.setGraph(app.graph)")
        page.wait_for_timeout(300)
        page.evaluate(ENTER, "FluxKreaAPI")
        page.locator(f"[data-node-id='{inner}']").get_by_text("quality").wait_for()
    assert "quality" in shown(page, inner)
    set_value(page, "provider", "fal", inner)
    set_value(page, "height", 2048, inner)
    wait_for_text(page, "≈ $0.05, 1024 × 2048 (2.10 MP) at fal", inner)
    assert page.evaluate(RUN) == "execution_success: "
    wait_for_text(page, f"seed {seed}", inner)
    page.screenshot(path=screen(f"subgraph-api-{renderer}.png"))
    assert standins["fal"].state()["billed"] == 1
    load(page, saved(page))
    assert inputs_of(graph_of(page), "FluxKreaAPI") == {**values, "height": 2048}
    inner = page.evaluate(ENTER, "FluxKreaAPI")
    wait_for_text(page, "≈ $0.05", inner)
    page.evaluate(PROMOTE, [inner, "provider"])  # chosen on the outside from now on: it may be any
    wait_for_text(page, "Wired, and not counted yet: provider", inner)
    assert set(WIDGETS) - shown(page, inner) == HIDDEN_WITHOUT_IMAGE


def test_a_job_that_waits_is_collected_into_the_subgraph_that_is_open(page, standins, renderer):
    standins["fal"].set(job_seconds=60)
    prompt = f"a fox in a subgraph that waits for {renderer}"
    load(page, api_flow("FluxKreaSubmit", provider="fal", prompt=prompt))
    page.evaluate(CONVERT, [1])
    inner = page.evaluate(ENTER, "FluxKreaSubmit")
    assert page.evaluate(RUN) == "execution_success: "
    wait_for_text(page, "fal/", inner)
    page.evaluate("() => app.extensionManager.sidebarTab.toggleSidebarTab('flux_krea.waiting')")
    page.locator(".flux-krea-waiting article", has_text=prompt).get_by_text("Collect in this graph").press("Enter")
    collect = f"{HOST}.subgraph.nodes.find((node) => node.type == 'FluxKreaCollect')"
    page.wait_for_function(f"() => {collect}")
    assert page.evaluate(f"() => {collect}.widgets[0].value").startswith("fal/")


def test_the_review_button_works_in_a_subgraph(comfyui, page, renderer):
    side = {"canvas": 56, "vue": 64}[renderer]
    images = node(1, "EmptyImage", (240, 240), [side, side, 1, 0x336699], outputs=[("IMAGE", "IMAGE", [1])])
    gate = node(2, "FluxKreaReview", (560, 240), [""], [("image", "IMAGE", 1)], [("image", "IMAGE", [2])])
    kept = node(3, "SaveImage", (900, 240), ["inside"], [("images", "IMAGE", 2)])
    load(page, flow(images, gate, kept, links=[[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]))
    page.evaluate(CONVERT, [2])
    assert "look at this image" in page.evaluate(RUN)
    close_dialog(page)
    inner = page.evaluate(ENTER, "FluxKreaReview")
    page.get_by_role("button", name="I have looked").wait_for()
    page.screenshot(path=screen(f"subgraph-review-{renderer}.png"))
    (picture,) = comfyui.history(accept_pictures(page))["outputs"]["3"]["images"]
    assert picture["filename"].startswith("inside")
    wait_for_text(page, "Looked at and accepted", inner)
    # The page's own graph has it too: the next run needs nobody.
    assert page.evaluate(RUN) == "execution_success: "
