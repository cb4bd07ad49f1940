"""Rules of the house that nobody should have to remember."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import standins
from flux_krea.nodes.providers import providers

ROOT = Path(__file__).resolve().parents[2]
PACK_FILES = sorted(
    path for path in [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py")] if "__pycache__" not in path.parts
)
NETWORK = ("requests", "urllib3", "http.client", "urllib.request", "socket", "ssl", "httpx", "ftplib", "smtplib")
COMFY = ("torch", "comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution")
INPUT_AND_OUTPUT = (
    "os",
    "io",
    "pathlib",
    "tempfile",
    "sqlite3",
    "threading",
    "subprocess",
    "asyncio",
    "concurrent",
    "time",
)
ROOMS = {  # room: the rooms it stands on
    "providers": (),
    "jobs": ("providers",),
    "model_files": (),
    "sampling": (),
    "safety": (),
    "saving": (),
    "bridge": ("jobs", "providers", "sampling", "safety", "model_files"),
}
FORBIDDEN = {
    "providers": (*COMFY, *NETWORK, *INPUT_AND_OUTPUT, "aiohttp", "numpy"),
    "jobs": (*COMFY, "aiohttp", "numpy"),
    "model_files": ("comfy_api", "aiohttp"),
    "sampling": ("comfy_api", "aiohttp"),
    "safety": ("comfy_api", "aiohttp"),
    "saving": (*COMFY, "aiohttp"),
    "bridge": (),
}
SENDS = ROOT / "nodes" / "jobs" / "client.py"  # the one file that sends over the network


def imported_names(path: Path) -> set[str]:
    """Every module a file imports, relative ones as a path from the root: `nodes.inference.weights`."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def belongs_to(name: str, packages) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", PACK_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    names = imported_names(path)
    if path != SENDS:
        assert not {name for name in names if belongs_to(name, NETWORK)}, "one file sends over the network"
    room = path.parent.name
    if room not in ROOMS:
        return
    below = {f"nodes.{other}" for other in (room, *ROOMS[room])}
    assert not {name for name in names if name.startswith("nodes.") and not belongs_to(name, below)}
    assert not {name for name in names if belongs_to(name, FORBIDDEN[room])}


def test_every_folder_is_a_room_and_every_other_file_a_node():
    folders = {path.name for path in (ROOT / "nodes").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set(ROOMS)
    for path in (ROOT / "nodes").glob("*.py"):
        assert path.name == "__init__.py" or re.search(r"^NODES = ", path.read_text(encoding="utf-8"), re.M), path


def test_no_circle_of_imports():
    files = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACK_FILES}
    arrows = {name: imported_names(path) & files.keys() for name, path in files.items()}
    while leaves := [name for name, below in arrows.items() if not below & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert not arrows, "these files import each other in a circle, or stand on one"


def test_the_door_imports_nothing_before_it_is_called():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_requirements_are_the_projects_dependencies():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = json.loads(re.search(r"^dependencies = (\[.*\])$", project, re.M).group(1))
    assert (ROOT / "requirements.txt").read_text().split() == dependencies


def test_every_provider_has_a_stand_in():
    """The integration tests and benches run with every provider that has one."""
    assert set(providers()) <= set(standins.PROVIDERS)


@pytest.mark.parametrize("path", sorted((ROOT / "locales").glob("*/nodeDefs.json")), ids=lambda path: path.parent.name)
def test_no_nodes_description_names_a_provider(path):
    """So that a new one changes no words in seven languages. What one of them advises may stand in a tooltip."""
    said = " ".join(node.get("description", "") for node in json.loads(path.read_text(encoding="utf-8")).values())
    assert not [each.label for each in providers().values() if re.search(rf"\b{re.escape(each.label)}\b", said)]


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", str(ROOT)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
