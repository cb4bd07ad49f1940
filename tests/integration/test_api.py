"""API Krea in a real ComfyUI, against the stand-ins: every provider, every mode, the right picture, flags and seed."""

import json
import shutil
import threading
import time
from pathlib import Path

import pytest
import tiny_detector
from api_graphs import PROMPT, PROVIDERS, STOPPABLE, ApiGraph, count
from comfyui import ComfyUIError, until
from flux_krea.nodes.providers import providers
from flux_krea.nodes.providers.contract import IMAGE_TO_IMAGE, INPAINTING, REDUX, TEXT_TO_IMAGE, WITH_LORA
from graphs import Graph
from PIL import Image
from standins import expected_pixel

MODES = [(name, mode) for name in PROVIDERS for mode in providers()[name].parameters]
MODES += [(name, TEXT_TO_IMAGE + WITH_LORA) for name in ("runware", "wavespeed")]  # in the same endpoint there
MODES += [("wavespeed", IMAGE_TO_IMAGE + WITH_LORA), ("fal", INPAINTING + WITH_LORA)]
LORAS = {"fal": "owner/style 0.8\nhttps://host.example/style.safetensors", "wavespeed": "owner/style 0.8",
         "runware": "civitai:1234@5678 -0.5"}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(standins):
    for standin in standins.values():
        standin.set(job_seconds=0.2, queue_seconds=0)


def run_one(comfyui, provider: str, **changes):
    graph = ApiGraph()
    node = graph.api(provider, **changes)
    saved = graph.shown(node)
    history = comfyui.run(graph)
    report = json.loads(history["outputs"][node]["text"][0])
    files = [comfyui.base / "output" / image["filename"] for image in history["outputs"][saved]["images"]]
    return report, files


def jobs_paid(standins) -> int:
    return sum(standin.state()["billed"] for standin in standins.values())


@pytest.mark.parametrize("provider, mode", MODES)
def test_each_provider_delivers_the_right_picture_flags_and_seed(comfyui, standins, provider, mode):
    seed = 1000 + MODES.index((provider, mode))
    changes = {"seed": seed}
    graph = ApiGraph()
    if mode.endswith(WITH_LORA):
        changes["loras"] = LORAS[provider]
    if not mode.startswith(TEXT_TO_IMAGE):
        changes["image"] = [graph.add("LoadImage", image="example.png"), 0]
    if mode.startswith(INPAINTING):
        changes["mask"] = [graph.add("SolidMask", value=1.0, width=40, height=24), 0]
    if mode == REDUX:
        changes |= {"image_use": "redux", "prompt": ""}
    node = graph.api(provider, **changes)
    saved = graph.shown(node)

    history = comfyui.run(graph)

    report = json.loads(history["outputs"][node]["text"][0])
    (image,) = history["outputs"][saved]["images"]
    with Image.open(comfyui.base / "output" / image["filename"]) as picture:
        size, pixel = picture.size, picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2))
    assert report["provider"] == provider
    assert report["seed"] == seed
    assert report["pictures"] == [{"width": size[0], "height": size[1]}]
    assert report["has_nsfw_concepts"] == [None if provider in ("lumenfall", "core_today", "one_min") else False]
    wanted = expected_pixel("" if mode == REDUX else PROMPT, seed, 0)
    assert max(abs(a - b) for a, b in zip(pixel, wanted, strict=True)) <= 6, (pixel, wanted)
    assert jobs_paid(standins) == 1


def test_the_same_run_again_takes_the_picture_from_disk(comfyui, standins):
    run_one(comfyui, "fal", seed=51)
    report, files = run_one(comfyui, "fal", seed=51, max_cost_usd=0.5)  # another input, so that ComfyUI runs it again
    assert report["already_paid_pictures"] == 1 and files[0].exists()
    assert jobs_paid(standins) == 1


