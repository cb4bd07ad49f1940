"""Krea Redux beside core's StyleModelApply, in one run of a real ComfyUI.

Most tests look through a vision model with 16 tokens instead of 729: the rules are the same and the runs are short.
"""

import math
from types import SimpleNamespace

import pytest
import torch
from comfyui import ComfyUIError
from graphs import TEXT_TOKENS, Graph
from safetensors.torch import save_file

SIDE = 64


class ReduxGraph(Graph):
    """A loader, a prompt, a latent and the two models of Redux; core's nodes and ours beside each other."""

    def __init__(self, vision="small", batch_size=1, **loader):
        super().__init__()
        node = self.loader(**loader)
        self.model, self.clip = [node, 0], [node, 1]
        self.prompt = self.short_text(self.clip, "a red fox in the snow")
        self.latent = self.size(SIDE, SIDE, batch_size)
        self.style = [self.add("StyleModelLoader", style_model_name="flux1-redux-dev.safetensors"), 0]
        if vision == "small":
            self.vision = [self.add("ProbeSmallVision", width=1152), 0]
        else:
            self.vision = [self.add("CLIPVisionLoader", clip_name="sigclip_vision_patch14_384.safetensors"), 0]
        self.image = [self.add("LoadImage", image="example.png"), 0]

    def picture_of(self, width, height) -> list:
        scaled = {"upscale_method": "bilinear", "width": width, "height": height, "crop": "disabled"}
        return [self.add("ImageScale", image=self.image, **scaled), 0]

    def two_pictures(self) -> list:
        inverted = [self.add("ImageInvert", image=self.image), 0]
        return [self.add("ImageBatch", image1=self.image, image2=inverted), 0]

    def mask(self, x, y, width, height, of=SIDE) -> list:
        """White where asked, in a black square."""
        black = [self.add("SolidMask", value=0.0, width=of, height=of), 0]
        white = [self.add("SolidMask", value=1.0, width=width, height=height), 0]
        return [self.add("MaskComposite", destination=black, source=white, x=x, y=y, operation="add"), 0]

    def redux(self, conditioning, image=None, **changes) -> list:
        values = {"strength": 1.0, "strength_type": "attn_bias", "detail": 27, "crop": "squash"}
        models = {"style_model": self.style, "clip_vision": self.vision, "image": image or self.image}
        return [self.add("FluxKreaRedux", conditioning=conditioning, **models, **{**values, **changes}), 0]

    def core_redux(self, conditioning, image=None, crop="none", strength=1.0, strength_type="attn_bias") -> list:
        seen = [self.add("CLIPVisionEncode", clip_vision=self.vision, image=image or self.image, crop=crop), 0]
        inputs = {"style_model": self.style, "clip_vision_output": seen, "conditioning": conditioning}
        return [self.add("StyleModelApply", **inputs, strength=strength, strength_type=strength_type), 0]

    def tokens(self, a, b) -> str:
        return self.add("ProbeTokens", a=a, b=b)

    def sampled(self, positive, model=None, **changes) -> list:
        settings = {"steps": 1, "scheduler": "simple", **changes}
        return self.sampler(model or self.model, positive, self.latent, **settings)

    def compare(self, a, b) -> str:
        return self.add("ProbeCompare", a=a, b=b)


def seen(history, node_id) -> SimpleNamespace:
    values = history["outputs"][node_id]
    return SimpleNamespace(**{key: value[0] if len(value) == 1 else value for key, value in values.items()})


def test_at_strength_1_and_full_detail_the_conditioning_is_cores_bit_for_bit(comfyui):
    graph = ReduxGraph(vision="full")
    full = graph.tokens(graph.redux(graph.prompt), graph.core_redux(graph.prompt))

    found = seen(comfyui.run(graph), full)

    assert found.equal and found.same_keys
    assert found.tokens == [TEXT_TOKENS + 729] * 2


def test_729_tokens_at_less_strength_are_cores_dense_mask(comfyui):
    graph = ReduxGraph(vision="full")
    ours = graph.sampled(graph.redux(graph.prompt, strength=0.3))
    node = graph.compare(ours, graph.sampled(graph.core_redux(graph.prompt, strength=0.3)))

    compared = seen(comfyui.run(graph), node)

    assert compared.difference <= ROUNDING * compared.spread


