"""Krea Save in a real ComfyUI, beside core's Save Image; with reports, in bad company, and on a server that signs."""

import io
import json
import shutil
from pathlib import Path

import c2pa
import numpy
import pytest
import test_content_credentials as certificates
import tiny_detector
from api_graphs import PROMPT, PROVIDERS, ApiGraph
from comfyui import ComfyUI, ComfyUIError
from links import link_folder
from PIL import Image
from test_saving import xmp_of

WORKFLOW = {"nodes": [], "note": "a workflow"}
VALUES = {"filename_prefix": "save", "format": "png", "quality": 90, "embed_workflow": True, "sign": "made by AI"}


class SaveGraph(ApiGraph):
    def images(self, shape, dtype="float32", wrong="") -> list:
        return [self.add("ProbeImages", shape=json.dumps(shape), dtype=dtype, wrong=wrong), 0]

    def save(self, images, **changes) -> str:
        return self.add("FluxKreaSave", images=images, **{**VALUES, **changes})

    def core(self, images, prefix="core") -> str:
        return self.add("SaveImage", images=images, filename_prefix=prefix)


def run(server, graph, node) -> tuple[list, str]:
    """The files that this node wrote, and what it said."""
    output = server.run(graph, WORKFLOW)["outputs"][node]
    places = [server.base / "output" / image["subfolder"] / image["filename"] for image in output["images"]]
    return places, "\n".join(output.get("text", ()))


def refused(server, shape=(1, 8, 8, 3), wrong="", **changes) -> str:
    """The sentence with which it is refused; asserts that nothing was written."""
    before = sorted((server.base / "output").rglob("*"))
    graph = SaveGraph()
    graph.save(graph.images(shape, wrong=wrong), **changes)
    with pytest.raises(ComfyUIError) as caught:
        server.run(graph, WORKFLOW)
    assert sorted((server.base / "output").rglob("*")) == before
    assert str(server.base) not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 33, 47, 3), "float32"),
        ((16, 20, 24, 3), "float32"),
        ((2, 20, 24, 4), "float32"),
        ((1, 20, 24, 3), "float16"),
    ],
)
def test_a_png_has_the_pixels_and_the_texts_of_save_image(comfyui, shape, dtype):
    graph = SaveGraph()
    images = graph.images(shape, dtype)
    ours, core = graph.save(images), graph.core(images)
    history = comfyui.run(graph, WORKFLOW)
    for mine, theirs in zip(*(history["outputs"][node]["images"] for node in (ours, core)), strict=True):
        with Image.open(comfyui.base / "output" / mine["filename"]) as one:
            with Image.open(comfyui.base / "output" / theirs["filename"]) as other:
                assert one.mode == other.mode and numpy.array_equal(numpy.array(one), numpy.array(other))
                assert {name: one.text[name] for name in ("prompt", "workflow")} == other.text
        assert mine["type"] == theirs["type"] == "output"


def test_folders_names_and_numbers_are_cores_own(comfyui):
    def files(save_first: bool) -> list[str]:
        graph = SaveGraph()
        images = graph.images((2, 8, 12, 3), wrong=str(float(save_first)))
        prefix = "numbers/%width%x%height%_%batch_num%"
        graph.save(images, filename_prefix=prefix) if save_first else graph.core(images, prefix)
        comfyui.run(graph, WORKFLOW)
        return sorted(path.name for path in (comfyui.base / "output" / "numbers").iterdir())

    assert files(True) == ["12x8_0_00001_.png", "12x8_1_00002_.png"]
    plain = SaveGraph()
    first, _ = run(comfyui, plain, plain.save(plain.images((2, 8, 8, 3)), filename_prefix="after"))
    other = SaveGraph()
    other.core(other.images((1, 9, 8, 3)), "after")
    comfyui.run(other)
    last = SaveGraph()
    jpeg, _ = run(comfyui, last, last.save(last.images((1, 10, 8, 3)), filename_prefix="after", format="jpeg"))
    assert [path.name for path in (*first, *jpeg)] == ["after_00001_.png", "after_00002_.png", "after_00004_.jpg"]


