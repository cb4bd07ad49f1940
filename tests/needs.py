"""What a test file needs beside the small environment of `python dev.py check`. Only the standard library, for dev.py.

One rule: a unit test needs torch and ComfyUI when it, or what it imports of ours, imports them at its top.
Integration tests need a ComfyUI, browser tests a Chromium too, and the test of the page's types TypeScript.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
PACK = "flux_krea"  # the name under which conftest.py loads the root
COMFYUI, BROWSER, TSC = "comfyui", "browser", "tsc"
UNIT, WITH_COMFYUI = "tests/unit", ("tests/integration", "tests/browser")
# What ComfyUI brings: its own modules, and the packages of its requirements that the check's environment lacks.
OF_COMFYUI = {"torch", "safetensors", "comfy", "comfy_api", "comfy_execution", "folder_paths", "server", "nodes"}
OF_COMFYUI |= {"latent_preview", "node_helpers"}
OF_COMFYUI |= {
    "fal_client",
    "openai",
    "replicate",
    "runware",
    "wavespeed",
    "c2pa",
    "cryptography",
    "pyexiv2",
}  # the providers' own clients: only `test` has them


def needs(test: Path) -> set[str]:
    """Which of COMFYUI, BROWSER and TSC this test file needs."""
    suite = test.resolve().relative_to(TESTS).parts[0]
    if suite == "browser":
        return {COMFYUI, BROWSER}
    if suite == "integration" or imports_comfyui(test.resolve()):
        return {COMFYUI}
    return {TSC} if test.name == "test_types.py" else set()


def named_tests(arguments: Iterable[str] = ()) -> list[Path]:
    """The test files that pytest runs for these arguments: those under the paths it is given, else all."""
    named = [ROOT / argument.split("::")[0] for argument in arguments if not argument.startswith("-")]
    named = [path.resolve() for path in named if path.exists() and path.resolve().is_relative_to(TESTS)]
    return sorted(test for path in named or [TESTS] for test in ([path] if path.is_file() else path.rglob("test_*.py")))


@cache
def imports_comfyui(file: Path) -> bool:
    seen: set[Path] = set()
    waiting = [file]
    while waiting:
        file = waiting.pop()
        for name in modules_at_the_top(file):
            if name.split(".")[0] in OF_COMFYUI:
                return True
            found = set(files_of(name)) - seen
            seen |= found
            waiting += found
    return False


def modules_at_the_top(file: Path) -> Iterator[str]:
    """The modules that importing this file imports; relative ones, and their names, as `flux_krea.nodes.jobs.client`."""
    package = [PACK, *file.relative_to(ROOT).parent.parts] if file.is_relative_to(ROOT) else []
    for node in top_level(ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements that run on import, within `if` and `try` too; what only types need is not among them."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            yield from top_level(node.orelse)
        elif isinstance(node, (ast.If, ast.Try)):
            handlers = [handler.body for handler in getattr(node, "handlers", [])]
            for part in (node.body, node.orelse, getattr(node, "finalbody", []), *handlers):
                yield from top_level(part)


def files_of(module: str) -> Iterator[Path]:
    """The files of ours that importing this module runs: itself and the packages around it."""
    parts = module.split(".")
    if parts[0] == PACK:
        for length in range(1, len(parts) + 1):
            yield from existing(ROOT.joinpath(*parts[1:length]))
    else:
        for folder in (TESTS, TESTS / "unit", TESTS / "integration"):
            yield from existing(folder.joinpath(*parts))


def existing(module: Path) -> list[Path]:
    return [file for file in (module / "__init__.py", module.with_suffix(".py")) if file.is_file()]
