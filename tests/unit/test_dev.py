"""What dev.py decides before anything is installed: which tests need what, and which download is the right one."""

import importlib.util
from pathlib import Path

import needs
import pytest
from needs import BROWSER, COMFYUI, TESTS, TSC, UNIT, named_tests

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def dev():
    spec = importlib.util.spec_from_file_location("krea_dev", ROOT / "dev.py")
    dev = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dev)
    return dev


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("unit/test_dev.py", set()),
        ("unit/test_types.py", {TSC}),
        ("unit/test_attention_bias.py", {COMFYUI}),
        ("integration/test_api.py", {COMFYUI}),
        ("browser/test_page.py", {COMFYUI, BROWSER}),
    ],
)
def test_each_test_says_what_it_needs(test, expected):
    assert needs.needs(TESTS / test) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import json", False),
        ("import torch.nn", True),
        ("from comfy_api.latest import io", True),
        ("try:\n    import torch\nexcept ImportError:\n    pass", True),
        ("def later():\n    import torch", False),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", False),
        ("import tiny_detector", True),
        ("from flux_krea.nodes.providers import fal", False),
        ("from flux_krea.nodes.sampling import redux", True),
        ("from flux_krea.nodes.sampling.redux import *", True),
    ],
)
def test_what_is_imported_at_the_top_decides(monkeypatch, tmp_path, source, expected):
    (tmp_path / "test_it.py").write_text(source)
    assert needs.imports_comfyui(tmp_path / "test_it.py") is expected


def test_only_named_tests_are_set_up_for():
    assert named_tests(["tests/unit/test_dev.py::test_it", "-k", "it", "-x"]) == [Path(__file__).resolve()]
    assert {file.parent.name for file in named_tests(["tests/unit", "tests/browser"])} == {"unit", "browser"}
    assert {file.parent.name for file in named_tests(["-q"])} == {"unit", "integration", "browser"}
    assert set(named_tests([UNIT])) == set((TESTS / "unit").glob("test_*.py"))


def test_another_file_than_the_pinned_one_is_not_unpacked(dev, tmp_path):
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"something else")
    with pytest.raises(SystemExit, match=f"expected was {dev.WHEEL_SHA256}"):
        dev.verified(wheel, dev.WHEEL_SHA256)
    assert not wheel.exists()


def test_the_pinned_file_is_taken(dev, tmp_path):
    wheel = tmp_path / "a.whl"
    wheel.write_bytes(b"abc")
    assert dev.verified(wheel, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == wheel
