"""Krea Size, as it is while somebody looks for a size."""

from page_driver import flow, load, node, saved, screen, set_value, shown, wait_for_text

WIRE_WIDTH = """() => {
  const number = LiteGraph.createNode("PrimitiveInt"), size = app.graph.getNodeById(1);
  app.graph.add(number);
  number.connect(0, size, size.inputs.findIndex((input) => input.name == "width"));
}"""


def test_krea_size_follows_every_change_and_shows_what_its_preset_uses(page, renderer):
    values = ["aspect ratio", "16:9", 1.0, 640, 480, 1]
    load(page, flow(node(1, "FluxKreaSize", (240, 240), values, size=(340, 400))))
    wait_for_text(page, "1360 × 768, 1.00 MP")
    assert shown(page) == {"preset", "aspect_ratio", "megapixels", "batch_size", "report"}
    set_value(page, "preset", "exact size")
    assert "fal: 640 × 480" in wait_for_text(page, "640 × 480, 0.29 MP")
    assert shown(page) == {"preset", "width", "height", "batch_size", "report"}
    set_value(page, "height", 64)
    wait_for_text(page, "pictures fall apart")
    set_value(page, "preset", "fal: square")
    wait_for_text(page, "512 × 512")
    assert shown(page) == {"preset", "batch_size", "report"}
    page.screenshot(path=screen(f"size-{renderer}.png"))
    assert saved(page)["nodes"][0]["widgets_values"] == ["fal: square", "16:9", 1.0, 640, 64, 1]
    page.evaluate(WIRE_WIDTH)
    wait_for_text(page, "Wired, and not counted yet: width")
    assert "width" in shown(page)
