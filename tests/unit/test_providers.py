"""What each provider is asked for, as plain dictionaries: payloads, conversions, refusals, sizes, prices."""

import json
from dataclasses import fields, replace

import pytest
from flux_krea.nodes.providers import core_today, fal, lumenfall, one_min, providers, replicate, runware, wavespeed
from flux_krea.nodes.providers.contract import (
    IMAGE_TO_IMAGE,
    REDUX,
    Change,
    GenerationRequest,
    RequestRefused,
    Unsupported,
)
from flux_krea.nodes.providers.payload import KREA_SIZES, nearest_ratio, snap
from flux_krea.nodes.providers.polling import seconds_to_next_poll
from standins import lumenfall as lumenfall_standin
from standins import replicate as replicate_standin


def png(width=1024, height=768):
    return b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big")


TEXT = GenerationRequest("a fox", seed=7)
IMAGE = replace(TEXT, mode=IMAGE_TO_IMAGE, image=png(), strength=0.6)
REDUX_OF_IMAGE = GenerationRequest("", mode=REDUX, image=png(), seed=7)
ALL = pytest.mark.parametrize("provider", providers().values(), ids=providers())


def changes(provider, request):
    return {change.parameter: (change.asked, change.delivered) for change in provider.plan(request).changes}


def test_every_file_is_a_provider():
    assert sorted(providers()) == ["core_today", "fal", "lumenfall", "one_min", "replicate", "runware", "wavespeed"]
    assert {p.key_variable for p in providers().values()} == {
        "FAL_KEY",
        "REPLICATE_API_TOKEN",
        "LUMENFALL_API_KEY",
        "CORE_API_KEY",
        "ONEMIN_API_KEY",
        "RUNWARE_API_KEY",
        "WAVESPEED_API_KEY",
    }


def test_each_key_travels_as_its_provider_wants_it():
    assert {name: p.headers("k") for name, p in providers().items()} == {
        "fal": {"Authorization": "Key k"},
        "replicate": {"Authorization": "Bearer k"},
        "lumenfall": {"Authorization": "Bearer k"},
        "core_today": {"X-API-Key": "k"},
        "one_min": {"API-KEY": "k"},
        "runware": {"Authorization": "Bearer k"},
        "wavespeed": {"Authorization": "Bearer k"},
    }


@ALL
def test_tables_name_only_inputs_that_exist_and_say_how_each_is_taken(provider):
    inputs = {field.name for field in fields(GenerationRequest)} - {"mode", "extra", "image_was"}
    for mode, table in provider.parameters.items():
        assert set(table) <= inputs and inputs - set(table) <= {"image", "strength", "mask", "loras"}, mode
        for name, parameter in table.items():
            assert parameter.how in ("passthrough", "renamed", "converted", "emulated", "unsupported"), name
            assert bool(parameter.field) == (parameter.how != "unsupported") or parameter.how == "emulated", name


# ---- payloads


FAL_TEXT = {
    "prompt": "a fox",
    "image_size": {"width": 1024, "height": 1024},
    "num_inference_steps": 28,
    "guidance_scale": 4.5,
    "seed": 7,
    "num_images": 1,
    "acceleration": "none",
    "enable_safety_checker": True,
    "output_format": "png",
}
KREA_TEXT = {
    "prompt": "a fox",
    "aspect_ratio": "1:1",
    "megapixels": "1",
    "num_inference_steps": 28,
    "guidance": 4.5,
    "seed": 7,
    "num_outputs": 1,
    "go_fast": False,
    "disable_safety_checker": False,
    "output_format": "png",
    "output_quality": 95,
}
LUMENFALL_TEXT = {
    "model": "flux.1-krea-dev",
    "prompt": "a fox",
    "size": "1024x1024",
    "num_inference_steps": 28,
    "cfg_scale": 4.5,
    "seed": 7,
    "n": 1,
    "output_format": "png",
}
ONE_MIN_TEXT = {key: value for key, value in KREA_TEXT.items() if key not in ("num_outputs", "output_format")}


def image_form(payload, strength, *size_fields, **more):
    return {k: v for k, v in payload.items() if k not in size_fields} | {strength: 0.6} | more


