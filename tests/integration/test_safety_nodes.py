"""Safety Check and Review Gate in a real ComfyUI. What counts is the files that were saved, and those that were not.

The detector is tests/tiny_detector.py: bright is unsafe.
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import textwrap
import time
from pathlib import Path

import numpy
import pytest
import tiny_detector
import torch
from comfyui import COMFYUI, PYTHON, ROOT, ComfyUIError
from graphs import Graph
from PIL import Image

GREYS = (0x1A, 0xE6, 0x4D, 0xFF)  # the second and the fourth are flagged
FLAGS = [False, True, False, True]
BRIGHT, DARK = 0xE6, 0x1A


@pytest.fixture
def detectors(comfyui):
    """models/safety_checkers/ with the tiny detector in it, as new for every test."""
    folder = comfyui.base / "models" / "safety_checkers"
    shutil.rmtree(folder, ignore_errors=True)
    tiny_detector.write(folder / "tiny")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


class SafetyGraph(Graph):
    def grey(self, value: int, side: int = 32, **changes) -> list:
        colour = value << 16 | value << 8 | value
        return [self.add("EmptyImage", width=side, height=side, batch_size=1, color=colour, **changes), 0]

    def batch(self, values=GREYS) -> list:
        first, *rest = [self.grey(value) for value in values]
        for link in rest:
            first = [self.add("ImageBatch", image1=first, image2=link), 0]
        return first

    def check(self, image, **changes) -> str:
        values = {"detector": "tiny", "threshold": 0.5, "on_flagged": "black", "scan": "whole", "device": "auto"}
        return self.add("FluxKreaSafetyCheck", image=image, **{**values, **changes})

    def review(self, image, reviewed="") -> str:
        return self.add("FluxKreaReview", image=image, reviewed=reviewed)

    def save(self, image, prefix="safety") -> str:
        return self.add("SaveImage", images=image, filename_prefix=prefix)


def ended(comfyui, prompt_id: str, seconds: float = 60) -> dict:
    """The history of a prompt, once it has ended. ComfyUI reports a blocked output as an error, but goes on."""
    deadline = time.monotonic() + seconds
    while not comfyui.get(f"/history/{prompt_id}").json():
        assert time.monotonic() < deadline, "the prompt did not end"
        time.sleep(0.05)
    return comfyui.history(prompt_id)


def run(comfyui, graph) -> dict:
    history = ended(comfyui, comfyui.queue(graph))
    for kind, details in history["status"]["messages"]:
        if kind == "execution_error":
            raise ComfyUIError(details["exception_message"], details)
    return history["outputs"]


def checked(comfyui, image=None, *, graph=None, **changes) -> tuple[dict, list[numpy.ndarray]]:
    """Runs a check with SaveImage behind it → (the check's report, the saved pictures)."""
    graph = graph or SafetyGraph()
    check = graph.check(image or graph.batch(), **changes)
    saved = graph.save([check, 0])
    outputs = run(comfyui, graph)
    return json.loads(outputs[check]["text"][0]), pictures(comfyui, outputs.get(saved))


def pictures(comfyui, output: dict | None) -> list[numpy.ndarray]:
    images = (output or {}).get("images", [])
    return [numpy.asarray(Image.open(comfyui.base / image["type"] / image["filename"])) for image in images]


def files(comfyui) -> set[Path]:
    return {path for name in ("output", "temp") for path in (comfyui.base / name).rglob("*") if path.is_file()}


def refused(comfyui, graph=None, **changes) -> str:
    """The sentence with which a check is refused; asserts that nothing was saved."""
    before = files(comfyui)
    with pytest.raises(ComfyUIError) as error:
        checked(comfyui, graph=graph, **changes)
    assert files(comfyui) == before
    return str(error.value)


# What happens to flagged images


@pytest.mark.parametrize(
    ("action", "brightness"),
    [
        ("black", [0x1A, 0, 0x4D, 0]),
        ("blur", [0x1A, 0xE6, 0x4D, 0xFF]),  # an even grey stays what it is
        ("drop", [0x1A, 0x4D]),
        ("block", []),
        ("label_only", [0x1A, 0xE6, 0x4D, 0xFF]),
    ],
)
def test_flagged_images_leave_only_as_the_action_says(comfyui, detectors, action, brightness):
    report, saved = checked(comfyui, on_flagged=action)
    assert [round(picture.mean()) for picture in saved] == pytest.approx(brightness, abs=1)
    assert report["has_nsfw_concepts"] == FLAGS
    assert (report["images"], report["flagged"], report["passed"], report["action"]) == (4, 2, 2, action)
    expected = [tiny_detector.unsafe_probability(value / 255) for value in GREYS]
    assert [image["score"] for image in report["per_image"]] == pytest.approx(expected, abs=1e-5)


def test_error_ends_the_run(comfyui, detectors):
    assert "flagged image 2, 4 of 4" in refused(comfyui, on_flagged="error")


def test_drop_and_block_save_nothing_when_nothing_may_pass_but_still_report(comfyui, detectors):
    for action in ("drop", "block"):
        graph = SafetyGraph()
        report, saved = checked(comfyui, graph.batch((BRIGHT, 0xFF)), graph=graph, on_flagged=action)
        assert (saved, report["flagged"], report["returned"]) == ([], 2, [])


def test_harmless_images_pass_untouched_under_every_action(comfyui, detectors):
    for action in ("black", "blur", "drop", "block", "error", "label_only"):
        graph = SafetyGraph()
        report, saved = checked(comfyui, graph.batch((DARK, 0x33)), graph=graph, on_flagged=action)
        assert [round(picture.mean()) for picture in saved] == [DARK, 0x33]
        assert report["flagged"] == 0


def test_flags_and_scores_come_one_for_each_image_and_one_for_all(comfyui, detectors):
    graph = SafetyGraph()
    check = graph.check(graph.batch())
    shown = [graph.add("PreviewAny", source=[check, slot]) for slot in (1, 2, 3, 4)]
    outputs = run(comfyui, graph)
    any_flagged, flags, scores, report = (outputs[node]["text"] for node in shown)
    assert any_flagged == ["true"] or any_flagged == ["True"]
    assert [flag.lower() for flag in flags] == [str(flag).lower() for flag in FLAGS]
    assert [float(score) >= 0.5 for score in scores] == FLAGS
    assert json.loads(report[0])["detector"] == "tiny"
    assert outputs[check]["has_nsfw_concepts"] == FLAGS


def noise(comfyui, name: str) -> numpy.ndarray:
    """A bright picture that cannot be mistaken for another, in the input folder."""
    pixels = numpy.random.default_rng(5).integers(170, 256, (96, 96, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(comfyui.base / "input" / name)
    return pixels


@pytest.mark.parametrize("action", ["black", "blur", "drop", "block", "error"])
@pytest.mark.parametrize("path", ["score", "provider", "not checked"])
def test_a_flagged_picture_leaves_no_copy_in_output_or_temp(comfyui, detectors, action, path):
    pixels = noise(comfyui, "flagged.png").astype(int)
    before = files(comfyui)
    graph = SafetyGraph()
    image = [graph.add("LoadImage", image="flagged.png"), 0]
    provider = {"score": None, "provider": True, "not checked": None}[path]
    changes = {"provider_report": json.dumps({"has_nsfw_concepts": [provider]})} if path != "score" else {}
    check = graph.check(image, on_flagged=action, threshold=0.5 if path == "score" else 1.0, **changes)
    graph.save([check, 0])
    graph.add("PreviewImage", images=[check, 0])
    if action == "error":
        with pytest.raises(ComfyUIError, match="flagged image 1 of 1"):
            run(comfyui, graph)
    else:
        assert run(comfyui, graph)[check]["has_nsfw_concepts"] == [True]
    written = [numpy.asarray(Image.open(file)).astype(int) for file in files(comfyui) - before]
    assert len(written) == (2 if action in ("black", "blur") else 0)
    assert all(numpy.abs(picture[..., :3] - pixels).mean() > 10 for picture in written)
    assert all(picture.std() < pixels.std() / 2 for picture in written)


# Nothing passes unchecked


def test_a_missing_detector_is_refused_before_anything_runs_with_its_address(comfyui, detectors):
    sentence = refused(comfyui, detector="falconsai_nsfw")
    assert "installed: tiny" in sentence
    assert sentence.count("refused") == 1, "said once, not for every input"
    assert "https://huggingface.co/Falconsai/nsfw_image_detection" in sentence
    assert "model.safetensors (343 MB)" in sentence


@pytest.mark.parametrize("name", ["../loras", "..", "", "tiny/../tiny", "tiny/"])
def test_a_detectors_name_is_no_path(comfyui, detectors, name):
    assert "refused" in refused(comfyui, detector=name)


def broken(detectors, *, tensors=None, configuration=None) -> None:
    tiny_detector.write(detectors / "broken", tensors, configuration)


def without_head(detectors):
    tensors = tiny_detector.weights()
    del tensors["classifier.weight"], tensors["classifier.bias"]
    broken(detectors, tensors=tensors)


def renamed_keys(detectors):
    broken(
        detectors, tensors={name.replace("vit.", "model."): value for name, value in tiny_detector.weights().items()}
    )


def only_a_pickle(detectors):
    broken(detectors)
    (detectors / "broken" / "model.safetensors").rename(detectors / "broken" / "pytorch_model.bin")


def no_configuration(detectors):
    broken(detectors)
    (detectors / "broken" / "config.json").unlink()


def unknown_labels(detectors):
    broken(detectors, configuration=tiny_detector.config(("LABEL_0", "LABEL_1")))


def cut_off(detectors):
    broken(detectors)
    weights = detectors / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])


def empty_folder(detectors):
    (detectors / "broken").mkdir()


@pytest.mark.parametrize(
    "spoil",
    [without_head, renamed_keys, only_a_pickle, no_configuration, unknown_labels, cut_off, empty_folder],
    ids=lambda spoil: spoil.__name__,
)
def test_a_detector_that_is_not_whole_checks_nothing(comfyui, detectors, spoil):
    spoil(detectors)
    assert "'broken' refused" in refused(comfyui, detector="broken")


def test_weights_of_another_shape_are_refused_when_they_are_read(comfyui, detectors):
    tensors = tiny_detector.weights()
    tensors["classifier.weight"] = torch.zeros(3, 4)  # the names fit: seen only after queueing
    broken(detectors, tensors=tensors)
    assert "size mismatch" in refused(comfyui, detector="broken")


def test_a_detector_that_answers_nan_passes_nothing(comfyui, detectors):
    tensors = tiny_detector.weights()
    tensors["classifier.bias"][0] = math.nan
    broken(detectors, tensors=tensors)
    report, saved = checked(comfyui, detector="broken")
    assert report["has_nsfw_concepts"] == [True] * 4
    assert [image["score"] for image in report["per_image"]] == [None] * 4
    assert not any(picture.any() for picture in saved)


def test_a_detector_that_vanishes_between_queueing_and_running_passes_nothing(comfyui, detectors):
    busy = SafetyGraph()  # keeps the server occupied while the detector goes
    many = [busy.add("RepeatImageBatch", image=busy.grey(DARK, 64), amount=3000), 0]
    busy.add("PreviewAny", source=[busy.check(many, scan="whole + tiles"), 1])
    graph = SafetyGraph()
    graph.save([graph.check(graph.batch()), 0])
    before = files(comfyui)
    _, second = comfyui.queue(busy), comfyui.queue(graph)
    (detectors / "tiny").rename(detectors / "elsewhere")
    status = ended(comfyui, second)["status"]
    assert status["status_str"] == "error"
    assert "'tiny' refused" in json.dumps(status)
    assert files(comfyui) == before


def test_a_detector_that_changes_is_read_again(comfyui, detectors):
    def blind() -> dict:
        return {
            **tiny_detector.weights(),
            "classifier.weight": torch.zeros(2, 4),
            "classifier.bias": torch.tensor([9.0, 0]),
        }

    hashes = []
    for tensors, flagged in ((None, FLAGS), (blind(), [False] * 4), (None, FLAGS)):
        tiny_detector.write(detectors / "tiny", tensors)
        report, _ = checked(comfyui)
        assert report["has_nsfw_concepts"] == flagged
        hashes.append((report["weights_sha256"], report["detector_sha256"]))
    assert hashes[0] == hashes[2] and not set(hashes[0]) & set(hashes[1])
    shutil.rmtree(detectors / "tiny")
    assert "refused" in refused(comfyui)


def test_the_same_check_of_the_same_images_is_not_made_again(comfyui, detectors):
    graph = SafetyGraph()
    check = graph.check(graph.batch((DARK, 0x21)))
    graph.save([check, 0])
    run(comfyui, graph)
    ran = []
    comfyui.run(graph, on_event=lambda event: event["type"] == "executing" and ran.append(event["data"]["node"]))
    assert check not in ran


def test_pixels_that_are_not_numbers_are_flagged(comfyui, detectors):
    graph = SafetyGraph()
    dark = graph.grey(DARK)
    spoiled = [graph.add("ImageBlend", image1=dark, image2=dark, blend_factor="nan", blend_mode="normal"), 0]
    both = [graph.add("ImageBatch", image1=dark, image2=spoiled), 0]
    report, saved = checked(comfyui, both, graph=graph)
    assert report["has_nsfw_concepts"] == [False, True]
    assert "non_finite_pixels" in report["per_image"][1]["reasons"]
    assert [picture.mean() for picture in saved] == [DARK, 0]


def test_a_picture_below_black_passes_as_the_black_that_was_scored(comfyui, detectors):
    graph = SafetyGraph()
    below = [graph.add("ProbeAddGrey", image=graph.grey(BRIGHT), value=-10.0), 0]
    check = graph.check(below)
    back = graph.save([graph.add("ProbeAddGrey", image=[check, 0], value=10.0), 0], "back")
    outputs = run(comfyui, graph)
    assert outputs[check]["has_nsfw_concepts"] == [False]
    assert [picture.min() for picture in pictures(comfyui, outputs[back])] == [0xFF], "not the bright picture"


def test_an_empty_batch_is_an_error(comfyui, detectors):
    graph = SafetyGraph()
    none = [graph.add("PrimitiveInt", value=0), 0]  # wired, so nobody checks its range
    nothing = [graph.add("EmptyImage", width=32, height=32, batch_size=none, color=0), 0]
    assert "no image to check" in refused(comfyui, graph=graph, image=nothing)


def test_what_is_hidden_under_alpha_is_judged_and_redacted(comfyui, detectors):
    graph = SafetyGraph()
    hidden = [graph.add("SolidMask", value=1.0, width=32, height=32), 0]
    image = [graph.add("JoinImageWithAlpha", image=graph.grey(BRIGHT), alpha=hidden), 0]
    report, (saved,) = checked(comfyui, image, graph=graph)
    assert report["has_nsfw_concepts"] == [True]
    assert saved.shape[-1] == 4
    assert not saved[..., :3].any() and (saved[..., 3] == 255).all()


def test_values_outside_the_lists_and_ranges_are_refused(comfyui, detectors):
    for name, value in (("on_flagged", "pass"), ("scan", "none"), ("device", "tpu"), ("threshold", 1.5)):
        assert name in refused(comfyui, **{name: value})
    for value in (0, "nan", -1):
        assert "threshold" in refused(comfyui, threshold=value)


def test_a_wired_threshold_is_checked_when_it_arrives(comfyui, detectors):
    graph = SafetyGraph()
    assert "threshold must be" in refused(comfyui, graph=graph, threshold=[graph.add("PrimitiveFloat", value=7.0), 0])


def test_a_provider_adds_flags_and_takes_none_away(comfyui, detectors):
    graph = SafetyGraph()
    said = json.dumps({"provider": "fal", "has_nsfw_concepts": [True, False, None, False]})
    wired = [graph.add("PrimitiveString", value=said), 0]
    report, saved = checked(comfyui, graph.batch((DARK, DARK, DARK, BRIGHT)), graph=graph, provider_report=wired)
    reasons = [image["reasons"] for image in report["per_image"]]
    assert reasons == [["provider"], [], ["provider_unknown"], ["score"]]
    assert [picture.mean() for picture in saved] == [0, DARK, 0, 0]


@pytest.mark.parametrize("report", ["", "no JSON", "{}", '{"has_nsfw_concepts": [false]}'])
def test_a_providers_report_that_does_not_fit_the_images_is_an_error(comfyui, detectors, report):
    assert "provider_report" in refused(comfyui, provider_report=report)


def test_the_processor_may_be_asked_for(comfyui, detectors):
    report, _ = checked(comfyui, device="cpu")
    assert (report["device"], report["has_nsfw_concepts"]) == ("cpu", FLAGS)


def test_detectors_lie_side_by_side_and_appear_on_the_page_without_a_restart(comfyui, detectors):
    tiny_detector.write(detectors / "falconsai_nsfw")
    options = json.dumps(comfyui.get("/object_info/FluxKreaSafetyCheck").json())
    assert '"falconsai_nsfw", "tiny"' in options
    assert checked(comfyui, detector="falconsai_nsfw")[0]["detector"] == "falconsai_nsfw"


def test_extra_model_paths_are_searched(tmp_path):
    tiny_detector.write(tmp_path / "shared" / "checkers" / "from elsewhere")
    settings = tmp_path / "extra.yaml"
    settings.write_text(f"here:\n  base_path: {tmp_path.as_posix()}/shared\n  safety_checkers: checkers\n")
    program = f"""
        import sys
        sys.path[:0] = [{str(COMFYUI)!r}, {str(ROOT / "tests")!r}]
        from comfy.cli_args import args
        args.cpu = True
        from utils.extra_config import load_extra_path_config
        load_extra_path_config({str(settings)!r})
        import conftest
        from flux_krea.nodes.safety import installed_detectors
        print(installed_detectors.names(), installed_detectors.ready("from elsewhere", "cpu")[0].name)
    """
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [PYTHON, "-c", textwrap.dedent(program)]
    answer = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert answer.stdout.strip().endswith("['from elsewhere'] from elsewhere"), answer.stderr


# The review gate


def reviewed(comfyui, graph: SafetyGraph, image, code="") -> tuple[dict, list[numpy.ndarray]]:
    gate = graph.review(image, code)
    saved = graph.save([gate, 0])
    outputs = run(comfyui, graph)
    return outputs[gate], pictures(comfyui, outputs.get(saved))


def test_the_gate_shows_the_images_and_lets_nothing_pass(comfyui):
    graph = SafetyGraph()
    shown, saved = reviewed(comfyui, graph, graph.batch((0x20, 0x60)))
    assert saved == []
    assert shown["reviewed"] == [False]
    assert [round(picture.mean()) for picture in pictures(comfyui, shown)] == [0x20, 0x60]
    assert {image["type"] for image in shown["images"]} == {"temp"}


def test_the_gate_passes_what_was_reviewed_and_makes_nothing_again(comfyui):
    graph = SafetyGraph()
    source = graph.batch((0x21, 0x61))
    code = reviewed(comfyui, graph, source)[0]["review_code"][0]
    gate = next(key for key, node in graph.items() if node["class_type"] == "FluxKreaReview")
    for written in (code, f"  {code.upper()} ", f"0000-0000-0000, {code}"):
        graph[gate]["inputs"]["reviewed"] = written
        ran = []
        history = comfyui.run(
            graph, on_event=lambda e, ran=ran: e["type"] == "executing" and ran.append(e["data"]["node"])
        )
        saved = [path for path in comfyui.pictures(history) if path.parent.name == "output"]
        assert len(saved) == 2 and source[0] not in ran


def test_other_pixels_need_another_code(comfyui):
    def code_of(*values) -> str:
        graph = SafetyGraph()
        return reviewed(comfyui, graph, graph.batch(values))[0]["review_code"][0]

    codes = [code_of(0x30), code_of(0x31), code_of(0x30, 0x30), code_of(0x30, 0x31), code_of(0x31, 0x30)]
    assert len(set(codes)) == 5
    graph = SafetyGraph()
    shown, saved = reviewed(comfyui, graph, graph.batch((0x31,)), codes[0])
    assert (shown["reviewed"], saved) == ([False], [])


def unkeyed(grey: int, side: int = 32) -> str:
    """The code that 0.1.0 gave an even grey picture: whoever makes a workflow can compute it."""
    image = torch.full((1, side, side, 3), grey / 255)
    digest = hashlib.sha256(f"{list(image.shape)} {image.dtype}".encode())
    digest.update(image.numpy().data)
    code = digest.hexdigest()[:12]
    return "-".join((code[:4], code[4:8], code[8:]))


def test_the_maker_of_a_workflow_cannot_compute_the_code(comfyui):
    graph = SafetyGraph()
    shown, saved = reviewed(comfyui, graph, graph.grey(0x55), unkeyed(0x55))
    assert (shown["reviewed"], saved) == ([False], [])
    (secret,) = (comfyui.base / "user").rglob("review_secret")
    assert not secret.is_relative_to(comfyui.base / "user" / "default")
    if os.name != "nt":
        assert secret.stat().st_mode & 0o777 == 0o600 and secret.parent.stat().st_mode & 0o777 == 0o700


def test_the_gate_hands_on_what_it_showed(comfyui):
    """Drawn ten below black a picture is shown as black; accepted, it is black, and adding ten gives white."""
    graph = SafetyGraph()
    below = [graph.add("ProbeAddGrey", image=graph.grey(0x66), value=-10.0), 0]
    gate = graph.review(below)
    back = graph.save([graph.add("ProbeAddGrey", image=[gate, 0], value=10.0), 0], "back")
    graph[gate]["inputs"]["reviewed"] = run(comfyui, graph)[gate]["review_code"][0]
    assert [picture.min() for picture in pictures(comfyui, run(comfyui, graph)[back])] == [0xFF]


def test_the_code_reaches_a_person_without_any_script(comfyui):
    graph = SafetyGraph()
    gate = graph.review(graph.grey(0x40))
    graph.save([gate, 0])
    text = graph.add("PreviewAny", source=[gate, 1])
    with pytest.raises(ComfyUIError) as blocked:
        comfyui.run(graph)  # the page shows this sentence
    outputs = ended(comfyui, blocked.value.details["prompt_id"])["outputs"]
    assert json.loads(outputs[text]["text"][0])["review_code"] in str(blocked.value)


def test_the_gate_shows_what_alpha_hides(comfyui):
    graph = SafetyGraph()
    hidden = [graph.add("SolidMask", value=1.0, width=32, height=32), 0]
    image = [graph.add("JoinImageWithAlpha", image=graph.grey(0x90), alpha=hidden), 0]
    shown, _ = reviewed(comfyui, graph, image)
    (picture,) = pictures(comfyui, shown)
    assert picture.shape == (32, 32, 3) and round(picture.mean()) == 0x90


def test_what_cannot_be_shown_cannot_be_reviewed(comfyui):
    graph = SafetyGraph()
    grey = graph.grey(0x50)
    spoiled = [graph.add("ImageBlend", image1=grey, image2=grey, blend_factor="nan", blend_mode="normal"), 0]
    with pytest.raises(ComfyUIError, match="not finite numbers"):
        reviewed(comfyui, graph, spoiled)
