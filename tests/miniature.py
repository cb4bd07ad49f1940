"""Miniature FLUX.1 Krea: the real key layout, few blocks and random weights, in the folders of ComfyUI's `models/`.

ComfyUI's own loaders take them for the real thing, in seconds and on a CPU. The weights are noise: a picture made with
them is a texture, never a photograph, and says nothing about the quality of any model.

    python tests/miniature.py MODELS_FOLDER

A layout is a dict {key: (safetensors dtype, shape)}. The same layouts at full depth, written as sparse files that hold
only the header, stand in for downloads of 24 GB in the tests of the loader's checks.
"""

import json
import os
import sys
from collections.abc import Callable
from math import prod, sqrt
from pathlib import Path
from typing import BinaryIO

import numpy

Shapes = dict[str, tuple[int, ...]]
Layout = dict[str, tuple[str, tuple[int, ...]]]

BYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "U8": 1, "I8": 1}

# A prime, so that no row of any weight matrix lines up with another row of it.
TILE_VALUES = 1_048_573

# fp8_scaled files keep their numbers near the middle of the fp8 range and store the factor that brings them back.
FP8_SPREAD = 16.0

# The hand-built VAE: corners of the colour cube lie at plus and minus half of this in the latents that the model sees.
LATENT_GAIN = 2.0

CONSTANTS = {
    # FLUX's latents are (z - shift) * scale.
    "vae_scale": 0.3611,
    "vae_shift": 0.1159,
    # TAESD's pictures go from 0 to 1: start in the middle, so that little is clipped.
    "taesd_decoder.19.bias": 0.5,
    "19.bias": 0.5,
    # A mark, whose values nobody reads.
    "scaled_fp8": 0.0,
}


# --- layouts --------------------------------------------------------------------------------------------------------


def _linear(key: str, inputs: int, outputs: int, bias: bool = True) -> Shapes:
    return {f"{key}.weight": (outputs, inputs)} | ({f"{key}.bias": (outputs,)} if bias else {})


def _norm(key: str, width: int) -> Shapes:
    return {f"{key}.weight": (width,), f"{key}.bias": (width,)}


def _conv(key: str, inputs: int, outputs: int, size: int = 3, bias: bool = True) -> Shapes:
    return {f"{key}.weight": (outputs, inputs, size, size)} | ({f"{key}.bias": (outputs,)} if bias else {})


def _in_dtype(shapes: Shapes, dtype: str) -> Layout:
    return {key: (dtype, shape) for key, shape in shapes.items()}


def flux_layout(
    double: int = 19,
    single: int = 38,
    dtype: str = "BF16",
    *,
    channels: int = 64,
    guidance: bool = True,
    hidden: int = 3072,
    prefix: str = "",
) -> Layout:
    """The FLUX.1 dev diffusion model. `dtype` may also be "fp8_scaled": fp8 weights with one `scale_weight` a layer.

    `channels` counts the values of one patch going in: 64 for dev and Krea, 128 for Control, 384 for Fill.
    `guidance=False` is schnell. ComfyUI fixes `hidden` at 3072.
    """
    shapes = _linear("img_in", channels, hidden) | _linear("txt_in", 4096, hidden)
    for name, width in (("time_in", 256), ("vector_in", 768)) + ((("guidance_in", 256),) if guidance else ()):
        shapes |= _linear(f"{name}.in_layer", width, hidden) | _linear(f"{name}.out_layer", hidden, hidden)
    for index in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{index}.{stream}"
            shapes |= _linear(f"{block}_mod.lin", hidden, 6 * hidden)
            shapes |= _linear(f"{block}_attn.qkv", hidden, 3 * hidden) | _linear(f"{block}_attn.proj", hidden, hidden)
            shapes |= {f"{block}_attn.norm.{name}_norm.scale": (128,) for name in ("query", "key")}
            shapes |= _linear(f"{block}_mlp.0", hidden, 4 * hidden) | _linear(f"{block}_mlp.2", 4 * hidden, hidden)
    for index in range(single):
        block = f"single_blocks.{index}"
        shapes |= _linear(f"{block}.linear1", hidden, 7 * hidden) | _linear(f"{block}.linear2", 5 * hidden, hidden)
        shapes |= {f"{block}.norm.{name}_norm.scale": (128,) for name in ("query", "key")}
        shapes |= _linear(f"{block}.modulation.lin", hidden, 3 * hidden)
    shapes |= _linear("final_layer.linear", hidden, 64)
    shapes |= _linear("final_layer.adaLN_modulation.1", hidden, 2 * hidden)
    layout = _fp8_scaled(shapes) if dtype == "fp8_scaled" else _in_dtype(shapes, dtype)
    return {prefix + key: tensor for key, tensor in layout.items()}


