"""ComfyUI's words into a provider's: sizes at their limits, what `extra` may set, what is kept in range and said."""

from dataclasses import replace

import pytest
from flux_krea.nodes.providers import fal, one_min, providers, replicate, runware, wavespeed
from flux_krea.nodes.providers.contract import (
    IMAGE_TO_IMAGE,
    INPAINTING,
    REDUX,
    GenerationRequest,
    RequestRefused,
    Unsupported,
    money,
)
from flux_krea.nodes.providers.payload import at_least, nearest_ratio, png_size, ratio_and_megapixels, snap
from scripted_answers import IMAGE, PNG, TEXT

ALL = pytest.mark.parametrize("provider", providers().values(), ids=providers())


def said(provider, request):
    return [(change.parameter, change.asked, change.delivered) for change in provider.plan(request).changes]


# ---- sizes


@pytest.mark.parametrize(
    ("asked", "limits", "size"),
    [
        ((1000, 700), {}, (1008, 704)),  # half a step is rounded up
        ((999, 695), {}, (992, 688)),
        ((7, 2040), {}, (16, 2048)),
        ((1000, 700), {"step": 64}, (1024, 704)),
        ((7, 100), {"step": 64, "shortest": 128}, (128, 128)),
        ((4096, 1040), {}, (2048, 512)),  # rounded down, as it was scaled
        ((1040, 4096), {}, (512, 2048)),
        ((2048, 2048), {"area": 2**20}, (1024, 1024)),
        ((2048, 520), {"area": 2**18}, (1008, 256)),
        ((1000, 1000), {"area": 10**6}, (992, 1008)),  # to 1008 × 1008 it would be over
        ((1240, 800), {"area": 1240 * 800}, (1232, 800)),
        ((800, 1240), {"area": 800 * 1240}, (800, 1232)),
        ((1024, 1024), {"area": 1024 * 1024}, (1024, 1024)),
        ((1000, 900), {"longest": 1000}, (992, 896)),
        ((900, 1000), {"longest": 1000}, (896, 992)),
        ((2048, 16), {"longest": 2048}, (2048, 16)),
        ((0, -5), {}, (16, 16)),
        ((1, 1), {"step": 1, "shortest": 1}, (1, 1)),
    ],
)
def test_a_size_is_the_nearest_in_steps_and_never_over_a_limit(asked, limits, size):
    assert snap(*asked, **{"longest": 2048, **limits}) == size


@pytest.mark.parametrize(
    ("asked", "size"),
    [((64, 32), (256, 128)), ((32, 64), (128, 256)), ((128, 500), (128, 500)), ((129, 128), (129, 128)),
     ((1, 10), (128, 1280)), ((0, 10), (0, 1280))],
)  # fmt: skip
def test_a_short_side_is_made_longer_in_shape(asked, size):
    assert at_least(*asked, 128) == size


def test_of_two_ratios_as_near_the_larger_picture_is_taken():
    assert nearest_ratio(700, 700, {"small": (512, 512), "large": (1024, 1024)}) == "large"
    assert nearest_ratio(700, 700, {"large": (1024, 1024), "small": (512, 512)}) == "large"


@pytest.mark.parametrize(
    ("asked", "megapixels", "size"),
    [
        ((1024, 512), "1", (1344, 768)),  # exactly half a megapixel
        ((1024, 511), "0.25", (672, 384)),
        ((16, 16), "0.25", (512, 512)),
        ((4096, 4096), "1", (1024, 1024)),
    ],
)
def test_below_half_a_megapixel_the_smaller_size_is_made(asked, megapixels, size):
    sent = replicate.plan(replace(TEXT, width=asked[0], height=asked[1]))
    assert sent.payload["input"]["megapixels"] == megapixels and sent.size == size
    assert [change.delivered for change in sent.changes] == ["{}×{}".format(*size)]
    assert ratio_and_megapixels(*asked, replicate.KREA_SIZES)[1:] == (megapixels, size)


@ALL
def test_a_size_of_the_providers_own_is_in_whole_pixels(provider):
    assert all(type(side) is int for size in provider.presets.values() for side in size)


@ALL
@pytest.mark.parametrize("size", [(0, 0), (0, 512), (-3, 512)])
def test_an_estimate_of_a_size_that_is_none_is_no_crash(provider, size):
    """It is asked for while somebody types."""
    assert provider.estimate(replace(TEXT, width=size[0], height=size[1])).note


# ---- pictures


def test_the_size_of_a_png_stands_in_its_first_24_bytes():
    width, height = 2**24 + 1, 2**30 + 3
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")
    assert png_size(head) == png_size(head + b"more") == (width, height)
    for other in (b"", head[:23], b"GIF89a" + head[6:], head[:12] + b"IDAT" + head[16:]):
        with pytest.raises(RequestRefused, match="not a PNG"):
            png_size(other)


@pytest.mark.parametrize(
    ("mode", "sentence"),
    [(IMAGE_TO_IMAGE, "image to image needs an input image"), (INPAINTING, "inpainting needs"), (REDUX, "Redux needs")],
)
@pytest.mark.parametrize("image", [None, b""])
def test_a_mode_with_an_image_says_its_name_where_there_is_none(mode, sentence, image):
    with pytest.raises(RequestRefused, match=sentence):
        fal.plan(replace(TEXT, mode=mode, image=image, mask=PNG if mode == INPAINTING else None))


@pytest.mark.parametrize("mask", [b"", b"GIF89a"])
def test_a_mask_that_is_no_picture_is_not_sent(mask):
    with pytest.raises(RequestRefused):
        fal.plan(replace(IMAGE, mode=INPAINTING, mask=mask))


