"""Acceleration in a real ComfyUI: which steps are computed, what is never mistaken for what, and that nothing of it stays.

On a small FLUX with random weights, whose answers are rougher than those of a trained one: these tests prove counts and
orders, `python dev.py bench acceleration` measures errors.
"""

import pytest
from comfyui import ComfyUIError
from test_company import SmallGraph
from test_redux import seen

STEPS = 12
WIDTH = 256  # of the small FLUX


class AcceleratedGraph(SmallGraph):
    """As SmallGraph; `settled` starts from a picture, so that little changes and errors are small beside every effect."""

    def predicting(self, tag, pattern, model=None) -> list:
        return [self.add("ProbeAccelerated", model=model or self.model, tag=tag, pattern=pattern), 0]

    def report(self, latent, tag) -> str:
        return self.add("ProbeAcceleratedReport", latent=latent, tag=tag)


def said(history, sampled) -> str:
    """What Krea Sampler shows on its node."""
    return history["outputs"][sampled[0]]["text"][-1]


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_with_every_step_computed_it_is_none_bit_for_bit_whatever_the_cfg(comfyui, cfg):
    graph = AcceleratedGraph()
    settings = {"steps": 4, "cfg": cfg, "negative": graph.random_text(1)}
    accelerated = graph.sampled(graph.prompt, graph.predicting("off", ""), **settings)
    node = graph.compare(accelerated, graph.sampled(graph.prompt, **settings))
    report = graph.report(accelerated, "off")

    history = comfyui.run(graph)

    assert seen(history, node).equal
    computed, _, total, *_ = seen(history, report).report.split()
    assert computed == total in ("4", "8")  # with cfg ComfyUI batches the two prompts, or not, as memory allows


ASKED = {
    "regular": ({"acceleration": "regular", "steps": 18}, "12 of 18"),
    "regular, and its least": ({"acceleration": "regular", "steps": 9}, "7 of 9"),
    "high": ({"acceleration": "high", "steps": 20}, "10 of 20"),
    "a budget": ({"computed_steps": 7}, "7 of 12"),
    "a budget beside a word": ({"computed_steps": 7, "acceleration": "high"}, "7 of 12"),
    "a budget below the least": ({"computed_steps": 1}, "3 of 12"),
    "few steps": ({"acceleration": "high", "steps": 3}, "3 of 3"),
    "another sampler": ({"computed_steps": 6, "sampler_name": "dpmpp_2m"}, "6 of 12"),
    "two looks a step": ({"computed_steps": 3, "sampler_name": "heun", "steps": 6}, None),
    "noise at every step": ({"computed_steps": 6, "sampler_name": "euler_ancestral"}, "6 of 12"),
    "a negative of another length": ({"computed_steps": 6, "cfg": 3.0, "negative": True}, "12 of 24"),
    "a batch, and only the end": ({"computed_steps": 6, "denoise": 0.5, "batch": 2}, "6 of 12"),
}


@pytest.mark.parametrize("case", ASKED)
def test_as_many_steps_are_computed_as_asked_for_and_the_picture_stays_close(comfyui, case):
    changes, counted = ASKED[case]
    graph, changes = AcceleratedGraph(), {"steps": STEPS, **changes}
    graph.latent = graph.size(64, 64, changes.pop("batch", 1))
    if changes.pop("negative", False):
        changes["negative"] = graph.random_text(1, tokens=31)
    accelerated = graph.sampled(graph.prompt, **changes)
    plain = {**changes, "acceleration": "none", "computed_steps": 0}
    close = graph.compare(accelerated, graph.sampled(graph.prompt, **plain))

    history = comfyui.run(graph)

    if counted:
        assert said(history, accelerated) == f"{counted} evaluations computed"
    else:
        computed, _, total, *_ = said(history, accelerated).split()
        assert int(computed) < int(total)
    compared = seen(history, close)
    assert compared.equal == (counted == "3 of 3")
    assert compared.relative < (0.9 if counted != "3 of 12" else 2.0)


def test_more_steps_computed_are_closer_to_all_of_them(comfyui):
    graph = AcceleratedGraph()
    full = graph.sampled(graph.prompt, steps=STEPS)
    budgets = (6, 8, 10)
    nodes = [graph.compare(graph.sampled(graph.prompt, steps=STEPS, computed_steps=n), full) for n in budgets]
    fewer = [graph.compare(graph.sampled(graph.prompt, steps=n), full) for n in budgets]

    history = comfyui.run(graph)

    errors = [seen(history, node).relative for node in nodes]
    assert errors == sorted(errors, reverse=True) and errors[-1] > 0
    assert all(error < seen(history, node).relative for error, node in zip(errors, fewer, strict=True))


