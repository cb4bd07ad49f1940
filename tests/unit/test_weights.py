"""What Krea Loader accepts, and a table of every wrong file with the sentence a user reads about it.

Files of full size are sparse: the true header, then zeros that take no room.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import miniature
import pytest
from flux_krea.nodes.model_files import weights
from flux_krea.nodes.model_files.quantization import slower_here, unknown_here
from flux_krea.nodes.model_files.weights import WeightFileError, encoder_options, inspect, require, sort_encoders
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from miniature import clip_l_layout, clip_vision_layout, flux_layout, redux_layout, t5_layout, vae_layout

KREA = "use a FLUX.1 Krea [dev] file"
NOISE = "ComfyUI would load it anyway and draw noise: download it again"


def without(layout, *keys):
    return {key: tensor for key, tensor in layout.items() if key not in keys}


def one(key, *shape, dtype="BF16"):
    return {key: (dtype, shape)}


def message(path, kind):
    with pytest.raises(WeightFileError) as caught:
        require(path, kind)
    return str(caught.value)


# --- whole files in the wrong place, or of the wrong model ----------------------------------------------------------

HIDDEN_4096 = one("img_in.weight", 4096, 64) | one("double_blocks.0.img_attn.norm.key_norm.scale", 128)
SD_CHECKPOINT = {f"model.diffusion_model.input_blocks.{index}.0.weight": ("F16", (4, 4)) for index in range(8)}
SD_CHECKPOINT |= one("first_stage_model.decoder.conv_in.weight", 512, 4, 3, 3)
NEEDS_MODEL = "but what is needed here is a FLUX.1 Krea or dev diffusion model"
LAST = "single_blocks.37.linear2.weight"

WRONG = [
    ("T5 as model", t5_layout(), "diffusion_model",
     f"this is the T5-XXL text encoder, 24 layers (it belongs in models/text_encoders/), {NEEDS_MODEL}"),
    ("CLIP-L as model", clip_l_layout(), "diffusion_model",
     f"this is the CLIP-L text encoder, 12 layers (it belongs in models/text_encoders/), {NEEDS_MODEL}"),
    ("VAE as model", vae_layout(), "diffusion_model",
     f"this is a VAE with 16 latent channels (it belongs in models/vae/), {NEEDS_MODEL}"),
    ("Redux as model", redux_layout(), "diffusion_model",
     f"this is the FLUX.1 Redux style model (it belongs in models/style_models/), {NEEDS_MODEL}"),
    ("SigLIP as model", clip_vision_layout(), "diffusion_model",
     f"this is the SigLIP vision model, 27 layers (it belongs in models/clip_vision/), {NEEDS_MODEL}"),
    ("kohya LoRA as model", one("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", 16, 3072), "diffusion_model",
     f"this is a LoRA (it belongs in models/loras/), {NEEDS_MODEL}"),
    ("PEFT LoRA as model", one("transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight", 16, 3072),
     "diffusion_model", f"this is a LoRA (it belongs in models/loras/), {NEEDS_MODEL}"),
    ("control LoRA as model", one("img_in.lora_A.weight", 128, 128), "diffusion_model",
     f"this is a LoRA (it belongs in models/loras/), {NEEDS_MODEL}"),
    ("ControlNet as model", flux_layout(2, 0) | one("controlnet_blocks.0.weight", 3072, 3072), "diffusion_model",
     f"this is a ControlNet (it belongs in models/controlnet/), {NEEDS_MODEL}"),
    ("SDXL checkpoint as model", SD_CHECKPOINT, "diffusion_model",
     f"this is a Stable Diffusion 1.5, 2 or SDXL model (it belongs in models/checkpoints/), {NEEDS_MODEL}"),
    ("something else as model", one("model.0.weight", 64, 3, 3, 3), "diffusion_model",
     f"this is a model that this pack does not know (its first tensor is model.0.weight), {NEEDS_MODEL}"),
    ("schnell", flux_layout(guidance=False), "diffusion_model",
     f"this is FLUX.1 schnell (it has no guidance embedding): {KREA}"),
    ("Fill", flux_layout(channels=384), "diffusion_model",
     f"this is FLUX.1 Fill, for inpainting (384 values a patch go in instead of 64): {KREA}"),
    ("Control", flux_layout(channels=128), "diffusion_model",
     f"this is FLUX.1 Control, canny or depth (128 values a patch go in instead of 64): {KREA}"),
    ("another input", flux_layout(1, 1, channels=196), "diffusion_model",
     f"this is a FLUX.1 model that takes 196 values a patch instead of 64: {KREA}"),
    ("another width", flux_layout(1, 1, hidden=4096), "diffusion_model",
     f"this is a model like FLUX.1, 4096 wide instead of 3072: {KREA}"),
    ("FLUX.2", HIDDEN_4096 | one("double_stream_modulation_img.lin.weight", 9, 9), "diffusion_model",
     f"this is FLUX.2: {KREA}"),
    ("Chroma", flux_layout(19, 38, guidance=False) | one("distilled_guidance_layer.norms.0.scale", 5120),
     "diffusion_model", f"this is Chroma: {KREA}"),
    ("Krea 2", one("txtfusion.projector.weight", 1, 12) | one("blocks.0.attn.wq.weight", 9, 9), "diffusion_model",
     f"this is Krea 2, which is another architecture: ComfyUI has nodes for Krea 2; here {KREA}"),
    ("Nunchaku", one("transformer_blocks.0.qkv_proj.qweight", 9, 9, dtype="U8"), "diffusion_model",
     "this is a Nunchaku (SVDQuant) file: load it with the Nunchaku nodes and connect the MODEL to Krea Sampler"),
    ("NF4", one("img_in.weight.quant_state.bitsandbytes__nf4", 96, dtype="U8"), "diffusion_model",
     "this is a bitsandbytes (NF4) file: ComfyUI cannot load it; use a bf16, fp8 or GGUF file"),
    ("diffusers shard", one("transformer_blocks.0.attn.to_q.weight", 3072, 3072), "diffusion_model",
     "this is a diffusion model, or a part of one, in the layout of diffusers: "
     "use the single file flux1-krea-dev.safetensors from the top of the same repository"),
    ("one tensor missing", without(flux_layout(), LAST), "diffusion_model",
     f"1 tensor is missing, first {LAST}: {NOISE}"),
    ("a block missing", {k: t for k, t in flux_layout().items() if "double_blocks.7." not in k}, "diffusion_model",
     f"24 tensors are missing, first double_blocks.7.img_mod.lin.weight: {NOISE}"),
    ("a wrong shape", flux_layout() | one(LAST, 3072, 3072), "diffusion_model",
     f"{LAST} has the shape 3072x3072 instead of 3072x15360: use another copy of the file"),
    ("model as VAE", flux_layout(), "vae",
     "this is FLUX.1 dev or Krea, 19+38 blocks (it belongs in models/diffusion_models/), "
     "but what is needed here is FLUX.1's VAE, ae.safetensors"),
    ("4-channel VAE", vae_layout(channels=4), "vae",
     "this is a VAE with 4 latent channels, for another model: FLUX.1's ae.safetensors has 16"),
    ("4-channel TAESD", miniature.tiny_vae_layout(channels=4), "vae",
     "this is a TAESD with 4 latent channels, for another model: FLUX.1 has 16"),
    ("half a TAESD", miniature.tiny_decoder_layout(), "vae",
     "this is half of a TAESD, for previews (it belongs in models/vae_approx/), "
     "but what is needed here is FLUX.1's VAE, ae.safetensors"),
    ("VAE of Wan", one("decoder.middle.0.residual.0.gamma", 384, 1, 1, 1), "vae",
     "this is the VAE of another model: FLUX.1 needs ae.safetensors"),
    ("VAE without an end", without(vae_layout(), "decoder.conv_out.bias"), "vae",
     f"1 tensor is missing, first decoder.conv_out.bias: {NOISE}"),
    ("VAE without an entrance", without(vae_layout(), "decoder.conv_in.weight"), "vae",
     "the entrance of its decoder is missing (decoder.conv_in.weight): download it again"),
    ("T5 shard", {k: t for k, t in t5_layout().items() if "final" not in k and "block.23" not in k}, "t5",
     f"1 tensor is missing, first encoder.final_layer_norm.weight: {NOISE}"),
    ("single-layer CLIP-L", clip_l_layout(1), "clip_l",
     "it has a single layer, and ComfyUI recognises CLIP-L by its second: use clip_l.safetensors"),
    ("CLIP-L as Redux", clip_l_layout(), "style_model",
     "this is the CLIP-L text encoder, 12 layers (it belongs in models/text_encoders/), "
     "but what is needed here is the FLUX.1 Redux style model"),
    ("half of Redux", without(redux_layout(), "redux_down.bias"), "style_model",
     f"1 tensor is missing, first redux_down.bias: {NOISE}"),
    ("CLIP-H as vision model", clip_vision_layout(32, width=1280, feed_forward=5120), "clip_vision",
     "this is a CLIP vision model 1280 wide: Redux needs SigLIP, 1152 wide (sigclip_vision_patch14_384.safetensors)"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "kind", "sentence"), [row[1:] for row in WRONG], ids=[row[0] for row in WRONG])
def test_a_whole_file_that_does_not_fit_is_named_with_what_to_do(tmp_path, layout, kind, sentence):
    path = miniature.write_header_only(tmp_path / "chosen.safetensors", layout)
    assert message(path, kind) == f"chosen.safetensors: {sentence}"


WRONG_ENCODERS = [
    (clip_l_layout(32, width=1280), "CLIP-G, the second text encoder of SDXL"),
    (one("encoder.block.0.layer.1.DenseReluDense.wi.weight", 9, 9), "T5 v1.0, without the gated layers of v1.1"),
    (t5_layout(2) | one("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", 32, 64),
     "UMT5, the text encoder of Wan"),
    (t5_layout(2) | one("shared.weight", 384, 4096), "a T5 with a vocabulary of 384 instead of 32,128"),
    (one("model.layers.0.self_attn.q_proj.weight", 9, 9), "a language model, the text encoder of another image model"),
    (vae_layout(), "a VAE with 16 latent channels (it belongs in models/vae/)"),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "label"), WRONG_ENCODERS, ids=[row[1] for row in WRONG_ENCODERS])
def test_what_is_neither_clip_l_nor_t5_is_refused_in_either_place(tmp_path, layout, label):
    wrong = miniature.write_header_only(tmp_path / "wrong.safetensors", layout)
    clip_l = miniature.write_header_only(tmp_path / "clip_l.safetensors", clip_l_layout())
    for pair in ((wrong, clip_l), (clip_l, wrong)):
        with pytest.raises(WeightFileError) as caught:
            sort_encoders(*pair)
        assert str(caught.value) == (
            f"wrong.safetensors: this is {label}, but what is needed here is "
            "CLIP-L or T5-XXL, the two text encoders of FLUX.1"
        )


# --- files that fit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        ("BF16", "bf16"),
        ("F16", "fp16"),
        ("F32", "fp32"),
        ("F8_E4M3", "fp8"),
        ("F8_E5M2", "fp8"),
        ("fp8_scaled", "fp8_scaled"),
    ],
)
@pytest.mark.parametrize(("double", "single"), [(19, 38), (1, 1), (2, 2), (1, 0)])
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "model."])
def test_flux_dev_is_recognised_at_every_depth_precision_and_prefix(tmp_path, dtype, precision, double, single, prefix):
    path = miniature.write_header_only(tmp_path / "x.safetensors", flux_layout(double, single, dtype, prefix=prefix))
    file = require(path, "diffusion_model")
    assert (file.label, file.precision) == (f"FLUX.1 dev or Krea, {double}+{single} blocks", precision)


def test_the_log_line_says_family_precision_parameters_and_size(tmp_path):
    path = miniature.write_header_only(tmp_path / "flux1-krea-dev.safetensors", flux_layout())
    assert str(inspect(path)) == (
        "flux1-krea-dev.safetensors: FLUX.1 dev or Krea, 19+38 blocks, bf16, 11,901.4 M parameters, 23.80 GB"
    )


def test_each_way_of_storing_scales_is_told_apart(tmp_path):
    plain = flux_layout(1, 1, "F8_E4M3")
    new, contents = miniature.quantised_flux_layout(1, 1)
    layers = {key.removesuffix(".comfy_quant"): {"format": "float8_e4m3fn"} for key in contents}
    scales = {f"{layer}.weight_scale": ("F32", ()) for layer in layers}
    quantised = {"_quantization_metadata": json.dumps({"layers": layers})}
    files = {
        "": miniature.write_header_only(tmp_path / "plain", plain),
        "scaled_fp8": miniature.write_header_only(tmp_path / "old", flux_layout(1, 1, "fp8_scaled")),
        "comfy_quant": miniature.write_header_only(tmp_path / "new", new, contents=contents),
        "metadata": miniature.write_header_only(tmp_path / "meta", plain | scales, metadata=quantised),
    }
    for stored_as, path in files.items():
        file = require(path, "diffusion_model")
        assert file.quantization.stored_as == stored_as
        assert file.precision == ("fp8_scaled" if stored_as else "fp8")
        assert file.quantization.formats == (("float8_e4m3fn",) if stored_as else ())
        assert file.quantization.parameters == 545_548_096, "scales are no parameters"


# Each of ComfyUI's formats: what its entries say, the name for people, full-size gigabytes, the first ComfyUI.
QUANTISED = [
    ({"format": "float8_e4m3fn"}, "fp8_scaled", "0.4.0"),
    ({"format": "float8_e5m2"}, "fp8_scaled (e5m2)", "0.8.0"),
    ({"format": "nvfp4"}, "nvfp4", "0.8.0"),
    ({"format": "mxfp8"}, "mxfp8", "0.18.0"),
    ({"format": "int8_tensorwise"}, "int8", "0.27.0"),
    ({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}, "int8 ConvRot", "0.27.0"),
    ({"format": "int8_tensorwise", "params": {"convrot": True}}, "int8 ConvRot", "0.27.0"),
    ({"format": "convrot_w4a4"}, "int4 ConvRot (w4a4)", "0.28.0"),
    ({"format": "asym_w4a8_int8"}, "int4 (w4a8)", "0.31.0"),
]
EVERY = frozenset(conf["format"] for conf, _, _ in QUANTISED)


@pytest.mark.parametrize(("conf", "name", "since"), QUANTISED, ids=[row[1] for row in QUANTISED])
def test_a_quantised_file_goes_by_its_right_name_and_the_comfyui_it_needs(tmp_path, conf, name, since):
    layout, contents = miniature.quantised_flux_layout(conf=conf)
    file = require(
        miniature.write_header_only(tmp_path / "x.safetensors", layout, contents=contents), "diffusion_model"
    )
    assert str(file).startswith(f"x.safetensors: FLUX.1 dev or Krea, 19+38 blocks, {name}, 11,901.4 M parameters, ")
    seen = file.quantization
    refusal = (
        f"{name}: ComfyUI {since} or newer is needed, and this is 0.3.75, which would leave out its scales and draw "
        "noise: update ComfyUI, or use flux1-krea-dev_fp8_scaled.safetensors, which every ComfyUI reads"
    )
    assert unknown_here(seen, frozenset({"float8_e4m3fn"}), False, "0.3.75") == refusal
    before = EVERY - {conf["format"]}
    assert f"ComfyUI {since} or newer" in unknown_here(seen, before, True, "0.3.99")
    assert "comfy-kitchen" in unknown_here(seen, before, True, since)
    assert unknown_here(seen, EVERY, True, since) == ""


def test_a_format_of_the_future_is_taken_where_this_comfyui_knows_it(tmp_path):
    layout, contents = miniature.quantised_flux_layout(1, 1, {"format": "int3_fancy"})
    seen = inspect(miniature.write_header_only(tmp_path / "x", layout, contents=contents)).quantization
    assert (seen.precision, seen.formats) == ("int3_fancy", ("int3_fancy",))
    assert unknown_here(seen, EVERY | {"int3_fancy"}, True, "9.0.0") == ""
    assert "'int3_fancy', which neither ComfyUI 0.33.0 nor this pack knows" in unknown_here(seen, EVERY, True, "0.33.0")


def test_a_file_of_several_formats_needs_the_newest_of_them(tmp_path):
    layout, contents = miniature.quantised_flux_layout(2, 2, {"format": "nvfp4"})
    key = "single_blocks.1.linear2.comfy_quant"
    entry = json.dumps({"format": "int8_tensorwise"}).encode()
    layout |= {key: ("U8", (len(entry),)), "single_blocks.1.linear2.weight": ("I8", (3072, 15360))}
    seen = inspect(miniature.write_header_only(tmp_path / "x", layout, contents=contents | {key: entry})).quantization
    assert (seen.precision, set(seen.formats)) == ("nvfp4", {"nvfp4", "int8_tensorwise"})
    assert "ComfyUI 0.27.0 or newer" in unknown_here(seen, frozenset({"float8_e4m3fn", "nvfp4"}), True, "0.8.0")


UNREADABLE = [
    (b'{"convrot": true}', "does not name its format"),
    (b'["nvfp4"]', "does not name its format"),
    (b'{"format": 4}', "does not name its format"),
    (b"{" + b" " * 20, "is not the JSON that ComfyUI reads"),
    (b"[" * 4000, "is not the JSON that ComfyUI reads"),
    (b'{"format": "nvfp4"}' + b" " * 5000, "is not the JSON that ComfyUI reads"),
]


@pytest.mark.parametrize(("entry", "sentence"), UNREADABLE, ids=[row[0][:18].decode() for row in UNREADABLE])
@pytest.mark.parametrize("place", ["entry", "metadata"])
def test_an_old_or_damaged_export_is_refused_with_a_sentence(tmp_path, entry, sentence, place):
    layer = "double_blocks.0.img_attn.proj"
    layout = flux_layout(1, 1, "F8_E4M3")
    if place == "entry":
        layout |= {f"{layer}.comfy_quant": ("U8", (len(entry),))}
        path = miniature.write_header_only(tmp_path / "x", layout, contents={f"{layer}.comfy_quant": entry})
    elif sentence.startswith("does not"):
        metadata = {"_quantization_metadata": f'{{"layers": {{"{layer}": {entry.decode()}}}}}'}
        path = miniature.write_header_only(tmp_path / "x", layout, metadata)
    else:
        path = miniature.write_header_only(tmp_path / "x", layout, {"_quantization_metadata": "[" * 99_999})
    assert sentence in message(path, "diffusion_model")


def test_a_gpu_that_unpacks_a_format_at_every_step_is_told_what_is_faster(tmp_path):
    def advice(conf, *emulated):
        layout, contents = miniature.quantised_flux_layout(1, 1, conf)
        file = inspect(miniature.write_header_only(tmp_path / "x", layout, contents=contents))
        return slower_here(file.quantization, frozenset(emulated))

    ada, ampere = ("nvfp4", "mxfp8"), ("nvfp4", "mxfp8", "float8_e4m3fn", "float8_e5m2")
    assert advice({"format": "nvfp4"}, *ada) == (
        "this GPU cannot multiply in nvfp4: ComfyUI unpacks it at every step, which saves memory but no time. "
        "int8 or fp8 scaled is faster here."
    )
    assert "int8, where ComfyUI is 0.27.0 or newer, is faster here." in advice({"format": "float8_e4m3fn"}, *ampere)
    assert advice({"format": "int8_tensorwise"}, *ampere) == advice({"format": "nvfp4"}) == ""


def test_weights_packed_into_four_bits_have_half_as_many_columns_and_no_other_shape(tmp_path):
    packed = flux_layout(1, 1) | one("single_blocks.0.linear2.weight", 3072, 7680, dtype="U8")
    assert require(miniature.write_header_only(tmp_path / "x", packed), "diffusion_model").fault == ""
    cut = flux_layout(1, 1) | one("single_blocks.0.linear2.weight", 3072, 77, dtype="U8")
    assert "has the shape 3072x77 instead of 3072x15360" in message(
        miniature.write_header_only(tmp_path / "y", cut), "diffusion_model"
    )


# --- other people's names -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("double", "single"), [(19, 38), (1, 1), (2, 0)])
@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_flux_in_one_file_of_diffusers_names_is_accepted(tmp_path, double, single, dtype):
    layout = miniature.diffusers_flux_layout(double, single, dtype)
    file = require(miniature.write_header_only(tmp_path / "x", layout), "diffusion_model")
    assert file.label == f"FLUX.1 dev or Krea, {double}+{single} blocks"
    assert file.config == {"double_blocks": double, "single_blocks": single, "context_width": 4096, "pooled_width": 768}


DIFFUSERS = miniature.diffusers_flux_layout(2, 2)
NOT_CONVERTIBLE = [
    ("without a value projection", without(DIFFUSERS, "single_transformer_blocks.1.attn.to_v.weight"),
     f"1 tensor is missing, first single_blocks.1.linear1.weight: {NOISE}"),
    ("schnell", {key: tensor for key, tensor in DIFFUSERS.items() if "guidance" not in key},
     f"this is FLUX.1 schnell (it has no guidance embedding): {KREA}"),
    ("a shard", {key: tensor for key, tensor in DIFFUSERS.items() if "embed" not in key},
     "this is a diffusion model, or a part of one, in the layout of diffusers: "
     "use the single file flux1-krea-dev.safetensors from the top of the same repository"),
    ("scales that a conversion leaves out", DIFFUSERS | one("transformer_blocks.0.attn.to_q.weight_scale", dtype="F32"),
     "this is a diffusion model, or a part of one, in the layout of diffusers: "
     "use the single file flux1-krea-dev.safetensors from the top of the same repository"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "sentence"), [row[1:] for row in NOT_CONVERTIBLE], ids=[row[0] for row in NOT_CONVERTIBLE]
)
def test_what_comfyui_cannot_convert_from_diffusers_is_refused(tmp_path, layout, sentence):
    path = miniature.write_header_only(tmp_path / "x.safetensors", layout)
    assert message(path, "diffusion_model") == f"x.safetensors: {sentence}"


def test_clip_l_of_openais_names_is_accepted_and_another_clip_is_not(tmp_path):
    file = require(miniature.write_header_only(tmp_path / "x", miniature.openai_clip_layout()), "clip_l")
    assert file.config == weights.STOCK_CLIP_L
    half = without(miniature.openai_clip_layout(), "transformer.resblocks.3.attn.in_proj_weight")
    assert "3 tensors are missing, first text_model.encoder.layers.3.self_attn.q_proj.weight" in message(
        miniature.write_header_only(tmp_path / "half", half), "clip_l"
    )
    large = miniature.write_header_only(tmp_path / "large", miniature.openai_clip_layout(32, width=1280))
    assert inspect(large).label == "CLIP-G, the second text encoder of SDXL"


def test_a_merge_with_stray_lora_tensors_is_the_model_that_it_is(tmp_path):
    stray = one("double_blocks.0.img_attn.proj.lora_A.weight", 16, 3072)
    file = require(miniature.write_header_only(tmp_path / "x", flux_layout(2, 2) | stray), "diffusion_model")
    assert file.label == "FLUX.1 dev or Krea, 2+2 blocks (1 stray LoRA tensors in it do nothing)"
    broken = without(flux_layout(2, 2), "img_in.weight") | stray
    assert inspect(miniature.write_header_only(tmp_path / "y", broken)).kind == "lora"


def test_newer_names_of_the_norms_are_accepted(tmp_path):
    layout = {key.replace("_norm.scale", "_norm.weight"): tensor for key, tensor in flux_layout(2, 2).items()}
    assert require(miniature.write_header_only(tmp_path / "x", layout), "diffusion_model").fault == ""


def prefixed(prefix, layout):
    return {prefix + key: tensor for key, tensor in layout.items()}


CLIP_L, T5 = "text_encoders.clip_l.transformer.", "text_encoders.t5xxl.transformer."


def test_what_a_checkpoint_holds_beside_its_model_is_found_by_its_place(tmp_path):
    layout = flux_layout(1, 1) | prefixed(CLIP_L, clip_l_layout()) | prefixed("vae.", vae_layout())
    path = miniature.write_header_only(tmp_path / "all.safetensors", layout)
    assert {kind: part.kind for kind, part in weights.beside_the_model(path).items()} == {
        "clip_l": "clip_l",
        "vae": "vae",
    }
    assert weights.beside_the_model(miniature.write_header_only(tmp_path / "a.safetensors", flux_layout(1, 1))) == {}


@pytest.mark.parametrize(
    ("prefix", "part", "sentence"),
    [
        (CLIP_L, t5_layout(), "its clip_l is the T5-XXL text encoder.*not for FLUX.1"),
        (T5, clip_l_layout(), "its t5 is the CLIP-L text encoder.*not for FLUX.1"),
        ("first_stage_model.", clip_l_layout(), "its vae is the CLIP-L text encoder"),
        (CLIP_L, without(clip_l_layout(), "text_model.final_layer_norm.weight"), "its clip_l is .*final_layer_norm"),
    ],
    ids=["T5 for CLIP-L", "CLIP-L for T5", "CLIP-L for the VAE", "with a hole"],
)
def test_what_does_not_belong_in_its_place_in_a_checkpoint_is_refused(tmp_path, prefix, part, sentence):
    path = miniature.write_header_only(tmp_path / "all.safetensors", flux_layout(1, 1) | prefixed(prefix, part))
    with pytest.raises(WeightFileError, match=sentence):
        weights.beside_the_model(path)


def test_a_whole_flux_checkpoint_is_accepted_for_the_model_in_it(tmp_path):
    layout = flux_layout(prefix="model.diffusion_model.") | {f"vae.{key}": t for key, t in vae_layout().items()}
    assert require(miniature.write_header_only(tmp_path / "x", layout), "diffusion_model").fault == ""


@pytest.mark.parametrize(
    ("layout", "kind"),
    [
        (vae_layout(), "vae"),
        (miniature.tiny_vae_layout(), "vae"),
        (one("decoder.up_blocks.0.resnets.0.norm1.weight", 512) | one("decoder.conv_in.weight", 512, 16, 3, 3), "vae"),
        (redux_layout(), "style_model"),
        (clip_vision_layout(), "clip_vision"),
        (clip_vision_layout(2) | one("vision_model.head.probe", 1, 1, 1152), "clip_vision"),
        (clip_l_layout() | one("text_projection.weight", 768, 768), "clip_l"),
        (t5_layout(dtype="F8_E4M3"), "t5"),
    ],
)
def test_the_other_files_of_krea_are_accepted(tmp_path, layout, kind):
    assert require(miniature.write_header_only(tmp_path / "x", layout), kind).kind == kind


def test_the_whole_miniature_set_is_accepted(tmp_path):
    kinds = {folder: kind for kind, (folder, _) in weights.recognise.KINDS.items() if kind != "text_encoder"}
    for name, layout in miniature.set_layouts(clip_vision="mini").items():
        path = miniature.write_header_only(tmp_path / name, layout)
        folder = Path(name).parent.name
        if folder == "text_encoders":
            assert inspect(path).kind in ("clip_l", "t5") and not inspect(path).fault
        elif folder != "vae_approx":
            assert require(path, kinds[folder]).fault == ""


# --- encoders -------------------------------------------------------------------------------------------------------


@pytest.fixture
def encoders(tmp_path):
    def write(clip_l, t5):
        return (
            miniature.write_header_only(tmp_path / "one.safetensors", clip_l),
            miniature.write_header_only(tmp_path / "two.safetensors", t5),
        )

    return write


def test_encoders_are_told_apart_by_content_in_either_order(encoders):
    clip_l, t5 = encoders(clip_l_layout(), t5_layout())
    for pair in ((clip_l, t5), (t5, clip_l)):
        assert [file.path for file in sort_encoders(*pair)] == [clip_l, t5]


def test_two_copies_of_one_encoder_are_refused(encoders):
    with pytest.raises(WeightFileError) as caught:
        sort_encoders(*encoders(clip_l_layout(), clip_l_layout(dtype="F32")))
    assert str(caught.value) == (
        "one.safetensors and two.safetensors: both are the CLIP-L text encoder: "
        "choose the T5-XXL text encoder in one of the two places"
    )
    with pytest.raises(WeightFileError, match="both are the T5-XXL text encoder: choose the CLIP-L text encoder"):
        sort_encoders(*encoders(t5_layout(), t5_layout(dtype="F8_E4M3")))


def test_an_encoder_with_a_hole_is_refused(encoders):
    hole = "encoder.block.3.layer.0.SelfAttention.q.weight"
    with pytest.raises(WeightFileError) as caught:
        sort_encoders(*encoders(clip_l_layout(), without(t5_layout(), hole)))
    assert str(caught.value) == f"two.safetensors: 1 tensor is missing, first {hole}: {NOISE}"


def test_encoders_of_the_usual_size_need_no_options(encoders):
    assert encoder_options(*sort_encoders(*encoders(clip_l_layout(), t5_layout()))) == {}
    assert encoder_options(*sort_encoders(*encoders(clip_l_layout(positions=248), t5_layout()))) == {}


def test_encoders_of_another_size_get_their_configuration_from_their_shapes(encoders):
    pair = sort_encoders(*encoders(clip_l_layout(2, width=512), t5_layout(3, heads=2, feed_forward=128)))
    expected = {
        "model_config": {
            "num_hidden_layers": 2, "hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 2048
        },
        "t5xxl_model_config": {"num_layers": 3, "num_heads": 2, "d_ff": 128},
    }  # fmt: skip
    options = encoder_options(*pair)
    assert options == expected
    options["model_config"]["max_position_embeddings"] = 77  # as ComfyUI does
    assert encoder_options(*pair) == expected


def test_encoders_that_the_model_cannot_read_are_refused(tmp_path, encoders):
    model = inspect(miniature.write_header_only(tmp_path / "model.safetensors", flux_layout()))
    weights.require_match(model, *sort_encoders(*encoders(clip_l_layout(2), t5_layout(2))))
    narrow = sort_encoders(*encoders(clip_l_layout(), t5_layout(width=2048, heads=32, feed_forward=5120)))
    with pytest.raises(WeightFileError) as caught:
        weights.require_match(model, *narrow)
    assert str(caught.value) == (
        "two.safetensors: its embeddings are 2048 wide, but model.safetensors takes 4096: "
        "use t5xxl_fp16.safetensors or t5xxl_fp8_e4m3fn.safetensors or t5xxl_fp8_e4m3fn_scaled.safetensors"
    )


# --- files that are absent ------------------------------------------------------------------------------------------


def test_a_known_file_that_is_absent_is_named_with_its_address_and_the_folders_searched():
    sentence = weights.missing("sub\\AE.safetensors", "vae", ["/a/vae", "/b/vae"], ["x.safetensors"])
    assert sentence == (
        "AE.safetensors is not in models/vae/. It is the VAE of FLUX.1: download https://huggingface.co/Comfy-Org/"
        "Lumina_Image_2.0_Repackaged/resolve/main/split_files/vae/ae.safetensors into models/vae/ "
        "and refresh the page. Searched: /a/vae, /b/vae. Found there: x.safetensors."
    )


def test_an_unknown_file_that_is_absent_gets_the_official_ones_suggested():
    sentence = weights.missing("my-merge.safetensors", "style_models", [], [f"{n}.safetensors" for n in range(12)])
    assert sentence.startswith("my-merge.safetensors is not in models/style_models/. This pack does not know where it")
    assert "https://huggingface.co/Comfy-Org/Flux1-Redux-Dev/resolve/main/flux1-redux-dev.safetensors" in sentence
    assert "Searched: no folder, none is configured." in sentence
    assert sentence.endswith("9.safetensors and 2 more.")


def test_each_known_file_has_an_address_that_ends_in_its_name():
    for file in weights.KNOWN_FILES:
        assert file.url.startswith("https://huggingface.co/") and file.url.endswith(f"/{file.name}")
        assert "/resolve/main/" in file.url
        assert file.folder in {folder for folder, _ in weights.recognise.KINDS.values()}


# --- properties -----------------------------------------------------------------------------------------------------

shapes = st.lists(st.integers(0, 5), max_size=5).map(tuple)
real_keys = st.sampled_from(
    [
        *flux_layout(1, 1),
        *miniature.quantised_flux_layout(1, 1)[0],
        *miniature.diffusers_flux_layout(1, 1),
        *miniature.openai_clip_layout(1),
        *t5_layout(1),
        *clip_l_layout(1),
        *clip_vision_layout(1),
        *vae_layout(),
        *miniature.tiny_vae_layout(),
    ]
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(real_keys, st.tuples(st.sampled_from(["F32", "F8_E4M3", "U8"]), shapes), min_size=1, max_size=8))
def test_real_names_with_any_shapes_are_never_taken_for_a_whole_model(tmp_path, layout):
    try:
        file = inspect(miniature.write_header_only(tmp_path / "x", layout))
    except WeightFileError:
        return  # a comfy_quant entry of zeros
    assert file.fault


def test_neither_torch_nor_comfyui_is_loaded(tmp_path):
    path = miniature.write_header_only(tmp_path / "flux1-krea-dev.safetensors", flux_layout())
    root = Path(__file__).parents[2]
    script = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('flux_krea', {str(root / '__init__.py')!r})\n"
        "sys.modules['flux_krea'] = pack = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(pack)\n"
        "from flux_krea.nodes.model_files import weights\n"
        f"weights.require({os.fspath(path)!r}, 'diffusion_model')\n"
        "assert not {'torch', 'numpy', 'safetensors', 'comfy'} & set(sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
