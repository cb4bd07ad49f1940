"""The trained miniature in a ComfyUI: its files in a models folder, and nodes that load them.

It draws the scenes of scenes.py and nothing else. train_miniature.py makes the file.
FLUX_KREA_TRAINED names another one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import flat_vae
import miniature
import numpy
import scenes
from comfyui import ROOT
from PIL import Image

TRAINED = Path(os.environ.get("FLUX_KREA_TRAINED") or ROOT / "tests" / "trained" / "flux_scenes.safetensors")
NAME = "flux_scenes.safetensors"
NARROW_FLUX = ROOT / "tests" / "narrow_flux"


def place(models: Path) -> dict[str, Path]:
    """Puts the trained model, the text encoders and the VAE that it was trained with under a models folder, by kind."""
    if not TRAINED.exists():
        raise SystemExit(f"{TRAINED} is not there: `python tests/train_miniature.py --out {TRAINED}` trains it.")
    paths = {
        "clip_l": miniature.write_safetensors(
            models / "text_encoders" / "clip_l.safetensors", miniature.clip_l_layout(2)
        ),
        "t5": miniature.write_safetensors(
            models / "text_encoders" / "t5xxl_fp16.safetensors", miniature.t5_layout(2, heads=2, feed_forward=128)
        ),
        "vae": flat_vae.write(models / "vae" / "ae_flat.safetensors"),
        "diffusion_model": models / "diffusion_models" / NAME,
    }
    paths["diffusion_model"].parent.mkdir(parents=True, exist_ok=True)
    unfinished = paths["diffusion_model"].with_suffix(f".{os.getpid()}.part")
    shutil.copy(TRAINED, unfinished)
    os.replace(unfinished, paths["diffusion_model"])  # another ComfyUI may have the old one open
    return paths


def load(graph: dict, node_id: str = "trained") -> tuple[list, list, list]:
    """Nodes that load it; returns the links of MODEL, CLIP and VAE.

    Krea Loader takes FLUX.1's own width only, so the diffusion model comes through core's node, the rest through ours.
    """
    nodes = {
        "model": ("UNETLoader", {"unet_name": NAME, "weight_dtype": "default"}),
        "clip": ("FluxKreaTextEncoders", {"clip_name1": "clip_l.safetensors", "clip_name2": "t5xxl_fp16.safetensors"}),
        "vae": ("FluxKreaVAE", {"vae_name": "ae_flat.safetensors"}),
    }
    links = []
    for part, (class_type, inputs) in nodes.items():
        graph[f"{node_id} {part}"] = {"class_type": class_type, "inputs": inputs}
        links.append([f"{node_id} {part}", 0])
    return tuple(links)


def pixels(path: Path) -> numpy.ndarray:
    """A picture file as [H, W, 3] from 0 to 1."""
    with Image.open(path) as picture:
        return numpy.asarray(picture.convert("RGB"), numpy.float32) / 255


def score(picture: numpy.ndarray, scene: scenes.Scene) -> scenes.Score:
    return scenes.score(picture, scene)