def test_sixteen_images_at_one_provider_are_several_calls_with_consecutive_seeds(comfyui, standins):
    report, files = run_one(comfyui, "replicate", seed=61, images=6)
    assert len(files) == 6 and len(report["has_nsfw_concepts"]) == 6
    assert jobs_paid(standins) == 2


# provider → images asked for, the prompt, flags of what arrives, how many are withheld, jobs paid
PARTLY_REFUSED = {
    "fal": (2, "NSFW@1", [False, True], 0, 1),  # black, as fal delivers it
    "replicate": (6, "NSFW@1", [False] * 4, 2, 2),  # one of each call left out without a word
    "core_today": (2, "NSFW@1", [None], 1, 1),
    "one_min": (3, "one of three", [None] * 2, 1, 3),  # a call of its own, which fails
}


def test_what_a_filter_leaves_arrives_and_what_it_keeps_back_is_said_and_not_paid_again(comfyui, standins):
    standins["one_min"].fault("job", "nsfw", 1, prompt="one of three")
    for run, limit in enumerate((-1.0, -0.5)):  # both are none; another value makes ComfyUI run the nodes again
        graph = ApiGraph()
        nodes = {
            name: graph.api_shown(name, images=images, prompt=prompt, seed=65, max_cost_usd=limit)
            for name, (images, prompt, *_) in PARTLY_REFUSED.items()
        }
        history = comfyui.run(graph)
        for name, (_, _, flags, withheld, paid) in PARTLY_REFUSED.items():
            report = json.loads(history["outputs"][nodes[name]]["text"][0])
            assert (report["has_nsfw_concepts"], report["withheld_by_provider"]) == (flags, withheld), (name, report)
            assert report["already_paid_pictures"] == (len(flags) if run else 0), name
            assert len(report["pictures"]) == len(flags), name
            assert standins[name].state()["billed"] == paid, name
    assert len(comfyui.pictures(history)) == sum(len(flags) for _, _, flags, *_ in PARTLY_REFUSED.values())


def test_auto_goes_on_only_where_the_first_did_not_accept(comfyui, standins):
    for name in ("runware", "fal", "replicate"):
        standins[name].fault("submit", "status", None, status=402)
    report, _ = run_one(comfyui, "auto", seed=71)
    assert report["provider"] not in ("runware", "fal", "replicate")
    assert [count(standins[name], "submit") for name in ("runware", "fal")] == [1, 1]
    assert jobs_paid(standins) == 1


@pytest.mark.parametrize(
    ("wanted", "changes"),
    [
        ("runware", {}),
        ("wavespeed", {"loras": "owner/style 0.8"}),
        ("fal", {"loras": "owner/style 0.8\n" * 4}),  # more than WaveSpeed takes
        ("runware", {"loras": "civitai:1234@5678 0.8"}),
        ("fal", {"with_mask": True}),
    ],
    ids=["the cheapest", "a LoRA", "four LoRAs", "an AIR id", "a mask"],
)
def test_auto_takes_the_cheapest_that_can_do_what_is_asked(comfyui, standins, wanted, changes):
    graph, changes = ApiGraph(), dict(changes)
    if changes.pop("with_mask", False):
        changes["image"] = [graph.add("LoadImage", image="example.png"), 0]
        changes["mask"] = [graph.add("SolidMask", value=1.0, width=64, height=64), 0]
    node = graph.api_shown("auto", seed=75, **changes)
    history = comfyui.run(graph)
    assert json.loads(history["outputs"][node]["text"][0])["provider"] == wanted
    assert jobs_paid(standins) == standins[wanted].state()["billed"] == 1


