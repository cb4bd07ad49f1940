"""Every template, as comfy-cli sees it: valid, and it runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_detector
from comfyui import ROOT

TEMPLATES = sorted((ROOT / "workflows").glob("*.json"))
SMALL = {
    "FluxKreaSize": {"preset": "exact size", "width": 64, "height": 64},
    "FluxKreaRedux": {"detail": 9},
    "FluxKreaSampler": {"steps": 1},
    "ImageScale": {"width": 64, "height": 64},
    "ImageScaleToTotalPixels": {"megapixels": 0.01},
}


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    """comfy-cli with a home of its own, where nobody is tracked."""
    home = tmp_path_factory.mktemp("home")
    program = Path(sys.executable).with_name("comfy")

    def run(*arguments) -> subprocess.CompletedProcess:
        environment = {"HOME": str(home), "USERPROFILE": str(home), "PATH": str(program.parent)}
        return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment, timeout=300)

    run("tracking", "disable")
    return run


@pytest.fixture
def detector(models):
    """A detector of three kilobytes under the name that the templates use."""
    folder = models / "safety_checkers" / "falconsai_nsfw"
    tiny_detector.write(folder)
    yield
    shutil.rmtree(folder)


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_comfy_cli_validates_and_runs_it(comfyui, comfy, standins, detector, tmp_path, template):
    checked = comfy("workflow", "validate", "--workflow", str(template), "--port", str(comfyui.port))
    assert checked.returncode == 0, checked.stdout + checked.stderr

    small = tmp_path / template.name
    small.write_text(json.dumps(reduced(comfyui.to_api(json.loads(template.read_text(encoding="utf-8"))))))
    address = ("--host", "127.0.0.1", "--port", str(comfyui.port), "--timeout", "250")
    ran = comfy("run", "--workflow", str(small), *address, "--wait")
    said = ran.stdout + ran.stderr
    if template.stem == "review_gate":  # nobody has looked yet, so nothing may pass
        assert "look at this image" in " ".join(said.split())
    else:
        assert ran.returncode == 0, said


def reduced(graph: dict) -> dict:
    for node in graph.values():
        node["inputs"].update(SMALL.get(node["class_type"], {}))
    return graph


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_stranger_can_find_every_node_and_every_file_of_it(template):
    workflow = json.loads(template.read_text(encoding="utf-8"))
    assert template.with_suffix(".jpg").exists(), "no thumbnail"
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        assert node["properties"]["cnr_id"] == ("flux-krea" if "Krea" in node["type"] else "comfy-core")
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])
        files = [value for value in node.get("widgets_values", []) if str(value).endswith(".safetensors")]
        offered = {model["name"]: model["url"] for model in node["properties"].get("models", [])}
        assert set(files) == set(offered)
        assert all(url.startswith("https://huggingface.co/") and url.endswith(name) for name, url in offered.items())
