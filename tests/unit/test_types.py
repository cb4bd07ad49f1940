"""The types of the pack and of the page's scripts, as mypy and TypeScript's compiler see them; see pyproject.toml."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from links import link_folder

ROOT = Path(__file__).resolve().parents[2]
TYPED = sorted([ROOT / "__init__.py", *(ROOT / "nodes").rglob("*.py"), *(ROOT / "web").glob("*.js")])
BLANKET = re.compile(r"#\s*type:\s*ignore(?!\[)|#\s*mypy:|@ts-(nocheck|ignore)|ignore_errors")


def output_of(command, **options) -> tuple[int, str]:
    result = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, **options)
    return result.returncode, result.stdout + result.stderr


def test_the_packs_types_hold():
    """Under the name `flux_krea`, which a link gives it: mypy takes no folder for a package that has a hyphen."""
    place = ROOT / ".dev" / "types" / hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
    place.mkdir(parents=True, exist_ok=True)
    link_folder(place / "flux_krea", ROOT)
    command = [sys.executable, "-m", "mypy", "--cache-dir", place / "cache", "-p", "flux_krea.nodes", "-m", "flux_krea"]
    code, said = output_of(command, env={**os.environ, "MYPYPATH": str(place)})
    assert code == 0, said.replace(str(place / "flux_krea") + os.sep, "")


def test_the_types_of_the_pages_scripts_hold():
    compilers = [*(ROOT / ".dev" / "typescript").glob("node_modules/@typescript/typescript-*/lib/tsc*")]
    compilers = [file for file in compilers if file.name in ("tsc", "tsc.exe")]
    assert compilers, "TypeScript is missing: `python dev.py check` installs it"
    code, said = output_of([compilers[0], "-p", "jsconfig.json"])
    assert code == 0, said


@pytest.mark.parametrize("path", [ROOT / "pyproject.toml", ROOT / "jsconfig.json", *TYPED], ids=lambda path: path.name)
def test_no_type_error_is_waved_through(path):
    assert not BLANKET.search(path.read_text(encoding="utf-8"))