def test_so_it_is_for_a_batch_of_references_for_the_centre_and_for_multiply(comfyui):
    graph = ReduxGraph()
    pair, wide = graph.two_pictures(), graph.picture_of(112, 56)
    batch = graph.tokens(graph.redux(graph.prompt, pair), graph.core_redux(graph.prompt, pair))
    centre = graph.tokens(
        graph.redux(graph.prompt, wide, crop="center"), graph.core_redux(graph.prompt, wide, crop="center")
    )
    multiplied = graph.tokens(
        graph.redux(graph.prompt, strength=0.3, strength_type="multiply"),
        graph.core_redux(graph.prompt, strength=0.3, strength_type="multiply"),
    )

    history = comfyui.run(graph)

    assert seen(history, batch).tokens == [TEXT_TOKENS + 32] * 2
    assert all(seen(history, node).equal and seen(history, node).same_keys for node in (batch, centre, multiplied))


# Core keeps log(strength) in fp16, which is up to 2e-4 away. Relative to the latent's standard deviation, about 4.5, and
# beside a short text, which leaves the Redux tokens more of the attention; beside a whole one it is half of that.
ROUNDING = 1e-4


def as_core_rounds_it(strength: float) -> float:
    return math.exp(float(torch.tensor(strength).log().half()))


def test_other_strengths_are_cores_dense_mask_in_cores_sampler_and_in_ours(comfyui):
    graph = ReduxGraph()
    graph.prompt = graph.text(graph.clip, "a red fox in the snow")
    negative = graph.text(graph.clip, "")
    full = graph.sampled(graph.redux(graph.prompt))
    nodes = {}
    for strength in (0.1, 2.0):
        reference = graph.sampled(graph.core_redux(graph.prompt, strength=strength))
        rounded = graph.redux(graph.prompt, strength=as_core_rounds_it(strength))
        nodes[strength] = [
            graph.compare(graph.sampled(rounded), reference),
            graph.compare(graph.core_sampler(graph.model, rounded, negative, graph.latent, steps=1), reference),
            graph.compare(graph.sampled(graph.redux(graph.prompt, strength=strength)), reference),
            graph.compare(full, reference),
        ]

    history = comfyui.run(graph)

    for compared in nodes.values():
        in_ours, in_cores, unrounded, effect = (seen(history, node) for node in compared)
        assert in_ours.equal and in_cores.equal
        assert unrounded.difference <= 0.5 * ROUNDING * unrounded.spread
        assert effect.difference > 1e-3


def test_strength_0_is_no_redux_and_what_comes_close_to_0_comes_close_to_it(comfyui):
    graph = ReduxGraph()
    zero = graph.tokens(graph.redux(graph.prompt, strength=0.0), graph.prompt)
    black = [graph.add("SolidMask", value=0.0, width=SIDE, height=SIDE), 0]
    nowhere = graph.tokens(graph.redux(graph.prompt, result_mask=black), graph.prompt)
    nearly = graph.compare(graph.sampled(graph.redux(graph.prompt, strength=1e-9)), graph.sampled(graph.prompt))

    history = comfyui.run(graph)

    assert seen(history, zero).equal and seen(history, nowhere).equal
    assert seen(history, nearly).difference <= 3e-6 * seen(history, nearly).spread


def test_several_nodes_in_a_row_keep_their_strengths_as_in_core(comfyui):
    graph = ReduxGraph()
    inverted, pair = [graph.add("ImageInvert", image=graph.image), 0], graph.two_pictures()
    ours = cores = graph.prompt
    for image, strength in ((graph.image, 1.0), (pair, 0.2), (inverted, 2.0), (graph.image, 1.0)):
        ours = graph.redux(ours, image, strength=as_core_rounds_it(strength))
        cores = graph.core_redux(cores, image, strength=strength)
    node = graph.compare(graph.sampled(ours), graph.sampled(cores))

    assert seen(comfyui.run(graph), node).equal


