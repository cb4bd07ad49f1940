"""A workflow saved on one frontend opens on another with every value it had.

`saved/<frontend>-<renderer>.json` are what those pages saved of FLOWS, and what they would have queued of each.
`FLUX_KREA_WRITE_SAVED=1` writes the file of the page that the tests run on.
"""

import json
import os
from pathlib import Path

import pytest
from comfyui import ROOT
from page_driver import VALUES, flow, graph_of, load, node, saved

SAVED = Path(__file__).with_name("saved")
FILES = sorted(SAVED.glob("*.json"))
LORAS = "owner/style 0.8\n  civitai:1234@5678   -0.5\n\nme/other"
API = {
    **VALUES, "provider": "replicate", "prompt": "two foxes\nin the snow", "width": 1216, "height": 832, "steps": 17,
    "guidance": 3.7, "seed": 987654321, "images": 3, "acceleration": "regular", "safety_checker": False,
    "output_format": "webp", "quality": 71, "max_cost_usd": 0.25, "reuse": False, "extra": '{"go_fast": false}',
}  # fmt: skip
SAMPLER = [4242, "increment", 9, 3.9, 0.85, "dpmpp_2m", "simple", "high", 1.0, 5]
REDUX = [0.35, "multiply", 9, "letterbox", 0.2, 0.8, 0.6, 1.4]
VERSION = "() => window.__COMFYUI_FRONTEND_VERSION__"
CONVERT = "() => { app.graph.convertToSubgraph(new Set([app.graph.getNodeById(1)])); }"


def api(**changes) -> dict:
    asks = node(1, "FluxKreaAPI", (240, 200), {**API, **changes}.values(), outputs=[("image", "IMAGE", [1])])
    shows = node(2, "PreviewImage", (700, 200), inputs=[("images", "IMAGE", 1)], size=(300, 300))
    return flow(asks, shows, links=[[1, 1, 0, 2, 0, "IMAGE"]])


def template(name: str, **values: list) -> dict:
    """One of ours, with these values in the nodes of these types."""
    workflow = json.loads((ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    for one in workflow["nodes"]:
        one["widgets_values"] = values.get(one["type"], one.get("widgets_values", []))
    return workflow


FLOWS = {
    "API Krea": api(),
    "a list of LoRAs": api(provider="fal", loras=LORAS),
    "API Krea in a subgraph": api(prompt="a fox in a subgraph"),
    "Krea Sampler": template("text_to_image", FluxKreaSampler=SAMPLER),
    "Krea Redux": template("redux", FluxKreaRedux=REDUX),
}


def ours(graph: dict) -> dict:
    """What our nodes are given. ComfyUI's own may have other inputs in another version."""
    return {id: one["inputs"] for id, one in graph.items() if one["class_type"].startswith("FluxKrea")}


def test_what_this_page_saves_it_opens_again(page, renderer):
    """With the values that were set: those of hand-made files, which no page has written."""
    pages: dict[str, dict] = {}
    for name, workflow in FLOWS.items():
        load(page, workflow)
        if "subgraph" in name:
            page.evaluate(CONVERT)
        pages[name] = {"workflow": saved(page), "graph": ours(graph_of(page))}
        load(page, pages[name]["workflow"])
        assert ours(graph_of(page)) == pages[name]["graph"], name
    (asked,) = pages["API Krea"]["graph"].values()
    assert asked == {name: value for name, value in API.items() if name != "control_after_generate"}
    (listed,) = pages["a list of LoRAs"]["graph"].values()
    assert listed["loras"] == LORAS
    (inside,) = pages["API Krea in a subgraph"]["graph"].values()
    assert inside["prompt"] == "a fox in a subgraph"
    assert {"steps": 9, "sampler_name": "dpmpp_2m", "computed_steps": 5}.items() <= one_of(
        pages["Krea Sampler"], "acceleration"
    ).items()
    assert {"strength": 0.35, "crop": "letterbox", "end_strength": 0.6}.items() <= one_of(
        pages["Krea Redux"], "crop"
    ).items()
    if os.environ.get("FLUX_KREA_WRITE_SAVED"):
        SAVED.mkdir(exist_ok=True)
        frontend = ".".join(page.evaluate(VERSION).split(".")[:2])
        text = json.dumps(pages, ensure_ascii=False, separators=(",", ":"))
        (SAVED / f"{frontend}-{renderer}.json").write_text(text + "\n", encoding="utf-8")


def one_of(saved_page: dict, input: str) -> dict:
    (inputs,) = (inputs for inputs in saved_page["graph"].values() if input in inputs)
    return inputs


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_what_another_page_saved_opens_here_with_every_value(page, file):
    pages = json.loads(file.read_text(encoding="utf-8"))
    assert set(pages) == set(FLOWS)
    for name, one in pages.items():
        load(page, one["workflow"])
        assert page.locator("[role=dialog]").count() == 0, name
        assert ours(graph_of(page)) == one["graph"], name
