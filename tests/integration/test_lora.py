"""Krea LoRA in a real ComfyUI: core's own picture, in three layouts of the same LoRA, and a report that is right."""

import re

import pytest
import torch
from comfyui import ComfyUIError
from graphs import Graph
from safetensors import safe_open
from safetensors.torch import save_file

RANK, HIDDEN = 4, 3072
DOUBLE, SINGLE = "double_blocks.0.img_attn.qkv", "single_blocks.0.linear2"
ENCODER = "lora_te1_text_model_encoder_layers_0_mlp_fc1"


def factors(seed: int, outputs: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Up and down, so large that 1 % of the weights' size is changed."""
    generator = torch.Generator().manual_seed(seed)
    up = torch.randn(outputs, RANK, generator=generator) * 0.01
    return up, torch.randn(RANK, inputs, generator=generator) * 0.01


QKV, OUT, TEXT = factors(1, 3 * HIDDEN, HIDDEN), factors(2, HIDDEN, 5 * HIDDEN), factors(3, 3072, 768)


def kohya() -> dict[str, torch.Tensor]:
    layers = {"lora_unet_double_blocks_0_img_attn_qkv": QKV, "lora_unet_single_blocks_0_linear2": OUT}
    tensors = {}
    for name, (up, down) in {**layers, ENCODER: TEXT}.items():
        tensors |= {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down * 2}
        tensors[f"{name}.alpha"] = torch.tensor(RANK / 2)
    return tensors


def bfl() -> dict[str, torch.Tensor]:
    return {
        f"diffusion_model.{layer}.lora_{side}.weight": factor
        for layer, (up, down) in {DOUBLE: QKV, SINGLE: OUT}.items()
        for side, factor in (("A", down), ("B", up))
    }


def diffusers() -> dict[str, torch.Tensor]:
    up, down = QKV
    tensors = {}
    for part, rows in zip(("to_q", "to_k", "to_v"), up.split(HIDDEN), strict=True):
        layer = f"transformer.transformer_blocks.0.attn.{part}"
        tensors |= {f"{layer}.lora_A.weight": down.clone(), f"{layer}.lora_B.weight": rows.clone()}
    layer = "transformer.single_transformer_blocks.0.proj_out"
    return tensors | {f"{layer}.lora_A.weight": OUT[1], f"{layer}.lora_B.weight": OUT[0]}


LAYOUTS = {"kohya": kohya, "bfl": bfl, "diffusers": diffusers}


@pytest.fixture
def loras(models):
    """Writes a LoRA into models/loras/; all are taken away afterwards."""
    made = []

    def write(name: str, tensors: dict, **metadata) -> str:
        path = models / "loras" / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, path, metadata or None)
        made.append(path)
        return path.name

    yield write
    for path in made:
        path.unlink(missing_ok=True)


