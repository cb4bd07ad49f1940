import math

import pytest
from flux_krea.nodes.bridge import sizes
from flux_krea.nodes.providers import providers

USUAL = {"preset": "aspect ratio", "aspect_ratio": "1:1", "megapixels": 1.0, "width": 640, "height": 480}


@pytest.mark.parametrize("ratio", sizes.RATIOS)
@pytest.mark.parametrize("megapixels", [0.1, 1.0, 4.0])
def test_every_ratio_comes_as_near_as_multiples_of_16_can(ratio, megapixels):
    across, down = map(int, ratio.split(":"))
    width, height = sizes.to_legal(*sizes.asked_size(**{**USUAL, "aspect_ratio": ratio, "megapixels": megapixels}))
    assert width % 16 == height % 16 == 0
    area = megapixels * 1024 * 1024
    assert abs(width - math.sqrt(area * across / down)) <= 8 and abs(height - math.sqrt(area * down / across)) <= 8


def test_an_exact_size_and_a_providers_own_size_are_taken_as_they_are():
    assert sizes.asked_size(**{**USUAL, "preset": "exact size"}) == (640, 480)
    assert sizes.asked_size(**{**USUAL, "preset": "fal: square_hd"}) == (1024, 1024)


@pytest.mark.parametrize(
    ("name", "value"),
    [("preset", "square"), ("aspect_ratio", "2.39:1"), ("megapixels", math.nan), ("megapixels", -1.0)],
)
def test_a_value_that_is_none_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*{value}"):
        sizes.asked_size(**{**USUAL, name: value})


def test_the_words_give_the_local_size_and_each_providers_and_warn_outside_the_trained_range():
    lines = sizes.describe((1010, 1010)).splitlines()
    assert lines[0] == "1008 × 1008, 0.97 MP" and len(lines) == 1 + len(providers())
    assert "fal: 1008 × 1008" in lines and "Replicate: 1024 × 1024" in lines
    assert "pictures fall apart" in sizes.describe((4096, 4096)).splitlines()[1]
