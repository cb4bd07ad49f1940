"""What the registry gets: comfy-cli packs it, an empty ComfyUI runs it, and it holds nothing it should not."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from comfyui import ROOT, ComfyUI

COMFY = Path(sys.executable).with_name("comfy")
FORBIDDEN_FOLDERS = ("tests/", ".ci/", "docs/", ".dev/", ".venv/")
ENVIRONMENT = re.compile(r"os\.environ|os\.getenv")


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """node.zip, made by comfy-cli from what git tracks."""
    folder = tmp_path_factory.mktemp("pack")
    clone = folder / "flux-krea"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    for name in filter(None, tracked):  # as it is now, committed or not
        if (ROOT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    subprocess.run(["git", "add", "--all"], cwd=clone, check=True)
    environment = {"HOME": str(folder), "PATH": f"{COMFY.parent}:/usr/bin:/bin"}
    for command in (["tracking", "disable"], ["node", "validate"], ["node", "pack"]):
        done = subprocess.run(
            [COMFY, *command], cwd=clone, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return clone / "node.zip"


def shipped(packed: Path, *endings: str) -> dict[str, str]:
    with zipfile.ZipFile(packed) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist() if name.endswith(endings)}


def test_the_archive_holds_the_pack_and_nothing_else(packed):
    names = zipfile.ZipFile(packed).namelist()
    assert {"__init__.py", "pyproject.toml", "requirements.txt", "LICENSE", "README.md", "web/flux_krea.js"} <= set(
        names
    )
    for folder in ("workflows", "subgraphs"):
        assert {f"{folder}/{path.name}" for path in (ROOT / folder).glob("*.json")} <= set(names)
    assert not [name for name in names if name.startswith(FORBIDDEN_FOLDERS) or name == "dev.py"]
    assert sum(info.file_size for info in zipfile.ZipFile(packed).infolist()) < 5_000_000


def test_network_and_environment_are_each_touched_in_one_file(packed):
    sources = shipped(packed, ".py")
    used = {
        name for name, text in sources.items() if re.search(r"^\s*(import|from) (requests|urllib3|http)\b", text, re.M)
    }
    assert used == {"nodes/providers/_client.py"}
    assert {name for name, text in sources.items() if ENVIRONMENT.search(text)} == {"nodes/providers/_settings.py"}


def test_nothing_is_evaluated_started_or_installed(packed):
    for name, text in shipped(packed, ".py").items():
        assert not re.search(r"(?<![.\w])(eval|exec)\(|\bsubprocess\b|os\.system|\bpip\b|pickle\.load", text), name
    for name, text in shipped(packed, ".js").items():
        assert not re.search(r"\beval\(|new Function|\.bind\(|\.connect\(|\.send\(|raw\.githubusercontent", text), name


def test_an_empty_comfyui_runs_the_archive(packed, tmp_path):
    server = ComfyUI(tmp_path, arguments=("--cpu",))
    server.prepare()
    link = tmp_path / "custom_nodes" / "flux-krea"
    link.unlink()
    zipfile.ZipFile(packed).extractall(link)
    with server:
        found = server.object_info()
        assert {"FluxKreaLoader", "FluxKreaSampler", "FluxKreaAPI", "FluxKreaSafetyCheck"} <= set(found)
        assert server.get("/api/workflow_templates").json()["flux-krea"]
        blueprints = server.get("/api/global_subgraphs").json().values()
        assert "Krea Text to Image" in {blueprint["name"] for blueprint in blueprints}
        assert "IMPORT FAILED" not in server.log() and "are missing" not in server.log()
