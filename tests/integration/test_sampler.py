"""Krea Sampler beside core's own graph, in one run of a real ComfyUI."""

import itertools

import pytest
from comfyui import ComfyUIError
from flux_krea.nodes.sampling import schedule
from graphs import Graph

NEGATIVE = "blurry, oversaturated"


def outputs(history: dict, graph: dict, class_type: str) -> dict:
    node_id = next(key for key, node in graph.items() if node["class_type"] == class_type)
    return history["outputs"][node_id]


def start(graph: Graph, width=128, height=128, batch_size=1, text=Graph.short_text):
    loader = graph.loader()
    positive = text(graph, [loader, 1], "a red fox in the snow")
    return [loader, 0], [loader, 1], [loader, 2], positive, graph.size(width, height, batch_size)


SAME_AS_CORE = {
    "square, a whole prompt": {"text": Graph.text},
    "square": {},
    "wide, no multiple of 64": {"size": (208, 112)},
    "batch of two": {"size": (64, 64), "batch_size": 2},
    "beta": {"scheduler": "beta"},
    "other sampler, 4 steps": {"sampler_name": "dpmpp_2m", "scheduler": "sgm_uniform", "steps": 4, "size": (64, 64)},
    "penultimate sigma dropped": {"sampler_name": "dpm_2", "scheduler": "normal", "size": (64, 64)},
    "stochastic": {"sampler_name": "euler_ancestral", "steps": 3, "size": (64, 64)},
    "denoise 0.6": {"denoise": 0.6, "steps": 3},
    "denoise 0": {"denoise": 0.0},
    "with negative, cfg 3": {"cfg": 3.0, "size": (64, 64)},
    "with negative, cfg 1": {"cfg": 1.0, "negative": True, "size": (64, 64)},
    "guidance 0": {"guidance": 0.0, "size": (64, 64)},
}


@pytest.mark.parametrize("case", SAME_AS_CORE)
def test_latent_equals_that_of_fluxguidance_and_ksampler_bit_for_bit(comfyui, case):
    settings = {"scheduler": "simple", "cfg": 1.0, **SAME_AS_CORE[case]}
    size, batch_size = settings.pop("size", (128, 128)), settings.pop("batch_size", 1)
    text = settings.pop("text", Graph.short_text)
    wants_negative = settings.pop("negative", False) or settings["cfg"] != 1.0
    graph = Graph()
    model, clip, _, positive, latent = start(graph, *size, batch_size, text)
    negative = text(graph, clip, NEGATIVE)
    if "denoise" in settings:  # start from something, so that keeping it can be seen
        latent = graph.sampler(model, positive, latent, seed=3, steps=1)
    probed = {tag: [graph.add("ProbeModel", model=model, tag=f"{case}/{tag}"), 0] for tag in ("ours", "core")}
    ours = graph.sampler(
        probed["ours"], positive, latent, **settings, **({"negative": negative} if wants_negative else {})
    )
    core = graph.core_sampler(probed["core"], positive, negative, latent, **settings)
    graph.add("ProbeCompare", a=ours, b=core)
    reports = {
        tag: graph.add("ProbeReport", latent=latent, tag=f"{case}/{tag}")
        for tag, latent in (("ours", ours), ("core", core))
    }

    history = comfyui.run(graph)

    compared = outputs(history, graph, "ProbeCompare")
    assert compared["equal"] == [True], compared
    seen = {tag: history["outputs"][node]["seen"][0] for tag, node in reports.items()}
    assert seen["ours"]["evaluations"] == seen["core"]["evaluations"]
    assert seen["ours"]["finite"] and seen["ours"]["std"] > 0.01
    if settings["cfg"] == 1.0 and settings.get("sampler_name", "euler") == "euler" and "denoise" not in settings:
        assert seen["ours"]["evaluations"] == settings.get("steps", 2)


def test_at_most_two_tensor_operations_a_step_more_than_core(comfyui):
    graph = Graph()
    model, clip, _, positive, latent = start(graph, 64, 64)
    negative = graph.short_text(clip, NEGATIVE)
    reports = {}
    for tag, steps in itertools.product(("ours", "core"), (2, 6)):
        watched = [graph.add("ProbeModel", model=model, tag=f"ops/{tag}/{steps}"), 0]
        settings = {"steps": steps, "scheduler": "simple"}
        if tag == "ours":
            sampled = graph.sampler(watched, positive, latent, **settings)
        else:
            sampled = graph.core_sampler(watched, positive, negative, latent, **settings)
        reports[tag, steps] = graph.add("ProbeReport", latent=sampled, tag=f"ops/{tag}/{steps}")

    outputs_by_node = comfyui.run(graph)["outputs"]

    operations = {key: outputs_by_node[node]["seen"][0]["operations"] for key, node in reports.items()}
    per_step = {tag: (operations[tag, 6] - operations[tag, 2]) / 4 for tag in ("ours", "core")}
    assert 0 < per_step["ours"] <= per_step["core"] + 2, per_step


