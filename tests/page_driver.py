"""What browser tests do with the page: make a workflow of our nodes, open it, change widgets, look at what is shown."""

import contextlib
import io
import json
import os
from pathlib import Path

from comfyui import ROOT
from PIL import Image
from playwright.sync_api import TimeoutError as NotShown

SCREENS = ROOT / ".dev" / "screens"
README_PICTURES = ROOT / "docs" / "images"
WIDGETS = (
    "provider", "prompt", "image_use", "strength", "width", "height", "steps", "guidance", "seed",
    "control_after_generate", "images", "acceleration", "safety_checker", "output_format", "quality", "max_cost_usd",
    "reuse", "extra", "loras",
)  # fmt: skip
VALUES = dict.fromkeys(WIDGETS) | {
    "provider": "auto", "prompt": "a red fox", "image_use": "image to image", "strength": 0.8, "width": 1024,
    "height": 1024, "steps": 12, "guidance": 4.0, "seed": 41, "control_after_generate": "fixed", "images": 1,
    "acceleration": "none", "safety_checker": True, "output_format": "png", "quality": 90, "max_cost_usd": -1,
    "reuse": True, "extra": "", "loras": "",
}  # fmt: skip
HIDDEN_WITHOUT_IMAGE = {"image_use", "strength", "loras"}  # of LoRAs there is a list in place of the text
# The card is a widget like others to the page, and its value is its words.
RUN = """() => new Promise((resolve) => {
  setTimeout(() => resolve("no end within two minutes"), 120_000);
  for (const end of ["execution_success", "execution_error", "execution_interrupted"])
    app.api.addEventListener(end, (event) => resolve(end + ": " + (event.detail?.exception_message ?? "")), { once: true });
  app.queuePrompt(0, 1);
})"""
SHOWN = """(id) => app.canvas.graph.getNodeById(id).widgets
  .filter((widget) => !widget.options?.hidden && widget.type != "hidden").map((widget) => widget.name)"""
TEXT = "([id, name]) => app.canvas.graph.getNodeById(id).widgets.find((w) => w.name == name)?.value ?? ''"
ALONE = """(width) => {
  const node = app.graph.getNodeById(1);
  node.setSize([width, node.computeSize()[1]]);
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [350, 250];
  node.pos = [0, 0];
  app.canvas.setDirty(true, true);
  const canvas = document.querySelector("#graph-canvas").getBoundingClientRect();
  return [canvas.x + 350, canvas.y + 250, node.size[0], node.size[1]];
}"""
SET = """([id, name, value]) => {
  const widget = app.canvas.graph.getNodeById(id).widgets.find((w) => w.name == name);
  widget.value = value; widget.callback?.(value);
}"""


def node(id: int, type: str, at: tuple[int, int], values=(), inputs=(), outputs=(), size=(360, 700)) -> dict:
    return {
        "id": id, "type": type, "pos": list(at), "size": list(size), "flags": {}, "order": id, "mode": 0,
        "properties": {}, "widgets_values": list(values),
        "inputs": [{"name": name, "type": kind, "link": link} for name, kind, link in inputs],
        "outputs": [{"name": name, "type": kind, "links": links} for name, kind, links in outputs],
    }  # fmt: skip


def unfolded(node: dict) -> dict:
    """With its advanced inputs in sight, on the pages that can fold them away."""
    return {**node, "showAdvanced": True}


def flow(*nodes: dict, links=()) -> dict:
    return {
        "last_node_id": len(nodes), "last_link_id": len(links), "nodes": list(nodes), "links": list(links),
        "groups": [], "config": {}, "extra": {}, "version": 0.4,
    }  # fmt: skip


def api_flow(type="FluxKreaAPI", **changes) -> dict:
    """API Krea with all its inputs unfolded, and its picture shown; Submit needs nobody to show anything."""
    values = list({**VALUES, **changes}.values())
    if type == "FluxKreaSubmit":
        return flow(unfolded(node(1, type, (240, 200), values)))
    return flow(
        unfolded(node(1, type, (240, 200), values, outputs=[("image", "IMAGE", [1])])),
        node(2, "PreviewImage", (660, 200), inputs=[("images", "IMAGE", 1)], size=(300, 300)),
        links=[[1, 1, 0, 2, 0, "IMAGE"]],
    )


def load(page, workflow: dict) -> None:
    page.evaluate("(flow) => app.loadGraphData(flow, true, true, 'test')", workflow)
    page.wait_for_timeout(500)


def wait_for_text(page, words: str, id: int = 1, name: str = "report") -> str:
    page.wait_for_function(f"([id, name, words]) => ({TEXT})([id, name]).includes(words)", arg=[id, name, words])
    return page.evaluate(TEXT, [id, name])


def set_value(page, name: str, value, id: int = 1) -> None:
    page.evaluate(SET, [id, name, value])


def shown(page, id: int = 1) -> set[str]:
    return set(page.evaluate(SHOWN, id))


def saved(page) -> dict:
    return json.loads(page.evaluate("() => JSON.stringify(app.graph.serialize())"))


def graph_of(page) -> dict:
    return json.loads(page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))


def accept_pictures(page, number: int = 0) -> str:
    """Presses the button of the Review Gate of that number; returns the id of the run that then lets its pictures pass."""
    close_dialog(page)
    page.evaluate(
        """() => { window.passed = new Promise((resolve, reject) => {
          setTimeout(() => reject(new Error("the pictures did not pass within a minute")), 60_000);
          app.api.addEventListener("execution_success", (event) => resolve(event.detail.prompt_id), { once: true });
        }) }"""
    )
    page.get_by_role("button", name="I have looked").nth(number).press("Enter")
    return page.evaluate("() => window.passed")


def close_dialog(page) -> None:
    """Older pages say in a dialog, a moment later, that a run has failed or that images were held back."""
    dialog = page.get_by_role("dialog").first
    with contextlib.suppress(NotShown):
        dialog.wait_for(timeout=2000)
        page.keyboard.press("Escape")
        dialog.wait_for(state="detached")


def screen(name: str):
    SCREENS.mkdir(parents=True, exist_ok=True)
    return SCREENS / name


def write_readme_picture(page, name: str, clip: dict) -> None:
    """Where `FLUX_KREA_WRITE_DOCS=1` asks for it."""
    if os.environ.get("FLUX_KREA_WRITE_DOCS"):
        write_picture(page, README_PICTURES / f"{name}.png", clip)


def write_picture(page, path: Path, clip: dict) -> None:
    """256 colours that are the picture's own: a page looks as it is, in a small file."""
    shot = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    shot.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)


def frame_of_first_node(page, width: int) -> dict:
    """The first node, put alone before the canvas renderer's eye: where it is, with its title."""
    left, top, width, height = page.evaluate(ALONE, width)
    page.wait_for_timeout(1200)
    return {"x": left - 12, "y": top - 36, "width": width + 24, "height": height + 48}
