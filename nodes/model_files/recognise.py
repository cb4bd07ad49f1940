"""What a set of tensors is, from their names and shapes alone, and whether anything is missing from it.

FLUX.1 dev, Krea and Kontext have the same tensors in the same shapes: no header tells one from another.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from . import other_layouts
from .header import AGAIN, Tensor

Tensors = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

KREA_INSTEAD = "use a FLUX.1 Krea [dev] file"

# kind -> folder under models/, and what somebody who needs that kind is looking for
KINDS = {
    "diffusion_model": ("diffusion_models", "a FLUX.1 Krea or dev diffusion model"),
    "clip_l": ("text_encoders", "the CLIP-L text encoder"),
    "t5": ("text_encoders", "the T5-XXL text encoder"),
    "text_encoder": ("text_encoders", "CLIP-L or T5-XXL, the two text encoders of FLUX.1"),
    "vae": ("vae", "FLUX.1's VAE, ae.safetensors"),
    "style_model": ("style_models", "the FLUX.1 Redux style model"),
    "clip_vision": ("clip_vision", "the SigLIP vision model, sigclip_vision_patch14_384.safetensors"),
    "lora": ("loras", "a LoRA"),
    "controlnet": ("controlnet", "a ControlNet"),
    "checkpoint": ("checkpoints", "a checkpoint"),
    "vae_approx": ("vae_approx", "a preview decoder"),
    "unknown": ("", "a model"),
}


@dataclass(frozen=True)
class Recognised:
    """`fault` is empty when the weights can be used for FLUX.1 Krea, else what they are and what to do."""

    kind: str
    label: str
    fault: str = ""
    config: dict[str, int] = field(default_factory=dict)


def recognise(tensors: Tensors) -> Recognised:
    for added_marks, kind, label in _ADDED_TO_A_MODEL:
        added = {key for key in tensors if _has((key,), added_marks)}
        if added:
            rest = {key: tensor for key, tensor in tensors.items() if key not in added}
            model = recognise(rest) if len(rest) > len(added) else None
            if model and not model.fault and kind == "lora":
                # Left over by a merge. ComfyUI loads the model and leaves them out.
                return replace(model, label=f"{model.label} ({len(added)} stray LoRA tensors in it do nothing)")
            return Recognised(kind, label, f"this is {label}")
    inner = without_prefix(tensors)
    inner = other_layouts.flux_from_diffusers(inner) or other_layouts.clip_from_openai(inner) or inner
    for marks, kind, label, advice in _OTHERS:
        if _has(inner, marks):
            return Recognised(kind, label, f"this is {label}: {advice}")
    for marks, describe in _OURS:
        if _has(inner, marks):
            return describe(inner)
    first = next(iter(tensors))
    label = f"a model that this pack does not know (its first tensor is {first[:80]})"
    return Recognised("unknown", label, f"this is {label}")


def without_prefix(tensors: Tensors) -> dict[str, Tensor]:
    """The diffusion model's own names where the file is a checkpoint, as ComfyUI's loader takes them; else unchanged.

    Newer files call a normalisation's `scale` its `weight`; here they all say `scale`.
    """
    for prefix in ("model.diffusion_model.", "model."):
        inner = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if len(inner) > 5 and _has(inner, ("double_blocks.", "input_blocks.", "joint_blocks.", "txtfusion.")):
            break
    else:
        inner = dict(tensors)
    return {re.sub(r"\.(query|key)_norm\.weight$", r".\1_norm.scale", key): inner[key] for key in inner}


def _has(tensors: Iterable[str], marks: tuple[str, ...]) -> bool:
    """Whether some name begins with one of the marks; a mark that starts with * may stand anywhere."""
    anywhere = tuple(mark[1:] for mark in marks if mark[0] == "*")
    beginnings = tuple(mark for mark in marks if mark[0] != "*")
    return any(key.startswith(beginnings) or any(mark in key for mark in anywhere) for key in tensors)


# --- what is not ours -----------------------------------------------------------------------------------------------

_LORA_MARKS: tuple[str, ...] = (
    "lora_unet_",
    "lora_te",
    "lycoris_",
    "*.lora_A.",
    "*.lora_B.",
    "*.lora_up.",
    "*.lora_down.",
)
_LORA_MARKS += (
    "*.lora.up.",
    "*.lora.down.",
    "*.lora_linear_layer.",
    "*.oft_blocks",
    "*.diff_b",
    "*.hada_w1",
    "*.lokr_w",
    "*.dora_scale",
    "*_lora.up.",
    "*_lora.down.",
)

_ADDED_TO_A_MODEL: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (_LORA_MARKS, "lora", "a LoRA"),
    (("controlnet_", "control_model.", "input_hint_block.", "zero_convs.", "pos_embed_input."), "controlnet",
     "a ControlNet"),
)  # fmt: skip

_LOAD_CHECKPOINT = "it is drawn with Load Checkpoint and KSampler, not with this pack"

_OTHERS: tuple[tuple[tuple[str, ...], str, str, str], ...] = (
    (("*.qweight", "*.wscales"), "diffusion_model", "a Nunchaku (SVDQuant) file",
     "load it with the Nunchaku nodes and connect the MODEL to Krea Sampler"),
    (("*.quant_state.bitsandbytes",), "diffusion_model", "a bitsandbytes (NF4) file",
     "ComfyUI cannot load it; use a bf16, fp8 or GGUF file"),
    (("txtfusion.",), "diffusion_model", "Krea 2, which is another architecture",
     "ComfyUI has nodes for Krea 2; here " + KREA_INSTEAD),
    (("double_stream_modulation_img.",), "diffusion_model", "FLUX.2", KREA_INSTEAD),
    (("distilled_guidance_layer.",), "diffusion_model", "Chroma", KREA_INSTEAD),
    (("txt_in.individual_token_refiner.",), "diffusion_model", "HunyuanVideo", KREA_INSTEAD),
    (("joint_blocks.",), "diffusion_model", "Stable Diffusion 3", KREA_INSTEAD),
    (("input_blocks.", "middle_block.", "down_blocks."), "checkpoint", "a Stable Diffusion 1.5, 2 or SDXL model",
     _LOAD_CHECKPOINT),
    (("single_transformer_blocks.", "transformer_blocks."), "diffusion_model",
     "a diffusion model, or a part of one, in the layout of diffusers",
     "use the single file flux1-krea-dev.safetensors from the top of the same repository"),
    (("blocks.0.", "cap_embedder.", "noise_refiner."), "diffusion_model", "another diffusion model", KREA_INSTEAD),
    (("model.layers.", "language_model.", "model.language_model."), "text_encoder",
     "a language model, the text encoder of another image model", "FLUX.1 needs CLIP-L and T5-XXL"),
    (("decoder.middle.", "decoder.block_in.", "decoder.layers."), "vae", "the VAE of another model",
     "FLUX.1 needs ae.safetensors"),
    (("1.conv.0.", "3.conv.0."), "vae_approx", "half of a TAESD, for previews",
     "as a VAE it needs both halves; use ae.safetensors"),
)  # fmt: skip


# --- FLUX.1 ---------------------------------------------------------------------------------------------------------

# Linear layers of a block: outputs and inputs, in multiples of the hidden width.
_DOUBLE = {"mod.lin": (6, 1), "attn.qkv": (3, 1), "attn.proj": (1, 1), "mlp.0": (4, 1), "mlp.2": (1, 4)}
_SINGLE = {"linear1": (7, 1), "linear2": (1, 5), "modulation.lin": (3, 1)}
_HIDDEN = 3072
_HEAD = 128
_PATCH = 64


def _flux(tensors: Tensors) -> Recognised:
    double, single = _blocks(tensors, "double_blocks."), _blocks(tensors, "single_blocks.")
    channels = _side(tensors, "img_in.weight", 1, _PATCH)
    hidden = _side(tensors, "img_in.weight", 0, _HIDDEN)
    config = {
        "double_blocks": double,
        "single_blocks": single,
        "context_width": _side(tensors, "txt_in.weight", 1, 4096),
        "pooled_width": _side(tensors, "vector_in.in_layer.weight", 1, 768),
    }
    label, advice = "FLUX.1 dev or Krea", ""
    if not _has(tensors, ("guidance_in.",)):
        label, advice = "FLUX.1 schnell (it has no guidance embedding)", KREA_INSTEAD
    elif channels == 384:
        label, advice = "FLUX.1 Fill, for inpainting (384 values a patch go in instead of 64)", KREA_INSTEAD
    elif channels == 128:
        label, advice = "FLUX.1 Control, canny or depth (128 values a patch go in instead of 64)", KREA_INSTEAD
    elif channels != _PATCH:
        label, advice = f"a FLUX.1 model that takes {channels} values a patch instead of 64", KREA_INSTEAD
    elif hidden != _HIDDEN:
        label, advice = f"a model like FLUX.1, {hidden} wide instead of {_HIDDEN}", KREA_INSTEAD
    fault = f"this is {label}: {advice}" if advice else _incomplete(tensors, _flux_shapes(config))
    return Recognised("diffusion_model", f"{label}, {double}+{single} blocks", fault, config)


def _flux_shapes(config: Mapping[str, int]) -> Shapes:
    shapes = _linear("img_in", _HIDDEN, _PATCH) | _linear("txt_in", _HIDDEN, config["context_width"])
    for name, width in (("time_in", 256), ("guidance_in", 256), ("vector_in", config["pooled_width"])):
        shapes |= _linear(f"{name}.in_layer", _HIDDEN, width) | _linear(f"{name}.out_layer", _HIDDEN, _HIDDEN)
    for block in range(config["double_blocks"]):
        for stream in (f"double_blocks.{block}.img_", f"double_blocks.{block}.txt_"):
            for name, (outputs, inputs) in _DOUBLE.items():
                shapes |= _linear(stream + name, outputs * _HIDDEN, inputs * _HIDDEN)
            shapes |= {f"{stream}attn.norm.{of}_norm.scale": (_HEAD,) for of in ("query", "key")}
    for block in range(config["single_blocks"]):
        for name, (outputs, inputs) in _SINGLE.items():
            shapes |= _linear(f"single_blocks.{block}.{name}", outputs * _HIDDEN, inputs * _HIDDEN)
        shapes |= {f"single_blocks.{block}.norm.{of}_norm.scale": (_HEAD,) for of in ("query", "key")}
    shapes |= _linear("final_layer.adaLN_modulation.1", 2 * _HIDDEN, _HIDDEN)
    return shapes | _linear("final_layer.linear", _PATCH, _HIDDEN)


# --- text encoders --------------------------------------------------------------------------------------------------


def _t5(tensors: Tensors) -> Recognised:
    """T5 v1.1's encoder. Its shapes say all of its configuration but the activation."""
    block = "encoder.block.0.layer"
    heads = _side(tensors, f"{block}.0.SelfAttention.relative_attention_bias.weight", 1, 64)
    config = {
        "num_layers": _blocks(tensors, "encoder.block."),
        "d_model": _side(tensors, "shared.weight", 1, 4096),
        "num_heads": heads,
        "d_kv": _side(tensors, f"{block}.0.SelfAttention.q.weight", 0, 64 * heads) // max(heads, 1),
        "d_ff": _side(tensors, f"{block}.1.DenseReluDense.wi_0.weight", 0, 10240),
        "vocab_size": _side(tensors, "shared.weight", 0, 32128),
    }
    if f"{block}.1.DenseReluDense.wi.weight" in tensors:
        return _wrong_encoder("T5 v1.0, without the gated layers of v1.1", config)
    if "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in tensors:
        return _wrong_encoder("UMT5, the text encoder of Wan", config)
    if config["vocab_size"] != 32128:
        return _wrong_encoder(f"a T5 with a vocabulary of {config['vocab_size']:,} instead of 32,128", config)
    size = "T5-XXL" if config["d_model"] == 4096 else f"T5, {config['d_model']} wide"
    label = f"the {size} text encoder, {config['num_layers']} layers"
    return Recognised("t5", label, _incomplete(tensors, _t5_shapes(config)), config)


