"""What a user sees: templates open and run, values survive saving, our nodes show their words."""

import json
import re

import pytest
from comfyui import ROOT
from page_driver import RUN, screen, set_value, wait_for_text, write_readme_picture

TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
SMALL = """(side) => {
  for (const node of app.graph.nodes) for (const widget of node.widgets ?? []) {
    const small = { preset: "exact size", width: side, height: side, steps: 2 };
    if (widget.name in small && /Krea(Size|Sampler)|ImageScale/.test(node.comfyClass)) {
      widget.value = small[widget.name]; widget.callback?.(widget.value);
    }
  }
}"""
ACCELERATE = """() => {
  const sampler = app.graph.nodes.find((node) => node.comfyClass == "FluxKreaSampler");
  const widget = sampler.widgets.find((widget) => widget.name == "acceleration");
  widget.value = "regular"; widget.callback?.(widget.value);
}"""
NARROW = {"width": 1080, "height": 980}
TITLE, BLANK = 34, 125  # pixels of the graph: a frame's title, and the room that may be left below a note's text
LAYOUT = """() => {
  const { ds, canvas } = app.canvas, origin = canvas.getBoundingClientRect();
  const inGraph = ({ left, top, right, bottom }) => [
    (left - origin.x) / ds.scale - ds.offset[0], (top - origin.y) / ds.scale - ds.offset[1],
    (right - origin.x) / ds.scale - ds.offset[0], (bottom - origin.y) / ds.scale - ds.offset[1],
  ].map(Math.round);
  const drawn = ({ pos: [x, y], size: [width, height] }, above) => [x, y - above, x + width, y + height].map(Math.round);
  const box = (node) => {
    const element = document.querySelector(`[data-node-id='${node.id}']`);
    return element ? inGraph(element.getBoundingClientRect()) : drawn(node, LiteGraph.NODE_TITLE_HEIGHT);
  };
  const texts = [...document.querySelectorAll(".tiptap, .comfy-markdown-content")].filter((text) => text.offsetHeight);
  const lowest = (text) => Math.max(...[...text.children].map((part) => part.offsetTop + part.offsetHeight)) - text.offsetTop;
  return {
    nodes: app.graph.nodes.map((node) => [node.title, box(node)]),
    groups: app.graph.groups.map((group) => [group.title, drawn(group, 0)]),
    notes: texts.map((text) => ["the note", text.clientHeight, lowest(text)]),
  };
}"""


def load(page, path):
    page.evaluate(
        "([flow, name]) => app.loadGraphData(flow, true, true, name)",
        [json.loads(path.read_text(encoding="utf-8")), path.stem],
    )
    page.wait_for_timeout(800)


def graph_of(page) -> dict:
    return json.loads(page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))


def values_of(graph: dict) -> dict:
    return {id: (node["class_type"], node["inputs"]) for id, node in graph.items()}


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_template_opens_without_a_complaint_and_keeps_its_values(comfyui, page, renderer, template):
    load(page, template)
    page.screenshot(path=screen(f"{template.stem}-{renderer}.png"))
    dialogs = page.locator("[role=dialog]").all_inner_texts()
    assert [text for text in dialogs if not text.startswith("Welcome to Apps")] == []
    said = page.locator(".p-toast-message").all_inner_texts()
    assert [text for text in said if "API nodes: a run costs about" not in text] == []  # a price is no complaint
    before = graph_of(page)
    saved = json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    page.evaluate("(flow) => app.loadGraphData(flow, true, true, 'again')", saved)
    page.wait_for_timeout(500)
    assert graph_of(page) == before
    if not template.stem.startswith("app_"):  # newer pages show no graph for these; it is that of another template
        assert layout_faults(page) == []
    # What comfy-cli queues is what the page queues; newer pages write more beside it, under _meta.
    queued = comfyui.to_api(json.loads(template.read_text(encoding="utf-8")))
    assert values_of(before) == values_of(queued)


def test_text_to_image_runs_and_our_nodes_show_their_results(page, renderer):
    load(page, ROOT / "workflows" / "text_to_image.json")
    side = {"canvas": 96, "vue": 112}[renderer]  # sizes of no other test: what is cached is not shown again
    page.evaluate(SMALL, side)
    page.evaluate(ACCELERATE)
    assert page.evaluate(RUN) == "execution_success: "
    page.wait_for_timeout(500)
    shown = page.evaluate("() => app.graph.nodes.find((n) => n.comfyClass == 'FluxKreaSize').widgets.at(-1).value")
    assert shown.startswith(f"{side} × {side}, 0.0")
    told = page.evaluate("() => app.graph.nodes.find((n) => n.comfyClass == 'FluxKreaSampler').widgets.at(-1).value")
    assert re.fullmatch("[12] of 2 evaluations computed", told)
    page.screenshot(path=screen(f"text_to_image-{renderer}-done.png"))


def test_the_first_picture_from_a_provider(page, standins, renderer):
    """The README's picture: the template as it opens, and what it is after one press of Run."""
    load(page, ROOT / "workflows" / "api_text_to_image.json")
    set_value(page, "seed", {"canvas": 20260740, "vue": 20260767}[renderer])
    set_value(page, "control_after_generate", "fixed")
    assert page.evaluate(RUN) == "execution_success: "
    wait_for_text(page, "billed by Runware")  # the cheapest, which auto takes
    page.wait_for_function("() => Object.values(app.nodeOutputs).some((output) => output.images?.length)")
    page.wait_for_timeout(1000)
    page.screenshot(path=screen(f"first-picture-{renderer}.png"))
    if renderer == "vue":
        page.set_viewport_size(NARROW)  # as wide as the graph
        page.wait_for_timeout(1000)
        write_readme_picture(page, "page", {"x": 0, "y": 0, **NARROW})


def layout_faults(page) -> list[str]:
    """What lies over something else, hangs out of its frame or hides the frame's title; in pixels of the graph.

    The canvas renderer draws a node's title above its place; the Vue renderer's elements are what they are.
    """
    layout = page.evaluate(LAYOUT)
    faults = []
    for index, (name, box) in enumerate(layout["nodes"]):
        faults += [
            f"{name} lies over {other}" for other, second in layout["nodes"][index + 1 :] if overlap(box, second)
        ]
        frames = [(title, frame) for title, frame in layout["groups"] if overlap(box, frame)]
        below_title = [[left, top + TITLE, right, bottom] for _, [left, top, right, bottom] in frames]
        if not all(contains(frame, box) for frame in below_title) or len(frames) > 1:
            faults.append(f"{name} at {box} and its frames {frames}")
    for name, shown, whole in layout["notes"]:
        if not whole <= shown <= whole + BLANK:
            faults.append(f"{name} shows {shown} pixels of text that is {whole} high")
    return faults


def overlap(one, other) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def contains(frame, box) -> bool:
    return frame[0] <= box[0] and frame[1] <= box[1] and box[2] <= frame[2] and box[3] <= frame[3]
