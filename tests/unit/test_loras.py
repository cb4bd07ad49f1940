"""LoRAs as they are written, checked and given to each provider."""

from dataclasses import replace

import pytest
from flux_krea.nodes.providers import fal, providers, runware, wavespeed
from flux_krea.nodes.providers.contract import (
    IMAGE_TO_IMAGE,
    INPAINTING,
    REDUX,
    GenerationRequest,
    Lora,
    RequestRefused,
    Unsupported,
)
from flux_krea.nodes.providers.loras import loras_of

TEXT = GenerationRequest("a fox", seed=7)
STYLE, AIR = Lora("owner/style", 0.8), Lora("civitai:1234@5678", -0.5)


def test_one_a_line_and_the_strength_behind_it():
    text = "\n owner/style-2 0.8\n\thttps://host.example/a/b.safetensors?download=true   1.25\ncivitai:1234@5678\t-1\r\nme/it\n"
    assert loras_of(text) == (
        Lora("owner/style-2", 0.8),
        Lora("https://host.example/a/b.safetensors?download=true", 1.25),
        Lora("civitai:1234@5678", -1.0),
        Lora("me/it", 1.0),
    )
    assert loras_of("") == loras_of(" \n\n") == ()


@pytest.mark.parametrize(
    "line",
    [
        "style",
        "0.8",
        "/home/me/style.safetensors 1",
        "C:\\style.safetensors",
        "http://host.example/a.safetensors 1",
        "file:///etc/passwd",
        "https:///a.safetensors",
        "https://localhost/a.safetensors",
        "https://host.example:8443/a.safetensors",
        "https://host.example:444/a.safetensors",
        "https://host.example:port/a.safetensors",
        "https://host.example:99999/a.safetensors",
        "https://[::1/a.safetensors",
        "https://[::1]/a.safetensors",
        "owner/style 0.8 0.9",
        "owner/style strong",
        "a/b/c 1",
        "../secret 1",
        "owner/style nan",
        "owner/style 4.5",
        "owner/style 4.01",
        "owner/style -4.01",
        "owner/style -5",
        "owner/style inf",
        "owner/style 1e400",
        "owner/style -nan",
        "https://127.0.0.1/a.safetensors",
        "https://169.254.169.254/latest 1",
        "https://0x7f.0.0.1/a.safetensors",
        "https://2130706433/a.safetensors",
        "https://host.0x7f000001/a.safetensors",
        "https://host.example./a.safetensors",
        "https://-host.example/a.safetensors",
        "https://hőst.example/a.safetensors",
        "own\u0435r/style",
        "owner/stÿle 1",
        "civitai:١٢٣@1",
    ],
)
def test_what_is_none_is_refused_with_the_line(line):
    with pytest.raises(RequestRefused) as caught:
        loras_of(line)
    assert caught.value.paid is False and line.split()[0][:20] in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "https://me:hunter2@host.example/a.safetensors",
        "https://host.example/a.safetensors?token=hunter2",
        "https://host.example/a.safetensors?X-Amz-Signature=hunter2",
        "https://host.example/a.safetensors?type=model&api_key=hunter2",
        "https://host.example/a.safetensors?sig=hunter2 0.5",
        "https://me:hunter2@host.example/a.safetensors 9",
        "https://host.example/a.safetensors?token=hunter2 nan",
        "https://host.example/a.safetensors?a=1;token=hunter2",
        "https://host.example/a.safetensors#token=hunter2",
        "https://host.example/a.safetensors?%74oken=hunter2",
        "https://host.example/a.safetensors?pwd=hunter2",
        "https://host.example/a.safetensors?jwt=hunter2",
        "https://host.example/a.safetensors?token:hunter2",
        "https://host.example/a.safetensors?hf_hunter2hunter2hunter2hunter2",
        "https://host.example/hf_hunter2hunter2hunter2hunter2/a.safetensors",
    ],
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(address):
    with pytest.raises(RequestRefused, match="host.example carries a key or a password") as caught:
        loras_of(address)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("strength", [-4, 0, 4])
def test_a_strength_at_its_bounds_is_one(strength):
    assert loras_of(f"owner/style {strength}") == (Lora("owner/style", float(strength)),)


def test_an_address_may_name_the_usual_port():
    address = "https://host.example:443/a.safetensors"
    assert loras_of(address) == (Lora(address, 1.0),)


def test_of_a_long_line_the_start_is_shown():
    with pytest.raises(RequestRefused, match=f"says “{'x' * 80}”"):
        loras_of("x" * 5000)


def test_signs_that_nobody_sees_are_shown():
    with pytest.raises(RequestRefused, match="owner/�style�"):
        loras_of("owner/\u202estyle\0 1")


def test_too_many_lines_are_refused():
    with pytest.raises(RequestRefused, match="names 10000"):
        loras_of("\r\n".join(f"owner/style-{index}\t1" for index in range(10000)))
    with pytest.raises(RequestRefused, match="names 10000"):
        loras_of("https://me:secret@host.example/a.safetensors\n" * 10000)
    assert len(loras_of("a/b\n" * 16)) == 16
    with pytest.raises(RequestRefused, match="names 17"):
        loras_of("a/b\n" * 17)


def test_each_provider_gets_them_in_its_own_words():
    assert fal.plan(replace(TEXT, loras=(STYLE,))).payload["loras"] == [{"path": "owner/style", "scale": 0.8}]
    assert runware.plan(replace(TEXT, loras=(AIR,))).payload["lora"] == [{"model": AIR.path, "weight": -0.5}]
    assert (
        wavespeed.plan(replace(TEXT, loras=(STYLE,) * 3)).payload["loras"]
        == [{"path": "owner/style", "scale": 0.8}] * 3
    )
    for provider in (fal, runware, wavespeed):
        assert not {"lora", "loras"} & set(provider.plan(TEXT).payload)