def _wrong_encoder(label: str, config: dict[str, int]) -> Recognised:
    return Recognised("text_encoder", label, f"this is {label}: FLUX.1 needs CLIP-L and T5-XXL v1.1", config)


def _t5_shapes(config: Mapping[str, int]) -> Shapes:
    width, inner, wide = config["d_model"], config["d_kv"] * config["num_heads"], config["d_ff"]
    shapes: Shapes = {"shared.weight": (config["vocab_size"], width), "encoder.final_layer_norm.weight": (width,)}
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    shapes[bias] = (32, config["num_heads"])
    for block in range(config["num_layers"]):
        attention, feed_forward = f"encoder.block.{block}.layer.0", f"encoder.block.{block}.layer.1"
        shapes |= {f"{attention}.SelfAttention.{name}.weight": (inner, width) for name in "qkv"}
        shapes[f"{attention}.SelfAttention.o.weight"] = (width, inner)
        shapes |= {f"{feed_forward}.DenseReluDense.{name}.weight": (wide, width) for name in ("wi_0", "wi_1")}
        shapes[f"{feed_forward}.DenseReluDense.wo.weight"] = (width, wide)
        shapes |= {f"{part}.layer_norm.weight": (width,) for part in (attention, feed_forward)}
    return shapes


def _clip_text(tensors: Tensors) -> Recognised:
    layers, width = "text_model.encoder.layers.", _side(tensors, "text_model.final_layer_norm.weight", 0, 768)
    config = {
        "num_hidden_layers": _blocks(tensors, layers),
        "hidden_size": width,
        "num_attention_heads": width // 64,
        "intermediate_size": _side(tensors, f"{layers}0.mlp.fc1.weight", 0, 4 * width),
    }
    if width >= 1024 and _has(tensors, ("vision_model.",)):
        return _clip_vision(tensors)
    if width >= 1024:
        name = "CLIP-G, the second text encoder of SDXL" if width == 1280 else "CLIP-H, the text encoder of SD 2"
        return _wrong_encoder(name, config)
    positions = _side(tensors, "text_model.embeddings.position_embedding.weight", 0, 77)
    shapes: Shapes = {"text_model.embeddings.token_embedding.weight": (49408, width)}
    shapes["text_model.embeddings.position_embedding.weight"] = (positions, width)
    shapes |= _transformer(layers, config["num_hidden_layers"], width, config["intermediate_size"])
    shapes |= _norm("text_model.final_layer_norm", width)
    label = f"the CLIP-L text encoder, {config['num_hidden_layers']} layers"
    fault = _incomplete(tensors, shapes)
    if config["num_hidden_layers"] < 2:
        fault = fault or "it has a single layer, and ComfyUI recognises CLIP-L by its second: use clip_l.safetensors"
    return Recognised("clip_l", label, fault, config)


