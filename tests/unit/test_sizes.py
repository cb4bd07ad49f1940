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
    [
        ("preset", "square"),
        ("aspect_ratio", "2.39:1"),
        *(("megapixels", value) for value in (math.nan, -1.0, 0, math.inf)),
    ],
)
def test_a_value_that_is_none_is_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} is .*{value}"):
        sizes.asked_size(**{**USUAL, name: value})


def test_the_words_give_the_local_size_and_each_providers_and_warn_outside_the_trained_range():
    lines = sizes.describe((1010, 1010)).splitlines()
    assert lines[0] == "1008 × 1008, 0.97 MP" and len(lines) == 1 + len(providers())
    assert "fal: 1008 × 1008" in lines and "Replicate: 1024 × 1024" in lines
    assert "fal: 1280 × 720" in sizes.describe((1280.4, 719.6)).splitlines()
    assert "pictures fall apart" in sizes.describe((4096, 4096)).splitlines()[1]


@pytest.mark.parametrize(
    ("size", "is_warned"),
    [((512, 512), False), ((512, 496), True), ((2048, 1024), False), ((2048, 1040), True)],
)
def test_the_trained_range_reaches_from_a_quarter_of_a_megapixel_to_two(size, is_warned):
    warning = "Krea was trained around 1 MP; outside 0.25 to 2 MP pictures fall apart."
    assert (warning in sizes.describe(size).splitlines()) is is_warned


def test_no_side_is_smaller_than_one_patch():
    assert sizes.to_legal(1, 1) == sizes.to_legal(16, 16) == (16, 16)
