"""What Krea Save writes, read back by Pillow and by XML's own parser; the page's readers are ported from its scripts."""

import io
import json
import random
import struct
import xml.etree.ElementTree as ElementTree

import numpy
import pytest
from flux_krea.nodes.saving import picture_file, xmp
from flux_krea.nodes.saving.contents import MADE_BY_AI, NONE, contents_of
from flux_krea.nodes.saving.generation import generation_of
from flux_krea.nodes.saving.picture_file import SaveError
from flux_krea.nodes.saving.receipt import read_report, receipt_of
from PIL import Image

ODD = [
    "\0",
    "🦊",
    '"',
    "'",
    "\\",
    "<",
    ">",
    "&",
    "]]>",
    "%",
    "\r\n",
    "\r",
    "\n",
    "\t",
    "\x1b",
    "é",
    "漢字",
    "\ufffe",
    "\ud800",
]
ODD += [
    "<?xpacket end='w'?>",
    "&#0;",
    "\\u0000",
    " ",
    "a red fox",
    "Steps: 3",
    "{}",
    "\u202e",
    "<!--",
    "<x:xmpmeta>",
    "\u2028",
]
PIXELS = numpy.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=numpy.uint8)
REPORT = {
    "provider": "fal", "provider_name": "fal", "mode": "text_to_image", "seed": 77, "has_nsfw_concepts": [False, None],
    "pictures": [{"width": 40, "height": 24}, {"width": 41, "height": 25}], "billed_usd": 0.05, "estimated_usd": 0.06,
    "already_paid_pictures": 0, "request_ids": ["3f6c-1"], "notes": ["https://fal.media/x.png?sig=1"],
    "changes": [{"input": "width", "asked": 39, "delivered": 40, "because": "multiples of 8"},
                {"input": "prompt", "asked": "a secret", "delivered": "a", "because": "too long"}],
}  # fmt: skip
SAFETY = {
    "detector": "falconsai_nsfw", "detector_sha256": "ab" * 32, "threshold": 0.5, "action": "black", "returned": [0, 2],
    "per_image": [
        {"index": 0, "flagged": False, "score": 0.1, "reasons": []},
        {"index": 1, "flagged": True, "score": 0.9, "reasons": ["score"]},
        {"index": 2, "flagged": True, "score": 0.8, "reasons": ["score", "<b>"]},
    ],
}  # fmt: skip


def odd_prompts(count: int):
    chance = random.Random(5)
    for _ in range(count):
        yield "".join(chance.choice(ODD) for _ in range(chance.randrange(12)))