# --- VAE, Redux, SigLIP ---------------------------------------------------------------------------------------------


def _vae(tensors: Tensors) -> Recognised:
    channels = _side(tensors, "decoder.conv_in.weight", 1, 0)
    fault = ""
    if not channels:
        fault = f"the entrance of its decoder is missing (decoder.conv_in.weight): {AGAIN}"
    elif channels != 16 or len(tensors["decoder.conv_in.weight"].shape) != 4:
        fault = f"this is a VAE with {channels} latent channels, for another model: FLUX.1's ae.safetensors has 16"
    elif not _has(tensors, ("decoder.up_blocks.",)):  # ComfyUI also reads the names of diffusers
        fault = _incomplete(tensors, _vae_shapes(channels))
    return Recognised("vae", f"a VAE with {channels} latent channels", fault, {"channels": channels})


def _vae_shapes(channels: int) -> Shapes:
    """An encoder and a decoder of four levels; the decoder has one block more on each and counts them the other way."""
    widths = (128, 256, 512, 512)
    shapes = _conv("encoder.conv_in", 128, 3) | _conv("decoder.conv_in", 512, channels)
    for half, side, blocks, levels in (("encoder", "down", 2, range(4)), ("decoder", "up", 3, range(3, -1, -1))):
        before = widths[levels[0]]
        for level in levels:
            for block in range(blocks):
                shapes |= _residual(f"{half}.{side}.{level}.block.{block}", widths[level], before)
                before = widths[level]
            if level != levels[-1]:
                shapes |= _conv(f"{half}.{side}.{level}.{side}sample.conv", widths[level], widths[level])
        shapes |= _norm(f"{half}.norm_out", before)
        shapes |= _conv(f"{half}.conv_out", 2 * channels if half == "encoder" else 3, before)
        shapes |= _residual(f"{half}.mid.block_1", 512, 512) | _residual(f"{half}.mid.block_2", 512, 512)
        shapes |= _norm(f"{half}.mid.attn_1.norm", 512)
        for name in ("q", "k", "v", "proj_out"):
            shapes |= _conv(f"{half}.mid.attn_1.{name}", 512, 512, 1)
    return shapes


