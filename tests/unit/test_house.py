"""Rules of the house that nobody should have to remember."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACK_FILES = sorted(
    path for path in [ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py")] if "__pycache__" not in path.parts
)
FORBIDDEN = {
    "nodes/inference": ("comfy_api", "requests", "urllib", "http", "socket", "aiohttp", "nodes.providers"),
    "nodes/providers": ("torch", "comfy", "comfy_api", "folder_paths", "server", "nodes.inference"),
}


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


@pytest.mark.parametrize("path", PACK_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    folder = next((folder for folder in FORBIDDEN if path.is_relative_to(ROOT / folder)), None)
    names = imported_names(path)
    for forbidden in FORBIDDEN.get(folder, ()):
        assert not {name for name in names if name == forbidden or name.startswith(forbidden + ".")}
    if folder:  # a library never imports a node
        nodes = {f"nodes.{file.stem}" for file in (ROOT / "nodes").glob("*.py") if file.stem != "__init__"}
        assert not names & nodes


def test_the_door_imports_nothing_before_it_is_called():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    assert not [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]


def test_requirements_are_the_projects_dependencies():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = json.loads(re.search(r"^dependencies = (\[.*\])$", project, re.M).group(1))
    assert (ROOT / "requirements.txt").read_text().split() == dependencies


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=" ".join)
def test_ruff_has_nothing_to_say(command):
    result = subprocess.run(
        [sys.executable, "-m", "ruff", *command, "--no-cache", str(ROOT)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