@pytest.mark.parametrize(
    ("provider", "request_", "endpoint", "payload"),
    [
        (fal, TEXT, "fal-ai/flux/krea", FAL_TEXT),
        (fal, IMAGE, "fal-ai/flux/krea/image-to-image", image_form(FAL_TEXT, "strength", "image_size")),
        (
            fal,
            replace(TEXT, width=1152, height=896),
            "fal-ai/flux/krea",
            FAL_TEXT | {"image_size": {"width": 1152, "height": 896}},
        ),
        (fal, REDUX_OF_IMAGE, "fal-ai/flux/krea/redux", {k: v for k, v in FAL_TEXT.items() if k != "prompt"}),
        (replicate, TEXT, replicate.MODEL, {"input": KREA_TEXT}),
        (
            replicate,
            IMAGE,
            replicate.MODEL,
            {"input": image_form(KREA_TEXT, "prompt_strength", "aspect_ratio", "megapixels")},
        ),
        (core_today, TEXT, replicate.MODEL, {"model": replicate.MODEL, "input": KREA_TEXT}),
        (lumenfall, TEXT, "images/generations", LUMENFALL_TEXT),
        (lumenfall, IMAGE, "images/edits", image_form(LUMENFALL_TEXT, "strength", "size")),
        (
            one_min,
            TEXT,
            one_min.MODEL,
            {"type": "IMAGE_GENERATOR", "model": one_min.MODEL, "promptObject": ONE_MIN_TEXT},
        ),
        (
            one_min,
            IMAGE,
            one_min.MODEL,
            {
                "type": "IMAGE_GENERATOR",
                "model": one_min.MODEL,
                "promptObject": image_form(ONE_MIN_TEXT, "prompt_strength", "aspect_ratio", "megapixels"),
            },
        ),
    ],
)
def test_a_plan_is_the_exact_payload(provider, request_, endpoint, payload):
    planned = provider.plan(request_)
    assert (planned.endpoint, planned.payload) == (endpoint, payload)
    assert planned.image == request_.image


@ALL
def test_zero_is_a_value_and_is_sent(provider):
    low = replace(IMAGE, strength=0, guidance=0, seed=0, quality=0, output_format="jpeg")
    sent = json.loads(json.dumps(provider.plan(low).payload))
    flat = sent | sent.get("input", {}) | sent.get("promptObject", {})
    assert flat.get("strength", flat.get("prompt_strength")) in (0, 0.01)
    names = ("guidance", "guidance_scale", "cfg_scale", "CFGScale")
    assert next(flat[name] for name in names if name in flat) in (0, 1)
    assert flat["seed"] in (0, 4294967294)
    assert flat.get("output_quality", flat.get("output_compression", 0)) == 0


# ---- refusals before anything is sent


@pytest.mark.parametrize("name", sorted(set(providers()) - {"fal"}))
def test_redux_anywhere_but_fal_is_refused_and_names_fal(name):
    with pytest.raises(Unsupported, match="no Redux.*Choose fal"):
        providers()[name].plan(REDUX_OF_IMAGE)


@ALL
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"prompt": " \n"}, "prompt is empty"),
        ({"mode": IMAGE_TO_IMAGE}, "needs an input image"),
        ({"mode": IMAGE_TO_IMAGE, "image": b""}, "needs an input image"),
        ({"image": png()}, "takes no input image"),
        ({"mode": "video"}, "no 'video'"),
        ({"images": 0}, "not 0"),
        ({"images": 11}, "not 11"),
        ({"width": 0}, "0×1024 is not a size"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"acceleration": "warp"}, "no acceleration 'warp'"),
        ({"extra": {"seed": 8}}, "extra says seed=8"),
        ({"extra": {"its_own": {1, 2}}}, "extra its_own cannot be sent"),
        ({"extra": {"style": float("inf")}}, "extra style cannot be sent"),
    ],
    ids=str,
)
def test_what_cannot_be_made_is_refused_with_a_sentence(provider, change, sentence):
    with pytest.raises((RequestRefused, Unsupported), match=sentence) as caught:
        provider.plan(replace(TEXT, **change))
    assert caught.value.paid is False


@ALL
def test_the_prompt_cannot_be_replaced_through_extra(provider):
    field = provider.parameters["text_to_image"]["prompt"].field
    with pytest.raises(RequestRefused, match=f"extra says {field}='another'"):
        provider.plan(replace(TEXT, extra={field: "another"}))


