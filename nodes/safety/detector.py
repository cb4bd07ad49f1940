"""Reads a safety detector from a folder that holds the hub's files unchanged, and scores images with it.

Refused rather than guessed: another architecture, a tensor too many or too few, a label that is neither known to be
safe nor known to be unsafe, preprocessing that would hide a part of the picture, and pickle. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy
import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from . import vit
from .pictures import pictures, visible

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
CHUNK = 8  # views in one pass: bounds memory; more is not faster on a CPU
WHOLE, TILES = "whole", "whole + tiles"
SCANS = (WHOLE, TILES)
TILE = 0.6  # of each side: four corner tiles overlap, so nothing lies only on a seam

# Above every published vision transformer (ViT-bigG: 48 layers, 1664 wide, 8192 in its feed-forward layers), and small
# enough that building one takes a moment. A file that asks for more is refused before anything of its size is made.
LARGEST = vit.Shape(image=1024, patch=64, width=2048, depth=48, heads=64, mlp=8192, labels=64, epsilon=1e-3)
MOST_PATCHES = 4096
LARGEST_JSON = 1 << 20  # bytes
LARGEST_HEADER = 1 << 20  # bytes; 48 layers need about 100 kB
BYTES_A_WEIGHT = 4

SAFE_LABELS = {"normal", "sfw", "safe", "neutral", "drawing", "drawings"}
UNSAFE_LABELS = {"nsfw", "unsafe", "porn", "hentai", "sexy", "explicit"}


@dataclass(frozen=True)
class Source:
    """Where a detector is published: all its files are under that address."""

    repository: str
    megabytes: int
    files: tuple[str, ...] = (CONFIG, PREPROCESSOR, WEIGHTS)

    @property
    def address(self) -> str:
        return f"https://huggingface.co/{self.repository}/tree/main"


DEFAULT = "falconsai_nsfw"
SOURCES = {
    DEFAULT: Source("Falconsai/nsfw_image_detection", 343),
    "adamcodd_nsfw": Source("AdamCodd/vit-base-nsfw-detector", 344),
    "marqo_nsfw_384": Source("Marqo/nsfw-image-detection-384", 22, (CONFIG, WEIGHTS)),
}


def how_to_install(name: str) -> str:
    source_name = name if name in SOURCES else DEFAULT
    source = SOURCES[source_name]
    return (
        f"Download {', '.join(source.files)} ({source.megabytes} MB) from {source.address} and put them, unchanged, "
        f"into models/safety_checkers/{source_name}/"
    )


class DetectorRefused(ValueError):
    """A detector that cannot be trusted to answer. The sentence says why, and where the right files are."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"Safety detector {name!r} refused: {reason}. No image was checked. {how_to_install(name)}")


@dataclass(frozen=True)
class Preprocessing:
    """How a view becomes the network's input: squashed to size × size, so every pixel of it counts."""

    size: int
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, view: numpy.ndarray) -> torch.Tensor:
        """uint8 [H, W, 3] → float32 [3, size, size], in the steps and types of transformers' PIL processor."""
        resized = numpy.asarray(Image.fromarray(view).resize((self.size, self.size), self.resample))
        rescaled = (resized.astype(numpy.float64) * (1 / 255)).astype(numpy.float32)
        normalized = (rescaled - numpy.float32(self.mean)) / numpy.float32(self.std)
        return torch.from_numpy(normalized).permute(2, 0, 1)


@dataclass(frozen=True)
class Description:
    """All that a detector's configuration says. `configuration` is what was read: both files, one behind the other."""

    shape: vit.Shape
    layout: vit.Layout
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    configuration: bytes = b""

    @property
    def unsafe(self) -> list[int]:
        return [index for index, label in enumerate(self.labels) if label.lower() in UNSAFE_LABELS]


class _Unfit(Exception):
    """Why a folder's files cannot be used; becomes DetectorRefused, which knows the folder's name."""


