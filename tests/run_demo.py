"""`python dev.py demo`: runs a template in a real ComfyUI on the CPU and prints the picture's path last."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

import miniature
from comfyui import ROOT, ComfyUI, ComfyUIError

SMALL_SIDE, FEW_STEPS = 256, 4  # a CPU does this in seconds; the template's own 1024 × 1024 and 28 steps take an hour


def main() -> int:
    options = parse()
    workflow = json.loads(options.workflow.read_text(encoding="utf-8"))
    base = ROOT / ".dev" / "demo"
    say("writing miniature model files (random weights: the picture is a texture, not a photograph)")
    miniature.write_set(base / "models")
    server = ComfyUI(base, arguments=("--cpu",))
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


def parse():
    parser = argparse.ArgumentParser(prog="python dev.py demo")
    parser.add_argument("--out", type=Path, default=ROOT / ".dev" / "pictures", help="folder for the pictures")
    parser.add_argument("--prompt", help="replaces the template's prompt")
    parser.add_argument("--workflow", type=Path, default=ROOT / "workflows" / "text_to_image.json")
    parser.add_argument("--keep-running", action="store_true", help="leave the page open")
    parser.add_argument("--full-size", action="store_true", help="the template's own size and steps (slow on a CPU)")
    return parser.parse_args()


def adapt(graph: dict, options) -> None:
    """Puts the prompt in, and makes the work small enough for a CPU."""
    for node in graph.values():
        inputs = node["inputs"]
        if options.prompt and node["class_type"] == "CLIPTextEncode":
            inputs["text"] = options.prompt
        if options.full_size:
            continue
        if node["class_type"] == "FluxKreaSize":
            inputs.update(preset="exact size", width=SMALL_SIDE, height=SMALL_SIDE)
        if node["class_type"] == "ImageScale":
            inputs.update(width=SMALL_SIDE, height=SMALL_SIDE)
        if "steps" in inputs:
            inputs["steps"] = FEW_STEPS


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