def test_a_file_that_is_there_is_never_replaced(comfyui):
    """Core's own numbers begin again at 1 where the name has %batch_num% in it."""
    for turn in range(2):
        graph = SaveGraph()
        images = graph.images((1, 8, 8 + turn, 3))
        (path,), _ = run(comfyui, graph, graph.save(images, filename_prefix="kept_%batch_num%"))
        assert path.name == f"kept_0_0000{turn + 1}_.png"


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize(
    ("channels", "mode", "dtype"), [(1, "L", "float32"), (3, "RGB", "bfloat16"), (4, "RGBA", "float16")]
)
def test_each_kind_of_image_is_saved(comfyui, file_format, channels, mode, dtype):
    graph = SaveGraph()
    (path,), _ = run(comfyui, graph, graph.save(graph.images((1, 16, 24, channels), dtype), format=file_format))
    with Image.open(path) as opened:
        opened.load()
        assert opened.size == (24, 16) and opened.format == file_format.upper()
        assert file_format != "png" or opened.mode == mode


def test_the_images_are_passed_on(comfyui):
    graph = SaveGraph()
    node = graph.save(graph.images((2, 9, 13, 3)))
    after = graph.core([node, 0], "passed_on")
    outputs = comfyui.run(graph)["outputs"]
    for one, other in zip(outputs[node]["images"], outputs[after]["images"], strict=True):
        with Image.open(comfyui.base / "output" / one["filename"]) as mine:
            with Image.open(comfyui.base / "output" / other["filename"]) as passed:
                assert numpy.array_equal(numpy.array(mine), numpy.array(passed))


def test_the_node_says_what_it_lacks_to_sign(comfyui):
    graph = SaveGraph()
    _, said = run(comfyui, graph, graph.save(graph.images((1, 8, 9, 3))))
    assert said.startswith("No Content Credentials, saved with the XMP sign only: ")
    assert "FLUX_KREA_C2PA_CERT is not set" in said
    unsigned = SaveGraph()
    _, said = run(comfyui, unsigned, unsigned.save(unsigned.images((1, 8, 9, 3)), sign="none"))
    assert said == ""