@pytest.mark.parametrize(
    ("provider", "field"),
    [
        (fal, "image_url"),
        (replicate, "image"),
        (core_today, "image"),
        (lumenfall, "image"),
        (one_min, "image_prompt"),
        (fal, "mask_url"),
        (fal, "loras"),
        (runware, "inputs"),
        (runware, "seedImage"),
        (runware, "lora"),
        (wavespeed, "image"),
        (wavespeed, "loras"),
    ],
)
def test_the_image_cannot_be_replaced_through_extra(provider, field):
    with pytest.raises(RequestRefused, match=f"extra may not set {field}"):
        provider.plan(replace(IMAGE, extra={field: "https://elsewhere.example/x.png"}))


def test_an_extra_that_says_what_the_node_says_is_no_contradiction():
    assert fal.plan(replace(TEXT, extra={"num_images": 1})).payload == FAL_TEXT
    with pytest.raises(RequestRefused, match="num_images=True"):
        fal.plan(replace(TEXT, extra={"num_images": True}))


def test_unknown_fields_reach_the_provider_through_extra():
    assert fal.plan(replace(TEXT, extra={"its_own": True})).payload == FAL_TEXT | {"its_own": True}
    assert replicate.plan(replace(TEXT, extra={"new": 1})).payload == {"input": KREA_TEXT | {"new": 1}}


def test_a_prompt_longer_than_lumenfall_takes_is_refused_with_both_lengths():
    lumenfall.plan(replace(TEXT, prompt="x" * 1000))
    with pytest.raises(RequestRefused, match="1001 characters, and Lumenfall takes 1000"):
        lumenfall.plan(replace(TEXT, prompt="x" * 1001))


@pytest.mark.parametrize("name", ["fal", "replicate", "core_today", "one_min"])
def test_other_providers_take_long_prompts(name):
    assert "x" * 5000 in json.dumps(providers()[name].plan(replace(TEXT, prompt="x" * 5000)).payload)


# ---- conversions


def test_ratios_are_picked_by_real_pixels():
    assert nearest_ratio(1600, 900, KREA_SIZES) == "16:9"
    assert nearest_ratio(1440, 600, KREA_SIZES) == "21:9"
    assert nearest_ratio(1000, 1001, KREA_SIZES) == "1:1"
    assert all(nearest_ratio(*size, KREA_SIZES) == ratio for ratio, size in KREA_SIZES.items())


@pytest.mark.parametrize("name", ["replicate", "core_today", "one_min"])
def test_sizes_become_the_nearest_ratio_and_the_change_is_said(name):
    provider = providers()[name]
    asked = replace(TEXT, width=1920, height=1080)
    assert provider.plan(asked).size == (1344, 768)
    assert changes(provider, asked)["size"] == ("1920×1080", "1344×768")
    assert provider.plan(replace(TEXT, width=600, height=600)).size == (512, 512)
    assert "size" not in changes(provider, replace(TEXT, width=416, height=608))


@ALL
def test_presets_are_delivered_as_they_are_named(provider):
    for label, (width, height) in provider.presets.items():
        planned = provider.plan(replace(TEXT, width=width, height=height))
        assert planned.size == (width, height), label
        assert "size" not in {change.parameter for change in planned.changes}


def test_each_provider_has_its_own_documented_presets_and_nobody_elses():
    counts = {name: len(provider.presets) for name, provider in providers().items()}
    assert {name: count for name, count in counts.items() if count} == {"fal": 6, "replicate": 22, "lumenfall": 11}
    assert replicate.PROVIDER.presets["1:1 0.25 MP"] == (512, 512)


@pytest.mark.parametrize("asked", [(1, 1), (1000, 1000), (4096, 4096), (2040, 2060), (16, 99999), (1183, 887)])
def test_snapped_sizes_are_multiples_of_16_within_the_limits(asked):
    width, height = snap(*asked, longest=2048, area=4 * 2**20)
    assert width % 16 == height % 16 == 0
    assert 16 <= width <= 2048 and 16 <= height <= 2048 and width * height <= 4 * 2**20


def test_fal_keeps_to_four_megapixels_in_shape():
    assert fal.plan(replace(TEXT, width=4000, height=4000)).size == (2048, 2048)
    assert changes(fal, replace(TEXT, width=1001, height=1000))["size"] == ("1001×1000", "1008×1008")


