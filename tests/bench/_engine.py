"""ComfyUI's engine inside this process, without its server: for measurements that need the model in hand."""

from __future__ import annotations

import sys
from pathlib import Path

import conftest  # noqa: F401  loads the pack
import torch
from comfyui import COMFYUI

sys.path.insert(0, str(COMFYUI))

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.use_pytorch_cross_attention = True
comfy.cli_args.args.cpu = not torch.cuda.is_available()

import comfy.sd  # noqa: E402

DEVICE = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def load_model(path: Path | str):
    return comfy.sd.load_diffusion_model(str(path))


def load_vae(path: Path | str):
    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    return comfy.sd.VAE(sd=weights, metadata=metadata)


def encode(clip_l: Path | str, t5: Path | str, prompt: str) -> list:
    clip = comfy.sd.load_clip([str(clip_l), str(t5)], clip_type=comfy.sd.CLIPType.FLUX)
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def random_conditioning(seed: int = 0, tokens: int = 256) -> list:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, 4096, generator=generator)
    return [[text, {"pooled_output": torch.randn(1, 768, generator=generator)}]]
