"""What a LoRA was made for, from its header: the layers decide the architecture, its maker's words the rest."""

import json

import miniature
import pytest
from flux_krea.nodes.model_files.header import WeightFileError
from flux_krea.nodes.model_files.lora_files import layer_of, read_lora
from flux_krea.nodes.model_files.recognise import recognise


def pair(layer, inputs, outputs, names=("lora_down.weight", "lora_up.weight"), rank=16):
    down, up = names
    return {f"{layer}.{down}": ("BF16", (rank, inputs)), f"{layer}.{up}": ("BF16", (outputs, rank))}


AB = ("lora_A.weight", "lora_B.weight")
KOHYA = pair("lora_unet_double_blocks_0_img_attn_qkv", 3072, 9216)
KOHYA |= {"lora_unet_double_blocks_0_img_attn_qkv.alpha": ("F32", ())}
DIFFUSERS = pair("transformer.single_transformer_blocks.0.attn.to_q", 3072, 3072, AB, rank=32)
BFL = pair("diffusion_model.double_blocks.0.img_attn.qkv", 3072, 9216, AB)


def read(tmp_path, layout, **metadata):
    return read_lora(miniature.write_header_only(tmp_path / "my.safetensors", layout, metadata))


@pytest.mark.parametrize(
    ("layout", "name", "rank"),
    [(KOHYA, "kohya's layout", 16), (DIFFUSERS, "diffusers' layout", 32), (BFL, "FLUX.1's own layout", 16)],
)
def test_three_layouts_of_flux_are_named_with_their_rank(tmp_path, layout, name, rank):
    file = read(tmp_path, layout)
    assert (file.base, file.layout, file.rank, file.warning) == ("FLUX.1", name, rank, "")
    assert str(file) == (
        f"my.safetensors: a LoRA in {name}, rank {rank}, {len(layout)} tensors; made for FLUX.1 (its layers)"
    )


WORDS = [
    ({"modelspec.architecture": "flux-1-dev/lora"}, "FLUX.1 dev"),
    ({"modelspec.architecture": "Flux.1-schnell/lora"}, "FLUX.1 schnell"),
    ({"ss_sd_model_name": "flux1-krea-dev_fp8_scaled.safetensors"}, "FLUX.1 Krea"),
    ({"base_model": "black-forest-labs/FLUX.1-Kontext-dev"}, "FLUX.1 Kontext"),
    ({"base_model": "black-forest-labs/FLUX.1-Fill-dev"}, "FLUX.1 Fill"),
    ({"ss_sd_model_name": "sd_xl_base_1.0.safetensors"}, "FLUX.1"),
    ({}, "FLUX.1"),
]


@pytest.mark.parametrize(("metadata", "base"), WORDS, ids=[json.dumps(row[0]) for row in WORDS])
def test_within_flux_the_makers_words_decide(tmp_path, metadata, base):
    file = read(tmp_path, KOHYA, **metadata)
    assert file.base == base
    assert file.said_by == ("its layers" if base == "FLUX.1" else "its maker says so")
    assert bool(file.warning) == (base not in ("FLUX.1", "FLUX.1 Krea"))


def test_the_more_particular_field_wins_over_the_general_one(tmp_path):
    general, particular = {"ss_base_model_version": "flux1"}, {"ss_sd_model_name": "flux1-krea-dev.safetensors"}
    assert read(tmp_path, KOHYA, **general).base == "FLUX.1"
    assert read(tmp_path, KOHYA, **general, **particular).base == "FLUX.1 Krea"


def test_a_lora_for_dev_is_told_what_to_do_about_likeness(tmp_path):
    assert "template dev_krea_blend" in read(tmp_path, KOHYA, base_model="FLUX.1-dev").warning


OTHERS = [
    ("FLUX.2", pair("diffusion_model.double_blocks.0.img_attn.qkv", 6144, 18432, AB)),
    ("FLUX.2", pair("transformer.single_transformer_blocks.0.attn.to_q", 4096, 4096, AB)),
    ("SDXL", pair("lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k", 2048, 640)),
    ("SDXL", pair("unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k", 2048, 640, AB)),
    ("Stable Diffusion 1.5", pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768, 320)),
    ("Stable Diffusion 2", pair("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_v", 1024, 320)),
    ("Qwen-Image", pair("transformer_blocks.0.img_mlp.net.0.proj", 3072, 12288, AB)),
    ("Qwen-Image", pair("diffusion_model.transformer_blocks.7.txt_mod.1", 3072, 18432, AB)),
    ("Wan", pair("diffusion_model.blocks.0.cross_attn.q", 5120, 5120, AB)),
    ("Krea 2", pair("diffusion_model.blocks.0.attn.wq", 6144, 6144, AB)),
    ("Stable Diffusion 3", pair("transformer.joint_blocks.0.x_block.attn.qkv", 1536, 4608, AB)),
]


@pytest.mark.parametrize(("base", "layout"), OTHERS, ids=[f"{row[0]} {next(iter(row[1]))[:40]}" for row in OTHERS])
def test_a_lora_for_another_architecture_is_refused_by_name(tmp_path, base, layout):
    assert recognise(read_header_of(tmp_path, layout)).kind == "lora"
    with pytest.raises(WeightFileError) as refused:
        read(tmp_path, layout)
    assert str(refused.value) == (
        f"my.safetensors: this LoRA was made for {base} (its layers), whose layers FLUX.1 Krea does not have: nothing "
        "of it would work. Choose one for FLUX.1 dev or Krea"
    )


def read_header_of(tmp_path, layout):
    from flux_krea.nodes.model_files.header import read_header

    return read_header(miniature.write_header_only(tmp_path / "x", layout)).tensors


def test_a_file_that_is_no_lora_is_refused_with_its_place(tmp_path):
    with pytest.raises(
        WeightFileError, match=r"this is FLUX.1 dev or Krea, 1\+1 blocks .it belongs in models/diffusion"
    ):
        read(tmp_path, miniature.flux_layout(1, 1))


def test_what_nothing_is_known_about_is_left_to_core(tmp_path):
    file = read(tmp_path, pair("lora_unet_something_else", 8, 8))
    assert (file.base, file.warning) == ("", "")
    assert "it does not say what it was made for" in str(file)


def test_a_control_lora_says_what_it_needs(tmp_path):
    layout = pair("img_in", 128, 3072, AB) | pair("double_blocks.0.img_attn.qkv", 3072, 9216, AB)
    assert "InstructPixToPixConditioning" in read(tmp_path, layout).warning


@pytest.mark.parametrize(
    ("key", "layer"),
    [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "lora_unet_double_blocks_0_img_attn_qkv"),
        ("lora_unet_double_blocks_0_img_attn_qkv.alpha", "lora_unet_double_blocks_0_img_attn_qkv"),
        ("transformer.x.attn.to_q.lora_A.default.weight", "transformer.x.attn.to_q"),
        ("diffusion_model.img_in.lora_B.weight", "diffusion_model.img_in"),
        ("diffusion_model.img_in.diff_b", "diffusion_model.img_in"),
        ("lycoris_x.lokr_w1_a", "lycoris_x"),
    ],
)
def test_a_tensors_layer_is_its_name_without_the_end(key, layer):
    assert layer_of(key) == layer