def graph_with(prompt: str, **sampler) -> dict:
    return {
        "1": {"class_type": "FluxKreaLoader", "inputs": {"unet_name": "krea/flux1-krea-dev.safetensors"}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": prompt}},
        "3": {"class_type": "FluxKreaSize", "inputs": {"width": 40, "height": 24}},
        "4": {
            "class_type": "FluxKreaSampler",
            "inputs": {"model": ["1", 0], "positive": ["2", 0], "latent_image": ["3", 2], "seed": 7, "steps": 28,
                       "guidance": 4.5, "denoise": 1.0, "sampler_name": "euler", "scheduler": "krea",
                       "acceleration": "none", **sampler},
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "FluxKreaSave", "inputs": {"images": ["5", 0], "filename_prefix": "x"}},
    }  # fmt: skip


def contents(graph, report=None, count=1, **changes):
    wishes = {
        "agent": "FLUX Krea 1.2.3",
        "sign": MADE_BY_AI,
        "embed": True,
        "metadata": True,
        "clean": lambda text: text,
    }
    return contents_of(graph, {"workflow": {"nodes": [graph]}}, "6", report, count, **{**wishes, **changes})


def saved(file_format, made, pixels=PIXELS, index=0, quality=90) -> tuple[bytes, list[str]]:
    height, width = pixels.shape[:2]
    picture = picture_file.as_picture(pixels)
    return picture_file.encoded(picture, file_format, quality, made.texts(index, (width, height)))


def xmp_of(content: bytes) -> dict[str, str]:
    """The XMP properties by name, as Pillow finds the packet and XML's parser reads it."""
    with Image.open(io.BytesIO(content)) as opened:
        found = opened.info.get("xmp") or opened.info.get("XML:com.adobe.xmp", "").encode()
    prefixes = {address: prefix for prefix, address in xmp.NAMESPACES.items()}
    properties = {}
    for each in ElementTree.fromstring(found) if found else ():
        for one in each.iter():
            space, _, name = one.tag[1:].partition("}")
            if space in prefixes:
                properties[f"{prefixes[space]}:{name}"] = one.text or ""
    return properties


def page_webp(content: bytes, skips_padding: bool) -> dict[str, str]:
    """What the page's getWebpMetadata finds: up to frontend 1.32 it does not skip the byte that pads an odd chunk."""
    at, found = 12, {}
    while at < len(content):
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        if content[at : at + 4] == b"EXIF":
            exif = content[at + 8 : at + 8 + size].removeprefix(b"Exif\0\0")
            order = "<" if exif[:2] == b"II" else ">"
            (start,) = struct.unpack(order + "I", exif[4:8])
            (entries,) = struct.unpack(order + "H", exif[start : start + 2])
            for entry in range(entries):
                place = start + 2 + entry * 12
                _, kind, length, where = struct.unpack(order + "HHII", exif[place : place + 12])
                if kind == 2:
                    name, _, text = exif[where : where + length - 1].decode().partition(":")
                    found[name] = text
            return found
        at += 8 + size + (size % 2 if skips_padding else 0)
    return found


@pytest.mark.parametrize("file_format", ["png", "webp"])
def test_odd_prompts_come_back_unchanged(file_format):
    prompts = [*odd_prompts(490), *ODD, "long 🦊 <&>" * 9000, "\0" * 50]
    assert len(prompts) >= 500  # twice, once for each format
    tiny = PIXELS[:2, :2]
    for prompt in prompts:
        graph = graph_with(prompt)
        content, notes = saved(file_format, contents(graph), tiny)
        assert not notes
        if file_format == "png":
            with Image.open(io.BytesIO(content)) as opened:
                texts = opened.text
        else:
            texts = page_webp(content, False)
            assert texts == page_webp(content, True)
        assert json.loads(texts["prompt"]) == graph
        assert json.loads(texts["workflow"]) == {"nodes": [graph]}
        properties = xmp_of(content)
        assert json.loads(properties.get(xmp.GENERATION, "{}")).get("prompt", "") == prompt
        if not xmp.NOT_XML.search(prompt):
            assert properties.get(xmp.PROMPT, "") == prompt


def test_a_jpeg_holds_what_fits_and_says_what_does_not():
    short, notes = saved("jpeg", contents(graph_with("a red fox 🦊\0")))
    assert not notes
    with Image.open(io.BytesIO(short)) as opened:
        exif = opened.getexif()
        comment = exif.get_ifd(0x8769)[0x9286]
    assert json.loads(exif[0x0110].removeprefix("prompt:")) == graph_with("a red fox 🦊\0")
    assert json.loads(exif[0x010F].removeprefix("workflow:"))["nodes"]
    assert comment[8:].decode("utf-16-be").startswith("a red fox 🦊\ufffd\nSteps: 28, Sampler: euler")
    long, notes = saved("jpeg", contents(graph_with("fox " * 25_000)))
    assert len(notes) == 2 and all("png and webp hold it" in note for note in notes)
    assert xmp_of(long)[xmp.SOURCE_TYPE] == xmp.MADE_BY_AI and xmp.PROMPT not in xmp_of(long)
    assert b"fox fox" not in long and json.loads(xmp_of(long)[xmp.RECEIPT])["safety"]["checked"] is False


@pytest.mark.parametrize("file_format", picture_file.FORMATS)
def test_the_sign_and_the_receipt(file_format):
    made = contents(graph_with("a red fox"), json.dumps(REPORT), 2)
    content, _ = saved(file_format, made, index=1)
    properties = xmp_of(content)
    assert properties[xmp.SOURCE_TYPE] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert properties[xmp.SYSTEM] == "FLUX.1 Krea [dev] (fal)"
    assert properties[xmp.CREATOR] == "FLUX Krea 1.2.3"
    assert properties[xmp.PROMPT] == "a red fox"
    receipt = json.loads(properties[xmp.RECEIPT])
    assert receipt.pop("time").endswith("+00:00")
    assert receipt == {
        "made_with": "FLUX Krea 1.2.3", "width": 40, "height": 24, "provider": "fal", "mode": "text_to_image",
        "request_ids": ["3f6c-1"], "seed_of_first_picture": 77, "picture": 2, "pictures": 2, "delivered_width": 41,
        "delivered_height": 25, "asked": {"width": 39}, "estimated_usd_of_all": 0.06, "billed_usd_of_all": 0.05,
        "already_paid_pictures": 0,
        "safety": {"checked": False, "local_check": "not checked", "provider_check": "not checked"},
    }  # fmt: skip
    assert b"a secret" not in content and b"fal.media" not in content


@pytest.mark.parametrize("file_format", picture_file.FORMATS)
def test_a_picture_that_the_format_cannot_hold_is_said(file_format, monkeypatch):
    def refuse(*args, **options):
        raise ValueError("encoding error 6")

    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(SaveError, match="cannot be written as"):
        saved(file_format, contents(graph_with("x")))


@pytest.mark.parametrize("file_format", picture_file.FORMATS)
def test_a_key_in_the_name_of_what_a_pack_adds_stays_out(file_format):
    def clean(text):
        return text.replace("a-key", "[hidden]")

    made = contents_of(
        graph_with("x"), {"workflow": {}, "of a-key": 1, "other": 2}, "6", None, 1,
        agent="", sign=MADE_BY_AI, embed=True, metadata=True, clean=clean,
    )  # fmt: skip
    content, _ = saved(file_format, made)
    assert b"a-key" not in content and b"other" in content and made.notes


def test_what_other_packs_add_and_no_file_can_hold_is_left_out_and_said():
    extra = {"workflow": {"a": 1}, "other": 2, "set": {1}, 7: "number", "Ω": 1, "parameters": "ours"}
    _, texts, said = picture_file.embedded({"1": {}}, extra)
    assert texts == {"workflow": '{"a": 1}', "other": "2"}
    assert said == ["set", "7", "Ω", "parameters"]


def test_what_other_packs_say_of_their_nodes_changes_does_not_keep_the_prompt_out():
    graph = {"1": {"class_type": "A", "inputs": {"x": 1}, "is_changed": [b"bytes"]}}
    prompt, _, said = picture_file.embedded(graph, None)
    assert json.loads(prompt) == {"1": {"class_type": "A", "inputs": {"x": 1}}} and said == []


def test_a_key_that_is_too_long_for_a_note_is_not_cut_before_it_is_hidden():
    made = contents_of(
        {}, {"é" * 50 + "a-key": 1}, "6", None, 1,
        agent="", sign=MADE_BY_AI, embed=True, metadata=True, clean=lambda text: text.replace("a-key", "[hidden]"),
    )  # fmt: skip
    (note,) = made.notes
    assert "was left out" in note and "a-k" not in note


@pytest.mark.parametrize("file_format", picture_file.FORMATS)
def test_without_the_workflow_no_prompt_is_anywhere(file_format):
    made = contents(graph_with("SECRETPROMPT"), json.dumps(REPORT), 2, embed=False)
    content, _ = saved(file_format, made)
    for form in (b"SECRETPROMPT", "SECRETPROMPT".encode("utf-16-be"), b"krea-dev", b"Steps:", b"nodes"):
        assert form not in content
    assert xmp_of(content)[xmp.SOURCE_TYPE] == xmp.MADE_BY_AI
    assert json.loads(xmp_of(content)[xmp.RECEIPT])["request_ids"] == ["3f6c-1"]


@pytest.mark.parametrize("file_format", picture_file.FORMATS)
def test_disable_metadata_leaves_the_sign_alone(file_format):
    made = contents(graph_with("SECRETPROMPT"), json.dumps(REPORT), 2, metadata=False)
    assert "--disable-metadata" in made.notes[0]
    content, _ = saved(file_format, made)
    assert set(xmp_of(content)) == {xmp.CREATOR, xmp.SOURCE_TYPE, xmp.SYSTEM}
    bare, _ = saved(file_format, contents(graph_with("x"), metadata=False, sign=NONE))
    assert not xmp_of(bare) and b"FLUX Krea" not in bare


def test_no_sign_says_nothing_about_ai():
    content, _ = saved("png", contents(graph_with("a red fox"), sign=NONE))
    assert set(xmp_of(content)) == {xmp.CREATOR, xmp.GENERATION, xmp.RECEIPT}


def test_the_pixels_of_a_png_are_the_picture(tmp_path):
    for channels in (1, 3, 4):
        pixels = numpy.random.default_rng(channels).integers(0, 256, (17, 33, channels), dtype=numpy.uint8)
        content, _ = saved("png", contents(graph_with("x")), pixels)
        with Image.open(io.BytesIO(content)) as opened:
            assert numpy.array_equal(numpy.array(opened).reshape(pixels.shape), pixels)


def test_the_page_finds_the_workflow_behind_an_odd_alpha_channel():
    odd = 0
    for seed in range(12):
        pixels = numpy.random.default_rng(seed).integers(0, 256, (9 + seed, 15, 4), dtype=numpy.uint8)
        plain = io.BytesIO()
        Image.fromarray(pixels).save(plain, "WEBP", quality=90)
        at = plain.getvalue().index(b"ALPH")
        odd += int.from_bytes(plain.getvalue()[at + 4 : at + 8], "little") % 2
        content, _ = saved("webp", contents(graph_with("x")), pixels)
        assert "workflow" in page_webp(content, False) and "workflow" in page_webp(content, True)
        with Image.open(io.BytesIO(content)) as opened, Image.open(plain) as reference:
            assert numpy.array_equal(numpy.array(opened), numpy.array(reference))
    assert odd, "no case was tried"


@pytest.mark.parametrize(
    ("shape", "file_format", "words"),
    [
        ((0, 8, 8, 3), "png", "There is no image"),
        ((1, 8, 8, 2), "png", r"got \[1, 8, 8, 2\]"),
        ((8, 8, 3), "png", r"got \[8, 8, 3\]"),
        ((1, 0, 8, 3), "png", "There is no image"),
        ((1, 8, 16_384, 3), "webp", "choose png"),
        ((1, 70_000, 8, 3), "jpeg", "choose png"),
    ],
)
def test_what_cannot_be_saved_is_said(shape, file_format, words):
    with pytest.raises(SaveError, match=words):
        picture_file.check_shape(shape, file_format)


def test_transparency_in_a_jpeg_becomes_white_and_is_said():
    pixels = numpy.zeros((8, 8, 4), numpy.uint8)
    content, notes = saved("jpeg", contents(graph_with("x")), pixels)
    with Image.open(io.BytesIO(content)) as opened:
        assert numpy.array(opened).min() > 250
    assert notes == ["A JPEG has no transparency: what was transparent is white."]


# ── how it was made ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_line_that_picture_sites_read():
    line = contents(graph_with("a red fox", seed=9)).texts(0, (1024, 768)).parameters
    assert line.split("\n") == [
        "a red fox",
        "Steps: 28, Sampler: euler, Schedule type: krea, Distilled CFG Scale: 4.5, Seed: 9, Size: 1024x768, "
        "Model: flux1-krea-dev.safetensors, Version: ComfyUI",
    ]


def test_cores_own_sampler_with_a_negative_and_wired_values():
    graph = graph_with("a red fox", cfg=3.0, negative=["8", 0], seed=["9", 0])
    graph["8"] = {"class_type": "CLIPTextEncode", "inputs": {"text": ["7", 0]}}
    graph["7"] = {"class_type": "PrimitiveString", "inputs": {"value": "blurry"}}
    graph["9"] = {"class_type": "PrimitiveInt", "inputs": {"value": 12}}
    made = generation_of(graph, "6")
    assert (made.negative, made.settings["seed"], made.settings["cfg"]) == ("blurry", 12, 3.0)
    assert "\nNegative prompt: blurry\nSteps: 28" in made.as_line(8, 8)


def test_a_custom_sampler_is_described_by_its_parts():
    graph = {
        "1": {"class_type": "RandomNoise", "inputs": {"noise_seed": 5}},
        "2": {"class_type": "BasicGuider", "inputs": {"conditioning": ["3", 0], "model": ["7", 0]}},
        "3": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["4", 0], "guidance": 3.5}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red fox"}},
        "5": {"class_type": "BasicScheduler", "inputs": {"scheduler": "simple", "steps": 20, "denoise": 1.0}},
        "7": {"class_type": "UNETLoader", "inputs": {"unet_name": "a\\b.safetensors"}},
        "8": {
            "class_type": "SamplerCustomAdvanced",
            "inputs": {"noise": ["1", 0], "guider": ["2", 0], "sigmas": ["5", 0], "sampler": ["9", 0]},
        },
        "9": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "euler"}},
        "6": {"class_type": "FluxKreaSave", "inputs": {"images": ["8", 0]}},
    }
    made = generation_of(graph, "6")
    assert made.prompt == "a red fox" and made.model == "b.safetensors"
    assert made.settings == {"steps": 20, "sampler_name": "euler", "scheduler": "simple", "guidance": 3.5, "seed": 5}


