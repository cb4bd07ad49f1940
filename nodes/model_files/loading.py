"""Loading a checked file through ComfyUI, once: what is still in memory is not loaded again.

Only weak references are kept here. ComfyUI alone decides what stays in memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

import comfy.sd
import folder_paths

import nodes as comfy_nodes

from . import weights
from .installed_files import ModelFile

_alive: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def model_key(file: ModelFile, weight_dtype: str) -> tuple:
    return weight_dtype, *_identity(file)


def encoders_key(clip_l: ModelFile, t5: ModelFile) -> tuple:
    return *_identity(clip_l), *_identity(t5)


def vae_key(file: ModelFile) -> tuple:
    return _identity(file)


def in_memory(key: tuple):
    """What was loaded under this key and is still held by somebody, else None."""
    return _alive.get(key)


def model(file: ModelFile, weight_dtype: str):
    """MODEL, as core's Load Diffusion Model makes it."""
    return _once(model_key(file, weight_dtype), lambda: comfy_nodes.UNETLoader().load_unet(file.name, weight_dtype)[0])


def vae(file: ModelFile):
    """VAE, as core's Load VAE makes it."""
    return _once(vae_key(file), lambda: comfy_nodes.VAELoader().load_vae(file.name)[0])


def encoders(clip_l: ModelFile, t5: ModelFile):
    """CLIP of both files; encoders of an unusual size are built as their shapes say."""

    def load():
        return comfy.sd.load_clip(
            ckpt_paths=[str(clip_l.weights.path), str(t5.weights.path)],
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            clip_type=comfy.sd.CLIPType.FLUX,
            model_options=weights.encoder_options(clip_l.weights, t5.weights),
        )

    return _once(encoders_key(clip_l, t5), load)


def _identity(file: ModelFile) -> tuple:
    """A file that was replaced under its name is another file."""
    return str(file.weights.path), os.stat(file.weights.path).st_mtime_ns


def _once(key: tuple, load: Callable):
    thing = _alive.get(key)
    if thing is None:
        _alive[key] = thing = load()
    return thing