def _tiny_vae(tensors: Tensors) -> Recognised:
    channels = _side(tensors, "taesd_decoder.1.weight", 1, 0)
    label = f"a TAESD with {channels} latent channels"
    fault = "" if channels == 16 else f"this is {label}, for another model: FLUX.1 has 16"
    return Recognised("vae", label, fault or _incomplete(tensors, _tiny_vae_shapes(channels)), {"channels": channels})


def _tiny_vae_shapes(channels: int) -> Shapes:
    encoder, decoder = "taesd_encoder.", "taesd_decoder."
    shapes = _conv(f"{encoder}0", 64, 3) | _conv(f"{encoder}14", channels, 64)
    shapes |= _conv(f"{decoder}1", 64, channels) | _conv(f"{decoder}19", 3, 64)
    blocks = [f"{encoder}{index}" for index in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13)]
    blocks += [f"{decoder}{index}" for index in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)]
    for block in blocks:
        shapes |= _conv(f"{block}.conv.0", 64, 64) | _conv(f"{block}.conv.2", 64, 64) | _conv(f"{block}.conv.4", 64, 64)
    resizers = [f"{encoder}{index}" for index in (2, 6, 10)] + [f"{decoder}{index}" for index in (7, 12, 17)]
    return shapes | {f"{resizer}.weight": (64, 64, 3, 3) for resizer in resizers}


