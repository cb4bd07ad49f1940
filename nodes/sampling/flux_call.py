"""A call of ComfyUI's FLUX as its DIFFUSION_MODEL wrappers see it: arguments by name, whatever the version."""

from __future__ import annotations

import inspect

from comfy.ldm.flux.model import Flux


def arguments_of(executor, arguments, keywords) -> inspect.BoundArguments | None:
    """Named arguments of Flux.forward, to change and hand on as `executor(*call.args, **call.kwargs)`.

    None when another model is called, whose arguments mean something else.
    """
    if not isinstance(executor.class_obj, Flux):
        return None
    call = inspect.signature(executor.original).bind(*arguments, **keywords)
    call.apply_defaults()
    return call


def image_tokens(network: Flux, x) -> tuple[int, int]:
    """Rows and columns of tokens for a latent [B,C,H,W]; FLUX pads odd sizes."""
    return -(-x.shape[-2] // network.patch_size), -(-x.shape[-1] // network.patch_size)
