"""Weight files in ComfyUI's folders: found under the name a workflow gives them, checked before they are loaded."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.quant_ops
import comfy.utils
import comfyui_version
import folder_paths

import nodes as comfy_nodes

from . import quantization, weights
from .weights import WeightFile, WeightFileError

EXTENSIONS = (".safetensors", ".sft")
DIFFUSION_MODELS, CHECKPOINTS, GGUFS = "diffusion_models", "checkpoints", "unet_gguf"


@dataclass(frozen=True)
class ModelFile:
    """A checked file; `name` is what core's loaders call it in `folder`, `weights` what its header says."""

    name: str
    weights: WeightFile
    folder: str = ""


def choices(folder: str) -> list[str]:
    """The files of a model folder that have a header to read, as a combo lists them."""
    return [name for name in folder_paths.get_filename_list(folder) if name.endswith(EXTENSIONS)]


def model_choices() -> list[str]:
    """What can be chosen as the diffusion model.

    The files of models/diffusion_models, the checkpoints whose names say FLUX or Krea (any other can be named in a
    workflow, too), and GGUF files where ComfyUI-GGUF is installed.
    """
    checkpoints = [name for name in choices(CHECKPOINTS) if any(word in name.lower() for word in ("flux", "krea"))]
    ggufs = folder_paths.get_filename_list(GGUFS) if gguf_loader() else []
    return list(dict.fromkeys([*choices(DIFFUSION_MODELS), *checkpoints, *ggufs]))


def gguf_loader() -> Any:
    """ComfyUI-GGUF's own loader node (a class), where that pack is installed; else None."""
    return comfy_nodes.NODE_CLASS_MAPPINGS.get("UnetLoaderGGUF")


def likely(names: list[str], *words: str) -> str | None:
    """The first name with one of the words in it: what a newcomer wants to find already chosen."""
    return next((name for word in words for name in names if word in name.lower()), names[0] if names else None)


def find(folder: str, name: str, kind: str) -> ModelFile:
    """The file that a workflow calls `name`, proved by its header to be of this kind; else WeightFileError."""
    installed, path = locate(folder, name)
    file = weights.require(path, kind)
    check_quantization(file)
    return ModelFile(installed, file, folder)


def find_model(name: str) -> ModelFile:
    """The diffusion model that a workflow calls `name`, from any of the places that `model_choices` lists."""
    if name.lower().endswith(".gguf"):
        return _find_gguf(name)
    in_checkpoints = not same_file(name, choices(DIFFUSION_MODELS)) and same_file(name, choices(CHECKPOINTS))
    return find(CHECKPOINTS if in_checkpoints else DIFFUSION_MODELS, name, "diffusion_model")


def _find_gguf(name: str) -> ModelFile:
    if not gguf_loader():
        raise WeightFileError(
            f"{base_name(name)}: a GGUF file needs the pack ComfyUI-GGUF: install it, and this node loads the file"
        )
    installed, path = locate(GGUFS, name)
    return ModelFile(installed, weights.gguf(path), GGUFS)


def find_encoders(name1: str, name2: str) -> tuple[ModelFile, ModelFile]:
    """CLIP-L and T5-XXL, whichever of the two names is which; else WeightFileError."""
    names = {}
    for name in (name1, name2):
        installed, path = locate("text_encoders", name)
        names[path] = installed
    paths = list(names) * 2
    clip_l, t5 = weights.sort_encoders(*paths[:2])
    check_quantization(clip_l)
    check_quantization(t5)
    return ModelFile(names[str(clip_l.path)], clip_l), ModelFile(names[str(t5.path)], t5)