def describe(folder: Path, name: str) -> Description:
    """Everything that can be refused without reading the weights themselves: milliseconds, before any sampling."""
    try:
        description = _description(folder)
        weights = _weights_file(folder)
        with weights.open("rb") as file:
            _check_size(file.read(8), weights.stat().st_size, description.shape)
        with safetensors.safe_open(weights, "pt") as file:
            vit.check_names(description.shape, description.layout, file.keys())
    except (_Unfit, vit.WeightsMismatch, safetensors.SafetensorError, OSError) as problem:
        raise DetectorRefused(name, _sentence(problem)) from problem
    return description


def load(folder: Path, name: str, ops=nn) -> Detector:
    """Raises DetectorRefused. The weights are read once: what is hashed is what runs, whatever happens to the file."""
    description = describe(folder, name)
    try:
        with _weights_file(folder).open("rb") as file:
            content = file.read(_largest_file(description.shape) + 1)
        _check_size(content[:8], len(content), description.shape)
        model = vit.build(description.shape, description.layout, safetensors.torch.load(content), ops)
    except (_Unfit, vit.WeightsMismatch, safetensors.SafetensorError, OSError) as problem:
        raise DetectorRefused(name, _sentence(problem)) from problem
    everything = hashlib.sha256(description.configuration)
    everything.update(content)
    return Detector(name, description, model, hashlib.sha256(content).hexdigest(), everything.hexdigest())


def fingerprint(folder: Path) -> str:
    """Changes when a detector's files change. Raises OSError when the weights are gone.

    A digest, because ComfyUI writes what fingerprint_inputs returns into the prompt it saves in every picture.
    """
    present = [folder / WEIGHTS, *(file for file in (folder / CONFIG, folder / PREPROCESSOR) if file.exists())]
    state = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in present]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


@dataclass(frozen=True)
class Scored:
    """One image's answer: the highest probability of an unsafe label over its views, and that view's labels."""

    score: float
    labels: dict[str, float]


@dataclass(frozen=True)
class Detector:
    """`weights_sha256` is that of model.safetensors; `sha256` that of config.json, preprocessor_config.json (where it
    is read) and model.safetensors, one behind the other: labels and preprocessing decide as much as the weights do.
    """

    name: str
    description: Description
    model: vit.ViT
    weights_sha256: str
    sha256: str

    @torch.inference_mode()
    def score(self, images: torch.Tensor, scan: str = WHOLE, chunk: int = CHUNK, device="cpu") -> list[Scored]:
        """One answer for each of images [B, H, W, 3 or 4], of what `pictures.visible` makes of it.

        Raises SafetyError for what is not a batch of images.
        """
        counts: list[int] = []

        def inputs() -> Iterator[torch.Tensor]:
            for image in visible(images):
                views = [view for picture in pictures(image) for view in _views(_as_bytes(picture), scan)]
                counts.append(len(views))
                yield from map(self.description.preprocessing, views)

        logits = [self.model(torch.stack(batch).to(device)) for batch in _chunks(inputs(), chunk)]
        probabilities = torch.cat(logits).float().softmax(-1).cpu()
        return [self._highest(views) for views in probabilities.split(counts)]

    def _highest(self, views: torch.Tensor) -> Scored:
        unsafe = views[:, self.description.unsafe].sum(-1)
        worst = int(unsafe.argmax())  # torch takes NaN for the largest, so a view that failed is never outvoted
        labels = dict(zip(self.description.labels, views[worst].tolist(), strict=True))
        return Scored(float(unsafe[worst]), labels)


def _as_bytes(picture: torch.Tensor) -> numpy.ndarray:
    return (picture * 255).round_().to(torch.uint8).cpu().numpy()


def _views(image: numpy.ndarray, scan: str) -> Iterator[numpy.ndarray]:
    yield image
    if scan == TILES:
        height, width = (math.ceil(side * TILE) for side in image.shape[:2])
        for rows in (slice(height), slice(-height, None)):
            for columns in (slice(width), slice(-width, None)):
                yield image[rows, columns]


def _chunks(inputs: Iterator[torch.Tensor], size: int) -> Iterator[list[torch.Tensor]]:
    while batch := list(islice(inputs, size)):
        yield batch


def _sentence(problem: Exception) -> str:
    return f"{problem.strerror}: {WEIGHTS}" if isinstance(problem, OSError) else str(problem)