@pytest.mark.parametrize("width, height", [(64, 64), (256, 128)])
def test_krea_schedule_is_the_reference_for_the_latents_own_size(comfyui, width, height):
    graph = Graph()
    model, _, _, positive, latent = start(graph, width, height)
    watched = [graph.add("ProbeModel", model=model, tag="krea"), 0]
    graph.add("ProbeReport", latent=graph.sampler(watched, positive, latent, steps=3, scheduler="krea"), tag="krea")

    seen = outputs(comfyui.run(graph), graph, "ProbeReport")["seen"][0]

    mu = schedule.shift(width * height // 256)
    assert seen["sigmas"] == pytest.approx(schedule.sigmas(3, mu), abs=1e-6)
    assert seen["shift"] == pytest.approx(mu)  # so that start and end percents of other nodes agree with it


def test_krea_schedule_with_denoise_starts_at_that_share_of_the_noise(comfyui):
    graph = Graph()
    model, _, _, positive, latent = start(graph, 64, 64)
    watched = [graph.add("ProbeModel", model=model, tag="part"), 0]
    sampled = graph.sampler(watched, positive, latent, steps=3, denoise=0.5)
    graph.add("ProbeReport", latent=sampled, tag="part")

    seen = outputs(comfyui.run(graph), graph, "ProbeReport")["seen"][0]

    assert seen["sigmas"] == pytest.approx(schedule.sigmas(6, schedule.shift(16))[3:], abs=1e-6)
    assert seen["evaluations"] == 3


def test_a_noise_mask_keeps_what_it_does_not_cover(comfyui):
    graph = Graph()
    model, _, _, positive, latent = start(graph, 64, 64)
    source = graph.sampler(model, positive, latent, seed=3, steps=1)
    mask = [graph.add("SolidMask", value=0.0, width=64, height=64), 0]
    masked = [graph.add("SetLatentNoiseMask", samples=source, mask=mask), 0]
    graph.add("ProbeCompare", a=graph.sampler(model, positive, masked), b=source)

    compared = outputs(comfyui.run(graph), graph, "ProbeCompare")

    assert compared["difference"][0] < 1e-5 < compared["spread"][0]


def test_cfg_without_a_negative_is_refused_in_a_sentence(comfyui):
    graph = Graph()
    model, _, vae, positive, latent = start(graph, 64, 64)
    graph.picture(graph.sampler(model, positive, latent, cfg=3.0), vae)

    with pytest.raises(ComfyUIError, match="cfg is 3, but no negative is wired"):
        comfyui.run(graph)


def test_a_picture_encoded_for_another_model_is_refused_in_a_sentence(comfyui):
    graph = Graph()
    model, clip, vae, positive, latent = start(graph, 64, 64)
    flat = [graph.add("EmptyLatentImage", width=64, height=64, batch_size=1), 0]
    sampled = graph.sampler(model, positive, [graph.add("ProbeFill", samples=flat), 0])
    graph.picture(sampled, vae)

    with pytest.raises(ComfyUIError, match="latent_image has 4 channels, this model works on 16"):
        comfyui.run(graph)


def test_an_empty_latent_of_any_core_node_is_taken(comfyui):
    graph = Graph()
    model, _, _, positive, _ = start(graph, 64, 64)
    flat = [graph.add("EmptyLatentImage", width=64, height=64, batch_size=1), 0]
    graph.add(
        "ProbeCompare", a=graph.sampler(model, positive, flat), b=graph.sampler(model, positive, graph.size(64, 64))
    )

    assert outputs(comfyui.run(graph), graph, "ProbeCompare")["equal"] == [True]


def test_cancel_stops_within_a_step_and_the_next_run_is_as_if_nothing_had_happened(comfyui):
    graph = Graph()
    model, _, _, positive, latent = start(graph, 64, 64)
    watched = [graph.add("ProbeModel", model=model, tag="cancelled"), 0]
    long = graph.sampler(watched, positive, latent, steps=400, seed=11)
    graph.add("ProbeReport", latent=long, tag="cancelled")

    pressed = []

    def cancel_at_the_second_step(event):  # newer ComfyUIs do not report every step
        if event["type"] == "progress" and event["data"]["value"] >= 2 and not pressed:
            pressed.append(comfyui.post("/interrupt", {}))

    with pytest.raises(ComfyUIError, match="interrupted"):
        comfyui.run(graph, on_event=cancel_at_the_second_step)

    after = Graph()
    model, clip, _, positive, latent = start(after, 64, 64)
    ours = after.sampler(model, positive, latent, seed=12, scheduler="simple")
    core = after.core_sampler(model, positive, after.short_text(clip, NEGATIVE), latent, seed=12)
    after.add("ProbeCompare", a=ours, b=core)
    seen_after_cancel = Graph(after)
    seen_after_cancel.add("ProbeReport", latent=ours, tag="cancelled")
    history = comfyui.run(seen_after_cancel)
    assert outputs(history, seen_after_cancel, "ProbeCompare")["equal"] == [True]
    assert outputs(history, seen_after_cancel, "ProbeReport")["seen"][0]["evaluations"] <= 5


def test_previews_and_progress_arrive_while_sampling(comfyui):
    graph = Graph()
    model, _, vae, positive, latent = start(graph, 64, 64)
    graph.picture(graph.sampler(model, positive, latent, steps=3, seed=99), vae)
    steps = []
    comfyui.run(
        graph, on_event=lambda e: e["type"] == "progress" and steps.append((e["data"]["value"], e["data"]["max"]))
    )
    assert [step for step in steps if step[1] == 3][-1] == (3, 3)


def test_a_model_that_is_not_cores_flux_is_sampled_and_the_log_says_what_does_not_apply(comfyui):
    graph = Graph()
    model, _, _, positive, latent = start(graph, 64, 64)
    stranger = [graph.add("ProbeStranger", model=model), 0]
    settings = {"seed": 77, "scheduler": "simple"}
    graph.add(
        "ProbeCompare",
        a=graph.sampler(stranger, positive, latent, **settings),
        b=graph.sampler(model, positive, latent, **settings),
    )

    assert outputs(comfyui.run(graph), graph, "ProbeCompare")["equal"] == [True]
    assert "this model runs Stranger, not ComfyUI's FLUX" in comfyui.log()
