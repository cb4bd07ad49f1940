"""Krea Save on the page: the words in its prefix, what it says, and its files dropped on the page."""

import re

import pytest
from page_driver import RUN, flow, graph_of, load, node, saved, screen, wait_for_text

DROP = """async ([url, name, type]) => {
  const file = new File([await (await fetch(url)).blob()], name, { type });
  const data = new DataTransfer();
  data.items.add(file);
  const canvas = document.querySelector("#graph-canvas"), { x, y, width, height } = canvas.getBoundingClientRect();
  const at = { clientX: x + width / 2, clientY: y + height / 2, bubbles: true, cancelable: true, dataTransfer: data };
  for (const kind of ["dragenter", "dragover", "drop"]) canvas.dispatchEvent(new DragEvent(kind, at));
}"""
NOTE = "an odd note: 🦊 “<&>” \\ \n\t漢字"


def workflow(prefix: str, file_format: str, side: int):
    return flow(
        node(1, "EmptyImage", (200, 240), [side, 48, 1, 255], outputs=[("IMAGE", "IMAGE", [1])], size=(300, 200)),
        node(
            2,
            "FluxKreaSave",
            (600, 240),
            [prefix, file_format, 90, True, "made by AI"],
            [("images", "IMAGE", 1), ("report", "STRING", None)],
            [("images", "IMAGE", [])],
            size=(420, 480),
        ),
        node(3, "Note", (200, 520), [NOTE], size=(300, 200)),
        links=[[1, 1, 0, 2, 0, "IMAGE"]],
    )


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_a_file_dropped_on_the_page_brings_its_workflow_back(comfyui, page, renderer, file_format):
    side = {"canvas": 40, "vue": 56}[renderer]
    load(page, workflow(f"dropped/{renderer}_%date:yyyy%_%EmptyImage.width%", file_format, side))
    queued = graph_of(page)
    assert re.fullmatch(rf"dropped/{renderer}_20\d\d_{side}", queued["2"]["inputs"]["filename_prefix"])
    assert page.evaluate(RUN) == "execution_success: "
    said = wait_for_text(page, "No Content Credentials", id=2)
    assert "FLUX_KREA_C2PA_CERT is not set" in said
    page.wait_for_timeout(500)
    page.screenshot(path=screen(f"save-{renderer}-{file_format}.png"))
    (image,) = page.evaluate("() => app.nodeOutputs['2'].images")
    before = saved(page)
    assert before["nodes"][1]["widgets_values"][0].endswith("_%date:yyyy%_%EmptyImage.width%")
    load(page, flow())
    assert saved(page)["nodes"] == []
    url = f"/api/view?filename={image['filename']}&subfolder={image['subfolder']}&type=output"
    page.evaluate(DROP, [url, image["filename"], f"image/{file_format}"])
    page.wait_for_function("() => app.graph.nodes.length == 3")
    page.wait_for_timeout(300)
    after = saved(page)
    assert [each["widgets_values"] for each in after["nodes"]] == [each["widgets_values"] for each in before["nodes"]]
    assert after["nodes"][2]["widgets_values"] == [NOTE]
    assert after["links"] == before["links"]
    assert graph_of(page) == queued