def _redux(tensors: Tensors) -> Recognised:
    fault = _incomplete(tensors, _linear("redux_up", 3 * 4096, 1152) | _linear("redux_down", 4096, 3 * 4096))
    return Recognised("style_model", "the FLUX.1 Redux style model", fault)


def _clip_vision(tensors: Tensors) -> Recognised:
    layers = "vision_model.encoder.layers."
    position = "vision_model.embeddings.position_embedding.weight"
    positions, width = _side(tensors, position, 0, 729), _side(tensors, position, 1, 1152)
    wide = _side(tensors, f"{layers}0.mlp.fc1.weight", 0, 4304)
    config = {"num_hidden_layers": _blocks(tensors, layers), "hidden_size": width, "positions": positions}
    if width != 1152:
        label = f"a CLIP vision model {width} wide"
        fault = f"this is {label}: Redux needs SigLIP, 1152 wide (sigclip_vision_patch14_384.safetensors)"
        return Recognised("clip_vision", label, fault, config)
    patch = _side(tensors, "vision_model.embeddings.patch_embedding.weight", 2, 14)
    shapes = _conv("vision_model.embeddings.patch_embedding", width, 3, patch) | {position: (positions, width)}
    shapes |= _transformer(layers, config["num_hidden_layers"], width, wide)
    shapes |= _norm("vision_model.post_layernorm", width)
    label = f"the SigLIP vision model, {config['num_hidden_layers']} layers"
    return Recognised("clip_vision", label, _incomplete(tensors, shapes), config)


