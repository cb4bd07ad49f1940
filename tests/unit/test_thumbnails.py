"""Each template's thumbnail is the one that our script draws."""

from pathlib import Path

import draw_thumbnails
import pytest

TEMPLATES = sorted(path.stem for path in draw_thumbnails.WORKFLOWS.glob("*.json"))


def test_every_template_has_a_thumbnail_and_every_thumbnail_a_template():
    assert TEMPLATES == sorted(draw_thumbnails.THUMBNAILS)
    assert TEMPLATES == sorted(Path(file).stem for file in draw_thumbnails.WORKFLOWS.glob("*.jpg"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_thumbnail_is_as_it_is_drawn(name):
    assert draw_thumbnails.difference(name) < 4, f"python {Path(draw_thumbnails.__file__).name} draws it anew"