def test_it_works_with_a_batch_true_cfg_and_a_lora_at_once(comfyui, models):
    write_lora(models / "loras" / "small.safetensors")
    graph = ReduxGraph(batch_size=2)
    negative = graph.short_text(graph.clip, "blurry")
    lora = {"model": graph.model, "lora_name": "small.safetensors", "strength_model": 1.0}
    model = [graph.add("LoraLoaderModelOnly", **lora), 0]
    settings = {"negative": negative, "cfg": 3.0}
    ours = graph.sampled(graph.redux(graph.prompt, strength=0.3), model, **settings)
    cores = graph.sampled(graph.core_redux(graph.prompt, strength=0.3), model, **settings)
    node = graph.compare(ours, cores)
    earlier = len(comfyui.log())

    compared = seen(comfyui.run(graph), node)

    assert compared.difference <= ROUNDING * compared.spread
    assert "lora key not loaded" not in comfyui.log()[earlier:]


def write_lora(path):
    generator = torch.Generator().manual_seed(0)
    path.parent.mkdir(exist_ok=True)
    name = "lora_unet_single_blocks_0_linear2"
    up, down = torch.randn(3072, 4, generator=generator), torch.randn(4, 15360, generator=generator)
    save_file({f"{name}.lora_up.weight": up * 0.01, f"{name}.lora_down.weight": down * 0.01}, path)


def test_it_works_on_weights_kept_in_fp8(comfyui):
    graph = ReduxGraph(weight_dtype="fp8_e4m3fn")
    ours = graph.sampled(graph.redux(graph.prompt, strength=as_core_rounds_it(0.3)))
    node = graph.compare(ours, graph.sampled(graph.core_redux(graph.prompt, strength=0.3)))

    assert seen(comfyui.run(graph), node).equal


def test_an_attention_override_of_another_pack_stays_in_force(comfyui):
    graph = ReduxGraph()
    halved = [graph.add("ProbeOverride", model=graph.model), 0]
    weak = graph.redux(graph.prompt, strength=math.exp(-2))
    same = graph.compare(
        graph.sampled(weak, halved), graph.sampled(graph.core_redux(graph.prompt, strength=math.exp(-2)), halved)
    )
    override_counts = graph.compare(graph.sampled(weak, halved), graph.sampled(weak))

    history = comfyui.run(graph)

    assert seen(history, same).equal
    assert seen(history, override_counts).difference > 1e-3


def test_an_attention_mask_of_cores_has_the_last_word(comfyui):
    graph = ReduxGraph()
    after = graph.redux(graph.core_redux(graph.prompt, strength=0.3), strength=0.5)
    as_core = graph.core_redux(graph.core_redux(graph.prompt, strength=0.3), strength=0.5)
    same = graph.compare(graph.sampled(after), graph.sampled(as_core))
    before = graph.core_redux(graph.redux(graph.prompt, strength=0.5), strength=0.3)
    at_full = graph.core_redux(graph.redux(graph.prompt), strength=0.3)
    steps_aside = graph.compare(graph.sampled(before), graph.sampled(at_full))

    history = comfyui.run(graph)

    assert seen(history, same).equal
    assert seen(history, steps_aside).equal
    assert "strength counts as 1" in comfyui.log()


def test_nothing_of_it_stays_on_the_model(comfyui):
    graph = ReduxGraph()
    first = graph.sampled(graph.prompt, seed=5)
    weak = graph.sampled(graph.redux(graph.prompt, strength=0.1), seed=5)
    effect = graph.compare(weak, first)
    history = comfyui.run(graph)
    assert seen(history, effect).difference > 1e-3

    again = ReduxGraph()
    # Another cache key for the same picture: guidance is a number more.
    once, twice = (again.sampled(again.prompt, seed=5, guidance=value) for value in (4.5, 4.5 + 1e-12))
    node = again.compare(once, twice)
    assert seen(comfyui.run(again), node).equal


