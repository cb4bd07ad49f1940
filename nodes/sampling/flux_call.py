"""A call of the model as its APPLY_MODEL wrappers see it: outside of what torch.compile traces, whatever forward runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.ldm.flux.model import Flux

ARGUMENTS = ("x", "sigma", "concat", "context", "control", "options")  # ComfyUI's order, and that of the fields below
COMFY_NAMES = ("x", "t", "c_concat", "c_crossattn", "control", "transformer_options")


@dataclass
class ModelCall:
    """The arguments of BaseModel.apply_model by name, to change and hand on with `through`."""

    x: torch.Tensor  # [B,C,H,W], the noisy latent
    sigma: torch.Tensor  # [B]
    concat: torch.Tensor | None = None
    context: torch.Tensor | None = None  # [B,tokens,4096], the prompt
    control: dict | None = None  # what ControlNets add after each block
    options: dict = field(default_factory=dict)  # transformer_options
    others: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, arguments: tuple, keywords: dict) -> ModelCall:
        """A wrapper's own arguments; ComfyUI hands the first six by position, other packs need not."""
        others = dict(keywords)
        named = dict(zip(ARGUMENTS, arguments, strict=False))
        named |= {
            name: others.pop(comfy) for name, comfy in zip(ARGUMENTS, COMFY_NAMES, strict=True) if comfy in others
        }
        return cls(**named, others=others)

    def through(self, executor: Callable) -> torch.Tensor:
        return executor(*(getattr(self, name) for name in ARGUMENTS), **self.others)


def core_flux(model) -> Flux | None:
    """The ComfyUI FLUX inside a BaseModel, also where torch.compile has wrapped it; None for another network."""
    network = getattr(model.diffusion_model, "_orig_mod", model.diffusion_model)
    return network if isinstance(network, Flux) else None


def token_grid(network: Flux, latent: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of tokens for a latent [B,C,H,W]; FLUX pads odd sizes."""
    return -(-latent.shape[-2] // network.patch_size), -(-latent.shape[-1] // network.patch_size)


def has_foreign_forward(network: Flux) -> bool:
    """Whether another pack (TeaCache, WaveSpeed, PuLID) has put its own forward pass on this very network."""
    own = vars(network).get("forward_orig")
    return own is not None and getattr(own, "__func__", None) is not type(network).forward_orig  # core puts it back so
