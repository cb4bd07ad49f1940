"""The card on our nodes: it shows all it has to say, in either renderer, and is no part of the workflow."""

import pytest
from comfyui import until
from page_driver import flow, graph_of, load, node, saved, screen, set_value, wait_for_text

CARD = ".flux-krea-card:visible"
FRAMES = """() => {
  const node = app.graph.getNodeById(1), canvas = app.canvas.canvas.getBoundingClientRect();
  const box = (element) => {
    const { left, top, right, bottom } = element.getBoundingClientRect();
    return [left, top, right, bottom];
  };
  const shown = document.querySelector("[data-node-id='1']");
  const drawn = () => {
    const [x, y] = app.canvas.ds.convertOffsetToCanvas(node.pos), { scale } = app.canvas.ds;
    return [canvas.x + x, canvas.y + y, canvas.x + x + node.size[0] * scale, canvas.y + y + node.size[1] * scale];
  };
  const body = [...document.querySelectorAll(".flux-krea-card .body")].find((one) => one.checkVisibility());
  const parts = [...body.querySelectorAll("p, button, summary, progress")].filter((part) => part.checkVisibility());
  return { node: shown ? box(shown) : drawn(), body: box(body), parts: parts.map(box) };
}"""
HEIGHT = "() => app.graph.getNodeById(1).size[1]"


def lies_within(inner, outer) -> bool:
    return (
        inner[0] >= outer[0] - 1 and inner[1] >= outer[1] - 1 and inner[2] <= outer[2] + 1 and inner[3] <= outer[3] + 1
    )


def assert_nothing_is_clipped(page) -> None:
    """Soon: the page draws a changed node when it comes to it."""
    page.wait_for_timeout(400)
    until(lambda: nothing_is_clipped(page.evaluate(FRAMES)))


def nothing_is_clipped(frames: dict) -> bool:
    within_body = all(lies_within(part, frames["body"]) for part in frames["parts"])
    return bool(frames["parts"]) and lies_within(frames["body"], frames["node"]) and within_body


@pytest.fixture
def size_node(page):
    values = ["exact size", "16:9", 1.0, 6000, 480, 1]
    load(page, flow(node(1, "FluxKreaSize", (240, 240), values, size=(300, 60))))
    wait_for_text(page, "pictures fall apart")
    return page


def test_the_card_grows_with_its_words_and_the_node_with_the_card(size_node, renderer):
    page = size_node
    assert_nothing_is_clipped(page)
    tall = page.evaluate(HEIGHT)
    page.locator(f"{CARD} summary").press("Enter")  # the details unfold
    assert_nothing_is_clipped(page)
    page.screenshot(path=screen(f"card-{renderer}.png"))
    if renderer == "canvas":
        assert page.evaluate(HEIGHT) > tall
        page.evaluate("() => app.graph.getNodeById(1).setSize([220, 60])")  # narrower: its lines break more often
    page.locator(f"{CARD} summary").press("Enter")
    assert_nothing_is_clipped(page)
    set_value(page, "width", 1600)
    page.wait_for_function("() => !document.querySelector('.flux-krea-card .warning')")
    assert page.evaluate(HEIGHT) < tall or renderer == "vue"
    page.evaluate("() => { app.canvas.ds.scale = 0.75; app.canvas.setDirty(true, true); }")
    assert_nothing_is_clipped(page)


def test_the_card_can_be_read_without_eyes_and_is_not_saved(size_node):
    page = size_node
    card = page.get_by_role("group", name="Report")
    status = card.get_by_role("status")
    assert status.inner_text().split()[:3] == ["6000", "×", "480"]
    warning = card.locator("p.warning")
    assert "pictures fall apart" in warning.inner_text()
    assert warning.locator(".mark").get_attribute("aria-hidden") == "true"
    assert saved(page)["nodes"][0]["widgets_values"] == ["exact size", "16:9", 1.0, 6000, 480, 1]
    assert "report" not in graph_of(page)["1"]["inputs"]
    assert "flux-krea-card" not in str(saved(page))