def report_of(comfyui, name: str, strength: float = 1.0, clip: bool = False, **files) -> str:
    graph = Graph()
    model = graph.add(
        "FluxKreaDiffusionModel", **{"unet_name": "flux1-krea-dev.safetensors", **files}, weight_dtype="default"
    )
    encoders = {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors"}
    wired = {"clip": [graph.add("FluxKreaTextEncoders", **encoders), 0]} if clip else {}
    node = graph.add("FluxKreaLora", model=[model, 0], lora_name=name, strength=strength, **wired)
    shown = graph.add("PreviewAny", source=[node, 2])
    outputs = comfyui.run(graph)["outputs"]
    (report,) = outputs[node]["text"]
    assert outputs[shown]["text"] == [report], "what the node shows is what its report output says"
    return report


def shares(report: str) -> dict[str, float]:
    return {group: float(share) for group, share in re.findall(r"^  (.+): .* about ([\d.]+)%", report, re.M)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_matches_whole_and_changes_as_much_as_the_weights_themselves_say(comfyui, models, loras, layout):
    name = loras(layout, LAYOUTS[layout](), base_model="FLUX.1-dev")
    report = report_of(comfyui, name, strength=0.5, clip=layout == "kohya")
    count = len(LAYOUTS[layout]())
    assert f"{count} of {count} tensors matched: 2 weights of the model at strength 0.5" in report
    assert "made for FLUX.1 dev (its maker says so)" in report and "template dev_krea_blend" in report
    assert ("1 of the text encoders at 1" in report) == (layout == "kohya")
    with safe_open(models / "diffusion_models" / "flux1-krea-dev.safetensors", "pt") as file:
        for (up, down), key, group in ((QKV, DOUBLE, "double_blocks img_attn"), (OUT, SINGLE, "single_blocks linear2")):
            weight = file.get_tensor(f"{key}.weight").float().norm()
            exact = 100 * float(0.5 * (up @ down).norm() / weight)
            assert shares(report)[group] == pytest.approx(exact, rel=0.05, abs=0.01)


def test_on_scaled_weights_the_scale_counts(comfyui, models, loras):
    report = report_of(comfyui, loras("bfl", bfl()), unet_name="flux1-krea-dev_fp8_scaled.safetensors")
    with safe_open(models / "diffusion_models" / "flux1-krea-dev_fp8_scaled.safetensors", "pt") as file:
        weight = file.get_tensor(f"{SINGLE}.weight").float().norm() * file.get_tensor(f"{SINGLE}.scale_weight")
    exact = 100 * float((OUT[0] @ OUT[1]).norm() / weight)
    assert shares(report)["single_blocks linear2"] == pytest.approx(exact, rel=0.05, abs=0.01)


def test_what_does_not_match_or_does_not_fit_is_named(comfyui, loras):
    tensors = kohya()
    up, down = factors(4, HIDDEN, HIDDEN)
    for layer in ("lora_unet_double_blocks_18_img_attn_proj", "lora_unet_double_blocks_0_img_mlp_0"):
        tensors |= {f"{layer}.lora_up.weight": up, f"{layer}.lora_down.weight": down}
    report = report_of(comfyui, loras("partly", tensors))
    assert "3 tensors are for the text encoders: connect clip to use them." in report
    assert "2 tensors matched nothing and do nothing: lora_unet_double_blocks_18_img_attn_proj." in report
    assert (
        "1 updates have another shape than their weight and do nothing: diffusion_model.double_blocks.0.img_mlp.0"
        in report
    )


REFUSED = {
    "sdxl": (
        {"lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.ones(4, 2048)},
        "made for SDXL",
    ),
    "nothing fits": (
        {"lora_unet_double_blocks_77_img_attn_proj.lora_up.weight": torch.ones(8, 4)}
        | {"lora_unet_double_blocks_77_img_attn_proj.lora_down.weight": torch.ones(4, 3072)},
        "none of its 2 tensors fits this model",
    ),
    "half a pair": ({"lora_unet_single_blocks_0_linear2.lora_up.weight": OUT[0]}, "cannot read it as a LoRA"),
    "a model": ({"vae_scale": torch.ones(()), "x.weight": torch.ones(2)}, "what is needed here is a LoRA"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_of_which_nothing_would_work_is_refused_in_a_sentence(comfyui, loras, case):
    tensors, sentence = REFUSED[case]
    with pytest.raises(ComfyUIError, match=sentence):
        report_of(comfyui, loras("wrong", tensors))


def test_an_absent_lora_is_named_with_its_folder(comfyui):
    with pytest.raises(ComfyUIError, match="gone.safetensors is not in models/loras/"):
        report_of(comfyui, "gone.safetensors")


def test_an_output_without_its_input_says_so(comfyui, loras):
    graph = Graph()
    loader = graph.loader()
    node = graph.add("FluxKreaLora", model=[loader, 0], lora_name=loras("bfl", bfl()), strength=1.0)
    graph.add("PreviewAny", source=[graph.text([node, 1], "a fox")[0], 0])
    with pytest.raises(ComfyUIError, match="its CLIP output needs something connected"):
        comfyui.run(graph)


def test_the_picture_is_that_of_cores_own_lora_node_and_another_than_without(comfyui, loras):
    name = loras("kohya", kohya())
    graph = Graph()
    loader = graph.loader()
    ours = graph.add(
        "FluxKreaLora", model=[loader, 0], clip=[loader, 1], lora_name=name, strength=0.7, strength_clip=2.0
    )
    strengths = {"strength_model": 0.7, "strength_clip": 2.0}
    core = graph.add("LoraLoader", model=[loader, 0], clip=[loader, 1], lora_name=name, **strengths)
    latents = [
        graph.sampler([node, 0], graph.short_text([node, 1], "a red fox"), graph.size(64, 64), steps=1)
        for node in (ours, core, loader)
    ]
    same = graph.add("ProbeCompare", a=latents[0], b=latents[1])
    without = graph.add("ProbeCompare", a=latents[0], b=latents[2])
    outputs = comfyui.run(graph)["outputs"]
    assert outputs[same]["equal"] == [True]
    assert outputs[without]["equal"] == [False]