def test_detail_and_mask_choose_tokens_and_change_none_of_them(comfyui):
    graph = ReduxGraph()
    whole = graph.redux(graph.prompt)
    left = graph.mask(0, 0, SIDE // 2, SIDE)
    nodes = {
        "detail 2": graph.tokens(graph.redux(graph.prompt, detail=2), whole),
        "detail 1": graph.tokens(graph.redux(graph.prompt, detail=1), whole),
        "left half": graph.tokens(graph.redux(graph.prompt, mask=left), whole),
        "left half, detail 2": graph.tokens(graph.redux(graph.prompt, mask=left, detail=2), whole),
        "one corner": graph.tokens(graph.redux(graph.prompt, mask=graph.mask(0, 0, 3, 3)), whole),
    }

    history = comfyui.run(graph)

    added = {name: seen(history, node).tokens[0] - TEXT_TOKENS for name, node in nodes.items()}
    assert added == {"detail 2": 4, "detail 1": 1, "left half": 8, "left half, detail 2": 2, "one corner": 1}
    assert seen(history, nodes["left half"]).rows_of_a_in_b == TEXT_TOKENS + 8
    assert seen(history, nodes["detail 2"]).rows_of_a_in_b == TEXT_TOKENS


def test_crops_see_what_their_names_say(comfyui):
    graph = ReduxGraph()
    wide = graph.picture_of(128, 64)
    corner = graph.mask(0, 0, 20, 20)
    # A margin of a tenth on both sides: 24 pixels of the 64.
    cut = {"image": graph.picture_of(64, 64), "width": 24, "height": 24, "x": 0, "y": 0}
    by_hand = [graph.add("ImageCrop", **cut), 0]
    nodes = {
        "letterbox": graph.tokens(graph.redux(graph.prompt, wide, crop="letterbox"), graph.prompt),
        "letterbox of a square": graph.tokens(
            graph.redux(graph.prompt, graph.picture_of(64, 64), crop="letterbox"),
            graph.redux(graph.prompt, graph.picture_of(64, 64)),
        ),
        "mask area": graph.tokens(
            graph.redux(graph.prompt, graph.picture_of(64, 64), crop="mask area", mask=corner),
            graph.redux(graph.prompt, by_hand),
        ),
    }

    history = comfyui.run(graph)

    assert seen(history, nodes["letterbox"]).tokens[0] == TEXT_TOKENS + 8  # the two rows in the middle
    assert seen(history, nodes["letterbox of a square"]).equal
    area = seen(history, nodes["mask area"])
    assert area.tokens == [TEXT_TOKENS + 16] * 2 and area.rows_of_a_in_b == TEXT_TOKENS + 16


def test_a_white_result_mask_changes_nothing_and_a_half_one_changes_its_half(comfyui):
    graph = ReduxGraph()
    graph.latent = graph.size(2 * SIDE, 2 * SIDE)
    white = [graph.add("SolidMask", value=1.0, width=SIDE, height=SIDE), 0]
    plain = graph.sampled(graph.redux(graph.prompt, strength=0.5))
    masked = graph.compare(graph.sampled(graph.redux(graph.prompt, strength=0.5, result_mask=white)), plain)
    left = graph.mask(0, 0, SIDE // 2, SIDE)
    half = graph.sampled(graph.redux(graph.prompt, strength=5.0, result_mask=left))
    none = graph.sampled(graph.prompt)
    parts = {}
    for name, x in (("left", 0), ("right", SIDE)):
        part = {"width": SIDE, "height": 2 * SIDE, "x": x, "y": 0}
        parts[name] = graph.compare(*([graph.add("LatentCrop", samples=s, **part), 0] for s in (half, none)))

    history = comfyui.run(graph)

    assert seen(history, masked).difference <= 3e-6 * seen(history, masked).spread
    assert seen(history, parts["left"]).difference > 1.5 * seen(history, parts["right"]).difference


REFUSED = {
    "another vision model": ({"narrow": True}, "clip_vision has 768 features, Redux needs 1152"),
    "mask area without a mask": ({"crop": "mask area"}, "crop is mask area, but no mask is wired"),
    "an empty mask": ({"mask": (0, 0, 0)}, "mask is empty"),
    # In the second way by newer cores, before the node is asked.
    "an unknown crop": ({"crop": "round"}, "crop is 'round'; it can be squash, .*|crop: 'round' not in"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_in_a_sentence(comfyui, case):
    changes, sentence = REFUSED[case]
    graph, changes = ReduxGraph(), dict(changes)
    if changes.pop("narrow", False):
        graph.vision = [graph.add("ProbeSmallVision", width=768), 0]
    if "mask" in changes:
        changes["mask"] = [graph.add("SolidMask", value=0.0, width=SIDE, height=SIDE), 0]
    graph.tokens(graph.redux(graph.prompt, **changes), graph.prompt)

    with pytest.raises(ComfyUIError, match=sentence):
        comfyui.run(graph)
