"""What a user sees: templates open and run, values survive saving, our nodes show their words."""

import io
import json
import os
import re

import pytest
from comfyui import ROOT
from PIL import Image

SCREENS = ROOT / ".dev" / "screens"
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
RUN = """() => new Promise((resolve) => {
  for (const end of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(end, (event) => resolve(end + ": " + (event.detail?.exception_message ?? "")), { once: true });
  app.queuePrompt(0, 1);
})"""


def load(page, path):
    page.evaluate(
        "([flow, name]) => app.loadGraphData(flow, true, true, name)",
        [json.loads(path.read_text(encoding="utf-8")), path.stem],
    )
    page.wait_for_timeout(800)


def graph_of(page) -> dict:
    return json.loads(page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_template_opens_without_a_complaint_and_keeps_its_values(comfyui, page, renderer, template):
    load(page, template)
    page.screenshot(path=screen(f"{template.stem}-{renderer}.png"))
    if os.environ.get("FLUX_KREA_WRITE_DOCS") and renderer == "canvas":
        write_thumbnail(page, template.with_suffix(".jpg"))
    assert page.locator("[role=dialog]").count() == 0
    assert page.locator(".p-toast-message").all_inner_texts() == []
    before = graph_of(page)
    saved = json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))
    page.evaluate("(flow) => app.loadGraphData(flow, true, true, 'again')", saved)
    page.wait_for_timeout(500)
    assert graph_of(page) == before
    assert before == comfyui.to_api(
        json.loads(template.read_text(encoding="utf-8"))
    )  # what comfy-cli queues is what the page queues


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


def write_thumbnail(page, path):
    """The graph as it opens: what a template shows in ComfyUI's list."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(1500)
    shot = Image.open(io.BytesIO(page.screenshot(clip={"x": 70, "y": 130, "width": 1640, "height": 800})))
    shot.convert("RGB").resize((984, 480), Image.Resampling.LANCZOS).save(path, quality=82)


def screen(name: str):
    SCREENS.mkdir(parents=True, exist_ok=True)
    return SCREENS / name