def from_picture(**sampler) -> dict:
    graph = graph_with("x", latent_image=["11", 0], **sampler)
    graph["10"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    graph["11"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["10", 0], "vae": ["1", 2]}}
    return graph


def test_what_was_made_from_a_picture_is_a_composite():
    assert not generation_of(graph_with("x"), "6").from_image
    assert generation_of(from_picture(denoise=0.8), "6").from_image
    assert not generation_of(from_picture(denoise=1.0), "6").from_image  # nothing of the picture is left
    masked = from_picture(denoise=1.0)
    masked["11"] = {"class_type": "VAEEncodeForInpaint", "inputs": {"pixels": ["10", 0], "mask": ["10", 1]}}
    assert generation_of(masked, "6").from_image
    pasted = graph_with("x")
    pasted["12"] = {"class_type": "ImageCompositeMasked", "inputs": {"destination": ["10", 0], "source": ["5", 0]}}
    pasted |= {"10": from_picture()["10"], "6": {"class_type": "FluxKreaSave", "inputs": {"images": ["12", 0]}}}
    assert generation_of(pasted, "6").from_image
    second_pass = graph_with("x", denoise=0.5, latent_image=["21", 0])
    second_pass["21"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["22", 0]}}
    second_pass["22"] = {"class_type": "VAEDecode", "inputs": {"samples": ["23", 0]}}
    second_pass["23"] = {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4, "latent_image": ["3", 2]}}
    assert not generation_of(second_pass, "6").from_image
    assert contents(from_picture(denoise=0.8)).source_type == xmp.MADE_FROM_PICTURE
    inpainted = json.dumps({**REPORT, "mode": "inpainting"})
    assert contents(graph_with("x"), inpainted, 2).source_type == xmp.MADE_FROM_PICTURE