@pytest.mark.parametrize(
    ("seed", "everywhere", "krea"),
    [(0, 0, 4294967294), (2**32 - 1, 4294967295, 4294967294), (2**32, 0, 4294967294), (2**63 + 5, 5, 5), (42, 42, 42)],
)
def test_seeds_fit_32_bits_and_are_never_random(seed, everywhere, krea):
    request = replace(TEXT, seed=seed)
    assert fal.plan(request).payload["seed"] == everywhere
    assert lumenfall.plan(request).payload["seed"] == everywhere
    assert one_min.plan(request).payload["promptObject"]["seed"] == everywhere
    assert replicate.plan(request).payload["input"]["seed"] == krea
    assert core_today.plan(request).payload["input"]["seed"] == krea
    forced = replace(request, extra={"model": "replicate/flux.1-krea-dev"})
    assert lumenfall.plan(forced).payload["seed"] == krea
    assert ("seed" in changes(fal, request)) == (everywhere != seed)


@pytest.mark.parametrize(
    ("provider", "request_", "expected"),
    [
        (fal, replace(IMAGE, steps=4), {"steps": (4, 10)}),
        (fal, replace(TEXT, steps=90), {"steps": (90, 50)}),
        (fal, replace(IMAGE, strength=0.0), {"strength": (0.0, 0.01)}),
        (fal, replace(TEXT, guidance=0.5), {"guidance": (0.5, 1)}),
        (fal, replace(TEXT, output_format="webp"), {"output_format": ("webp", "png"), "quality": None}),
        (fal, replace(TEXT, output_format="jpeg", quality=50), {"quality": (50, 95)}),
        (fal, replace(REDUX_OF_IMAGE, prompt="more fox"), {"prompt": ("more fox", "")}),
        (replicate, replace(TEXT, guidance=12.0), {"guidance": (12.0, 10)}),
        (replicate, replace(TEXT, acceleration="high"), {"acceleration": ("high", "go_fast")}),
        (replicate, replace(IMAGE, acceleration="high"), {"acceleration": ("high", "none")}),
        (one_min, replace(TEXT, guidance=50.0), {"guidance": (50.0, 10), "output_format": ("png", "webp")}),
        (lumenfall, replace(TEXT, acceleration="high"), {"acceleration": ("high", "the route's default")}),
        (lumenfall, replace(TEXT, safety_checker=False), {"safety_checker": (False, "the route's default")}),
        (lumenfall, replace(TEXT, width=4000, height=1000), {"size": ("4000×1000", "2048×512")}),
        (lumenfall, replace(TEXT, extra={"aspect_ratio": "16:9"}), {"size": ("1024×1024", "16:9")}),
        (lumenfall, replace(TEXT, extra={"resolution": "2K"}), {"size": ("1024×1024", "2K")}),
        (
            lumenfall,
            replace(TEXT, extra={"resolution": "2K", "aspect_ratio": "16:9"}),
            {"size": ("1024×1024", "16:9 2K")},
        ),
        (
            lumenfall,
            replace(TEXT, acceleration="high", extra={"model": "replicate/flux.1-krea-dev"}),
            {"acceleration": ("high", "go_fast")},
        ),
        (lumenfall, replace(TEXT, extra={"model": "replicate/flux.1-krea-dev"}), {}),
        (
            one_min,
            replace(TEXT, acceleration="high", extra={"aspect_ratio": "custom"}),
            {"acceleration": ("high", "go_fast"), "size": ("1024×1024", "custom"), "output_format": ("png", "webp")},
        ),
    ],
)
def test_what_was_changed_is_said(provider, request_, expected):
    assert changes(provider, request_) == {key: value for key, value in expected.items() if value}


@ALL
def test_a_plain_request_changes_nothing_but_what_the_provider_lacks(provider):
    lacks = {"1min.ai": {"output_format"}, "WaveSpeed": {"steps"}}
    assert set(changes(provider, TEXT)) == lacks.get(provider.label, set())
    assert all(isinstance(change, Change) and change.reason for change in provider.plan(TEXT).changes)


def test_formats_and_switches_get_the_providers_names():
    jpeg = replicate.plan(replace(TEXT, output_format="jpeg", safety_checker=False, acceleration="regular"))
    sent = jpeg.payload["input"]
    assert (sent["output_format"], sent["disable_safety_checker"], sent["go_fast"]) == ("jpg", True, True)
    assert "output_format" not in {change.parameter for change in jpeg.changes}
    fal_sent = fal.plan(replace(TEXT, safety_checker=False, acceleration="high", output_format="jpeg")).payload
    assert (fal_sent["enable_safety_checker"], fal_sent["acceleration"]) == (False, "high")
    with pytest.raises(RequestRefused, match="no output_format 'avif'. It takes png, jpeg, webp"):
        fal.plan(replace(TEXT, output_format="avif"))
    assert lumenfall.plan(replace(TEXT, output_format="avif")).payload["output_compression"] == 95


