"""Acceleration in a real ComfyUI: what is reused, what is not, and that nothing of it stays.

Random weights change too much between steps for a real threshold to fire. So these tests force the pattern of reuse, or set
a threshold that always or never fires. They prove counts, bookkeeping and relative errors, nothing about real pictures.
"""

import miniature
import pytest
from comfyui import ComfyUIError
from graphs import Graph
from test_redux import ReduxGraph, seen

SIDE = 64
DEEPER = "flux1-krea-dev_2_2.safetensors"  # 2 + 2 blocks, so that some are neither first nor last
TOKEN_BYTES = (SIDE // 16) ** 2 * 3072 * 4


class CacheGraph(ReduxGraph):
    def cached(self, tag, model=None, **settings) -> list:
        return [self.add("ProbeCache", model=model or self.model, tag=tag, **settings), 0]

    def report(self, latent, tag) -> str:
        return self.add("ProbeCacheReport", latent=latent, tag=tag)


@pytest.fixture(scope="module")
def deeper(models):
    miniature.write_safetensors(models / "diffusion_models" / DEEPER, miniature.flux_layout(2, 2, "F8_E4M3"))
    return {"unet_name": DEEPER}


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_threshold_of_0_is_none_bit_for_bit_whatever_the_cfg(comfyui, cfg):
    graph = CacheGraph()
    settings = {"steps": 2, "cfg": cfg, "negative": graph.short_text(graph.clip, "blurry")}
    accelerated = graph.sampled(graph.prompt, graph.cached("off"), **settings)
    node = graph.compare(accelerated, graph.sampled(graph.prompt, **settings))
    report = graph.report(accelerated, "off")

    history = comfyui.run(graph)

    assert seen(history, node).equal
    computed, _, total, *_ = seen(history, report).report.split()
    assert computed == total in ("2", "4")  # with cfg ComfyUI batches the two prompts, or not, as memory allows


def test_a_forced_pattern_reuses_exactly_that_and_stays_close(comfyui, deeper):
    graph = CacheGraph(**deeper)
    full = graph.sampled(graph.prompt, steps=5)
    never = graph.compare(graph.sampled(graph.prompt, graph.cached("never"), steps=5), full)
    accelerated = graph.sampled(graph.prompt, graph.cached("forced", pattern="1 3"), steps=5)
    node, report = graph.compare(accelerated, full), graph.report(accelerated, "forced")

    history = comfyui.run(graph)

    compared, reported = seen(history, node), seen(history, report)
    assert reported.report == "3 of 5 evaluations computed"
    assert 0 < compared.relative < 0.1
    assert seen(history, never).equal
    assert reported.kept_bytes == 2 * TOKEN_BYTES  # two tensors a prompt between evaluations
    assert reported.slots_after == 0  # and none after the run


def test_where_little_changes_reuse_changes_little(comfyui):
    graph = CacheGraph()
    graph.latent = graph.sampled(graph.prompt, seed=3)
    settings = {"steps": 3, "denoise": 0.02}
    accelerated = graph.sampled(graph.prompt, graph.cached("little", pattern="1 2"), **settings)
    node = graph.compare(accelerated, graph.sampled(graph.prompt, **settings))

    assert 0 < seen(comfyui.run(graph), node).relative < 1e-2


def test_prompts_of_different_lengths_have_a_memory_each(comfyui):
    graph = CacheGraph()
    negative = graph.redux(
        graph.short_text(graph.clip, "blurry")
    )  # 16 tokens more: the two are evaluated one after the other
    settings = {"steps": 3, "cfg": 3.0, "negative": negative}
    accelerated = graph.sampled(graph.prompt, graph.cached("apart", pattern="1"), **settings)
    node = graph.compare(accelerated, graph.sampled(graph.prompt, **settings))
    report = graph.report(accelerated, "apart")

    history = comfyui.run(graph)

    compared, reported = seen(history, node), seen(history, report)
    assert reported.report == "4 of 6 evaluations computed"
    assert reported.kept_bytes == [2 * TOKEN_BYTES] * 2
    assert 0 < compared.relative < 0.15


def test_a_batch_a_noise_mask_and_denoise_are_no_obstacle(comfyui):
    graph = CacheGraph(batch_size=2)
    mask = graph.mask(0, 0, SIDE // 2, SIDE)
    graph.latent = [graph.add("SetLatentNoiseMask", samples=graph.sampled(graph.prompt, seed=3), mask=mask), 0]
    settings = {"steps": 4, "denoise": 0.6, "sampler_name": "dpmpp_2m"}
    accelerated = graph.sampled(graph.prompt, graph.cached("batch", pattern="1 2"), **settings)
    node = graph.compare(accelerated, graph.sampled(graph.prompt, **settings))
    report = graph.report(accelerated, "batch")

    history = comfyui.run(graph)

    compared, reported = seen(history, node), seen(history, report)
    assert reported.report == "2 of 4 evaluations computed"
    assert 0 < compared.relative < 0.1
    assert reported.kept_bytes == 2 * 2 * TOKEN_BYTES


def test_first_steps_last_step_and_every_third_are_computed_however_little_changes(comfyui):
    graph = CacheGraph()
    accelerated = graph.sampled(graph.prompt, graph.cached("always", threshold=1e9, in_a_row=2), steps=10)
    report = graph.report(accelerated, "always")

    # 0 has nothing to reuse, 3 and 6 come after two in a row, 9 is the last.
    assert seen(comfyui.run(graph), report).report == "4 of 10 evaluations computed"


def test_redux_an_attention_override_and_acceleration_go_together(comfyui):
    graph = CacheGraph()
    halved = [graph.add("ProbeOverride", model=graph.model), 0]
    weak = graph.redux(graph.prompt, strength=0.3)
    forced = graph.sampled(weak, graph.cached("redux, forced", halved, pattern="1"), steps=3)
    near = graph.compare(forced, graph.sampled(weak, halved, steps=3))
    far = graph.compare(forced, graph.sampled(graph.prompt, steps=3))

    history = comfyui.run(graph)

    assert 0 < seen(history, near).difference < seen(history, far).difference


@pytest.mark.parametrize("kind, number", [("double_block", 0), ("single_block", 0)])
def test_block_patches_of_other_packs_are_kept_and_called(comfyui, kind, number):
    graph, tag = CacheGraph(), f"{kind} {number}"
    patched = [graph.add("ProbeBlockPatch", model=graph.model, kind=kind, number=number, tag=tag), 0]
    plain = graph.sampled(graph.prompt, patched)
    accelerated = graph.sampled(graph.prompt, graph.cached(tag, patched))
    node = graph.compare(accelerated, plain)
    calls = graph.add("ProbeCalls", latent=[graph.add("LatentBatch", samples1=accelerated, samples2=plain), 0], tag=tag)
    counts = graph.compare(accelerated, graph.sampled(graph.prompt))

    history = comfyui.run(graph)

    assert seen(history, node).equal
    assert seen(history, calls).calls == 2
    assert not seen(history, counts).equal


def test_while_a_controlnet_is_active_every_evaluation_is_computed(comfyui):
    graph = CacheGraph()
    always = [graph.add("ProbeControl", conditioning=graph.prompt, end_percent=1.0), 0]
    at_first = [graph.add("ProbeControl", conditioning=graph.prompt, end_percent=0.3), 0]
    sampled, reports = {}, {}
    for tag, positive in (("always", always), ("at first", at_first)):
        sampled[tag] = graph.sampled(positive, graph.cached(tag, threshold=1e9), steps=5, scheduler="krea")
        reports[tag] = graph.report(sampled[tag], tag)
    effect = graph.compare(*sampled.values())

    history = comfyui.run(graph)

    assert seen(history, reports["always"]).report == "5 of 5 evaluations computed"
    # Active in steps 0 and 1; nothing to reuse yet in step 2; step 4 is the last.
    assert seen(history, reports["at first"]).report == "4 of 5 evaluations computed"
    assert seen(history, effect).difference > 1e-3


def test_cancel_in_the_middle_and_then_none_is_as_on_a_fresh_server(comfyui):
    before = CacheGraph()
    plain = before.sampled(before.prompt, steps=2, seed=21)
    before.add("ProbeHold", latent=plain, tag="fresh")
    comfyui.run(before)

    graph = CacheGraph()
    graph.report(graph.sampled(graph.prompt, graph.cached("cancelled", threshold=1e9), steps=300), "cancelled")

    cancelled = []

    def cancel_in_the_middle(event):  # once; newer cores do not send every step's progress
        if event["type"] == "progress" and event["data"]["value"] >= 4 and not cancelled:
            cancelled.append(comfyui.post("/interrupt", {}))

    with pytest.raises(ComfyUIError, match="interrupted"):
        comfyui.run(graph, on_event=cancel_in_the_middle)

    after = CacheGraph()
    again = after.sampled(after.prompt, steps=2, seed=21, guidance=4.5 + 1e-12)  # not the cached result
    node = after.compare(again, [after.add("ProbeHeld", tag="fresh"), 0])
    assert seen(comfyui.run(after), node).equal


@pytest.mark.parametrize("level", ["regular", "high"])
def test_the_sampler_says_in_log_and_node_how_much_was_computed(comfyui, level):
    graph = CacheGraph()
    sampled = graph.sampled(graph.prompt, steps=3, acceleration=level)
    node = graph.compare(sampled, graph.sampled(graph.prompt, steps=3))

    history = comfyui.run(graph)

    assert history["outputs"][sampled[0]]["text"] == ["3 of 3 evaluations computed"]
    assert "Krea Sampler: 3 of 3 evaluations computed" in comfyui.log()
    assert seen(history, node).equal  # nothing was alike enough


def test_without_acceleration_the_node_says_nothing(comfyui):
    graph = CacheGraph()
    sampled = graph.sampled(graph.prompt)
    graph.compare(sampled, sampled)
    assert comfyui.run(graph)["outputs"][sampled[0]]["text"] == []


def test_on_a_model_it_does_not_know_it_says_so_and_runs_without(comfyui):
    graph = CacheGraph()
    foreign = [graph.add("ProbeForeign", model=graph.model), 0]
    sampled = graph.sampled(graph.prompt, foreign, acceleration="high")
    node = graph.compare(sampled, graph.sampled(graph.prompt))

    history = comfyui.run(graph)

    assert history["outputs"][sampled[0]]["text"] == ["No acceleration on this model: Foreign is not ComfyUI's FLUX."]
    assert seen(history, node).equal


REFUSED = {
    "EasyCache": "EasyCache or LazyCache is already on this model: remove it, or set acceleration to none",
    "LazyCache": "EasyCache or LazyCache is already on this model",
    "ProbeReplacedForward": "another node has replaced FLUX's forward pass",
    "TorchCompileModel": "acceleration does not work on a model that is compiled as a whole",
}
CACHE_SETTINGS = {"reuse_threshold": 0.2, "start_percent": 0.15, "end_percent": 0.95, "verbose": False}
SETTINGS = {"EasyCache": CACHE_SETTINGS, "LazyCache": CACHE_SETTINGS, "TorchCompileModel": {"backend": "inductor"}}


@pytest.mark.parametrize("other", REFUSED)
def test_it_does_not_stack_on_other_shortcuts(comfyui, other):
    graph = CacheGraph()
    model = [graph.add(other, model=graph.model, **SETTINGS.get(other, {})), 0]
    sampled = graph.sampled(graph.prompt, model, acceleration="regular")
    graph.compare(sampled, sampled)

    with pytest.raises(ComfyUIError, match=REFUSED[other]):
        comfyui.run(graph)


def test_a_reused_evaluation_costs_less_than_3_percent_of_a_full_one_at_full_depth(comfyui):
    graph = Graph()
    node = graph.add("ProbeFullDepthCost", side=1024, text=512)

    cost = seen(comfyui.run(graph), node)

    assert cost.full > 5e13  # the whole network was counted
    assert 0 < cost.share < 0.03
