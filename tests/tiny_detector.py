"""A detector that thinks bright pictures are unsafe: a real vision transformer with weights chosen by hand, about 5 kB.

So the suite needs no picture that a real detector would flag, and knows every score in closed form.
It says nothing about how well a real detector detects.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file

SIZE, PATCH, WIDTH = 16, 8, 4
GAIN = 3.0
LABELS = ("normal", "nsfw")


def unsafe_probability(brightness: float) -> float:
    """Of an evenly grey picture, brightness in 0..1."""
    patches = (SIZE // PATCH) ** 2
    seen = patches / (patches + 1) * _normalized(2 * brightness - 1)
    return 1 / (1 + math.exp(-GAIN * _normalized(seen)))


def _normalized(value: float) -> float:
    """What layer normalization makes of the first component of (value, -value, 1, -1)."""
    return value / math.sqrt((value**2 + 1) / 2)


def config(labels: tuple[str, ...] = LABELS, **changes) -> dict:
    return {
        "model_type": "vit",
        "hidden_act": "gelu",
        "image_size": SIZE,
        "patch_size": PATCH,
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": WIDTH,
        "layer_norm_eps": 1e-12,
        "qkv_bias": True,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        **changes,
    }


def preprocessor(**changes) -> dict:
    return {
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"height": SIZE, "width": SIZE},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        **changes,
    }


def weights(labels: tuple[str, ...] = LABELS) -> dict[str, torch.Tensor]:
    """In transformers' names on disk. Tokens are (brightness, -brightness, 1, -1); the class token averages them."""
    spread = torch.tensor([1.0, -1.0, 0.0, 0.0])
    first = torch.tensor([1.0, 0.0, 0.0, 0.0])
    marker = torch.tensor([0.0, 0.0, 1.0, -1.0])
    layer = "vit.encoder.layer.0."
    square, row = torch.zeros(WIDTH, WIDTH), torch.zeros(WIDTH)
    head = torch.stack([GAIN * first if label == "nsfw" else row for label in labels])
    named = {
        "vit.embeddings.cls_token": marker.view(1, 1, -1),
        "vit.embeddings.position_embeddings": torch.zeros(1, 1 + (SIZE // PATCH) ** 2, WIDTH),
        "vit.embeddings.patch_embeddings.projection.weight": spread.view(-1, 1, 1, 1).expand(-1, 3, PATCH, PATCH)
        / (3 * PATCH**2),
        "vit.embeddings.patch_embeddings.projection.bias": marker,
        layer + "attention.attention.value.weight": torch.outer(first, first),
        layer + "attention.output.dense.weight": torch.outer(spread, first),
        "classifier.weight": head,
        "classifier.bias": torch.zeros(len(labels)),
    }
    for part in ("attention.attention.query", "attention.attention.key", "intermediate.dense", "output.dense"):
        named[f"{layer}{part}.weight"] = square
    for part in ("query", "key", "value"):
        named[f"{layer}attention.attention.{part}.bias"] = row
    for part in ("attention.output.dense", "intermediate.dense", "output.dense"):
        named[f"{layer}{part}.bias"] = row
    for norm in (layer + "layernorm_before", layer + "layernorm_after", "vit.layernorm"):
        named[f"{norm}.weight"], named[f"{norm}.bias"] = torch.ones(WIDTH), row
    return {name: tensor.clone().contiguous() for name, tensor in named.items()}


def write(
    folder: Path, tensors: dict | None = None, configuration: dict | None = None, preprocessing: dict | None = None
) -> Path:
    """The three files as the hub has them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(configuration or config()))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing or preprocessor()))
    save_file(weights() if tensors is None else tensors, folder / "model.safetensors")
    return folder