def _fp8_scaled(shapes: Shapes) -> Layout:
    """ComfyUI's layout of 2025, which later versions convert while loading.

    `scaled_fp8` holds two values to ask for matrix products in full precision; with any other number of values
    ComfyUI expects an input scale beside every weight scale.
    """
    layout: Layout = {"scaled_fp8": ("F8_E4M3", (2,))}
    for key, shape in shapes.items():
        layout[key] = ("F8_E4M3" if len(shape) == 2 else "BF16", shape)
        if len(shape) == 2:
            layout[key.removesuffix("weight") + "scale_weight"] = ("F32", ())
    return layout


def quantised_flux_layout(
    double: int = 19, single: int = 38, conf: dict | None = None
) -> tuple[Layout, dict[str, bytes]]:
    """FLUX.1 dev with its blocks in one of ComfyUI's quantised formats, and what its comfy_quant entries say.

    `conf` is that JSON, such as {"format": "nvfp4"}; without a format the weights are int8.
    """
    conf = {"format": "float8_e4m3fn"} if conf is None else conf
    entry = json.dumps(conf).encode()
    layout: Layout = {}
    contents = {}
    for key, (dtype, shape) in flux_layout(double, single).items():
        if "_blocks." not in key or len(shape) != 2:
            layout[key] = (dtype, shape)
            continue
        layer, (outputs, inputs) = key.removesuffix(".weight"), shape
        layout |= {
            f"{layer}.{name}": tensor for name, tensor in _quantised(conf.get("format"), outputs, inputs).items()
        }
        layout[f"{layer}.comfy_quant"] = ("U8", (len(entry),))
        contents[f"{layer}.comfy_quant"] = entry
    return layout, contents


