"""A vision transformer that classifies, and the two layouts its weights are published in.

transformers' own class is not used: it renames its parameters from release to release and fills what a file lacks with
random numbers, so an incomplete detector would answer. Here a file fits exactly or is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of one vision transformer; `image` and `patch` in pixels, `depth` in layers."""

    image: int
    patch: int
    width: int
    depth: int
    heads: int
    mlp: int
    labels: int
    epsilon: float


class Attention(nn.Module):
    def __init__(self, shape: Shape, ops):
        super().__init__()
        self.heads = shape.heads
        self.qkv = ops.Linear(shape.width, 3 * shape.width)
        self.proj = ops.Linear(shape.width, shape.width)

    def forward(self, x: torch.Tensor, keep: int | None) -> torch.Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q[:, :, :keep], k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    def __init__(self, shape: Shape, ops):
        super().__init__()
        self.fc1 = ops.Linear(shape.width, shape.mlp)
        self.fc2 = ops.Linear(shape.mlp, shape.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, shape: Shape, ops):
        super().__init__()
        self.norm1 = ops.LayerNorm(shape.width, eps=shape.epsilon)
        self.attn = Attention(shape, ops)
        self.norm2 = ops.LayerNorm(shape.width, eps=shape.epsilon)
        self.mlp = FeedForward(shape, ops)

    def forward(self, x: torch.Tensor, keep: int | None = None) -> torch.Tensor:
        """x [B, tokens, width] → its first `keep` tokens (all by default) after the block."""
        x = x[:, :keep] + self.attn(self.norm1(x), keep)
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    def __init__(self, shape: Shape, ops):
        super().__init__()
        self.proj = ops.Conv2d(3, shape.width, kernel_size=shape.patch, stride=shape.patch)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class ViT(nn.Module):
    """images [B, 3, image, image], normalized → logits [B, labels]. The parameters have timm's names.

    `ops` makes the layers: torch.nn, or comfy.ops.manual_cast, whose layers ComfyUI may leave on another device.
    """

    def __init__(self, shape: Shape, ops=nn):
        super().__init__()
        positions = 1 + (shape.image // shape.patch) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, shape.width))
        self.pos_embed = nn.Parameter(torch.empty(1, positions, shape.width))
        self.patch_embed = Patches(shape, ops)
        self.blocks = nn.ModuleList(Block(shape, ops) for _ in range(shape.depth))
        self.norm = ops.LayerNorm(shape.width, eps=shape.epsilon)
        self.head = ops.Linear(shape.width, shape.labels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(images)
        x = torch.cat([self.cls_token.to(patches).expand(len(patches), -1, -1), patches], dim=1)
        x = x + self.pos_embed.to(patches)
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        # Only the class token is read, so the last block computes no other.
        return self.head(self.norm(last(x, keep=1)[:, 0]))


Layout = Callable[[str], list[str]]
"""One of our parameter names → the names in the file whose tensors, stacked along dimension 0, make it."""

_TRANSFORMERS = {
    "cls_token": ["vit.embeddings.cls_token"],
    "pos_embed": ["vit.embeddings.position_embeddings"],
    "patch_embed.proj": ["vit.embeddings.patch_embeddings.projection"],
    "norm": ["vit.layernorm"],
    "head": ["classifier"],
}
_TRANSFORMERS_BLOCK = {
    "norm1": ["layernorm_before"],
    "attn.qkv": ["attention.attention.query", "attention.attention.key", "attention.attention.value"],
    "attn.proj": ["attention.output.dense"],
    "norm2": ["layernorm_after"],
    "mlp.fc1": ["intermediate.dense"],
    "mlp.fc2": ["output.dense"],
}


def timm_layout(name: str) -> list[str]:
    return [name]


def transformers_layout(name: str) -> list[str]:
    if name in _TRANSFORMERS:
        return _TRANSFORMERS[name]
    module, _, kind = name.rpartition(".")
    if module in _TRANSFORMERS:
        return [f"{theirs}.{kind}" for theirs in _TRANSFORMERS[module]]
    _, index, part = module.split(".", 2)
    return [f"vit.encoder.layer.{index}.{theirs}.{kind}" for theirs in _TRANSFORMERS_BLOCK[part]]


class WeightsMismatch(ValueError):
    """The file's tensors are not exactly those of the model its configuration describes."""


def check_names(shape: Shape, layout: Layout, names: Iterable[str]) -> None:
    expected = {theirs for ours in _blank(shape).state_dict() for theirs in layout(ours)}
    found = set(names)
    problems = {"missing": expected - found, "unexpected": found - expected}
    described = [f"{len(keys)} {kind} ({_some(keys)})" for kind, keys in problems.items() if keys]
    if described:
        raise WeightsMismatch("its tensors do not fit its configuration: " + ", ".join(described))


def build(shape: Shape, layout: Layout, weights: Mapping[str, torch.Tensor], ops=nn) -> ViT:
    """The model with these weights, in float32. Raises WeightsMismatch unless every name and every shape fits."""
    check_names(shape, layout, weights)
    model = _blank(shape, ops)
    try:
        state = {ours: torch.cat([weights[name].float() for name in layout(ours)]) for ours in model.state_dict()}
        model.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as problem:
        raise WeightsMismatch(f"its tensors do not fit its configuration: {problem}") from problem
    return model.eval().requires_grad_(False)


@cache
def parameter_count(shape: Shape) -> int:
    """How many numbers the model's weights are."""
    return sum(tensor.numel() for tensor in _blank(shape).state_dict().values())


def _blank(shape: Shape, ops=nn) -> ViT:
    """On torch's meta device: shapes without memory, so nothing can stay random."""
    with torch.device("meta"):
        return ViT(shape, ops)


def _some(names: Iterable[str], most: int = 3) -> str:
    names = sorted(names)
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
