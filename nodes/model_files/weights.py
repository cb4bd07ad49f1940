"""Model files, judged by their headers: what each one is, whether it is whole, and whether it fits where it is wanted.

Milliseconds even for a file of 24 GB, before anything is loaded; neither torch nor ComfyUI is needed.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from . import recognise
from .header import AGAIN, Header, WeightFileError, read_header, tensor_bytes
from .quantization import Quantization, read_quantization

__all__ = ["KNOWN_FILES", "WeightFile", "WeightFileError", "encoder_options", "inspect", "missing", "require"]
__all__ += ["require_match", "sort_encoders"]

# What ComfyUI builds when nobody says otherwise: comfy/text_encoders/t5_config_xxl.json, comfy/sd1_clip_config.json.
STOCK_T5 = {"num_layers": 24, "d_model": 4096, "num_heads": 64, "d_kv": 64, "d_ff": 10240, "vocab_size": 32128}
STOCK_CLIP_L = {"num_hidden_layers": 12, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072}


class KnownFile(NamedTuple):
    name: str
    folder: str
    url: str
    what: str


_HUB = "https://huggingface.co/"
_ENCODERS = f"{_HUB}comfyanonymous/flux_text_encoders/resolve/main/"
_SPLIT = "resolve/main/split_files/"

KNOWN_FILES = (
    KnownFile(
        "flux1-krea-dev_fp8_scaled.safetensors",
        "diffusion_models",
        f"{_HUB}Comfy-Org/FLUX.1-Krea-dev_ComfyUI/{_SPLIT}diffusion_models/flux1-krea-dev_fp8_scaled.safetensors",
        "FLUX.1 Krea [dev] in fp8, 11.9 GB",
    ),
    KnownFile(
        "flux1-krea-dev.safetensors",
        "diffusion_models",
        f"{_HUB}black-forest-labs/FLUX.1-Krea-dev/resolve/main/flux1-krea-dev.safetensors",
        "FLUX.1 Krea [dev] in bf16, 23.8 GB; its page asks you to sign in and accept the licence first",
    ),
    KnownFile("clip_l.safetensors", "text_encoders", f"{_ENCODERS}clip_l.safetensors", "the CLIP-L text encoder"),
    KnownFile(
        "t5xxl_fp16.safetensors", "text_encoders", f"{_ENCODERS}t5xxl_fp16.safetensors", "T5-XXL in fp16, 9.8 GB"
    ),
    KnownFile(
        "t5xxl_fp8_e4m3fn.safetensors",
        "text_encoders",
        f"{_ENCODERS}t5xxl_fp8_e4m3fn.safetensors",
        "T5-XXL in fp8, 4.9 GB",
    ),
    KnownFile(
        "t5xxl_fp8_e4m3fn_scaled.safetensors",
        "text_encoders",
        f"{_ENCODERS}t5xxl_fp8_e4m3fn_scaled.safetensors",
        "T5-XXL in scaled fp8, 5.2 GB",
    ),
    KnownFile(
        "ae.safetensors",
        "vae",
        f"{_HUB}Comfy-Org/Lumina_Image_2.0_Repackaged/{_SPLIT}vae/ae.safetensors",
        "the VAE of FLUX.1",
    ),
    KnownFile(
        "flux1-redux-dev.safetensors",
        "style_models",
        f"{_HUB}Comfy-Org/Flux1-Redux-Dev/resolve/main/flux1-redux-dev.safetensors",
        "FLUX.1 Redux",
    ),
    KnownFile(
        "sigclip_vision_patch14_384.safetensors",
        "clip_vision",
        f"{_HUB}Comfy-Org/sigclip_vision_384/resolve/main/sigclip_vision_patch14_384.safetensors",
        "the SigLIP vision model that Redux looks through",
    ),
)


@dataclass(frozen=True)
class WeightFile:
    """One file on disk: `kind` as in recognise.KINDS, `config` what its shapes say, `fault` why it cannot be used."""

    path: Path
    kind: str
    label: str
    fault: str
    config: dict[str, int]
    quantization: Quantization
    bytes: int

    @property
    def precision(self) -> str:
        """Of most of the weights, as people say it: fp32, fp16, bf16, fp8, fp8_scaled, int8, nvfp4 …"""
        return self.quantization.precision

    @property
    def name(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        count = self.quantization.parameters
        parameters = f"{count / 1e6:,.1f} M parameters, " if count else ""
        return f"{self.name}: {self.label}, {self.precision}, {parameters}{self.bytes / 1e9:.2f} GB"


def inspect(path: str | os.PathLike[str]) -> WeightFile:
    """What the file is. WeightFileError where it is no whole safetensors file; where it is, `fault` may be set."""
    return _described(read_header(path))


def _described(header: Header) -> WeightFile:
    found = recognise.recognise(header.tensors)
    return WeightFile(
        path=header.path,
        kind=found.kind,
        label=found.label,
        fault=found.fault,
        config=found.config,
        quantization=read_quantization(header),
        bytes=header.bytes,
    )


# Where an all-in-one FLUX.1 checkpoint keeps what stands beside the diffusion model; ComfyUI looks there and nowhere else.
_IN_CHECKPOINT = {
    "clip_l": ("text_encoders.clip_l.transformer.",),
    "t5": ("text_encoders.t5xxl.transformer.",),
    "vae": ("vae.", "first_stage_model."),
}


def beside_the_model(path: str | os.PathLike[str]) -> dict[str, WeightFile]:
    """The text encoders and the VAE that a checkpoint holds beside its diffusion model, by kind.

    WeightFileError where one of them is there but cannot be used.
    """
    header = read_header(path)
    found = {}
    for kind, prefixes in _IN_CHECKPOINT.items():
        tensors = {
            key.removeprefix(prefix): tensor
            for prefix in prefixes
            for key, tensor in header.tensors.items()
            if key.startswith(prefix)
        }
        if tensors:
            found[kind] = part = _described(
                replace(header, tensors=tensors, bytes=sum(map(tensor_bytes, tensors.values())))
            )
            if part.kind != kind or part.fault:
                raise WeightFileError(
                    f"{header.path.name}: its {kind} is {part.label}: {part.fault or 'not for FLUX.1'}"
                )
    return found


def gguf(path: str | os.PathLike[str]) -> WeightFile:
    """A GGUF file, which only ComfyUI-GGUF reads; nothing of it is judged here but that it is one."""
    path = Path(path)
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise WeightFileError(f"{path.name}: not a GGUF file, whatever its name says: {AGAIN}")
    plain = Quantization("", (), "GGUF", 0)
    return WeightFile(path, "diffusion_model", "a diffusion model", "", {}, plain, path.stat().st_size)


def require(path: str | os.PathLike[str], kind: str) -> WeightFile:
    """The file, once it is sure that it is of this kind and fit for FLUX.1 Krea; else WeightFileError."""
    file = inspect(path)
    if file.kind != kind:
        raise _misplaced(file, kind)
    if file.fault:
        raise WeightFileError(f"{file.name}: {file.fault}")
    return file


def _misplaced(file: WeightFile, kind: str) -> WeightFileError:
    belongs = recognise.KINDS[file.kind][0]
    place = f" (it belongs in models/{belongs}/)" if belongs and belongs != recognise.KINDS[kind][0] else ""
    return WeightFileError(
        f"{file.name}: this is {file.label}{place}, but what is needed here is {recognise.KINDS[kind][1]}"
    )


def sort_encoders(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> tuple[WeightFile, WeightFile]:
    """CLIP-L and T5-XXL, told apart by their content, in whichever order they were chosen."""
    files = [inspect(first), inspect(second)]
    for file in files:
        if file.kind not in ("clip_l", "t5"):
            raise _misplaced(file, "text_encoder")
        if file.fault:
            raise WeightFileError(f"{file.name}: {file.fault}")
    clip_l, t5 = sorted(files, key=lambda file: file.kind)
    if clip_l.kind == t5.kind:
        same, other = recognise.KINDS[t5.kind][1], recognise.KINDS["clip_l" if t5.kind == "t5" else "t5"][1]
        raise WeightFileError(
            f"{files[0].name} and {files[1].name}: both are {same}: choose {other} in one of the two places"
        )
    return clip_l, t5


def require_match(model: WeightFile, clip_l: WeightFile, t5: WeightFile) -> None:
    """WeightFileError unless the diffusion model takes embeddings as wide as these encoders make them."""
    for encoder, width, wanted in ((t5, "d_model", "context_width"), (clip_l, "hidden_size", "pooled_width")):
        if wanted in model.config and encoder.config[width] != model.config[wanted]:
            raise WeightFileError(
                f"{encoder.name}: its embeddings are {encoder.config[width]} wide, but {model.name} takes "
                f"{model.config[wanted]}: use {' or '.join(_known_names(encoder.kind))}"
            )


def _known_names(kind: str) -> list[str]:
    return [file.name for file in KNOWN_FILES if file.name.startswith({"clip_l": "clip_l", "t5": "t5xxl"}[kind])]


def encoder_options(clip_l: WeightFile, t5: WeightFile) -> dict[str, dict[str, int]]:
    """The `model_options` of comfy.sd.load_clip for encoders of other than the usual size; empty for the usual ones.

    CLIP-L's own key is `model_config`: comfy/text_encoders/long_clipl.py overwrites `clip_l_model_config` with it.
    ComfyUI writes into that dict, so each call returns new ones.
    """
    options = {
        "model_config": _differences(clip_l.config, STOCK_CLIP_L),
        "t5xxl_model_config": _differences(t5.config, STOCK_T5),
    }
    return {key: config for key, config in options.items() if config}


def _differences(config: dict[str, int], stock: dict[str, int]) -> dict[str, int]:
    return {key: config[key] for key in stock if config[key] != stock[key]}


def missing(name: str, folder: str, searched: Iterable[str | os.PathLike[str]], found: Sequence[str]) -> str:
    """The sentence for a file that a workflow names and no folder holds. `folder` is ComfyUI's name of it."""
    base = name.replace("\\", "/").rsplit("/", 1)[-1]
    known = next((file for file in KNOWN_FILES if file.name.lower() == base.lower()), None)
    sentences = [f"{base} is not in models/{folder}/."]
    if known:
        sentences.append(f"It is {known.what}: download {known.url} into models/{known.folder}/ and refresh the page.")
    else:
        suggestions = [file.url for file in KNOWN_FILES if file.folder == folder]
        if suggestions:
            sentences.append(f"This pack does not know where it comes from; these fit: {', '.join(suggestions)}.")
    sentences.append(f"Searched: {', '.join(map(str, searched)) or 'no folder, none is configured'}.")
    shown = ", ".join(found[:10]) or "nothing"
    more = f" and {len(found) - 10} more" if len(found) > 10 else ""
    sentences.append(f"Found there: {shown}{more}.")
    return " ".join(sentences)