def test_lumenfall_names_speed_and_safety_after_the_forced_route():
    fast = replace(TEXT, acceleration="high", safety_checker=False)
    to_fal = lumenfall.plan(replace(fast, extra={"model": "fal/flux.1-krea-dev"}))
    assert to_fal.payload["acceleration"] == "high" and to_fal.payload["enable_safety_checker"] is False
    assert to_fal.payload["model"] == "fal/flux.1-krea-dev" and to_fal.changes == ()
    to_replicate = lumenfall.plan(replace(fast, extra={"model": "replicate/flux.1-krea-dev"})).payload
    assert lumenfall.plan(replace(fast, extra={"model": "replicate/flux.1-krea-dev"})).size is None
    assert to_replicate["go_fast"] is True and to_replicate["disable_safety_checker"] is True
    assert not {"acceleration", "go_fast", "disable_safety_checker"} & set(lumenfall.plan(fast).payload)


@pytest.mark.parametrize("model", ["gpt-image-2", "fal/flux.2-pro", ["flux.1-krea-dev"], None])
def test_a_workflow_cannot_choose_a_dearer_model(model):
    with pytest.raises(RequestRefused, match="is not FLUX.1 Krea"):
        lumenfall.plan(replace(TEXT, extra={"model": model}))


def test_lumenfalls_ratio_and_tier_replace_the_size():
    planned = lumenfall.plan(replace(TEXT, extra={"aspect_ratio": "16:9", "resolution": "1K"}))
    assert "size" not in planned.payload and planned.payload["aspect_ratio"] == "16:9"


@pytest.mark.parametrize(
    ("extra", "size"),
    [
        ({"aspect_ratio": "16:9", "resolution": "1K"}, (1365, 768)),
        ({"aspect_ratio": "16:9"}, (1365, 768)),
        ({"resolution": "1K"}, (1024, 1024)),
        ({"aspect_ratio": "16:9", "resolution": "2K"}, None),
        ({"aspect_ratio": "7:1"}, None),
        ({"aspect_ratio": ["16:9"]}, None),
    ],
)
def test_the_size_of_a_ratio_at_lumenfall_is_known_in_its_lowest_tier(extra, size):
    planned = lumenfall.plan(replace(TEXT, extra=extra))
    assert planned.size == size and planned.payload == {k: v for k, v in LUMENFALL_TEXT.items() if k != "size"} | extra


def test_one_mins_custom_size_is_what_extra_says():
    custom = {"aspect_ratio": "custom", "width": 1000, "height": 600}
    planned = one_min.plan(replace(TEXT, extra=custom))
    without = {key: value for key, value in ONE_MIN_TEXT.items() if key != "megapixels"}
    assert planned.payload["promptObject"] == without | custom and planned.size is None
    assert custom.items() <= one_min.plan(replace(IMAGE, extra=custom)).payload["promptObject"].items()
    with pytest.raises(RequestRefused, match="extra says aspect_ratio='21:9'"):
        one_min.plan(replace(TEXT, extra={"aspect_ratio": "21:9"}))


def test_the_size_of_image_to_image_is_known_only_where_it_is_certain():
    assert replicate.plan(replace(IMAGE, image=png(1024, 768))).size == (1024, 768)
    assert replicate.plan(replace(IMAGE, image=png(1025, 768))).size is None
    assert replicate.plan(replace(IMAGE, image=png(1440, 1440))).size == (1440, 1440)
    assert replicate.plan(replace(IMAGE, image=png(1456, 768))).size is None
    assert fal.plan(IMAGE).size is None
    with pytest.raises(RequestRefused, match="not a PNG"):
        replicate.plan(replace(IMAGE, image=b"GIF89a"))


# ---- numbers that a document fixes


def test_the_sizes_of_a_ratio_are_those_of_the_stand_ins_which_were_written_from_the_documents():
    assert KREA_SIZES == replicate_standin.SIZES
    assert lumenfall.PRESETS == lumenfall_standin.ONE_K
    assert lumenfall.MAX_SIDE == lumenfall_standin.MOST_PIXELS_A_SIDE