def test_api_krea_with_an_image():
    def graph(use):
        inputs = {"prompt": "a red fox", "image": ["1", 0], "image_use": use, "seed": -1, "steps": 28}
        return {
            "1": {"class_type": "LoadImage", "inputs": {"image": "example.png"}},
            "2": {"class_type": "FluxKreaAPI", "inputs": inputs},
            "6": {"class_type": "FluxKreaSave", "inputs": {"images": ["2", 0]}},
        }

    assert generation_of(graph("image to image"), "6").from_image
    assert not generation_of(graph("redux"), "6").from_image
    line = contents(graph("redux"), json.dumps(REPORT), 2).texts(0, (8, 8)).parameters
    assert line.startswith("a red fox\nSteps: 28, Seed: 77")


@pytest.mark.parametrize(
    "graph",
    [
        {},
        {"6": None},
        {"6": {"inputs": None}},
        {"6": {"inputs": {"images": ["6", 0]}}},
        {"6": {"inputs": {"images": ["5", 0]}}, "5": {"inputs": {"a": ["6", 0], "steps": {}, "seed": [[], 1]}}},
        {"6": {"inputs": {"images": [{}, 0]}}},
        {
            "6": {"class_type": 3, "inputs": {"images": ["5", 0]}},
            "5": {"inputs": {"positive": ["5", 0], "seed": 1, "steps": 1}},
        },
    ],
)
def test_a_strange_graph_is_survived(graph):
    content, _ = saved("png", contents(graph))
    assert xmp_of(content)[xmp.SOURCE_TYPE] == xmp.MADE_BY_AI


