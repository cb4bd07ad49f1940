"""Krea Safety Check and the Review Gate, as a user meets them on the page. The detector is tests/tiny_detector.py."""

import shutil

import pytest
import tiny_detector
from graphs import Graph
from page_driver import (
    RUN,
    TEXT,
    VALUES,
    accept_pictures,
    close_dialog,
    flow,
    load,
    node,
    screen,
    set_value,
    wait_for_text,
)


@pytest.fixture
def detectors(comfyui):
    """models/safety_checkers/ with the tiny detector in it, before the page asks what there is."""
    folder = comfyui.base / "models" / "safety_checkers"
    shutil.rmtree(folder, ignore_errors=True)
    tiny_detector.write(folder / "tiny")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_the_detectors_state_is_told_before_the_run_and_each_verdict_after_it(detectors, page, renderer):
    side = {"canvas": 40, "vue": 48}[renderer]
    image = node(
        1, "EmptyImage", (240, 240), [side, side, 2, 0xE6E6E6], outputs=[("IMAGE", "IMAGE", [1])], size=(270, 130)
    )
    check = node(
        2, "FluxKreaSafetyCheck", (560, 240), ["tiny", 0.5, "black", "whole", "auto"], [("image", "IMAGE", 1)],
        [("image", "IMAGE", [2])], size=(360, 420),
    )  # fmt: skip
    kept = node(3, "PreviewImage", (980, 240), inputs=[("images", "IMAGE", 2)], size=(300, 300))
    load(page, flow(image, check, kept, links=[[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]))
    wait_for_text(page, "tiny: ready", 2)
    set_value(page, "detector", "gone", 2)
    wait_for_text(page, "gone: not installed", 2)
    set_value(page, "detector", "tiny", 2)
    wait_for_text(page, "tiny: ready", 2)
    assert page.evaluate(RUN) == "execution_success: "
    first, *images = wait_for_text(page, "2 of 2 flagged, below 0.5 passes (tiny)", 2).splitlines()
    assert [line.split(" · ")[0] for line in images] == ["1: flagged", "2: flagged"]
    page.screenshot(path=screen(f"safety-{renderer}-done.png"))


def leave_a_nan_in_the_history(comfyui) -> None:
    """A run with a number that JSON does not know: from then on no page can read ComfyUI's whole history."""
    graph = Graph()
    image = [graph.add("EmptyImage", width=8, height=8, batch_size=1, color=0), 0]
    blended = graph.add("ImageBlend", image1=image, image2=image, blend_factor="nan", blend_mode="normal")
    graph.add("PreviewImage", images=[blended, 0])
    comfyui.run(graph)


def test_the_review_button_lets_the_very_pictures_pass_that_were_shown(comfyui, page, renderer):
    side = {"canvas": 72, "vue": 80}[renderer]
    images = node(
        1, "EmptyImage", (240, 240), [side, side, 1, 0x336699], outputs=[("IMAGE", "IMAGE", [1])], size=(270, 130)
    )
    gate = node(
        2, "FluxKreaReview", (560, 240), [""], [("image", "IMAGE", 1)], [("image", "IMAGE", [2])], size=(300, 400)
    )
    kept = node(3, "SaveImage", (900, 240), ["reviewed"], [("images", "IMAGE", 2)], size=(300, 300))
    load(page, flow(images, gate, kept, links=[[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]))
    assert page.get_by_role("button", name="I have looked").count() == 0
    assert "look at this image" in page.evaluate(RUN)
    page.get_by_role("button", name="I have looked").wait_for()
    close_dialog(page)
    page.screenshot(path=screen(f"review-{renderer}.png"))
    set_value(page, "color", 0x993311)  # as a random seed would: the page's graph now makes other pictures
    leave_a_nan_in_the_history(comfyui)
    (picture,) = comfyui.history(accept_pictures(page))["outputs"]["3"]["images"]
    assert picture["filename"].startswith("reviewed")
    wait_for_text(page, "Looked at and accepted", 2)
    assert page.get_by_role("button", name="I have looked").count() == 0
    assert page.evaluate(TEXT, [2, "reviewed"]).count("-") == 2


TWO_GATES = flow(
    node(1, "EmptyImage", (40, 240), [56, 56, 1, 0x336699], outputs=[("IMAGE", "IMAGE", [1, 2, 5, 6])], size=(270, 130)),
    node(2, "FluxKreaReview", (360, 100), [""], [("image", "IMAGE", 1)], [("image", "IMAGE", [3])], size=(300, 400)),
    node(3, "FluxKreaReview", (360, 560), [""], [("image", "IMAGE", 2)], [("image", "IMAGE", [4])], size=(300, 400)),
    node(4, "SaveImage", (700, 100), ["first"], [("images", "IMAGE", 3)], size=(300, 300)),
    node(5, "SaveImage", (700, 560), ["second"], [("images", "IMAGE", 4)], size=(300, 300)),
    # A number that JSON does not know, in this very run:
    node(
        6, "ImageBlend", (1040, 100), ["nan", "normal"], [("image1", "IMAGE", 5), ("image2", "IMAGE", 6)],
        [("IMAGE", "IMAGE", [7])], size=(270, 130),
    ),
    node(7, "PreviewImage", (1040, 560), inputs=[("images", "IMAGE", 7)], size=(300, 300)),
    links=[
        [1, 1, 0, 2, 0, "IMAGE"], [2, 1, 0, 3, 0, "IMAGE"], [3, 2, 0, 4, 0, "IMAGE"], [4, 3, 0, 5, 0, "IMAGE"],
        [5, 1, 0, 6, 0, "IMAGE"], [6, 1, 0, 6, 1, "IMAGE"], [7, 6, 0, 7, 0, "IMAGE"],
    ],
)  # fmt: skip
RUN_ONLY = """(targets) => new Promise(async (resolve) => {
  app.api.addEventListener("execution_success", () => resolve(), { once: true });
  app.api.queuePrompt(0, await app.graphToPrompt(), { partialExecutionTargets: targets });
})"""


@pytest.mark.parametrize("renderer", ["vue"], indirect=True)
@pytest.mark.parametrize("pressed, passed", [(0, "4"), (1, "5")])
def test_of_two_gates_with_the_same_pictures_the_pressed_one_lets_them_pass(comfyui, page, pressed, passed):
    load(page, TWO_GATES)
    assert "look at this image" in page.evaluate(RUN)
    page.get_by_role("button", name="I have looked").nth(1).wait_for()
    outputs = comfyui.history(accept_pictures(page, pressed))["outputs"]
    assert "images" in outputs[passed] and outputs.keys() & {"4", "5"} == {passed}
    assert [bool(page.evaluate(TEXT, [gate, "reviewed"])) for gate in (2, 3)] == [pressed == 0, pressed == 1]


@pytest.mark.parametrize("renderer", ["vue"], indirect=True)
def test_the_review_button_runs_only_what_had_run(comfyui, page):
    load(page, TWO_GATES)
    set_value(page, "color", 0x224411)  # else ComfyUI has it all from the test before, and sends nothing
    page.evaluate(RUN_ONLY, ["4"])
    wait_for_text(page, "Held back", 2)
    outputs = comfyui.history(accept_pictures(page))["outputs"]
    assert "images" in outputs["4"] and not outputs.keys() & {"3", "5", "7"}


def test_the_review_button_keeps_the_job_that_submit_sent(comfyui, standins, page, renderer):
    standins["fal"].set(job_seconds=0.05, queue_seconds=0)
    values = {**VALUES, "provider": "fal", "prompt": f"sent and looked at in {renderer}", "seed": -1, "reuse": False}
    submit = node(1, "FluxKreaSubmit", (240, 240), values.values(), outputs=[("ticket", "STRING", [1])])
    collect = node(2, "FluxKreaCollect", (640, 240), [""], outputs=[("image", "IMAGE", [2])])
    collect["inputs"] = [{"name": "ticket", "type": "STRING", "widget": {"name": "ticket"}, "link": 1}]
    gate = node(3, "FluxKreaReview", (1040, 240), [""], [("image", "IMAGE", 2)], [("image", "IMAGE", [3])])
    kept = node(4, "SaveImage", (1440, 240), ["reviewed"], [("images", "IMAGE", 3)], size=(300, 300))
    links = [[1, 1, 0, 2, 0, "STRING"], [2, 2, 0, 3, 0, "IMAGE"], [3, 3, 0, 4, 0, "IMAGE"]]
    load(page, flow(submit, collect, gate, kept, links=links))
    assert "look at this image" in page.evaluate(RUN)
    assert comfyui.history(accept_pictures(page))["outputs"]["4"]["images"]
    assert standins["fal"].state()["billed"] == 1


def test_the_review_button_keeps_the_seed_that_api_krea_drew(comfyui, standins, page, renderer):
    standins["fal"].set(job_seconds=0.05, queue_seconds=0)
    values = {**VALUES, "provider": "fal", "prompt": f"looked at in {renderer}", "seed": -1}
    api = node(1, "FluxKreaAPI", (240, 240), values.values(), outputs=[("image", "IMAGE", [1])])
    gate = node(2, "FluxKreaReview", (640, 240), [""], [("image", "IMAGE", 1)], [("image", "IMAGE", [2])])
    kept = node(3, "SaveImage", (1040, 240), ["reviewed"], [("images", "IMAGE", 2)], size=(300, 300))
    load(page, flow(api, gate, kept, links=[[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"]]))
    assert "look at this image" in page.evaluate(RUN)
    assert comfyui.history(accept_pictures(page))["outputs"]["3"]["images"]
    assert standins["fal"].state()["billed"] == 1
