"""Krea Redux beside other packs and flags, on a FLUX small enough for many runs: what they take away comes back, or is said.

The strength is checked against `slow`: the prompt with the same tokens at strength 1, and log(strength) written into a dense
mask by hand.
"""

import pytest
from comfyui import ComfyUIError
from test_redux import ReduxGraph, seen

TEXT, TOKENS = 20, 16  # of the prompt; of a picture through the small vision model
STRENGTH = 0.1
CLOSE = 1e-5  # of the latent's spread: rounding


class SmallGraph(ReduxGraph):
    """As ReduxGraph, with a small FLUX of random weights and a prompt of random tokens."""

    def __init__(self):
        dict.__init__(self)
        self.model = [self.add("ProbeSmallFlux"), 0]
        self.prompt = self.random_text(0)
        self.latent = self.size(64, 64)
        self.style = [self.add("StyleModelLoader", style_model_name="flux1-redux-dev.safetensors"), 0]
        self.vision = [self.add("ProbeSmallVision", width=1152), 0]
        self.image = [self.add("LoadImage", image="example.png"), 0]

    def random_text(self, seed, tokens=TEXT) -> list:
        return [self.add("ProbeText", seed=seed, tokens=tokens), 0]

    def under(self, name, tag) -> list:
        """The model with another attention: sage, flash, or an override that ignores masks."""
        return [self.add("ProbeAttention", model=self.model, name=name, tag=tag), 0]

    def weak(self, **changes) -> list:
        return self.redux(self.prompt, strength=STRENGTH, **changes)

    def slow(self, model=None, start=TEXT, **settings) -> list:
        """The latent with the strength of the reference in a dense mask of its own."""
        span = {"start": start, "stop": start + TOKENS, "strength": STRENGTH}
        heavy = [self.add("ProbeStrongerKeys", model=model or self.model, **span), 0]
        return self.sampled(self.redux(self.prompt), heavy, **settings)


@pytest.mark.parametrize("name", ["sage", "flash", "override"])
def test_a_strength_counts_under_the_users_attention_and_leaves_it_in_force(comfyui, name):
    graph = SmallGraph()
    other, tag = graph.under(name, name), name
    latent = graph.sampled(graph.weak(), other, steps=2)
    same = graph.compare(latent, graph.slow(steps=2))
    effect = graph.compare(latent, graph.sampled(graph.redux(graph.prompt), steps=2))
    calls = graph.add("ProbeLibraryCalls", latent=latent, tag=tag)
    comfyui_log = len(comfyui.log())

    history = comfyui.run(graph)

    same, effect = seen(history, same), seen(history, effect)
    assert same.difference <= CLOSE * same.spread < effect.difference
    blocks, steps, parts = 7, 2, 3  # keys before the reference, its own, those behind it
    if name == "override":
        assert "this attention ignores masks" in comfyui.log()
        assert seen(history, calls).calls >= blocks * steps  # the reference's own queries have no mask
    else:
        assert blocks * steps * parts <= seen(history, calls).calls <= blocks * steps * parts + 1
        assert "Flash Attention failed" not in comfyui.log()[comfyui_log:]


@pytest.mark.parametrize("reuse", [False, True])
def test_a_strength_counts_in_a_forward_pass_of_another_pack(comfyui, reuse):
    graph = SmallGraph()
    other = [graph.add("ProbeForward", model=graph.model, reuse=reuse), 0]
    latent = graph.sampled(graph.weak(), other, steps=2)
    effect = graph.compare(latent, graph.sampled(graph.redux(graph.prompt), other, steps=2))
    nodes = [effect]
    if not reuse:
        nodes.append(graph.compare(latent, graph.slow(steps=2)))

    history = comfyui.run(graph)

    found = [seen(history, node) for node in nodes]
    assert found[0].difference > 1e-3 * found[0].spread
    assert all(same.difference <= CLOSE * same.spread for same in found[1:])
    assert "core's N×N mask carries the strength" in comfyui.log()


def test_a_forward_pass_of_another_pack_under_sage_attention_is_refused_where_that_ignores_masks(comfyui):
    """Newer cores take another attention where there is a mask: then the strength counts."""
    graph = SmallGraph()
    graph.model = graph.under("sage", "refused")
    other = [graph.add("ProbeForward", model=graph.model, reuse=False), 0]
    same = graph.compare(graph.sampled(graph.weak(), other, steps=2), graph.slow(steps=2))

    try:
        history = comfyui.run(graph)
    except ComfyUIError as refusal:
        assert "another node has replaced FLUX's forward pass" in str(refusal) and "Remove one of the two" in str(
            refusal
        )
    else:
        assert seen(history, same).difference <= CLOSE * seen(history, same).spread


@pytest.mark.parametrize("in_front", [True, False])
def test_a_strength_stays_on_its_reference_when_another_pack_adds_tokens(comfyui, in_front):
    graph = SmallGraph()
    more = [graph.add("ProbeMoreText", model=graph.model, count=9, in_front=in_front), 0]
    latent = graph.sampled(graph.weak(), more, steps=2)
    same = graph.compare(latent, graph.slow(more, start=TEXT + 9 * in_front, steps=2))
    misplaced = graph.compare(latent, graph.slow(more, start=TEXT + 9 * (not in_front), steps=2))

    history = comfyui.run(graph)

    same, misplaced = seen(history, same), seen(history, misplaced)
    assert same.difference <= CLOSE * same.spread < misplaced.difference


@pytest.mark.parametrize("whole", [False, True])
def test_torch_compile_leaves_its_graph_no_more_often_than_with_cores_mask(comfyui, whole):
    graph = SmallGraph()
    ways = {"core": graph.core_redux(graph.prompt, strength=STRENGTH), "ours": graph.weak()}
    nodes = {
        name: graph.add("ProbeGraphBreaks", model=graph.model, positive=positive, whole=whole)
        for name, positive in ways.items()
    }

    history = comfyui.run(graph)

    breaks = {name: seen(history, node).breaks for name, node in nodes.items()}
    assert breaks["ours"] <= breaks["core"], breaks
    assert seen(history, nodes["ours"]).graphs >= 1
