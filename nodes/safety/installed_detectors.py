"""The detectors in ComfyUI's model folders, and where they run: ComfyUI's memory management decides."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import folder_paths
import torch

from . import detector
from .pictures import SafetyError

KEY = "safety_checkers"
AUTO, CPU = "auto", "cpu"
DEVICES = (AUTO, CPU)

# The one detector in memory: (fingerprint, device choice), the detector, its patcher.
_held: tuple[tuple[str, str], detector.Detector, comfy.model_patcher.ModelPatcher] | None = None


def names() -> list[str]:
    """Every folder with weights, the default first."""
    found = {name for name, folder in _folders().items() if (folder / detector.WEIGHTS).is_file()}
    return sorted(found, key=lambda name: (name != detector.DEFAULT, name))


def folder_of(name: str) -> Path:
    """Raises DetectorRefused for a name that is not there; the name is looked up, never joined to a path."""
    folders = _folders()
    if name not in folders:
        there = ", ".join(names()) or "none"
        raise detector.DetectorRefused(name, f"it is not in models/{KEY}/ (installed: {there})")
    return folders[name]


def check(name: str) -> None:
    """Raises DetectorRefused for whatever can be seen without reading the weights."""
    detector.describe(folder_of(name), name)


def fingerprint(name: str) -> str:
    """Changes with the detector's files. Raises DetectorRefused or OSError when they are gone."""
    return detector.fingerprint(folder_of(name))


def ready(name: str, device: str) -> tuple[detector.Detector, torch.device]:
    """The detector, loaded, and the device its inputs go to."""
    global _held
    if device not in DEVICES:
        raise SafetyError(f"device must be one of {', '.join(DEVICES)}, got {device!r}.")
    check(name)
    key = (fingerprint(name), device)
    if _held is None or _held[0] != key:
        _held = None  # frees the old one before the new one is read
        loaded = detector.load(folder_of(name), name, comfy.ops.manual_cast)
        _held = key, loaded, _patcher(loaded.model, device)
    _, loaded, patcher = _held
    comfy.model_management.load_models_gpu([patcher])
    return loaded, patcher.load_device


def _patcher(model: torch.nn.Module, device: str) -> comfy.model_patcher.ModelPatcher:
    cpu = torch.device("cpu")
    load_device = cpu if device == CPU else comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=load_device, offload_device=cpu)


def _folders() -> dict[str, Path]:
    """Name → folder, in models/ and in the places extra_model_paths.yaml adds; the first of a name counts."""
    folder_paths.add_model_folder_path(KEY, str(Path(folder_paths.models_dir) / KEY))
    found: dict[str, Path] = {}
    for root in folder_paths.get_folder_paths(KEY):
        for folder in Path(root).glob("*"):
            if folder.is_dir():
                found.setdefault(folder.name, folder)
    return found
