"""Loading a checked file through ComfyUI, once: what is still in memory is not loaded again.

Only weak references are kept here. ComfyUI alone decides what stays in memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from typing import Any

import comfy.sd
import folder_paths
import torch

import nodes as comfy_nodes

from . import weights
from .installed_files import CHECKPOINTS, GGUFS, ModelFile
from .weights import WeightFile

Key = tuple[str | int, ...]  # of something that was loaded: which files, as they are now, and in which precision

_alive: weakref.WeakValueDictionary[Key, Any] = weakref.WeakValueDictionary()


def model_key(file: ModelFile, weight_dtype: str) -> Key:
    return weight_dtype, *_identity(file)


def encoders_key(clip_l: ModelFile, t5: ModelFile) -> Key:
    return *_identity(clip_l), *_identity(t5)


def vae_key(file: ModelFile) -> Key:
    return _identity(file)


def in_memory(key: Key) -> Any:
    """What was loaded under this key and is still held by somebody, else None."""
    return _alive.get(key)


def model(file: ModelFile, weight_dtype: str) -> Any:
    """MODEL, as core's Load Diffusion Model makes it, or ComfyUI-GGUF's loader; of a checkpoint its model alone."""

    def load() -> Any:
        if file.folder == GGUFS:
            return comfy_nodes.NODE_CLASS_MAPPINGS["UnetLoaderGGUF"]().load_unet(file.name)[0]
        if file.folder == CHECKPOINTS:
            return comfy.sd.load_diffusion_model(str(file.weights.path), model_options=_model_options(weight_dtype))
        return comfy_nodes.UNETLoader().load_unet(file.name, weight_dtype)[0]

    return _once(model_key(file, weight_dtype), load)


def _model_options(weight_dtype: str) -> dict[str, Any]:
    """As core's Load Diffusion Model understands its weight_dtype."""
    if weight_dtype == "default":
        return {}
    is_fast = weight_dtype.endswith("_fast")
    options = {"dtype": getattr(torch, "float8_" + weight_dtype.removeprefix("fp8_").removesuffix("_fast"))}
    return options | ({"fp8_optimizations": True} if is_fast else {})


def checkpoint_encoders(file: ModelFile, clip_l: WeightFile, t5: WeightFile) -> Any:
    """CLIP of both encoders that a checkpoint holds; of an unusual size they are built as their shapes say."""
    options = weights.encoder_options(clip_l, t5)
    if "model_config" in options:  # from a checkpoint core takes CLIP-L's sizes by this name
        options["clip_l_model_config"] = options["model_config"]

    def load() -> Any:
        return comfy.sd.load_checkpoint_guess_config(
            str(file.weights.path),
            output_vae=False,
            output_model=False,
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            te_model_options=options,
        )[1]

    return _once(("encoders", *_identity(file)), load)


def checkpoint_vae(file: ModelFile) -> Any:
    """VAE that a checkpoint holds."""
    load = comfy.sd.load_checkpoint_guess_config
    path = str(file.weights.path)
    return _once(("vae", *_identity(file)), lambda: load(path, output_clip=False, output_model=False)[2])


def vae(file: ModelFile) -> Any:
    """VAE, as core's Load VAE makes it."""
    return _once(vae_key(file), lambda: comfy_nodes.VAELoader().load_vae(file.name)[0])


def encoders(clip_l: ModelFile, t5: ModelFile) -> Any:
    """CLIP of both files; encoders of an unusual size are built as their shapes say."""

    def load() -> Any:
        return comfy.sd.load_clip(
            ckpt_paths=[str(clip_l.weights.path), str(t5.weights.path)],
            embedding_directory=folder_paths.get_folder_paths("embeddings"),
            clip_type=comfy.sd.CLIPType.FLUX,
            model_options=weights.encoder_options(clip_l.weights, t5.weights),
        )

    return _once(encoders_key(clip_l, t5), load)


def _identity(file: ModelFile) -> Key:
    """A file that was replaced under its name is another file."""
    return str(file.weights.path), os.stat(file.weights.path).st_mtime_ns


def _once(key: Key, load: Callable[[], Any]) -> Any:
    thing = _alive.get(key)
    if thing is None:
        _alive[key] = thing = load()
    return thing