def test_two_generations_in_one_batch_have_no_line_of_their_own():
    graph = graph_with("one")
    graph["7"] = {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4, "latent_image": ["3", 2]}}
    graph["8"] = {"class_type": "ImageBatch", "inputs": {"image1": ["5", 0], "image2": ["7", 0]}}
    graph["6"]["inputs"]["images"] = ["8", 0]
    texts = contents(graph).texts(0, (8, 8))
    assert not texts.parameters and texts.prompt and b"one" not in texts.xmp


def test_a_report_of_another_branch_is_left_out():
    check = {"class_type": "FluxKreaSafetyCheck", "inputs": {"image": ["5", 0]}}
    told = json.dumps({**SAFETY, "returned": [0]})
    graph = graph_with("x")
    graph["7"] = check
    graph["6"]["inputs"]["report"] = ["7", 4]
    assert "left out" in contents(graph, told).notes[0]  # the images do not come through the check
    graph["6"]["inputs"]["images"] = ["7", 0]
    assert contents(graph, told).report.safety and not contents(graph, told).notes
    graph["8"] = {"class_type": "VAEEncode", "inputs": {"pixels": ["7", 0]}}
    graph["9"] = {"class_type": "KSampler", "inputs": {"seed": 1, "steps": 4, "denoise": 0.5, "latent_image": ["8", 0]}}
    graph["6"]["inputs"]["images"] = ["9", 0]
    assert not contents(graph, told).report.safety  # drawn anew after the check