@pytest.mark.parametrize("prefix", ["../outside", "/tmp/x", "a/../../b", "a\0b", "../" * 40 + "etc/x"])
def test_no_prefix_leads_out_of_the_output_folder(comfyui, prefix):
    assert "leads out of ComfyUI's output folder" in refused(comfyui, filename_prefix=prefix)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wrong": "nan"}, "Image 1 of 1 has pixels that are not finite"),
        ({"shape": (3, 8, 8, 3), "wrong": "inf"}, "Image 3 of 3 has pixels that are not finite"),
        ({"shape": (0, 8, 8, 3)}, "There is no image to save"),
        ({"shape": (1, 8, 8, 2)}, r"got [1, 8, 8, 2]"),
        ({"shape": (8, 8, 3)}, r"got [8, 8, 3]"),
        ({"shape": (1, 2, 17_000, 3), "format": "webp"}, "choose png"),
        ({"filename_prefix": "x" * 400}, "too long for this disk: shorten it. Nothing was saved"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is(comfyui, changes, words):
    assert words in refused(comfyui, **changes)


def test_a_folder_that_nobody_may_write_to(comfyui):
    place = comfyui.base / "output" / "a_file"
    place.write_text("no folder")
    assert "change filename_prefix" in refused(comfyui, filename_prefix="a_file/picture")


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_provider_s_report_becomes_the_receipt(comfyui, standins, provider):
    standins[provider].set(job_seconds=0.1, queue_seconds=0)
    graph = SaveGraph()
    api = graph.api(provider, seed=4242)
    node = graph.save([api, 0], report=[api, 3], filename_prefix=f"receipts/{provider}")
    output = comfyui.run(graph, WORKFLOW)["outputs"]
    report = json.loads(output[api]["text"][0])
    content = (comfyui.base / "output" / "receipts" / output[node]["images"][0]["filename"]).read_bytes()
    properties = xmp_of(content)
    receipt = json.loads(properties["fluxkrea:Receipt"])
    assert receipt["provider"] == provider and receipt["mode"] == "text_to_image"
    assert receipt["request_ids"] == report["request_ids"] and receipt["seed"] == report["seed"]
    assert receipt.get("billed_usd_of_all") == report["billed_usd"]
    known = {True: "flagged", False: "not flagged", None: "not checked"}
    assert receipt["safety"]["provider_check"] == known[report["has_nsfw_concepts"][0]]
    assert receipt["safety"]["checked"] is (report["has_nsfw_concepts"][0] is not None)
    assert properties["Iptc4xmpExt:AIPromptInformation"] == PROMPT
    assert properties["Iptc4xmpExt:DigitalSourceType"].endswith("/trainedAlgorithmicMedia")
    for secret in (standins[provider].key, str(comfyui.base), "127.0.0.1"):
        assert secret.encode() not in content


def test_an_image_that_went_in_makes_a_composite(comfyui, standins):
    graph = SaveGraph()
    api = graph.api("fal", seed=4243, image=[graph.add("LoadImage", image="example.png"), 0])
    for report in ({}, {"report": [api, 3]}):
        (path,), _ = run(comfyui, graph, graph.save([api, 0], filename_prefix="composite", **report))
        assert xmp_of(path.read_bytes())["Iptc4xmpExt:DigitalSourceType"].endswith(
            "/compositeWithTrainedAlgorithmicMedia"
        )


@pytest.fixture
def detector(models):
    folder = models / "safety_checkers" / "tiny"
    tiny_detector.write(folder)
    yield "tiny"
    shutil.rmtree(folder)


def test_the_receipt_says_what_the_safety_check_and_the_provider_found(comfyui, standins, detector):
    graph = SaveGraph()
    api = graph.api("fal", seed=4244)
    options = {"detector": detector, "on_flagged": "black", "scan": "whole", "device": "auto"}
    check = graph.add(
        "FluxKreaSafetyCheck", image=[api, 0], threshold=0.01, provider_report=[api, 3], **options
    )  # fmt: skip
    (path,), _ = run(comfyui, graph, graph.save([check, 0], report=[check, 4], filename_prefix="checked"))
    receipt = json.loads(xmp_of(path.read_bytes())["fluxkrea:Receipt"])
    assert receipt["provider"] == "fal" and receipt["request_ids"]
    safety = receipt["safety"]
    assert (safety["local_check"], safety["redacted"], safety["detector"]) == ("flagged", "black", "tiny")
    assert safety["checked"] and safety["provider_check"] == "not flagged" and 0 <= safety["score"] <= 1


def test_a_report_from_elsewhere_is_left_out(comfyui, standins):
    graph = SaveGraph()
    api = graph.api("fal", seed=4245)
    (path,), said = run(comfyui, graph, graph.save(graph.images((1, 8, 14, 3)), report=[api, 3]))
    assert "do not come from" in said
    assert "provider" not in json.loads(xmp_of(path.read_bytes())["fluxkrea:Receipt"])


def test_a_key_in_the_workflow_does_not_get_into_the_file(comfyui, standins):
    graph = SaveGraph()
    graph.add("CLIPTextEncode", text=f"my key is {standins['fal'].key}", clip=["9", 0])
    node = graph.save(graph.images((1, 8, 10, 3)))
    (path,), said = run(comfyui, graph, node)
    comfyui.post("/history", {"clear": True}).raise_for_status()  # where test_api_secrets.py looks for keys
    assert standins["fal"].key.encode() not in path.read_bytes() and b"[hidden]" in path.read_bytes()
    assert "it is hidden in the file" in said


@pytest.mark.parametrize("report", ["no JSON at all", '{"images": ["/home/me"]}', "[[[", '{"provider": "x"'])
def test_another_report_is_left_out_and_the_picture_is_saved(comfyui, report):
    graph = SaveGraph()
    text = graph.add("PrimitiveString", value=report)
    (path,), said = run(comfyui, graph, graph.save(graph.images((1, 8, 11, 3)), report=[text, 0]))
    assert "it was left out" in said
    assert json.loads(xmp_of(path.read_bytes())["fluxkrea:Receipt"])["safety"]["checked"] is False


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("embed_workflow", "false", "embed_workflow is 'false'; it must be true or false"),
        ("embed_workflow", 0, "embed_workflow is 0"),
        ("quality", True, "quality is True"),
        ("filename_prefix", "half a character \ud800", "is no name that a file can have"),
        ("filename_prefix", ["x"], "is no name that a file can have"),
    ],
)
def test_a_wired_value_of_another_kind_is_refused(comfyui, name, value, words):
    """A switch of another pack gives anything; "false" that counts as true would put the prompt into the file."""
    before = sorted((comfyui.base / "output").rglob("*"))
    graph = SaveGraph()
    any_value = graph.add("ProbeAny", value=json.dumps(value))
    graph.save(graph.images((1, 8, 8, 3)), **{name: [any_value, 0]})
    with pytest.raises(ComfyUIError) as caught:
        comfyui.run(graph, WORKFLOW)
    assert words in str(caught.value) and "othing was saved" in str(caught.value)
    assert sorted((comfyui.base / "output").rglob("*")) == before