def with_skipped_layers(graph) -> list:
    """Core's skip-layer guidance over the whole run."""
    skipped = {"double_layers": "1", "single_layers": "1, 2", "scale": 4.0, "rescaling_scale": 0.0}
    node = graph.add("SkipLayerGuidanceDiT", model=graph.model, start_percent=0.0, end_percent=1.0, **skipped)
    return [node, 0]


GUIDANCES = {
    "skip-layer guidance": with_skipped_layers,
    "a second look of the same kind": lambda graph: [graph.add("ProbeSecondLook", model=graph.model, scale=8.0), 0],
}


@pytest.mark.parametrize("name", GUIDANCES)
def test_a_guidance_that_looks_twice_at_a_step_keeps_its_effect(comfyui, name):
    graph = AcceleratedGraph()
    guided = GUIDANCES[name](graph)
    full = graph.sampled(graph.prompt, guided, steps=20)
    accelerated = graph.sampled(graph.prompt, guided, steps=20, computed_steps=16)
    error = graph.compare(accelerated, full)
    effect = graph.compare(graph.sampled(graph.prompt, steps=20), full)

    history = comfyui.run(graph)

    assert said(history, accelerated) == "32 of 40 evaluations computed"
    assert 0 < seen(history, error).relative < 0.5 * seen(history, effect).relative


def test_a_controlnet_keeps_its_effect_and_its_end(comfyui):
    graph = AcceleratedGraph()
    always, at_first = (
        [graph.add("ProbeControl", conditioning=graph.prompt, end_percent=end, width=WIDTH), 0] for end in (1.0, 0.5)
    )
    both = [graph.add("ProbeControl", conditioning=at_first, end_percent=1.0, width=WIDTH), 0]
    settings = {"steps": STEPS, "scheduler": "krea"}
    nodes = {}
    for name, positive in (("always", always), ("at first", at_first), ("one always, one at first", both)):
        full = graph.sampled(positive, **settings)
        accelerated = graph.sampled(positive, computed_steps=9, **settings)
        effect = graph.compare(graph.sampled(graph.prompt, **settings), full)
        nodes[name] = accelerated, graph.compare(accelerated, full), effect

    history = comfyui.run(graph)

    assert said(history, nodes["always"][0]) == "9 of 12 evaluations computed"
    for accelerated, error, effect in nodes.values():
        computed = int(said(history, accelerated).split()[0])
        assert 9 <= computed <= 10  # after an end there is no answer yet to go on from
        assert 0 < seen(history, error).relative < 0.35 * seen(history, effect).relative


def test_a_reference_that_ends_in_the_middle_is_not_mixed_with_what_follows(comfyui):
    graph = AcceleratedGraph()
    positive = graph.redux(graph.prompt, strength=0.5, end_percent=0.5)
    settings = {"steps": STEPS, "scheduler": "krea"}
    full = graph.sampled(positive, **settings)
    accelerated = graph.sampled(positive, computed_steps=9, **settings)
    error = graph.compare(accelerated, full)

    history = comfyui.run(graph)

    assert seen(history, error).relative < 0.2
    texts = history["outputs"][accelerated[0]]["text"]
    assert texts[0] == "reference 1 of Krea Redux counts in 6 of 12 steps, 1 to 6, with strength 0.5."


ODD_LEVELS = {
    "repeated": ("1 0.9 0.8 0.8 0.7 0.6 0.5 0.4 0.3 0", "1 3 4 6", "6 of 9"),  # what was just asked is not predicted
    "close together, as for very large pictures": ("1 0.99999 0.99997 0.9 0.7 0.5 0.3 0", "1 3", "5 of 7"),
}


@pytest.mark.parametrize("case", ODD_LEVELS)
def test_odd_noise_levels_are_sampled_as_planned_and_end_in_numbers(comfyui, case):
    levels, pattern, counted = ODD_LEVELS[case]
    graph = AcceleratedGraph()
    sampler = [graph.add("KSamplerSelect", sampler_name="euler"), 0]
    sigmas = [graph.add("ProbeSigmas", levels=levels), 0]

    def latent(model):
        return [
            graph.add(
                "SamplerCustom", model=model, add_noise=True, noise_seed=7, cfg=1.0, positive=graph.prompt,
                negative=graph.prompt, sampler=sampler, sigmas=sigmas, latent_image=graph.latent,
            ), 0,
        ]  # fmt: skip

    accelerated = latent(graph.predicting(case, pattern))
    close = graph.compare(accelerated, latent(graph.model))
    report = graph.report(accelerated, case)

    history = comfyui.run(graph)

    assert seen(history, report).report == f"{counted} evaluations computed"
    assert 0 < seen(history, close).relative < 0.9