def _quantised(format_: str | None, outputs: int, inputs: int) -> Layout:
    packed = (outputs, inputs // 2)
    return {
        "float8_e4m3fn": {"weight": ("F8_E4M3", (outputs, inputs)), "weight_scale": ("F32", ())},
        "float8_e5m2": {"weight": ("F8_E5M2", (outputs, inputs)), "weight_scale": ("F32", ())},
        "mxfp8": {"weight": ("F8_E4M3", (outputs, inputs)), "weight_scale": ("U8", (outputs, inputs // 32))},
        "nvfp4": {
            "weight": ("U8", packed),
            "weight_scale": ("F8_E4M3", (outputs, inputs // 16)),
            "weight_scale_2": ("F32", ()),
        },
        "convrot_w4a4": {"weight": ("I8", packed), "weight_scale": ("F32", (outputs,))},
        "asym_w4a8_int8": {
            "weight": ("I8", packed),
            "weight_s_rel": ("F8_E4M3", (outputs, inputs // 16)),
            "weight_s_channel": ("F32", (outputs,)),
        },
    }.get(format_ or "", {"weight": ("I8", (outputs, inputs)), "weight_scale": ("F32", (outputs, 1))})


def diffusers_flux_layout(double: int = 19, single: int = 38, dtype: str = "BF16") -> Layout:
    """FLUX.1 dev in one file as diffusers names it, which ComfyUI's loader converts."""
    hidden = 3072
    shapes: Shapes = {}
    for name, inputs, outputs in (
        ("x_embedder", 64, hidden),
        ("context_embedder", 4096, hidden),
        ("norm_out.linear", hidden, 2 * hidden),
        ("proj_out", hidden, 64),
    ):
        shapes |= _linear(name, inputs, outputs)
    for name, inputs in (("timestep", 256), ("guidance", 256), ("text", 768)):
        shapes |= _linear(f"time_text_embed.{name}_embedder.linear_1", inputs, hidden)
        shapes |= _linear(f"time_text_embed.{name}_embedder.linear_2", hidden, hidden)
    for block in (f"transformer_blocks.{index}" for index in range(double)):
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"):
            shapes |= _linear(f"{block}.attn.{name}", hidden, hidden)
        shapes |= {f"{block}.attn.norm_{name}.weight": (128,) for name in ("q", "k", "added_q", "added_k")}
        for side in ("", "_context"):
            shapes |= _linear(f"{block}.norm1{side}.linear", hidden, 6 * hidden)
            shapes |= _linear(f"{block}.ff{side}.net.0.proj", hidden, 4 * hidden)
            shapes |= _linear(f"{block}.ff{side}.net.2", 4 * hidden, hidden)
    for block in (f"single_transformer_blocks.{index}" for index in range(single)):
        for name in ("to_q", "to_k", "to_v"):
            shapes |= _linear(f"{block}.attn.{name}", hidden, hidden)
        shapes |= {f"{block}.attn.norm_{name}.weight": (128,) for name in ("q", "k")}
        shapes |= _linear(f"{block}.norm.linear", hidden, 3 * hidden)
        shapes |= _linear(f"{block}.proj_mlp", hidden, 4 * hidden) | _linear(f"{block}.proj_out", 5 * hidden, hidden)
    return _in_dtype(shapes, dtype)


def openai_clip_layout(layers: int = 12, dtype: str = "F16", *, width: int = 768) -> Layout:
    """CLIP ViT-L/14's text tower as OpenAI names it, which ComfyUI's loader converts."""
    shapes: Shapes = {"positional_embedding": (77, width), "token_embedding.weight": (49408, width)}
    for block in (f"transformer.resblocks.{index}" for index in range(layers)):
        shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= _linear(f"{block}.attn.out_proj", width, width)
        shapes |= _linear(f"{block}.mlp.c_fc", width, 4 * width) | _linear(f"{block}.mlp.c_proj", 4 * width, width)
    return _in_dtype(shapes | _norm("ln_final", width) | {"text_projection": (width, width)}, dtype)


def t5_layout(
    layers: int = 24, dtype: str = "F16", *, width: int = 4096, heads: int = 64, feed_forward: int = 10240
) -> Layout:
    """The encoder of T5 v1.1 XXL. FLUX's `txt_in` and Redux fix `width`, the tokenizer fixes the vocabulary."""
    shapes: Shapes = {"shared.weight": (32128, width), "encoder.final_layer_norm.weight": (width,)}
    shapes["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = (32, heads)
    for index in range(layers):
        block = f"encoder.block.{index}.layer"
        for name in "qkv":
            shapes |= _linear(f"{block}.0.SelfAttention.{name}", width, 64 * heads, bias=False)
        shapes |= _linear(f"{block}.0.SelfAttention.o", 64 * heads, width, bias=False)
        for name in ("wi_0", "wi_1"):
            shapes |= _linear(f"{block}.1.DenseReluDense.{name}", width, feed_forward, bias=False)
        shapes |= _linear(f"{block}.1.DenseReluDense.wo", feed_forward, width, bias=False)
        shapes |= {f"{block}.{part}.layer_norm.weight": (width,) for part in (0, 1)}
    return _in_dtype(shapes, dtype)


def _transformer_layer(key: str, width: int, feed_forward: int) -> Shapes:
    shapes = _norm(f"{key}.layer_norm1", width) | _norm(f"{key}.layer_norm2", width)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes |= _linear(f"{key}.self_attn.{name}", width, width)
    return shapes | _linear(f"{key}.mlp.fc1", width, feed_forward) | _linear(f"{key}.mlp.fc2", feed_forward, width)


def clip_l_layout(layers: int = 12, dtype: str = "F16", *, width: int = 768, positions: int = 77) -> Layout:
    """CLIP ViT-L/14's text tower. ComfyUI recognises it by its second layer, so there are at least two."""
    shapes: Shapes = {
        "text_model.embeddings.token_embedding.weight": (49408, width),
        "text_model.embeddings.position_embedding.weight": (positions, width),
    }
    for index in range(layers):
        shapes |= _transformer_layer(f"text_model.encoder.layers.{index}", width, 4 * width)
    return _in_dtype(shapes | _norm("text_model.final_layer_norm", width), dtype)


def clip_vision_layout(
    layers: int = 27, dtype: str = "F8_E4M3", *, width: int = 1152, feed_forward: int = 4304
) -> Layout:
    """SigLIP SO400M at 384 pixels, without its pooling head. ComfyUI's node takes 27 layers and nothing less."""
    shapes = _conv("vision_model.embeddings.patch_embedding", 3, width, 14)
    shapes["vision_model.embeddings.position_embedding.weight"] = (27 * 27, width)
    for index in range(layers):
        shapes |= _transformer_layer(f"vision_model.encoder.layers.{index}", width, feed_forward)
    return _in_dtype(shapes | _norm("vision_model.post_layernorm", width), dtype)


def redux_layout(dtype: str = "F8_E4M3") -> Layout:
    """FLUX.1 Redux: two linear layers from SigLIP's 1152 to T5's 4096."""
    return _in_dtype(_linear("redux_up", 1152, 3 * 4096) | _linear("redux_down", 3 * 4096, 4096), dtype)


def tiny_vae_layout(dtype: str = "F32", *, channels: int = 16) -> Layout:
    """Both halves of TAESD in one file, which ComfyUI accepts from `models/vae/`."""
    layout: Layout = {"vae_scale": ("F32", ()), "vae_shift": ("F32", ())}
    for name, half in (("encoder", tiny_encoder_layout), ("decoder", tiny_decoder_layout)):
        layout |= {f"taesd_{name}.{key}": tensor for key, tensor in half(dtype, channels=channels).items()}
    return layout


def tiny_encoder_layout(dtype: str = "F32", *, channels: int = 16) -> Layout:
    shapes = _conv("0", 3, 64) | _tiny_block(1)
    for first in (2, 6, 10):
        shapes |= _conv(f"{first}", 64, 64, bias=False)
        shapes |= _tiny_block(first + 1) | _tiny_block(first + 2) | _tiny_block(first + 3)
    return _in_dtype(shapes | _conv("14", 64, channels), dtype)


def tiny_decoder_layout(dtype: str = "F32", *, channels: int = 16) -> Layout:
    shapes = _conv("1", channels, 64)
    for first in (3, 8, 13):
        shapes |= _tiny_block(first) | _tiny_block(first + 1) | _tiny_block(first + 2)
        shapes |= _conv(f"{first + 4}", 64, 64, bias=False)
    return _in_dtype(shapes | _tiny_block(18) | _conv("19", 64, 3), dtype)


def _tiny_block(index: int) -> Shapes:
    return _conv(f"{index}.conv.0", 64, 64) | _conv(f"{index}.conv.2", 64, 64) | _conv(f"{index}.conv.4", 64, 64)


def vae_layout(dtype: str = "BF16", *, channels: int = 16) -> Layout:
    """FLUX's own autoencoder, 83.8 million parameters. With `channels=4` it is close to that of older models."""
    widths = (128, 256, 512, 512)
    shapes = _conv("encoder.conv_in", 3, 128) | _conv("decoder.conv_in", channels, 512)
    before = 128
    for level, width in enumerate(widths):
        for block in range(2):
            shapes |= _resnet_block(f"encoder.down.{level}.block.{block}", width if block else before, width)
        if level < 3:
            shapes |= _conv(f"encoder.down.{level}.downsample.conv", width, width)
        before = width
    for level, width in reversed(list(enumerate(widths))):
        for block in range(3):
            shapes |= _resnet_block(f"decoder.up.{level}.block.{block}", width if block else before, width)
        if level > 0:
            shapes |= _conv(f"decoder.up.{level}.upsample.conv", width, width)
        before = width
    for half, width, outputs in (("encoder", 512, 2 * channels), ("decoder", 128, 3)):
        shapes |= _resnet_block(f"{half}.mid.block_1", 512, 512) | _resnet_block(f"{half}.mid.block_2", 512, 512)
        shapes |= _norm(f"{half}.mid.attn_1.norm", 512)
        for name in ("q", "k", "v", "proj_out"):
            shapes |= _conv(f"{half}.mid.attn_1.{name}", 512, 512, 1)
        shapes |= _norm(f"{half}.norm_out", width) | _conv(f"{half}.conv_out", width, outputs)
    return _in_dtype(shapes, dtype)


def _resnet_block(key: str, inputs: int, outputs: int) -> Shapes:
    shapes = _norm(f"{key}.norm1", inputs) | _conv(f"{key}.conv1", inputs, outputs)
    shapes |= _norm(f"{key}.norm2", outputs) | _conv(f"{key}.conv2", outputs, outputs)
    return shapes | (_conv(f"{key}.nin_shortcut", inputs, outputs, 1) if inputs != outputs else {})


# --- the set --------------------------------------------------------------------------------------------------------


def set_layouts(
    double: int = 1,
    single: int = 1,
    dtype: str = "F8_E4M3",
    *,
    scaled_dtype: str = "fp8_scaled",
    vae: str = "tiny",
    clip_vision: str = "full",
) -> dict[str, Layout]:
    """Every file of the set by its path under `models/`. `dtype` is that of flux1-krea-dev.safetensors.

    `scaled_dtype` is that of the file called fp8_scaled: a CPU runs the true layout three times slower than "F8_E4M3".
    `vae` is "tiny" or "full". `clip_vision` is "full" (27 layers: ComfyUI's node insists on them) or "mini" (2 layers).
    """
    return {
        "diffusion_models/flux1-krea-dev.safetensors": flux_layout(double, single, dtype),
        "diffusion_models/flux1-krea-dev_fp8_scaled.safetensors": flux_layout(double, single, scaled_dtype),
        "text_encoders/clip_l.safetensors": clip_l_layout(2),
        "text_encoders/t5xxl_fp16.safetensors": t5_layout(2, heads=2, feed_forward=128),
        "vae/ae.safetensors": {"tiny": tiny_vae_layout, "full": vae_layout}[vae](),
        "vae_approx/taef1_encoder.safetensors": tiny_encoder_layout(),
        "vae_approx/taef1_decoder.safetensors": tiny_decoder_layout(),
        "clip_vision/sigclip_vision_patch14_384.safetensors": clip_vision_layout({"mini": 2, "full": 27}[clip_vision]),
        "style_models/flux1-redux-dev.safetensors": redux_layout(),
    }


def write_set(
    folder: Path | str, *, seed: int = 0, report: Callable[[Path], object] = lambda path: None, **options
) -> dict[str, Path]:
    """Writes `set_layouts(**options)` under `folder`; a file that is already there and right is left alone.

    Returns the paths by file name. `report` is called with each path before it is written.
    """
    paths = {}
    for name, layout in set_layouts(**options).items():
        path = Path(folder, name)
        report(path)
        write_safetensors(path, layout, seed)
        paths[path.name] = path
    return paths


# --- files ----------------------------------------------------------------------------------------------------------


def size_of(tensor: tuple[str, tuple[int, ...]]) -> int:
    dtype, shape = tensor
    return BYTES[dtype] * prod(shape)


def header_of(layout: Layout, metadata: dict[str, str] | None = None) -> bytes:
    """The first bytes of a safetensors file: length, JSON, spaces up to a multiple of eight."""
    entries: dict = {"__metadata__": {"format": "pt"} | (metadata or {})}
    end = 0
    for key, (dtype, shape) in layout.items():
        start, end = end, end + size_of((dtype, shape))
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def read_layout(path: Path | str) -> Layout:
    """The layout of a safetensors file."""
    with open(path, "rb") as file:
        entries = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    entries.pop("__metadata__", None)
    return {key: (entry["dtype"], tuple(entry["shape"])) for key, entry in entries.items()}


def write_header_only(
    path: Path | str,
    layout: Layout,
    metadata: dict[str, str] | None = None,
    contents: dict[str, bytes] | None = None,
) -> Path:
    """A sparse file of the full size that occupies almost nothing: the right header, `contents`, else zeros."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    header = header_of(layout, metadata)
    path.write_bytes(header)
    os.truncate(path, len(header) + sum(map(size_of, layout.values())))
    at = len(header)
    with path.open("r+b") as file:
        for key, tensor in layout.items():
            if key in (contents or {}):
                file.seek(at)
                file.write(contents[key])
            at += size_of(tensor)
    return path


RECIPE = "2"  # of the random weights: another one whenever the same seed gives other weights


def write_safetensors(path: Path | str, layout: Layout, seed: int = 0) -> Path:
    """Random weights in this layout, the same bytes for the same seed; atomic, and skipped where already done."""
    metadata = {"description": "miniature with random weights, for tests", "seed": str(seed), "recipe": RECIPE}
    header = header_of(layout, metadata)
    return _write(Path(path), header, layout, lambda: _Weights(layout, seed).write)


def write_values(path: Path | str, layout: Layout, values: dict[str, numpy.ndarray], description: str) -> Path:
    """These weights in this layout; atomic, and skipped where a file of this layout and description is there."""
    header = header_of(layout, {"description": description})

    def write(file: BinaryIO, key: str) -> None:
        file.write(encode(numpy.asarray(values[key], numpy.float32), layout[key][0]).tobytes())

    return _write(Path(path), header, layout, lambda: write)


def _write(path: Path, header: bytes, layout: Layout, weights: Callable) -> Path:
    if _is_written(path, header, layout):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(unfinished, "wb") as file:
            file.write(header)
            write = weights()
            for key in layout:
                write(file, key)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _is_written(path: Path, header: bytes, layout: Layout) -> bool:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return size == len(header) + sum(map(size_of, layout.values())) and file.read(len(header)) == header
    except OSError:
        return False


class _Weights:
    """Streams one tile of normal numbers, converted once for each dtype and spread, round and round."""

    def __init__(self, layout: Layout, seed: int):
        self.layout = layout
        self.tile = numpy.random.Generator(numpy.random.PCG64(seed)).standard_normal(TILE_VALUES, numpy.float32)
        self.converted: dict[tuple[str, float], numpy.ndarray] = {}
        self.position = 0

    def write(self, file: BinaryIO, key: str) -> None:
        dtype, shape = self.layout[key]
        if key.endswith("relative_attention_bias.weight"):
            file.write(encode(one_word_back_a_head(*shape), dtype).tobytes())
            return
        mean, spread = self._distribution(key, shape)
        if spread == 0:
            file.write(encode(numpy.full(shape, mean, numpy.float32), dtype).tobytes())
            return
        if (dtype, spread) not in self.converted:
            self.converted[dtype, spread] = encode(self.tile * numpy.float32(spread), dtype)
        tile = self.converted[dtype, spread]
        left = prod(shape)
        while left:
            piece = tile[self.position : self.position + left]
            file.write(piece.data)
            left -= len(piece)
            self.position = (self.position + len(piece)) % TILE_VALUES

    def _distribution(self, key: str, shape: tuple[int, ...]) -> tuple[float, float]:
        """Mean and standard deviation. Signals keep their size through a layer, so outputs are neither 0 nor NaN."""
        if key.endswith(".scale_weight"):
            return _spread(self.layout[key.removesuffix("scale_weight") + "weight"][1]) / FP8_SPREAD, 0.0
        if key.endswith(".weight") and key.removesuffix("weight") + "scale_weight" in self.layout:
            return 0.0, FP8_SPREAD
        if key in CONSTANTS:
            return CONSTANTS[key], 0.0
        if key.endswith(".bias"):
            return 0.0, 0.02
        if len(shape) == 1:  # the weight of a normalisation
            return 1.0, 0.0
        if key.endswith(("shared.weight", "token_embedding.weight")):
            return 0.0, 1.0
        if key.endswith("19.weight"):  # the end of TAESD's decoder; larger values would be clipped to black and white
            return 0.0, _spread(shape) / 6
        if key.endswith("SelfAttention.q.weight"):  # only the place of a word decides, see one_word_back_a_head
            return 0.0, 0.0
        return 0.0, _spread(shape)


def _spread(shape: tuple[int, ...]) -> float:
    return 1 / sqrt(prod(shape[1:]))


def one_word_back_a_head(buckets: int, heads: int) -> numpy.ndarray:
    """T5's bias by distance, such that head 0 looks at the word before, head 1 at the one before that, and so on.

    So each word's output tells itself and what stands before it: "red circle" is another thing than "circle red". A word
    with nothing that far back looks at itself, never at the padding, so the output does not depend on its length.
    """
    bias = numpy.zeros((buckets, heads), numpy.float32)
    bias[0] = 20
    for head in range(heads):
        bias[head % 7 + 1, head] = 40  # T5 counts up to 7 words back one by one
    return bias


def encode(values: numpy.ndarray, dtype: str) -> numpy.ndarray:
    """Float32 values as the little-endian bit patterns of a safetensors dtype; numpy knows neither bfloat16 nor fp8."""
    if dtype == "F32":
        return values.astype("<f4")
    if dtype == "F16":
        return values.astype("<f2")
    if dtype == "BF16":
        bits = values.view(numpy.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    if dtype == "F8_E4M3":
        codes = numpy.searchsorted(_E4M3_BOUNDARIES, numpy.abs(values)).astype(numpy.uint8)
        return codes | (numpy.signbit(values).astype(numpy.uint8) << 7)
    raise ValueError(f"cannot write random values as {dtype}")


def _e4m3(code: int) -> float:
    exponent, fraction = code >> 3, code & 7
    return fraction * 2.0**-9 if exponent == 0 else (8 + fraction) * 2.0 ** (exponent - 10)


# Halfway between one positive fp8 number and the next; the largest is 448, code 126.
_E4M3_BOUNDARIES = numpy.array([(_e4m3(code) + _e4m3(code + 1)) / 2 for code in range(126)], numpy.float32)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python miniature.py MODELS_FOLDER")
    write_set(sys.argv[1], report=print)
