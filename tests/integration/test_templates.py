"""Every template and every subgraph blueprint, as comfy-cli sees it: valid, and it runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_detector
from comfyui import ROOT
from page_driver import node as page_node
from PIL import Image

ALL = sorted((ROOT / "workflows").glob("*.json"))
TEMPLATES = [path for path in ALL if not path.stem.startswith("app_")]  # an app is the graph of another template
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
MADE_FROM = {"Krea Text to Image": "text_to_image", "Krea Reference to Image (Redux)": "redux"}
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


@pytest.mark.parametrize("path", TEMPLATES + BLUEPRINTS, ids=lambda path: path.stem)
def test_comfy_cli_validates_and_runs_it(comfyui, comfy, standins, detector, tmp_path, path):
    workflow, used = opened(path), tmp_path / path.name
    used.write_text(json.dumps(in_use(workflow) if path in BLUEPRINTS else workflow))
    checked = comfy("workflow", "validate", "--workflow", str(used), "--port", str(comfyui.port))
    assert checked.returncode == 0, checked.stdout + checked.stderr

    Image.new("RGBA", (64, 64), (90, 60, 30, 0)).save(comfyui.base / "input" / "painted.png")
    used.write_text(json.dumps(reduced(comfyui.to_api(opened(used)))))
    address = ("--host", "127.0.0.1", "--port", str(comfyui.port), "--timeout", "250")
    ran = comfy("run", "--workflow", str(used), *address, "--wait")
    said = ran.stdout + ran.stderr
    if path.stem == "review_gate":  # nobody has looked yet, so nothing may pass
        assert "look at this image" in " ".join(said.split())
    else:
        assert ran.returncode == 0, said


def opened(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def in_use(blueprint: dict) -> dict:
    """The blueprint's one node with a picture for each image it takes, and its result saved."""
    (node,) = blueprint["nodes"]
    node["outputs"][0]["links"] = [1]
    nodes = [node, page_node(2, "SaveImage", (700, 200), ["blueprint"], [("images", "IMAGE", 1)])]
    links = [[1, 1, 0, 2, 0, "IMAGE"]]
    for at, slot in enumerate(node["inputs"]):
        if slot["type"] == "IMAGE":
            slot["link"] = link = len(links) + 1
            links.append([link, link + 1, 0, 1, at, "IMAGE"])
            picture = [("IMAGE", "IMAGE", [link])]
            nodes.append(page_node(link + 1, "LoadImage", (0, 200), ["example.png", "image"], outputs=picture))
    return {**blueprint, "nodes": nodes, "links": links}


def reduced(graph: dict) -> dict:
    merges = any(node["class_type"] == "ModelMergeSimple" for node in graph.values())
    for node in graph.values():
        if node["class_type"] == "FluxKreaAPI" and "mask" in node["inputs"]:  # nobody has painted one yet
            graph[node["inputs"]["mask"][0]]["inputs"]["image"] = "painted.png"
        node["inputs"].update(SMALL.get(node["class_type"], {}))
        if (
            merges and node["class_type"] == "FluxKreaLoader"
        ):  # a CPU needs a minute to round a merge to scaled fp8 again
            node["inputs"]["unet_name"] = "flux1-krea-dev.safetensors"
    return graph


@pytest.mark.parametrize("path", TEMPLATES + BLUEPRINTS, ids=lambda path: path.stem)
def test_a_stranger_can_find_every_node_and_every_file_of_it(path):
    assert path in BLUEPRINTS or path.with_suffix(".jpg").exists(), "no thumbnail"
    for node in every_node(opened(path)):
        if node["type"] == "MarkdownNote":
            continue
        assert node["properties"]["cnr_id"] == ("flux-krea" if "Krea" in node["type"] else "comfy-core")
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])
        files = [value for value in node.get("widgets_values", []) if str(value).endswith(".safetensors")]
        offered = {model["name"]: model["url"] for model in node["properties"].get("models", [])}
        assert set(files) == set(offered)
        assert all(url.startswith("https://huggingface.co/") and url.endswith(name) for name, url in offered.items())


def every_node(workflow: dict) -> list[dict]:
    """Also those inside subgraphs; a node that stands for a subgraph is nobody's to install."""
    subgraphs = workflow.get("definitions", {}).get("subgraphs", [])
    ours = {subgraph["id"] for subgraph in subgraphs}
    nodes = workflow["nodes"] + [node for subgraph in subgraphs for node in subgraph["nodes"]]
    return [node for node in nodes if node["type"] not in ours]


def test_the_server_lists_every_blueprint_under_its_files_name(comfyui):
    listed = comfyui.get("/global_subgraphs").json()
    ours = {id for id, entry in listed.items() if entry["info"]["node_pack"] == "custom_nodes.flux-krea"}
    assert {(listed[id]["name"], listed[id]["source"]) for id in ours} == {
        (path.stem, "custom_node") for path in BLUEPRINTS
    }
    for id in ours:
        served = comfyui.get(f"/global_subgraphs/{id}").json()
        assert served["data"].isascii()  # ComfyUI 0.3.75 reads the files in the system's own encoding
        (node,) = json.loads(served["data"])["nodes"]
        assert node["title"] == served["name"]


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprints_nodes_have_the_templates_own_values(blueprint):
    template = opened(ROOT / "workflows" / f"{MADE_FROM[blueprint.stem]}.json")
    values = {node["type"]: node.get("widgets_values") for node in template["nodes"]}
    for node in every_node(opened(blueprint)):
        assert node.get("widgets_values") == values[node["type"]]
