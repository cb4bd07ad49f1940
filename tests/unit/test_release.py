"""What a tag may publish, and that the workflows use only actions of a fixed version."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = 'name = "flux-krea"\nversion = "1.2.3"\n'
CHANGELOG = (
    "# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-31\n\n### Added\n- A thing.\n\n## [1.2.2] - 2026-01-01\n"
)


@pytest.fixture(scope="module")
def problems():
    spec = importlib.util.spec_from_file_location("check_release", ROOT / ".github" / "check_release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.problems


def test_what_agrees_is_published(problems):
    assert problems("v1.2.3", PROJECT, CHANGELOG) == []


@pytest.mark.parametrize(
    ("tag", "project", "changelog", "sentence"),
    [
        ("v1.2.4", PROJECT, CHANGELOG, "the tag must be v1.2.3"),
        ("1.2.3", PROJECT, CHANGELOG, "the tag must be v1.2.3"),
        ("v1.2", PROJECT.replace("1.2.3", "1.2"), CHANGELOG, "the registry takes X.Y.Z"),
        ("v1.2.3", PROJECT, CHANGELOG.replace("[1.2.3] -", "[1.2.4] -"), "newest version is 1.2.4"),
        ("v1.2.3", PROJECT, "# Changelog\n\n## [Unreleased]\n- A thing.\n", "newest version is None"),
        ("v1.2.3", PROJECT, CHANGELOG.replace(" - 2026-01-31", ""), "needs a date"),
        ("v1.2.3", PROJECT, CHANGELOG.replace("- A thing.\n", ""), "at least one line"),
    ],
)
def test_what_does_not_agree_is_said(problems, tag, project, changelog, sentence):
    assert sentence in "\n".join(problems(tag, project, changelog))


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_uses_nothing_that_moves(path):
    used = re.findall(r"uses: (?!\./)\S+?@(\S+)", path.read_text(encoding="utf-8"))
    assert used and all(re.fullmatch(r"v\d+\.\d+\.\d+|[0-9a-f]{40}", version) for version in used)


def test_the_projects_changelog_can_be_read(problems):
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## [Unreleased]" in changelog or problems(f"v{version}", f'version = "{version}"', changelog) == []