@pytest.mark.parametrize(
    ("name", "loras", "sentence"),
    [
        *(
            (name, (STYLE,), "takes no LoRA for text to image")
            for name in ("replicate", "lumenfall", "core_today", "one_min")
        ),
        ("fal", (AIR,), "fal takes https addresses and Hugging Face ids of LoRAs, and civitai:1234@5678 is none"),
        ("fal", (Lora("owner/style", -0.5),), "strength from 0 to 4, not -0.5"),
        ("wavespeed", (STYLE,) * 4, "WaveSpeed takes 3 LoRAs, not 4"),
        ("wavespeed", (Lora("owner/style", -0.5),), "strength from 0 to 4, not -0.5"),
        ("runware", (STYLE,), "Runware takes AIR ids of LoRAs"),
        (
            "runware",
            (Lora("https://host.example/a.safetensors?v=2"),),
            "and https://host.example/a.safetensors… is none",
        ),
    ],
)
def test_what_a_provider_does_not_take_is_an_error_and_never_left_out(name, loras, sentence):
    with pytest.raises(Unsupported) as caught:
        providers()[name].plan(replace(TEXT, loras=loras))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "path", "least", "most"),
    [("fal", STYLE.path, 0.0, 4.0), ("wavespeed", STYLE.path, 0.0, 4.0), ("runware", AIR.path, -4.0, 4.0)],
)
def test_each_provider_takes_strengths_up_to_its_bounds_and_none_beyond(name, path, least, most):
    for strength in (least, most):
        assert providers()[name].plan(replace(TEXT, loras=(Lora(path, strength),))).payload
    for strength in (least - 0.01, most + 0.01):
        with pytest.raises(Unsupported, match=f"strength from {least:g} to {most:g}, not {strength:g}"):
            providers()[name].plan(replace(TEXT, loras=(Lora(path, strength),)))


# fal's second app


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (64).to_bytes(4, "big") * 2
IMAGE = replace(TEXT, mode=IMAGE_TO_IMAGE, image=PNG, strength=0.6)
MASKED = replace(IMAGE, mode=INPAINTING, mask=PNG)


@pytest.mark.parametrize(
    ("request_", "endpoint"),
    [
        (TEXT, "fal-ai/flux/krea"),
        (IMAGE, "fal-ai/flux/krea/image-to-image"),
        (replace(TEXT, loras=(STYLE,)), "fal-ai/flux-krea-lora"),
        (replace(IMAGE, loras=(STYLE,)), "fal-ai/flux-krea-lora/image-to-image"),
        (MASKED, "fal-ai/flux-krea-lora/inpainting"),
        (replace(MASKED, loras=(STYLE,)), "fal-ai/flux-krea-lora/inpainting"),
    ],
)
def test_a_lora_or_a_mask_chooses_fals_app_and_its_price(request_, endpoint):
    assert fal.plan(request_).endpoint == endpoint
    assert fal.estimate(request_).usd == (0.025 if "flux/krea" in endpoint else 0.035)
    assert str(0.025 if "flux/krea" in endpoint else 0.035) in fal.estimate(request_).note


@pytest.mark.parametrize("value", [True, False])
def test_no_workflow_makes_fal_forget_the_picture(value):
    """In this mode it comes as text that no poll takes, and stands in no history that a lost answer is looked up in."""
    with pytest.raises(RequestRefused, match="extra may not set sync_mode at fal"):
        fal.plan(replace(TEXT, extra={"sync_mode": value}))


def test_fals_lora_app_has_its_own_ranges_and_no_high():
    planned = fal.plan(replace(TEXT, loras=(STYLE,), guidance=30.0, acceleration="high"))
    assert (planned.payload["guidance_scale"], planned.payload["acceleration"]) == (30.0, "regular")
    assert [(c.parameter, c.asked, c.delivered) for c in planned.changes] == [("acceleration", "high", "regular")]
    assert fal.plan(replace(TEXT, guidance=30.0)).payload["guidance_scale"] == 20
    assert fal.plan(replace(MASKED, steps=4)).payload["num_inference_steps"] == 4
    assert "loras" in fal.plan(MASKED).payload and "image_size" not in fal.plan(MASKED).payload


@pytest.mark.parametrize(
    "field", ["loras", "lora", "mask", "mask_url", "mask_image", "maskImage", "image_url", "seedImage"]
)
@pytest.mark.parametrize("name", providers())
def test_a_mask_or_a_lora_comes_by_its_input_at_every_provider_and_never_by_extra(name, field):
    with pytest.raises(RequestRefused, match=f"extra may not set {field}"):
        providers()[name].plan(replace(TEXT, extra={field: "https://me:secret@host.example/a"}))


@pytest.mark.parametrize("name", sorted(set(providers()) - {"fal", "runware"}))
def test_a_mask_where_there_is_no_inpainting_is_an_error(name):
    with pytest.raises(Unsupported, match="no inpainting.*Choose fal or Runware"):
        providers()[name].plan(MASKED)


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (replace(IMAGE, mask=PNG), "wire both"),
        (replace(IMAGE, mode=INPAINTING), "wire both"),
        (replace(TEXT, mode=INPAINTING, mask=PNG), "needs an input image"),
        (replace(MASKED, mask=PNG[:-4] + (65).to_bytes(4, "big")), "another size than the image"),
        (GenerationRequest("", mode=REDUX, image=PNG, loras=(STYLE,)), "takes no LoRA for Redux"),
    ],
)
def test_a_mask_and_its_image_belong_together(request_, sentence):
    with pytest.raises((RequestRefused, Unsupported), match=sentence):
        fal.plan(request_)
