"""`python dev.py demo`: runs a template in a real ComfyUI on the CPU and prints the picture's path last.

Text to image is drawn by the trained miniature (trained.py), which knows simple scenes: scenes.py has its words. For any
other template there are model files with random weights, whose pictures are textures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import flat_vae
import miniature
import scenes
import trained
from comfyui import ROOT, ComfyUI, ComfyUIError, link_folder

TEXT_TO_IMAGE = ROOT / "workflows" / "text_to_image.json"
SCENE = "a large blue triangle left of a large yellow square on pink"
SMALL_SIDE = 256  # a CPU does this in seconds; the template's own 1024 × 1024 take an hour
STEPS = {"scene": 14, "texture": 4}


def main() -> int:
    options = parse()
    workflow = json.loads(options.workflow.read_text(encoding="utf-8"))
    base = ROOT / ".dev" / "demo"
    server = ComfyUI(base, arguments=("--cpu",))
    server.prepare()
    write_models(base, options.workflow)
    say(f"starting ComfyUI, log in {server.log_path}")
    with server:
        graph = server.to_api(workflow)
        adapt(graph, options)
        say("running " + options.workflow.name)
        started = time.monotonic()
        history = server.run(graph, workflow, on_event=lambda event: show(event, graph), seconds=1800)
        pictures = [keep(picture, options.out) for picture in server.pictures(history)]
        say(f"{len(pictures)} picture(s) in {time.monotonic() - started:.0f} s")
        if options.keep_running:
            say(f"ComfyUI stays open at {server.url}; Ctrl+C ends it")
            print(*pictures, sep="\n", flush=True)
            server.process.wait()
    print(*pictures, sep="\n")
    return 0 if pictures else 1


def draws_scenes(workflow: Path) -> bool:
    return workflow.resolve() == TEXT_TO_IMAGE


def write_models(base: Path, workflow: Path) -> None:
    if draws_scenes(workflow):
        say("writing the trained miniature (a toy that proves the machinery: simple scenes, no photographs)")
        trained.place(base / "models")
        flat_vae.write_previews(base / "models" / "vae_approx")
        link_folder(base / "custom_nodes" / "narrow_flux", trained.NARROW_FLUX)
    else:
        say("writing miniature model files (random weights: the picture is a texture, not a photograph)")
        miniature.write_set(base / "models")


def parse():
    parser = argparse.ArgumentParser(prog="python dev.py demo")
    parser.add_argument("--out", type=Path, default=ROOT / ".dev" / "pictures", help="folder for the pictures")
    parser.add_argument(
        "--prompt", help=f'replaces the prompt; for text to image a scene, as in "{SCENE}" (the default)'
    )
    parser.add_argument("--workflow", type=Path, default=TEXT_TO_IMAGE)
    parser.add_argument("--keep-running", action="store_true", help="leave the page open")
    parser.add_argument("--full-size", action="store_true", help="the template's own size and steps (slow on a CPU)")
    return parser.parse_args()


def adapt(graph: dict, options) -> None:
    """Puts the prompt in, and makes the work small enough for a CPU."""
    prompt, steps = options.prompt, STEPS["texture"]
    if draws_scenes(options.workflow):
        prompt, steps = known(SCENE if prompt is None else prompt), STEPS["scene"]
        use_trained(graph)
    for node in graph.values():
        inputs = node["inputs"]
        if prompt is not None and node["class_type"] == "CLIPTextEncode":
            inputs["text"] = prompt
        if options.full_size:
            continue
        if node["class_type"] == "FluxKreaSize":
            inputs.update(preset="exact size", width=SMALL_SIDE, height=SMALL_SIDE)
        if node["class_type"] == "ImageScale":
            inputs.update(width=SMALL_SIDE, height=SMALL_SIDE)
        if "steps" in inputs:
            inputs["steps"] = steps


def known(prompt: str) -> str:
    """The prompt, said to be beyond the miniature where it is no scene."""
    try:
        scenes.parse(prompt)
    except ValueError as problem:
        say(f"{problem} It draws something all the same.")
    return prompt


def use_trained(graph: dict) -> None:
    """Krea Loader takes FLUX.1's own width only: nodes that load the narrow one stand in its place."""
    (loader,) = [node_id for node_id, node in graph.items() if node["class_type"] == "FluxKreaLoader"]
    del graph[loader]
    links = trained.load(graph)
    for node in graph.values():
        for name, value in node["inputs"].items():
            if isinstance(value, list) and value[0] == loader:
                node["inputs"][name] = links[value[1]]


def show(event: dict, graph: dict) -> None:
    data = event["data"]
    if event["type"] == "executing" and data.get("node") in graph:
        say(graph[data["node"]]["class_type"])
    if event["type"] == "progress" and data.get("max", 0) > 1:
        say(f"  step {data['value']} of {data['max']}")


def keep(picture: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copy(picture, folder / picture.name)).resolve()


def say(text: str) -> None:
    print(f"[demo] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ComfyUIError, OSError, ValueError) as problem:
        sys.exit(f"[demo] {problem}")
    except KeyboardInterrupt:
        sys.exit(0)
