"""Krea Redux in time: each run beside core's own samplers, handed from stage to stage with another prompt in each."""

import pytest
from comfyui import ComfyUIError
from test_company import TEXT, TOKENS, SmallGraph
from test_redux import seen


class TimeGraph(SmallGraph):
    def staged(self, *stages) -> list:
        """Core's KSamplerAdvanced, `stages` of (number of steps, conditioning): what a run in time must equal."""
        latent, total, start = self.latent, sum(steps for steps, _ in stages), 0
        for steps, positive in stages:
            guided = [self.add("FluxGuidance", conditioning=positive, guidance=4.5), 0]
            values = {"noise_seed": 7, "steps": total, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
            values |= {
                "add_noise": "disable" if start else "enable",
                "start_at_step": start,
                "end_at_step": start + steps,
            }
            values |= {"return_with_leftover_noise": "enable" if start + steps < total else "disable"}
            inputs = {"model": self.model, "positive": guided, "negative": self.prompt, "latent_image": latent}
            latent, start = [self.add("KSamplerAdvanced", **inputs, **values), 0], start + steps
        return latent

    def inverted(self) -> list:
        return [self.add("ImageInvert", image=self.image), 0]


def windows(graph):
    """name: (the prompt in time, its stages)."""
    first, second = graph.image, graph.inverted()
    full, plain = graph.redux(graph.prompt), graph.prompt
    weak = graph.redux(plain, strength=0.3)
    both = graph.redux(graph.redux(plain, first, end_percent=0.5), second, strength=0.3, start_percent=0.5)
    overlapping = graph.redux(graph.redux(plain, first, end_percent=0.75), second, strength=0.3, start_percent=0.5)
    return {
        "ends": (graph.redux(plain, end_percent=0.5), [(2, full), (2, plain)]),
        "begins": (graph.redux(plain, strength=0.3, start_percent=0.25), [(1, plain), (3, weak)]),
        "in the middle": (
            graph.redux(plain, start_percent=0.25, end_percent=0.75),
            [(1, plain), (2, full), (1, plain)],
        ),
        "one after the other": (both, [(2, full), (2, graph.redux(plain, second, strength=0.3))]),
        "overlapping": (
            overlapping,
            [(2, full), (1, graph.redux(full, second, strength=0.3)), (1, graph.redux(plain, second, strength=0.3))],
        ),
        "between two steps": (graph.redux(plain, start_percent=0.3), [(2, plain), (2, full)]),
        "weaker and weaker": (
            graph.redux(plain, strength=1.0, end_strength=0.25),
            [(1, full), *((1, graph.redux(plain, strength=strength)) for strength in (0.75, 0.5, 0.25))],
        ),
        "stronger in a window, to nothing": (
            graph.redux(plain, strength=0.5, end_strength=0.0, end_percent=0.5),
            [(1, graph.redux(plain, strength=0.5)), (3, plain)],
        ),
    }


NAMES = (
    "ends",
    "begins",
    "in the middle",
    "one after the other",
    "overlapping",
    "between two steps",
    "weaker and weaker",
    "stronger in a window, to nothing",
)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_in_time_is_cores_run_in_stages(comfyui, name):
    graph = TimeGraph()
    positive, stages = windows(graph)[name]
    latent = graph.sampled(positive, steps=4)
    same = graph.compare(latent, graph.staged(*stages))
    in_cores = graph.core_sampler(graph.model, positive, graph.prompt, graph.latent, steps=4)
    alike = graph.compare(latent, in_cores)
    effect = graph.compare(latent, graph.sampled(graph.redux(graph.prompt), steps=4))

    history = comfyui.run(graph)

    same = seen(history, same)
    assert same.difference <= 3e-6 * same.spread  # between its stages core scales the latent there and back
    assert seen(history, alike).equal
    assert seen(history, effect).difference > 1e-3 * same.spread


def test_the_prompts_own_weight_is_a_bias_on_its_tokens_also_behind_another_reference(comfyui):
    graph = TimeGraph()
    inverted = graph.inverted()
    ours = graph.redux(graph.redux(graph.prompt, prompt_strength=1.5), inverted, prompt_strength=2.0)
    plain = graph.redux(graph.redux(graph.prompt), inverted)
    span = {"start": 0, "stop": TEXT, "strength": 3.0, "unmoved": 2 * TOKENS}
    heavy = [graph.add("ProbeStrongerKeys", model=graph.model, **span), 0]
    same = graph.compare(graph.sampled(ours, steps=2), graph.sampled(plain, heavy, steps=2))
    effect = graph.compare(graph.sampled(ours, steps=2), graph.sampled(plain, steps=2))

    history = comfyui.run(graph)

    assert seen(history, same).difference <= 1e-5 * seen(history, same).spread < seen(history, effect).difference


def test_the_new_inputs_left_alone_change_nothing(comfyui):
    graph = TimeGraph()
    defaults = {"start_percent": 0.0, "end_percent": 1.0, "end_strength": -1.0, "prompt_strength": 1.0}
    same = graph.tokens(graph.redux(graph.prompt, **defaults), graph.core_redux(graph.prompt))
    weak = graph.redux(graph.prompt, strength=0.3)
    equal = graph.compare(graph.sampled(weak), graph.sampled(graph.redux(graph.prompt, strength=0.3, **defaults)))

    history = comfyui.run(graph)

    assert seen(history, same).equal and seen(history, same).same_keys
    assert seen(history, equal).equal


def test_the_sampler_says_when_a_reference_counts_and_when_it_never_does(comfyui):
    graph = TimeGraph()
    never = {"start_percent": 0.51, "end_percent": 0.52}
    positive = graph.redux(graph.redux(graph.prompt, strength=1.0, end_strength=0.25, end_percent=0.5), **never)
    sampled = graph.sampled(positive, steps=8)
    graph.compare(sampled, sampled)
    outside = graph.compare(
        graph.sampled(graph.redux(graph.prompt, **never), steps=8), graph.sampled(graph.prompt, steps=8)
    )
    almost = graph.redux(graph.prompt, end_percent=0.999)  # the last step begins at 0.875
    inside = graph.compare(graph.sampled(almost, steps=8), graph.sampled(graph.redux(graph.prompt), steps=8))

    history = comfyui.run(graph)

    assert seen(history, outside).equal and seen(history, inside).equal
    texts = history["outputs"][sampled[0]]["text"]
    assert texts == [
        "reference 1 of Krea Redux counts in 4 of 8 steps, 1 to 4, with strength 1 to 0.25.",
        "reference 2 of Krea Redux counts in none of 8 steps: there is none between start_percent 0.51 and end_percent "
        "0.52.",
    ]


def test_a_sampling_node_that_the_krea_schedule_overrides_is_named(comfyui):
    graph = TimeGraph()
    shifted = {"max_shift": 1.15, "base_shift": 0.5, "width": 64, "height": 64}
    model = [graph.add("ModelSamplingFlux", model=graph.model, **shifted), 0]
    quiet, loud = (graph.sampled(graph.prompt, model, scheduler=name) for name in ("simple", "krea"))
    graph.compare(quiet, loud)

    outputs = comfyui.run(graph)["outputs"]

    assert outputs[quiet[0]]["text"] == []
    assert "ModelSamplingFlux (or other sampling node) on this model has no effect" in outputs[loud[0]]["text"][0]


REFUSED = {
    "a window that ends before it begins": (
        {"start_percent": 0.6, "end_percent": 0.4},
        "start_percent is 0.6 and end_percent 0.4, so the reference would never count",
    ),
    "multiply in time": (
        {"strength_type": "multiply", "end_strength": 0.5},
        "end_strength needs strength_type attn_bias",
    ),
    "core's mask before it": ({"end_percent": 0.5, "after_core": True}, "replace Apply Style Model"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_change_with_time_is_refused_in_a_sentence(comfyui, case):
    changes, sentence = REFUSED[case]
    graph, changes = TimeGraph(), dict(changes)
    prompt = graph.core_redux(graph.prompt, strength=0.3) if changes.pop("after_core", False) else graph.prompt
    graph.tokens(graph.redux(prompt, **changes), graph.prompt)

    with pytest.raises(ComfyUIError, match=sentence):
        comfyui.run(graph)