def _weights_file(folder: Path) -> Path:
    file = folder / WEIGHTS
    if file.is_file():
        return file
    pickles = sorted(other.name for other in folder.glob("*") if other.suffix in PICKLES)
    if pickles:
        raise _Unfit(f"it has only {', '.join(pickles)}: pickle can run code when it is loaded; {WEIGHTS} is needed")
    raise _Unfit(f"there is no {WEIGHTS}")


def _largest_file(shape: vit.Shape) -> int:
    return 8 + LARGEST_HEADER + BYTES_A_WEIGHT * vit.parameter_count(shape)


def _check_size(start: bytes, size: int, shape: vit.Shape) -> None:
    """Before safetensors parses a header or anything is read whole. `start` is the length of the header, 8 bytes."""
    header = int.from_bytes(start, "little")
    if header > LARGEST_HEADER:
        raise _Unfit(f"the header of {WEIGHTS} says that it has {header:,} bytes, and a detector's has a few thousand")
    if size > _largest_file(shape):
        parameters = vit.parameter_count(shape)
        raise _Unfit(f"{WEIGHTS} has {size:,} bytes, too many for the {parameters:,} weights of its configuration")


def _read(folder: Path, file: str) -> bytes:
    try:
        with (folder / file).open("rb") as opened:
            content = opened.read(LARGEST_JSON + 1)
    except FileNotFoundError:
        raise _Unfit(f"there is no {file}, and without it the labels or the preprocessing would be a guess") from None
    if len(content) > LARGEST_JSON:
        raise _Unfit(f"{file} is larger than {LARGEST_JSON:,} bytes, and a detector's is a few thousand")
    return content


