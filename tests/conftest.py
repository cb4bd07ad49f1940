"""Loads the pack the way ComfyUI does, by path, under one fixed name: `from flux_krea.nodes.providers import fal`.

And one real ComfyUI in each process for `integration/` and `browser/`, with miniature model files and the tests' probe nodes.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BASE = Path(os.environ.get("FLUX_KREA_TEST_BASE") or ROOT / ".dev" / "tests")
BASE /= os.environ.get("PYTEST_XDIST_WORKER", "one")  # each process has its own

spec = importlib.util.spec_from_file_location("flux_krea", ROOT / "__init__.py")
sys.modules["flux_krea"] = pack = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)


@pytest.fixture(scope="session")
def models() -> Path:
    """ComfyUI's models folder, filled with the miniature set and with what else the templates name."""
    import miniature

    paths = miniature.write_set(BASE / "models")
    dev = BASE / "models" / "checkpoints" / "flux1-dev-fp8.safetensors"
    if not dev.exists():
        dev.parent.mkdir(exist_ok=True)
        dev.hardlink_to(paths["flux1-krea-dev.safetensors"])
    layer = "transformer.single_transformer_blocks.0.proj_out"
    miniature.write_safetensors(
        BASE / "models" / "loras" / "FLUX-dev-lora-add_details.safetensors",
        {f"{layer}.lora_A.weight": ("BF16", (4, 15360)), f"{layer}.lora_B.weight": ("BF16", (3072, 4))},
    )
    return BASE / "models"


@pytest.fixture(scope="session")
def all_standins():
    """The stand-in providers, one real HTTP server each."""
    from standins import start_all

    with start_all() as running:
        yield running


@pytest.fixture
def standins(all_standins):
    """The same, with nothing left of the test before."""
    for standin in all_standins.values():
        standin.reset()
    return all_standins


@pytest.fixture(scope="session")
def comfyui(models, all_standins):
    """The running server. Tests share it: one that leaves it broken breaks the next, which is the point."""
    from comfyui import ComfyUI, link_folder

    for name in ("output", "temp", "user", "input"):
        shutil.rmtree(BASE / name, ignore_errors=True)
    (BASE / "server.log").unlink(missing_ok=True)
    server = ComfyUI(BASE, arguments=("--cpu",), environment=all_standins.env)
    server.prepare()
    link_folder(BASE / "custom_nodes" / "probe", ROOT / "tests" / "integration" / "probe")
    with server:
        yield server