@pytest.mark.parametrize(
    ("provider", "known"),
    [
        (fal, {}),
        (runware, {"acceleratorOptions": {"teaCache": True}}),
        (lumenfall, {"model": "fal/flux.1-krea-dev", "acceleration": "none"}),
        (lumenfall, {"model": "replicate/flux.1-krea-dev", "go_fast": False, "response_format": "url"}),
        (lumenfall, {"aspect_ratio": "16:9", "resolution": "1K"}),
    ],
)
def test_a_field_of_extra_that_no_table_knows_makes_the_price_unknown(provider, known):
    assert provider.plan(replace(TEXT, extra=known)).unpriced == ()
    assert provider.plan(replace(TEXT, extra={**known, "its_own": 1})).unpriced == ("its_own",)


@pytest.mark.parametrize("size", [(0, 512), (512, 0)])
def test_a_side_has_at_least_one_pixel(size):
    assert fal.plan(replace(TEXT, width=1, height=1)).payload
    with pytest.raises(RequestRefused, match=f"{size[0]}×{size[1]} is not a size"):
        fal.plan(replace(TEXT, width=size[0], height=size[1]))


def test_a_change_is_told_with_its_reason():
    change = Change("images", 5, "2 calls", "more than one call makes")
    assert change.as_dict() == {
        "input": "images", "asked": 5, "delivered": "2 calls", "because": "more than one call makes",
    }  # fmt: skip


@pytest.mark.parametrize(("waited", "pause"), [(0, 0.25), (2.5, 0.5), (59, 0.5), (60, 1), (299, 1), (300, 3), (9e9, 3)])
def test_the_longer_a_job_takes_the_rarer_it_is_looked_at(waited, pause):
    assert seconds_to_next_poll(waited) == pause


@pytest.mark.parametrize(
    ("log", "share"), [("", None), (" 54%|###   | 15/28", 0.54), ("1%|\n999%|#", 1.0), ("54% of it", None)]
)
def test_replicates_progress_is_the_last_bar_of_its_log(log, share):
    assert replicate._fraction(log) == share


# ---- prices


@pytest.mark.parametrize(
    ("provider", "request_", "usd"),
    [
        (fal, TEXT, 0.025),
        (fal, replace(TEXT, width=512, height=512), 0.025),
        (fal, replace(TEXT, width=1184, height=896, images=2), 0.1),
        (fal, replace(IMAGE, image=png(2048, 2048)), 0.1),
        (fal, replace(IMAGE, image=None), None),
        (replicate, replace(TEXT, images=3), 0.075),
        (lumenfall, replace(TEXT, images=2, width=1183, height=887), 0.05),
        (lumenfall, replace(TEXT, width=2048, height=2048), 0.1),
        (lumenfall, replace(TEXT, extra={"resolution": "4K"}), None),
        (lumenfall, replace(IMAGE, image=png(2048, 2048)), 0.1),
        (lumenfall, replace(IMAGE, image=None), 0.025),
        (core_today, TEXT, 0.045),
        (core_today, replace(TEXT, images=4), 0.18),
        (one_min, TEXT, None),
    ],
)
def test_estimates(provider, request_, usd):
    estimate = provider.estimate(request_)
    assert estimate.usd == (None if usd is None else pytest.approx(usd))
    assert estimate.note


@pytest.mark.parametrize(
    ("provider", "request_", "doubt", "said"),
    [
        (fal, TEXT, "$0.05 if fal counts", True),
        (fal, replace(TEXT, width=1024, height=768), "if fal counts", False),
        (fal, replace(IMAGE, image=png(1000, 1000)), "if fal counts", False),  # a million pixels
        (fal, replace(IMAGE, image=png(101, 9901)), "if fal counts", True),  # and one more
        (core_today, TEXT, "not documented", False),
        (core_today, replace(TEXT, images=2), "not documented", True),
        (lumenfall, replace(TEXT, images=2), "counted by the megapixel", False),
        (lumenfall, replace(TEXT, width=1216, height=1024), "counted by the megapixel", True),
    ],
)
def test_an_estimate_says_what_its_provider_does_not_say(provider, request_, doubt, said):
    assert (doubt in provider.estimate(request_).note) == said


@ALL
def test_an_estimate_needs_no_prompt(provider):
    assert provider.estimate(GenerationRequest("")) is not None