def mixed(middle: dict) -> dict:
    """`middle` stands between a checked picture, node 7, and Krea Save; node 10 loads another picture."""
    graph = graph_with("x")
    graph["7"] = {"class_type": "FluxKreaSafetyCheck", "inputs": {"image": ["5", 0]}}
    graph["10"] = {"class_type": "LoadImage", "inputs": {"image": "example.png"}}
    graph["11"] = {"class_type": "GetImageSize", "inputs": {"image": ["10", 0]}}
    graph["8"] = middle
    graph["6"]["inputs"] |= {"images": ["8", 0], "report": ["7", 4]}
    return graph


@pytest.mark.parametrize(
    ("name", "inputs", "is_mixed"),
    [
        ("ImageCompositeMasked", {"destination": ["10", 0], "source": ["7", 0]}, True),
        ("ImageBatch", {"image1": ["10", 0], "image2": ["7", 0]}, True),
        ("ImageBlend", {"image1": ["5", 0], "image2": ["7", 0]}, True),
        ("ImageScale", {"image": ["7", 0], "width": ["11", 0], "height": ["11", 1]}, False),
    ],
)
def test_a_verdict_is_not_about_a_picture_that_was_mixed_in_behind_it(name, inputs, is_mixed):
    told = json.dumps({**SAFETY, "returned": [0], "provider_report": {**REPORT, "has_nsfw_concepts": [False] * 3}})
    made = contents(mixed({"class_type": name, "inputs": inputs}), told)
    receipt = receipt_of(made.report, 0, 1, (8, 8))
    assert receipt["safety"]["checked"] is not is_mixed and receipt["provider"] == "fal"
    assert any("Other pictures" in note for note in made.notes) is is_mixed


