"""What the registry gets: comfy-cli packs it, an empty ComfyUI runs it, and it holds nothing it should not."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from comfy_cli.registry.config_parser import extract_node_configuration
from comfyui import COMFYUI, PYTHON, ROOT, ComfyUI
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COMFY = Path(sys.executable).with_name("comfy")
FORBIDDEN = ("tests/", ".ci/", ".github/", "docs/", ".dev/", ".venv/", "dev.py", "jsconfig.json", "CONTRIBUTING.md")
ENVIRONMENT = re.compile(r"os\.environ|os\.getenv")
OF_A_MACHINE = re.compile(rb"(?:/home/|/root/|/Users/|/tmp/|[A-Z]:\\+Users\\+)\w|" + re.escape(str(ROOT).encode()))
SECRET = re.compile(
    rb"\b(?:r8_|lmnfl_|cdt_|hf_|sk-)[\w-]{16,}|[0-9a-f]{12}:[0-9a-f]{16,}|X-Amz-Signature=\w|-----BEGIN [A-Z ]*KEY"
)
LOWER_BOUNDS = {">=", ">", "!="}
LISTED = "import json, importlib.metadata as m; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"


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
    assert not [name for name in names if name.startswith(FORBIDDEN)]
    assert sum(info.file_size for info in zipfile.ZipFile(packed).infolist()) < 5_000_000


def test_network_and_environment_are_each_touched_in_one_file(packed):
    sources = shipped(packed, ".py")
    used = {
        name for name, text in sources.items() if re.search(r"^\s*(import|from) (requests|urllib3|http)\b", text, re.M)
    }
    assert used == {"nodes/jobs/client.py"}
    assert {name for name, text in sources.items() if ENVIRONMENT.search(text)} == {"nodes/jobs/environment.py"}


def test_nothing_is_evaluated_started_or_installed(packed):
    for name, text in shipped(packed, ".py").items():
        assert not re.search(r"(?<![.\w])(eval|exec)\(|\bsubprocess\b|os\.system|\bpip\b|pickle\.load", text), name
    for name, text in shipped(packed, ".js").items():
        assert not re.search(r"\beval\(|new Function|\.bind\(|\.connect\(|\.send\(|raw\.githubusercontent", text), name


def test_neither_a_secret_nor_a_place_on_a_machine_is_in_the_archive(packed):
    """Pictures included: their metadata is text too."""
    assert SECRET.search(b"r8_" + 37 * b"a") and OF_A_MACHINE.search(b"file:///home/somebody/")
    with zipfile.ZipFile(packed) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not OF_A_MACHINE.search(content) and not SECRET.search(content), name


def test_what_the_registry_will_refuse_is_not_in_the_code(packed, tmp_path):
    """comfy-cli only warns of it today."""
    zipfile.ZipFile(packed).extractall(tmp_path)
    rules = ("--isolated", "--no-cache", "--ignore-noqa", "--select", "S102,S307,E702")
    found = subprocess.run([sys.executable, "-m", "ruff", "check", *rules, tmp_path], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_registry_reads_all_that_the_project_declares(packed, capsys):
    """With comfy-cli's own reader, which drops what it does not like and goes on."""
    read = extract_node_configuration(str(packed.with_name("pyproject.toml")))
    project, comfy = read.project, read.tool_comfy
    assert not capsys.readouterr().out
    assert re.fullmatch(r"[a-z][a-z0-9-]{1,98}", project.name) and "comfyui" not in project.name
    assert re.fullmatch(r"\d+\.\d+\.\d+", project.version)
    assert re.fullmatch(r">=\d+\.\d+\.\d+", project.supported_comfyui_version)
    assert project.description and project.urls.repository and comfy.publisher_id and comfy.display_name
    assert len(project.supported_os) == 1 and len(project.supported_accelerators) == 3
    assert project.license.file in zipfile.ZipFile(packed).namelist()
    assert not comfy.web  # beside WEB_DIRECTORY every script would run twice


def conflicts(ours: list[str], theirs: list[str], installed: dict[str, str]) -> list[str]:
    """What of ours would change a package that ComfyUI, or another pack, has installed."""
    comfyui = {canonicalize_name(each.name): each.specifier for each in map(Requirement, theirs)}
    found = []
    for each in map(Requirement, ours):
        name = canonicalize_name(each.name)
        if each.url or {bound.operator for bound in each.specifier} - LOWER_BOUNDS:
            found.append(f"{each}: a lower bound is all that a pack may ask for")
        elif name not in installed or installed[name] not in each.specifier & comfyui.get(name, each.specifier):
            found.append(f"{each}: ComfyUI has {installed.get(name)} and wants {comfyui.get(name)}")
    return found


def requirements(file: Path) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return list(filter(None, lines))


def test_our_requirements_change_nothing_that_comfyui_has_installed():
    listed = subprocess.run([PYTHON, "-c", LISTED], capture_output=True, text=True, check=True).stdout
    installed = {canonicalize_name(name): version for name, version in json.loads(listed)}
    theirs = requirements(COMFYUI / "requirements.txt")
    assert conflicts(requirements(ROOT / "requirements.txt"), theirs, installed) == []
    assert len(theirs) > 20 and conflicts(theirs, [], installed)  # ComfyUI itself pins


@pytest.mark.parametrize("ours", ["a==2.0", "a<3", "a~=2.0", "a>=2.1", "a>=99", "b", "a @ https://example.com/a.whl"])
def test_a_requirement_that_would_change_a_package_is_found(ours):
    assert conflicts([ours], ["A>=1", "a!=9"], {"a": "2.0"})
    assert not conflicts(["a>=1.5", "a!=1.9"], ["A>=1"], {"a": "2.0"})


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