def locate(folder: str, name: str) -> tuple[str, str]:
    """The installed name and the path of a file, which a workflow may know with other slashes or in another sub-folder."""
    installed = folder_paths.get_filename_list(folder)
    found = same_file(name, installed)
    if found is None and folder == "text_encoders" and name.lower().endswith(".gguf"):
        raise WeightFileError(
            f"{base_name(name)}: load a GGUF text encoder with the DualCLIPLoader (GGUF) node of ComfyUI-GGUF and "
            "connect its CLIP to the prompt"
        )
    if found is None:
        searched = folder_paths.get_folder_paths(folder)
        raise WeightFileError(weights.missing(name, folder, searched, choices(folder)))
    path = folder_paths.get_full_path(folder, found)
    if path is None:  # core lists a broken link and then does not find it; the header check says so
        candidates = (os.path.join(root, found) for root in folder_paths.get_folder_paths(folder))
        path = next(path for path in candidates if os.path.lexists(path))
    return found, path


def same_file(name: str, installed: list[str]) -> str | None:
    wanted = name.replace("\\", "/")
    for candidate in installed:
        if candidate.replace("\\", "/") == wanted:
            return candidate
    same_base = [candidate for candidate in installed if base_name(candidate) == base_name(name)]
    return same_base[0] if len(same_base) == 1 else None


def base_name(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]


def check_quantization(file: WeightFile) -> None:
    """WeightFileError for weights that this ComfyUI would load without understanding how they are quantised."""
    has_kitchen = getattr(comfy.quant_ops, "_CK_AVAILABLE", True)  # before 0.8 nothing but fp8, without any package
    unknown = quantization.unknown_here(
        file.quantization,
        known=frozenset(comfy.quant_ops.QUANT_ALGOS if has_kitchen else ()),
        reads_entries=hasattr(comfy.utils, "detect_layer_quantization"),
        version=comfyui_version.__version__,
    )
    if unknown:
        raise WeightFileError(f"{file.name}: {unknown}")


def emulated_formats() -> frozenset[str]:
    """The quantised formats that this machine's NVIDIA GPU cannot multiply in; empty on any other device."""
    management = comfy.model_management
    device = management.get_torch_device()
    if device.type != "cuda" or not management.is_nvidia():
        return frozenset()
    checks = {"float8_e4m3fn": "fp8", "float8_e5m2": "fp8", "nvfp4": "nvfp4", "mxfp8": "mxfp8"}
    supports = {name: getattr(management, f"supports_{check}_compute", None) for name, check in checks.items()}
    return frozenset(name for name, check in supports.items() if check and not check(device))


def check_precision(file: WeightFile, weight_dtype: str) -> None:
    """Refuses a precision that the file or this device cannot have."""
    if weight_dtype != "default" and file.quantization.stored_as:
        raise WeightFileError(
            f"{file.name}: already {file.precision}; weight_dtype {weight_dtype} would round it a second time: "
            "set weight_dtype to default"
        )
    if weight_dtype != "default" and file.precision == "GGUF":
        raise WeightFileError(f"{file.name}: a GGUF file has its own precision: set weight_dtype to default")
    device = comfy.model_management.get_torch_device()
    if comfy.model_management.is_device_mps(device) and (weight_dtype != "default" or file.precision.startswith("fp8")):
        raise WeightFileError(
            f"{file.name}: Apple's GPUs have no fp8: use the bf16 file flux1-krea-dev.safetensors with weight_dtype "
            "default, or a GGUF file with ComfyUI-GGUF's loader"
        )


def announce(*files: WeightFile) -> None:
    """Says in the log what was found, and when it will not fit into memory."""
    for file in files:
        logging.info("Krea Loader: %s", file)
        advice = quantization.slower_here(file.quantization, emulated_formats())
        if advice:
            logging.warning("Krea Loader: %s: %s", file.name, advice)
    needed, memory = sum(file.bytes for file in files), comfy.model_management.total_ram * 1024**2
    if needed > memory:
        logging.warning(
            "Krea Loader: these files need %.0f GB and this machine has %.0f GB of memory: it may swap or be killed. "
            "flux1-krea-dev_fp8_scaled.safetensors and t5xxl_fp8_e4m3fn_scaled.safetensors are half the size.",
            needed / 1e9,
            memory / 1e9,
        )