def test_a_guider_wired_to_itself_is_survived():
    inputs = {"guider": ["5", 0], "sigmas": ["5", 0], "sampler": ["5", 0]}
    graph = {
        "5": {"class_type": "S", "inputs": inputs},
        "6": {"class_type": "FluxKreaSave", "inputs": {"images": ["5", 0]}},
    }
    assert generation_of(graph, "6").prompt == ""


# ── the receipt ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_picture_without_a_report_says_that_it_was_not_checked():
    assert receipt_of(read_report(None, 1), 0, 1, (8, 9)) == {
        "width": 8,
        "height": 9,
        "safety": {"checked": False, "local_check": "not checked"},
    }


def test_the_safety_check_follows_the_pictures_that_it_left_in():
    report = read_report(
        json.dumps({**SAFETY, "provider_report": {**REPORT, "has_nsfw_concepts": [True, None, False]}}), 2
    )
    first, second = (receipt_of(report, index, 2, (8, 8)) for index in range(2))
    assert first["safety"]["local_check"] == "passed" and first["safety"]["provider_check"] == "flagged"
    assert second["picture"] == 3 and second["safety"]["provider_check"] == "not flagged"
    assert second["safety"] | {"provider_check": ""} == {
        "checked": True, "local_check": "flagged", "detector": "falconsai_nsfw", "detector_sha256": "ab" * 32,
        "threshold": 0.5, "score": 0.8, "reasons": ["score"], "redacted": "black", "provider_check": "",
    }  # fmt: skip


def test_a_review_by_a_person_counts():
    report = read_report(json.dumps({"images": 1, "review_code": "c0de-c0de", "reviewed": True}), 1)
    assert receipt_of(report, 0, 1, (8, 8))["safety"] == {
        "checked": True,
        "local_check": "not checked",
        "reviewed_by_a_person": True,
    }


def test_reports_that_stand_one_behind_the_other():
    both = read_report(json.dumps(REPORT) + "\n" + json.dumps({"images": 2, "review_code": "x", "reviewed": True}), 2)
    assert both.provider["provider"] == "fal" and both.review["reviewed"] and not both.complaint


@pytest.mark.parametrize("count", [1, 3])
def test_a_report_about_other_images_checks_nothing(count):
    for told in (REPORT, {**SAFETY, "returned": [0, 1]}, {"images": 2, "review_code": "x", "reviewed": True}):
        report = read_report(json.dumps(told), count)
        assert "about 2 images" in report.complaint
        assert receipt_of(report, 0, count, (8, 8))["safety"]["checked"] is False


