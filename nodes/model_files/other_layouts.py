"""Other people's names for the same tensors: ComfyUI converts these layouts while loading, so they are as good as ours.

Here only names and shapes are rewritten, to be judged like those of any other file. What ComfyUI's conversion would
leave out (scales beside a weight, an adapter) keeps the file from being taken for a convertible one.
"""

import re
from collections.abc import Mapping

from .header import Tensor

Tensors = Mapping[str, Tensor]

# diffusers' FluxTransformer2DModel → FLUX.1's own names
_TOP = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
}
_DOUBLE = {
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
    "norm1.linear": "img_mod.lin",
    "norm1_context.linear": "txt_mod.lin",
    "ff.net.0.proj": "img_mlp.0",
    "ff.net.2": "img_mlp.2",
    "ff_context.net.0.proj": "txt_mlp.0",
    "ff_context.net.2": "txt_mlp.2",
}
_DOUBLE_NORMS = {
    "attn.norm_q": "img_attn.norm.query_norm",
    "attn.norm_k": "img_attn.norm.key_norm",
    "attn.norm_added_q": "txt_attn.norm.query_norm",
    "attn.norm_added_k": "txt_attn.norm.key_norm",
}
_DOUBLE_JOINED = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE = {"norm.linear": "modulation.lin", "proj_out": "linear2"}
_SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}
_SINGLE_JOINED = {"linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")}


def flux_from_diffusers(tensors: Tensors) -> dict[str, Tensor] | None:
    """A whole FLUX.1 in diffusers' layout under FLUX.1's own names; None where this is none, or only a part."""
    if "x_embedder.weight" not in tensors or not any(key.startswith("transformer_blocks.") for key in tensors):
        return None
    names = {f"{theirs}.{end}": f"{ours}.{end}" for theirs, ours in _TOP.items() for end in ("weight", "bias")}
    joined: dict[str, tuple[str, ...]] = {}
    for theirs, ours, renamed, norms, parts in (
        ("transformer_blocks", "double_blocks", _DOUBLE, _DOUBLE_NORMS, _DOUBLE_JOINED),
        ("single_transformer_blocks", "single_blocks", _SINGLE, _SINGLE_NORMS, _SINGLE_JOINED),
    ):
        found = (re.match(rf"{theirs}\.(\d{{1,3}})\.", key) for key in tensors)
        for index in sorted({int(match[1]) for match in found if match}):
            before, after = f"{theirs}.{index}.", f"{ours}.{index}."
            names |= {f"{before}{old}.weight": f"{after}{new}.scale" for old, new in norms.items()}
            for end in ("weight", "bias"):
                names |= {f"{before}{old}.{end}": f"{after}{new}.{end}" for old, new in renamed.items()}
                joined |= {
                    f"{after}{new}.{end}": tuple(f"{before}{old}.{end}" for old in olds) for new, olds in parts.items()
                }
    covered = names.keys() | {part for parts in joined.values() for part in parts}
    if not tensors.keys() <= covered:
        return None
    whole = {names[key]: tensor for key, tensor in tensors.items() if key in names}
    for name, olds in joined.items():
        if all(old in tensors for old in olds):
            whole[name] = _stacked([tensors[old] for old in olds])
    return whole


_OPENAI_TOP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_OPENAI_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}


def clip_from_openai(tensors: Tensors) -> dict[str, Tensor] | None:
    """A CLIP text tower in OpenAI's layout under transformers' names; None where this is none."""
    if "transformer.resblocks.0.ln_1.weight" not in tensors:
        return None
    whole: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        layer = re.fullmatch(r"transformer\.resblocks\.(\d{1,3})\.(.+)", key)
        if layer:
            prefix, (inner, _, end) = f"text_model.encoder.layers.{layer[1]}.", layer[2].rpartition(".")
            if layer[2] in ("attn.in_proj_weight", "attn.in_proj_bias"):
                rows, *rest = tensor.shape or (0,)
                third = Tensor(tensor.dtype, (rows // 3, *rest), tensor.start)
                kind = layer[2].removeprefix("attn.in_proj_")
                whole |= {f"{prefix}self_attn.{part}_proj.{kind}": third for part in "qkv"}
            elif inner in _OPENAI_LAYER:
                whole[f"{prefix}{_OPENAI_LAYER[inner]}.{end}"] = tensor
        elif key in _OPENAI_TOP:
            whole[f"text_model.{_OPENAI_TOP[key]}"] = tensor
    return whole


def _stacked(parts: list[Tensor]) -> Tensor:
    """As torch.cat along the first dimension."""
    first = parts[0]
    return Tensor(first.dtype, (sum(part.shape[0] for part in parts if part.shape), *first.shape[1:]), first.start)