@ALL
def test_as_many_pictures_as_one_call_makes_and_not_one_more(provider):
    assert provider.plan(replace(TEXT, images=provider.max_images)).payload
    with pytest.raises(RequestRefused, match=f"makes 1 to {provider.max_images} pictures in a call"):
        provider.plan(replace(TEXT, images=provider.max_images + 1))


# ---- values in their range


@pytest.mark.parametrize(
    ("provider", "name"),
    [
        pytest.param(provider, name, id=f"{provider.label} {name}")
        for provider in providers().values()
        for name in ("steps", "guidance", "strength", "quality")
        if provider.parameters[IMAGE_TO_IMAGE][name].minimum is not None
    ],
)
def test_a_value_at_a_limit_is_sent_as_it_is_and_one_beyond_it_is_brought_there_and_said(provider, name):
    request, parameter = replace(IMAGE, output_format="jpeg"), provider.parameters[IMAGE_TO_IMAGE][name]
    for limit, beyond in ((parameter.minimum, parameter.minimum - 1), (parameter.maximum, parameter.maximum + 1)):
        assert name not in {change.parameter for change in provider.plan(replace(request, **{name: limit})).changes}
        changed = provider.plan(replace(request, **{name: beyond})).changes
        (change,) = [each for each in changed if each.parameter == name]
        assert (change.asked, change.delivered) == (beyond, limit)
        assert f"takes {parameter.minimum:g} to {parameter.maximum:g}" in change.reason


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_brought_into_no_range(value):
    with pytest.raises(RequestRefused, match=f"guidance is {value}. Give a number"):
        fal.plan(replace(TEXT, guidance=value))


def test_a_wish_that_the_provider_does_not_know_is_reported_and_what_it_does_anyway_is_not():
    request = replace(TEXT, output_format="jpeg")
    assert said(fal, replace(request, quality=95)) == []
    assert said(fal, replace(request, quality=94)) == [("quality", 94, 95)]
    assert said(fal, replace(TEXT, quality=94)) == []  # a PNG has none
    assert said(wavespeed, replace(TEXT, acceleration="high")) == [
        ("steps", 28, "WaveSpeed's own"),
        ("acceleration", "high", "none"),
    ]
    assert said(one_min, replace(TEXT, output_format="webp")) == []


@pytest.mark.parametrize(("mode", "words"), [(INPAINTING, "no inpainting for"), (REDUX, "no Redux for")])
def test_a_mode_that_a_provider_does_not_have_is_named(mode, words):
    with pytest.raises(Unsupported, match=words):
        replicate.plan(replace(IMAGE, mode=mode))


# ---- extra


ONLY_BY_INPUTS = (
    "num_images num_outputs n numberResults batch_size images image_size size width height aspect_ratio megapixels "
    "resolution target_size enable_safety_checker disable_safety_checker safety_checker checkNSFW safety_tolerance "
    "safety image image_url image_prompt seedImage mask mask_url mask_image maskImage lora loras"
).split()
READ_THERE = {"lumenfall": ("aspect_ratio", "resolution"), "one_min": ("width", "height", "aspect_ratio")}


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in providers() for field in ONLY_BY_INPUTS if field not in READ_THERE.get(name, ())],
)
def test_size_count_safety_and_pictures_are_set_by_the_nodes_inputs_and_by_no_workflows_extra(name, field):
    """By any name that a provider has for it, as one may take another's: the limits are counted by the inputs."""
    with pytest.raises(RequestRefused, match=f"extra (says|may not set) {field}"):
        providers()[name].plan(replace(TEXT, extra={field: "another"}))


@pytest.mark.parametrize(
    ("extra", "is_same"),
    [
        ({"seed": 7}, True),
        ({"seed": 7.0}, True),
        ({"seed": 8}, False),
        ({"num_images": True}, False),
        ({"enable_safety_checker": True}, True),
        ({"enable_safety_checker": 1}, False),
        ({"enable_safety_checker": False}, False),
    ],
)
def test_what_the_node_says_already_may_be_said_again_and_yes_is_not_one(extra, is_same):
    request = replace(TEXT, extra=extra)
    if is_same:
        planned = fal.plan(request)
        assert planned.payload == fal.plan(TEXT).payload and planned.unpriced == ()
    else:
        with pytest.raises(RequestRefused, match=f"extra says {next(iter(extra))}="):
            fal.plan(request)


def deep(layers):
    value = []
    for _ in range(layers):
        value = [value]
    return value


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, float("nan"), deep(100_000)], ids=["bytes", "set", "nan", "deep"])
def test_what_is_no_json_is_not_sent(value):
    with pytest.raises(RequestRefused, match="extra its_own cannot be sent"):
        fal.plan(replace(TEXT, extra={"its_own": value}))


@pytest.mark.parametrize("value", ["text", 2, 0.5, True, None, [1], {"a": 1}], ids=str)
def test_what_is_json_is_sent_as_it_is(value):
    assert fal.plan(replace(TEXT, extra={"its_own": value})).payload["its_own"] == value


# ---- money


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0, "$0.00"), (0.5, "$0.50"), (10, "$10.00"), (0.0098, "$0.0098"), (0.00004, "$0.00"), (0.00006, "$0.0001")],
)
def test_money_has_cents_and_smaller_parts_where_there_are_any(usd, text):
    assert money(usd) == text


@pytest.mark.parametrize(
    ("change", "usd"),
    [
        ({"steps": 14}, 0.0049),
        ({"width": 2048}, 0.0196),
        ({"width": 64, "height": 64}, 0.000153),  # which are made 128 × 128
        ({"images": 3}, 0.0294),
    ],
)
def test_runwares_price_is_reckoned_by_pixels_and_steps(change, usd):
    assert runware.estimate(GenerationRequest("a fox", **change)).usd == usd