def test_a_check_of_other_images_brings_in_no_providers_verdict_and_no_review():
    """Three were made, one was left out and another put in: no flag is about the picture at its place."""
    told = {**SAFETY, "provider_report": {**REPORT, "has_nsfw_concepts": [True, False, False]}}
    reviewed = {"images": 2, "review_code": "x", "reviewed": True}
    report = read_report(json.dumps(told) + json.dumps(reviewed), 3)
    for index in range(3):
        receipt = receipt_of(report, index, 3, (8, 8))
        assert receipt["safety"] == {
            "checked": False,
            "local_check": "not checked",
            "provider_check": "not checked",
        }
        assert not {"picture", "seed", "delivered_width"} & receipt.keys() and receipt["seed_of_first_picture"] == 77
    assert "about 2 images, and these are 3" in report.complaint and "nothing of a review" in report.complaint


def test_one_picture_of_two_is_not_said_to_be_the_first():
    receipt = receipt_of(read_report(json.dumps(REPORT), 1), 0, 1, (8, 8))
    assert receipt["provider"] == "fal" and receipt["pictures"] == 2 and receipt["seed_of_first_picture"] == 77
    assert not {"picture", "seed", "delivered_width"} & receipt.keys()


def test_a_providers_flags_about_other_pictures_than_the_check_are_none():
    told = {**SAFETY, "provider_report": {**REPORT, "has_nsfw_concepts": [False, False, False, True]}}
    receipt = receipt_of(read_report(json.dumps(told), 2), 1, 2, (8, 8))
    assert receipt["safety"]["local_check"] == "flagged" and receipt["safety"]["provider_check"] == "not checked"


@pytest.mark.parametrize("returned", [["0"], [None], [-1], [True], [7]])
def test_a_check_that_does_not_say_which_picture_checks_nothing(returned):
    told = {**SAFETY, "returned": returned, "provider_report": {**REPORT, "has_nsfw_concepts": [False] * 3}}
    assert receipt_of(read_report(json.dumps(told), 1), 0, 1, (8, 8))["safety"]["checked"] is False


@pytest.mark.parametrize("report", [5, True, ["a"], {"provider": "x"}, b"{}"])
def test_a_report_that_is_no_text_is_left_out(report):
    assert "left out" in read_report(report, 1).complaint


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        "{",
        '{"a": 1}',
        "null",
        '"text"',
        "[" * 100_000,
        '{"provider": "x"}',
        "7 8 9",
        "\ufeff{}",
        "{}{",
    ],
)
def test_another_packs_report_is_left_out_and_that_is_said(text):
    report = read_report(text, 1)
    assert "left out" in report.complaint
    assert receipt_of(report, 0, 1, (8, 8))["safety"]["checked"] is False


HOSTILE = [
    None, True, -1, 1e999, float("nan"), 10**400, "/home/me/.config/key", "C:\\Users\\me", "https://x/y?sig=1", "../../x",
    "<b>", "a\nb", "x" * 10_000, "", [], {}, [[]], [None], [{}], {"index": 0}, "\ud800", [0] * 3, ["fal"], "fal",
]  # fmt: skip


def test_no_field_brings_in_what_it_should_not():
    chance = random.Random(3)
    for _ in range(3000):
        told = {**REPORT, **SAFETY, "images": 2, "review_code": "x", "reviewed": True}
        for name in chance.sample(sorted(told), 4):
            told[name] = chance.choice(HOSTILE)
        if told["per_image"] == SAFETY["per_image"]:
            told["per_image"] = [
                {**each, chance.choice(sorted(each)): chance.choice(HOSTILE)} for each in told["per_image"]
            ]
        report = read_report(json.dumps(told), 2)
        for index in range(2):
            written = json.dumps(receipt_of(report, index, 2, (8, 8)), allow_nan=False)
            assert not any(bad in written for bad in ("/", "\\", "<", "..", "x" * 200)), written


def test_only_what_was_looked_at_is_checked():
    for flags, wanted in (([None], False), ([True], True), ([False], True), (["yes"], False), ([1], False)):
        report = read_report(json.dumps({**REPORT, "has_nsfw_concepts": flags}), 1)
        assert receipt_of(report, 0, 1, (8, 8))["safety"]["checked"] is wanted