_OURS: tuple[tuple[tuple[str, ...], Callable[[Tensors], Recognised]], ...] = (
    (("double_blocks.", "single_blocks."), _flux),
    (("encoder.block.",), _t5),
    (("text_model.",), _clip_text),
    (("taesd_encoder.", "taesd_decoder."), _tiny_vae),
    (("decoder.conv_in.", "decoder.up.", "decoder.mid.", "encoder.down."), _vae),
    (("redux_up.", "redux_down."), _redux),
    (("vision_model.",), _clip_vision),
)


# --- shapes ---------------------------------------------------------------------------------------------------------


def _linear(key: str, outputs: int, inputs: int) -> Shapes:
    return {f"{key}.weight": (outputs, inputs), f"{key}.bias": (outputs,)}


def _norm(key: str, width: int) -> Shapes:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def _conv(key: str, outputs: int, inputs: int, size: int = 3) -> Shapes:
    return {f"{key}.weight": (outputs, inputs, size, size), f"{key}.bias": (outputs,)}


def _residual(key: str, outputs: int, inputs: int) -> Shapes:
    shapes = _norm(f"{key}.norm1", inputs) | _conv(f"{key}.conv1", outputs, inputs)
    shapes |= _norm(f"{key}.norm2", outputs) | _conv(f"{key}.conv2", outputs, outputs)
    return shapes if inputs == outputs else shapes | _conv(f"{key}.nin_shortcut", outputs, inputs, 1)


def _transformer(prefix: str, layers: int, width: int, wide: int) -> Shapes:
    shapes: Shapes = {}
    for key in (f"{prefix}{index}" for index in range(layers)):
        shapes |= _norm(f"{key}.layer_norm1", width) | _norm(f"{key}.layer_norm2", width)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{key}.self_attn.{name}", width, width)
        shapes |= _linear(f"{key}.mlp.fc1", wide, width) | _linear(f"{key}.mlp.fc2", width, wide)
    return shapes


def _side(tensors: Tensors, key: str, axis: int, default: int) -> int:
    """One side of a tensor; the default where there is none, which the completeness check then reports."""
    shape = tensors[key].shape if key in tensors else ()
    return shape[axis] if axis < len(shape) else default


def _blocks(tensors: Iterable[str], prefix: str) -> int:
    """One more than the highest block's number, so that a hole in the middle counts as missing."""
    found = (re.match(r"\d{1,3}(?=\.)", key[len(prefix) :]) for key in tensors if key.startswith(prefix))
    return max((int(number[0]) + 1 for number in found if number), default=0)


def _incomplete(tensors: Tensors, shapes: Shapes) -> str:
    missing = [key for key in shapes if key not in tensors]
    if missing:
        count = "1 tensor is" if len(missing) == 1 else f"{len(missing)} tensors are"
        return f"{count} missing, first {missing[0]}: ComfyUI would load it anyway and draw noise: {AGAIN}"
    for key, shape in shapes.items():
        if tensors[key].shape not in _stored_shapes(tensors[key].dtype, shape):
            found, wanted = _times(tensors[key].shape), _times(shape)
            return f"{key} has the shape {found} instead of {wanted}: use another copy of the file"
    return ""


def _stored_shapes(dtype: str, shape: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """How weights of this shape may be stored: as they are, or two values of 4 bits in a byte."""
    is_packable = dtype in ("U8", "I8") and len(shape) == 2 and shape[1] % 2 == 0
    return (shape, (shape[0], shape[1] // 2)) if is_packable else (shape,)


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