@pytest.mark.parametrize("value", [5, {"provider": "fal"}, [1]])
def test_a_wired_report_that_is_no_text_is_left_out(comfyui, value):
    graph = SaveGraph()
    report = [graph.add("ProbeAny", value=json.dumps(value)), 0]
    (path,), said = run(comfyui, graph, graph.save(graph.images((1, 8, 15, 3)), report=report))
    assert "report is no text" in said and path.exists()


def test_an_image_in_eight_bits_a_number_is_saved(comfyui):
    graph = SaveGraph()
    (path,), _ = run(comfyui, graph, graph.save(graph.images((1, 8, 16, 3), "float8_e4m3fn")))
    assert path.exists()


# ── a server that signs, and that keeps no metadata ──────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def signing(tmp_path_factory):
    """ComfyUI with a certificate in its environment, and --disable-metadata."""
    base = tmp_path_factory.mktemp("signing")
    chain, key = certificates.write(base, certificates.KEYS["es256"]())
    named = {"FLUX_KREA_C2PA_CERT": chain, "FLUX_KREA_C2PA_KEY": key}
    server = ComfyUI(base, arguments=("--cpu", "--disable-metadata"), environment=named)
    server.prepare()
    link_folder(base / "custom_nodes" / "probe", Path(__file__).parent / "probe")
    with server:
        yield server


@pytest.mark.parametrize("file_format", ["png", "jpeg", "webp"])
def test_files_are_signed_and_disable_metadata_is_honoured(signing, file_format):
    graph = SaveGraph()
    graph.add("CLIPTextEncode", text="SECRETPROMPT", clip=["9", 0])
    (path,), said = run(signing, graph, graph.save(graph.images((1, 64, 64, 3)), format=file_format))
    assert "Signed with Content Credentials (es256)" in said and "--disable-metadata" in said
    content = path.read_bytes()
    with c2pa.Reader(f"image/{file_format}", io.BytesIO(content)) as reader:
        told = json.loads(reader.json())
    failed = {each["code"] for each in told["validation_results"]["activeManifest"]["failure"]}
    assert failed <= {"signingCredential.untrusted"}
    assert "fluxkrea:Receipt" not in xmp_of(content) and "Iptc4xmpExt:DigitalSourceType" in xmp_of(content)
    for word in (b"SECRETPROMPT", b"ProbeImages", str(signing.base).encode(), b"PRIVATE KEY"):
        assert word not in content


def test_a_signature_that_cannot_be_made_is_an_error_before_anything_is_saved(signing):
    key = signing.base / "key.pem"
    content = key.read_bytes()
    key.unlink()
    try:
        said = refused(signing)
        assert "FLUX_KREA_C2PA_KEY names cannot be read" in said and "set sign to none" in said
        graph = SaveGraph()
        assert run(signing, graph, graph.save(graph.images((1, 8, 12, 3)), sign="none"))[0]
        certificates.write(signing.base / "user", certificates.KEYS["es256"]())
        key.write_bytes((signing.base / "user" / "key.pem").read_bytes())  # of another certificate
        assert "refused the certificate or the key" in refused(signing, (1, 8, 13, 3))
    finally:
        key.write_bytes(content)