def test_black_in_a_mask_keeps_the_picture(comfyui, standins):
    graph = ApiGraph()
    image = graph.add("LoadImage", image="example.png")
    black = graph.add("SolidMask", value=0.0, width=24, height=40)
    white = graph.add("SolidMask", value=1.0, width=4, height=4)  # in a corner: a mask without any is refused
    mask = graph.add("MaskComposite", destination=[black, 0], source=[white, 0], x=0, y=0, operation="add")
    saved = graph.shown(graph.api("fal", seed=76, image=[image, 0], mask=[mask, 0]))
    kept = graph.shown(image)
    history = comfyui.run(graph)
    pixels = []
    for node in (saved, kept):
        with Image.open(comfyui.base / "output" / history["outputs"][node]["images"][0]["filename"]) as picture:
            pixels.append(picture.convert("RGB").getpixel((picture.width // 2, picture.height // 2)))
    assert max(abs(a - b) for a, b in zip(*pixels, strict=True)) <= 6


def test_a_workflow_saved_by_version_0_1_0_asks_for_what_it_asked_for_then(comfyui, standins):
    saved = json.loads((Path(__file__).parent / "saved_by_0_1_0" / "api_text_to_image.json").read_text("utf-8"))
    graph = comfyui.to_api(saved)
    (node,) = [node for node in graph.values() if node["class_type"] == "FluxKreaAPI"]
    history = comfyui.run(graph)
    assert len(comfyui.pictures(history)) == 1

    submitted = ApiGraph("FluxKreaSubmit")
    submit = submitted.add("FluxKreaSubmit", **{**node["inputs"], "provider": "fal"})
    (ticket,) = comfyui.run(submitted)["outputs"][submit]["text"]
    assert ticket == "fal/acf10334798115afa78fc3bf8f871b4525736671"  # as that version wrote it
    collected = ApiGraph()  # else the job is left under way for later tests, at a provider that has forgotten it
    collected.shown(collected.add("FluxKreaCollect", ticket=ticket))
    assert len(comfyui.pictures(comfyui.run(collected))) == 1


def test_a_random_seed_is_drawn_shown_and_different_each_time(comfyui, standins):
    first, _ = run_one(comfyui, "fal", seed=-1)
    second, _ = run_one(comfyui, "fal", seed=-1)
    assert first["seed"] != second["seed"] and min(first["seed"], second["seed"]) > 0
    assert jobs_paid(standins) == 2


def test_a_budget_holds_under_parallel_nodes(comfyui, standins):
    graph = ApiGraph()
    for seed in range(8):
        graph.api_shown("replicate", seed=81 + seed, max_cost_usd=0.05)
    with pytest.raises(ComfyUIError, match="max_cost_usd|0.05"):
        comfyui.run(graph)
    time.sleep(1.0)
    assert jobs_paid(standins) == 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_cancel_frees_comfyui_at_once_and_stops_what_can_be_stopped(comfyui, standins, provider):
    standins[provider].set(job_seconds=20)
    graph = ApiGraph()
    for seed in (91, 92):
        graph.api_shown(provider, seed=seed)

    def press_later():
        until(lambda: count(standins[provider], "submit") == 2, 15)
        comfyui.post("/interrupt", {})

    began = time.monotonic()
    threading.Thread(target=press_later).start()
    with pytest.raises(ComfyUIError, match="interrupted"):
        comfyui.run(graph)
    assert time.monotonic() - began < 20, "it waited for the jobs to end"
    if provider in STOPPABLE:
        until(lambda: len(standins[provider].state()["cancels"]) == 2, 15)


@pytest.mark.parametrize(
    "fault", [("submit", "status", {"status": 422}), ("job", "failed", {})], ids=["at the submit", "at the end"]
)
def test_a_failing_sibling_costs_nothing(comfyui, standins, fault):
    phase, kind, options = fault
    standins["fal"].set(job_seconds=1.5)
    standins["fal"].fault(phase, kind, 1, prompt="forbidden", **options)

    def graph_with(prompt: str) -> ApiGraph:
        graph = ApiGraph()
        for seed in (101, 102, 103):
            graph.api_shown("fal", seed=seed, prompt=f"beside one that fails {phase}")
        graph.api_shown("fal", seed=104, prompt=prompt + phase)
        return graph

    with pytest.raises(ComfyUIError):
        comfyui.run(graph_with("forbidden"))
    history = comfyui.run(graph_with("allowed"))
    assert len(comfyui.pictures(history)) == 4
    assert jobs_paid(standins) == 4


def test_submit_lets_the_queue_go_on_and_collect_fetches_it_later(comfyui, standins):
    standins["fal"].set(job_seconds=1.0)
    submitted = ApiGraph("FluxKreaSubmit")
    node = submitted.api("fal", seed=111)
    (ticket,) = comfyui.run(submitted)["outputs"][node]["text"]

    collected = Graph()
    node = collected.add("FluxKreaCollect", ticket=ticket)
    collected.add("SaveImage", images=[node, 0], filename_prefix="api")
    history = comfyui.run(collected)
    assert json.loads(history["outputs"][node]["text"][0])["seed"] == 111
    assert jobs_paid(standins) == 1


@pytest.mark.parametrize("provider, reasons", [("one_min", ["provider_unknown"]), ("fal", [])])
def test_safety_check_reads_the_report_and_flags_what_the_provider_did_not_check(comfyui, models, provider, reasons):
    tiny_detector.write(models / "safety_checkers" / "beside_api")
    graph = ApiGraph()
    node = graph.api(provider, seed=121)
    values = {"detector": "beside_api", "threshold": 1.0, "on_flagged": "black", "scan": "whole", "device": "cpu"}
    check = graph.add("FluxKreaSafetyCheck", image=[node, 0], provider_report=[node, 3], **values)
    graph.shown(check)

    (text,) = comfyui.run(graph)["outputs"][check]["text"]

    shutil.rmtree(models / "safety_checkers" / "beside_api")
    assert json.loads(text)["per_image"][0]["reasons"] == reasons


BAD = {
    "redux away from fal": ("replicate", {"image_use": "redux", "with_image": True}, "Redux"),
    "extra that is no JSON": ("fal", {"extra": "go_fast: no"}, "extra is not JSON"),
    "a prompt too long for Lumenfall": (
        "lumenfall",
        {"prompt": "x" * 1001},
        "1001 characters, and Lumenfall takes 1000",
    ),
    "no prompt": ("fal", {"prompt": " "}, "prompt"),
    "an unknown provider": ("midjourney", {}, "midjourney"),
    "a mask away from inpainting": ("replicate", {"with_image": True, "with_mask": True}, "no inpainting"),
    "a mask without an image": ("fal", {"with_mask": True}, "no image is wired"),
    "a mask for Redux": ("fal", {"with_image": True, "with_mask": True, "image_use": "redux"}, "Redux takes no mask"),
    "a LoRA where none is taken": ("replicate", {"loras": "owner/style"}, "takes no LoRA"),
    "a LoRA that is none": ("fal", {"loras": "style.safetensors"}, "loras says"),
    "a LoRA with a password": ("fal", {"loras": "https://me:hunter2@host.example/a"}, "carries a key or a password"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_done_is_said_before_anything_is_sent(comfyui, standins, case):
    provider, changes, sentence = BAD[case]
    changes = dict(changes)
    graph = ApiGraph()
    if changes.pop("with_image", False):
        changes["image"] = [graph.add("LoadImage", image="example.png"), 0]
    if changes.pop("with_mask", False):
        changes["mask"] = [graph.add("SolidMask", value=1.0, width=64, height=64), 0]
    graph.api_shown(provider, **changes)
    with pytest.raises(ComfyUIError, match=sentence):
        comfyui.run(graph)
    assert jobs_paid(standins) == 0


@pytest.mark.parametrize("reuse, jobs", [(True, 1), (False, 2)])
def test_the_same_request_twice_in_one_graph_is_one_job_unless_reuse_is_off(comfyui, standins, reuse, jobs):
    standins["fal"].set(job_seconds=1.0)
    graph = ApiGraph()
    for _ in range(2):
        graph.api_shown("fal", seed=131, prompt=f"twice, reuse {reuse}", reuse=reuse)
    history = comfyui.run(graph)
    assert len(comfyui.pictures(history)) == 2
    assert jobs_paid(standins) == jobs