def _json(content: bytes, file: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as problem:
        raise _Unfit(f"{file} is not JSON ({problem})") from None
    if not isinstance(parsed, dict):
        raise _Unfit(f"{file} is not a JSON object")
    return parsed


def _description(folder: Path) -> Description:
    """Raises _Unfit. What is hashed later is what was read here."""
    _weights_file(folder)
    configuration = _read(folder, CONFIG)
    config = _json(configuration, CONFIG)
    try:
        if config.get("model_type") == "vit":
            preprocessor = _read(folder, PREPROCESSOR)
            description = _from_transformers(config, _json(preprocessor, PREPROCESSOR))
            return replace(description, configuration=configuration + preprocessor)
        if architecture := _TIMM_ARCHITECTURE.fullmatch(str(config.get("architecture"))[:100]):
            return replace(_from_timm(config, architecture), configuration=configuration)
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as problem:
        raise _Unfit(f"its configuration cannot be read ({type(problem).__name__}: {problem})") from problem
    kind = config.get("model_type") or config.get("architecture")
    raise _Unfit(
        f"{CONFIG} describes a {str(kind)[:100]!r}; only plain vision transformers ('vit', or timm's 'vit_…') are read"
    )


def _from_transformers(config: dict, preprocessor: dict) -> Description:
    _require(config.get("hidden_act", "gelu") == "gelu", "hidden_act", config.get("hidden_act"))
    _require(config.get("qkv_bias", True) is True, "qkv_bias", config.get("qkv_bias"))
    _require(config.get("num_channels", 3) == 3, "num_channels", config.get("num_channels"))
    problem_type = config.get("problem_type")
    _require(problem_type in (None, "single_label_classification"), "problem_type", problem_type)
    _require(len(config["id2label"]) <= LARGEST.labels, "id2label", f"{len(config['id2label']):,} labels")
    labels = _labels([config["id2label"][str(index)] for index in range(len(config["id2label"]))])
    shape = vit.Shape(
        image=_count(config["image_size"]),
        patch=_count(config["patch_size"]),
        width=_count(config["hidden_size"]),
        depth=_count(config["num_hidden_layers"]),
        heads=_count(config["num_attention_heads"]),
        mlp=_count(config["intermediate_size"]),
        labels=len(labels),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
    )
    for step in ("do_resize", "do_rescale", "do_normalize"):
        _require(preprocessor.get(step, True) is True, step, preprocessor.get(step))
    _require(not preprocessor.get("do_center_crop"), "do_center_crop", "true, which would leave the edges unseen")
    _require(math.isclose(preprocessor.get("rescale_factor", 1 / 255), 1 / 255), "rescale_factor", "not 1/255")
    size = preprocessor["size"]
    size = size if isinstance(size, dict) else {"height": size, "width": size}
    _require(size == {"height": shape.image, "width": shape.image}, "size", size)
    resample = preprocessor.get("resample", Image.Resampling.BILINEAR)
    mean, std = preprocessor["image_mean"], preprocessor["image_std"]
    return _checked(
        Description(shape, vit.transformers_layout, labels, _preprocessing(shape.image, resample, mean, std))
    )


_TIMM_ARCHITECTURE = re.compile(r"vit_(tiny|small|base)_patch(\d+)_(\d+)")
_TIMM_WIDTH = {"tiny": 192, "small": 384, "base": 768}
_TIMM_HEAD = 64
_TIMM_RESAMPLE = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _from_timm(config: dict, architecture: re.Match) -> Description:
    """timm's own transform may crop the edges away; here the picture is squashed instead."""
    pretrained = config["pretrained_cfg"]
    variant, patch, image = architecture[1], int(architecture[2]), int(architecture[3])
    width = _TIMM_WIDTH[variant]
    names = config.get("label_names") or pretrained["label_names"]
    _require(len(names) <= LARGEST.labels, "label_names", f"{len(names):,} labels")
    labels = _labels(names)
    _require(config.get("global_pool", "token") == "token", "global_pool", config.get("global_pool"))
    changed = [key for key in config.get("model_args") or {} if not key.endswith("drop_rate")]
    _require(not changed, "model_args", changed)
    _require(pretrained["input_size"] == [3, image, image], "input_size", pretrained["input_size"])
    shape = vit.Shape(image, patch, width, 12, width // _TIMM_HEAD, 4 * width, len(labels), 1e-6)
    resample = _TIMM_RESAMPLE.get(pretrained["interpolation"], pretrained["interpolation"])
    preprocessing = _preprocessing(image, resample, pretrained["mean"], pretrained["std"])
    return _checked(Description(shape, vit.timm_layout, labels, preprocessing))


def _preprocessing(size: int, resample: Any, mean: list, std: list) -> Preprocessing:
    _require(resample in _TIMM_RESAMPLE.values(), "resample", resample)
    means, deviations = (tuple(float(value) for value in values) for values in (mean, std))
    finite = len(means) == len(deviations) == 3 and all(map(math.isfinite, means + deviations)) and min(deviations) > 0
    _require(finite, "image_mean, image_std", (means, deviations))
    return Preprocessing(size, int(resample), means, deviations)


def _labels(labels: list[str]) -> tuple[str, ...]:
    unknown = [label for label in labels if label.lower() not in SAFE_LABELS | UNSAFE_LABELS]
    if unknown:
        raise _Unfit(f"its labels {unknown} are neither known to be safe nor known to be unsafe, and it is not guessed")
    safe = {label.lower() in SAFE_LABELS for label in labels}
    if safe != {True, False} or len(set(labels)) != len(labels):
        raise _Unfit(f"its labels {list(labels)} do not tell safe from unsafe")
    return tuple(labels)


def _checked(description: Description) -> Description:
    shape = description.shape
    for size in fields(vit.Shape):
        value, largest = getattr(shape, size.name), getattr(LARGEST, size.name)
        _require(0 < value <= largest, f"{size.name} (at most {largest})", value)
    _require(shape.width % shape.heads == 0, "num_attention_heads", shape.heads)
    _require(shape.image % shape.patch == 0, "patch_size", shape.patch)
    patches = (shape.image // shape.patch) ** 2
    _require(patches <= MOST_PATCHES, f"image_size and patch_size (at most {MOST_PATCHES} patches)", patches)
    return description


def _count(value: Any) -> int:
    _require(type(value) is int, "a size", value)
    return value


def _require(condition: bool, field: str, value: Any) -> None:
    if not condition:
        raise _Unfit(f"its configuration has {field} = {repr(value)[:100]}, which is not supported")