def test_block_patches_of_other_packs_run_in_every_computed_step(comfyui):
    graph, tag = AcceleratedGraph(), "patched"
    patched = [graph.add("ProbeBlockPatch", model=graph.model, kind="single_block", number=0, tag=tag), 0]
    accelerated = graph.sampled(graph.prompt, graph.predicting(tag, "4 6", patched), steps=8)
    calls = graph.add("ProbeCalls", latent=accelerated, tag=tag)
    report = graph.report(accelerated, tag)

    history = comfyui.run(graph)

    assert seen(history, report).report == "6 of 8 evaluations computed"
    assert seen(history, calls).calls == 6


def test_cancel_in_the_middle_and_then_none_is_as_on_a_fresh_server(comfyui):
    before = AcceleratedGraph()
    plain = before.sampled(before.prompt, steps=2, seed=21)
    before.add("ProbeHold", latent=plain, tag="fresh")
    comfyui.run(before)

    graph = AcceleratedGraph()
    graph.compare(graph.sampled(graph.prompt, steps=1000, acceleration="high"), graph.latent)

    cancelled = []

    def cancel_in_the_middle(event):  # once; newer cores do not send every step's progress
        if event["type"] == "progress" and event["data"]["value"] >= 4 and not cancelled:
            cancelled.append(comfyui.post("/interrupt", {}))

    with pytest.raises(ComfyUIError, match="interrupted"):
        comfyui.run(graph, on_event=cancel_in_the_middle)

    after = AcceleratedGraph()
    again = after.sampled(after.prompt, steps=2, seed=21, guidance=4.5 + 1e-12)  # not the cached result
    node = after.compare(again, [after.add("ProbeHeld", tag="fresh"), 0])
    assert seen(comfyui.run(after), node).equal


def test_without_acceleration_the_node_says_nothing(comfyui):
    graph = AcceleratedGraph()
    sampled = graph.sampled(graph.prompt)
    graph.compare(sampled, sampled)
    assert comfyui.run(graph)["outputs"][sampled[0]]["text"] == []


def test_a_model_of_another_kind_is_accelerated_too(comfyui):
    graph = AcceleratedGraph()
    foreign = [graph.add("ProbeForeign", model=graph.model), 0]
    settings = {"steps": STEPS, "computed_steps": 6}
    sampled = graph.sampled(graph.prompt, foreign, **settings)
    node = graph.compare(sampled, graph.sampled(graph.prompt, **settings))

    history = comfyui.run(graph)

    assert said(history, sampled) == "6 of 12 evaluations computed"
    assert seen(history, node).equal


@pytest.mark.parametrize("sampler_name", ["dpm_fast", "dpm_adaptive"])
def test_where_a_sampler_chooses_its_own_levels_every_step_is_computed_and_that_is_said(comfyui, sampler_name):
    graph = AcceleratedGraph()
    settings = {"steps": STEPS, "sampler_name": sampler_name}
    sampled = graph.sampled(graph.prompt, acceleration="high", **settings)
    node = graph.compare(sampled, graph.sampled(graph.prompt, **settings))

    history = comfyui.run(graph)

    assert said(history, sampled) == "this sampler chooses its own noise levels, so every step is computed."
    assert seen(history, node).equal


REFUSED = {
    "EasyCache": "EasyCache or LazyCache is already on this model: remove it, or set acceleration to none",
    "LazyCache": "EasyCache or LazyCache is already on this model",
    "ProbeReplacedForward": "another node has replaced FLUX's forward pass",
}
CACHE_SETTINGS = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
SETTINGS = {"EasyCache": CACHE_SETTINGS, "LazyCache": CACHE_SETTINGS}


@pytest.mark.parametrize("other", REFUSED)
def test_it_does_not_stack_on_other_shortcuts(comfyui, other):
    graph = AcceleratedGraph()
    model = [graph.add(other, model=graph.model, **SETTINGS.get(other, {})), 0]
    sampled = graph.sampled(graph.prompt, model, steps=STEPS, acceleration="regular")
    graph.compare(sampled, sampled)

    with pytest.raises(ComfyUIError, match=REFUSED[other]):
        comfyui.run(graph)
