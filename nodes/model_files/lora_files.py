"""What a LoRA file was made for, from its header alone: the names and widths of its tensors, and what its maker wrote.

FLUX.1 dev, Krea, schnell and Kontext have the same tensors, so between those only the maker's words decide.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from . import recognise
from .header import Header, Tensor, WeightFileError, read_header

KREA, DEV, SCHNELL, KONTEXT, FILL, FLUX_1 = (
    "FLUX.1 Krea", "FLUX.1 dev", "FLUX.1 schnell", "FLUX.1 Kontext", "FLUX.1 Fill", "FLUX.1",
)  # fmt: skip
FLUX_2, SDXL, SD_15, SD_2, SD_3 = "FLUX.2", "SDXL", "Stable Diffusion 1.5", "Stable Diffusion 2", "Stable Diffusion 3"
QWEN, KREA_2, WAN, HUNYUAN = "Qwen-Image", "Krea 2", "Wan", "HunyuanVideo"
OURS = (KREA, DEV, SCHNELL, KONTEXT, FILL, FLUX_1)

# What remains of a tensor's name when this is cut off is the layer that it belongs to.
PARTS = re.compile(
    r"[._](?:alpha|dora_scale|diff|diff_b|set_weight|w_norm|b_norm|reshape_weight|hada_.+|lokr_.+|oft_blocks.*|rescale"
    r"|(?:lora_|lora\.)?(?:up|down|mid)(?:\.weight)?|lora_[AB](?:\.default)?(?:\.weight|\.bias)?"
    r"|lora_linear_layer\.(?:up|down)\.weight|_lora\.(?:up|down)\.weight|[ab][12]\.weight)$"
)

_WORDS = (  # in what the maker wrote, the more particular first
    (r"krea.?2\b", KREA_2),
    (r"flux.?2\b", FLUX_2),
    (r"krea", KREA),
    (r"kontext", KONTEXT),
    (r"schnell", SCHNELL),
    (r"flux.*\bfill|fill.?dev", FILL),
    (r"flux.?1?.?dev|flux_dev", DEV),
    (r"qwen", QWEN),
    (r"stable.?diffusion.?xl|sdxl|\bxl.?base", SDXL),
    (r"stable.?diffusion.?v?3|\bsd.?3", SD_3),
    (r"stable.?diffusion.?v?2|\bsd.?v?2", SD_2),
    (r"stable.?diffusion.?v?1|\bsd.?v?1", SD_15),
    (r"\bflux", FLUX_1),
)
_TOLD = ("modelspec.architecture", "ss_base_model_version", "ss_sd_model_name", "base_model", "modelspec.title", "name")

_ADVICE = {
    DEV: "made for FLUX.1 dev. It works on Krea; a likeness often comes out weaker: raise strength, or blend dev and "
    "Krea (template dev_krea_blend)",
    SCHNELL: "made for FLUX.1 schnell, which draws in four steps: on Krea expect less of it, or something else",
    KONTEXT: "made for FLUX.1 Kontext, which edits pictures: on Krea expect less of it, or something else",
    FILL: "made for FLUX.1 Fill, which takes other inputs: on Krea expect less of it, or something else",
}


@dataclass(frozen=True)
class LoraFile:
    """`base` is what it was made for, or "" where nothing says so; `warning` what to know before using it on Krea."""

    path: Path
    base: str
    said_by: str
    layout: str
    rank: int
    tensors: int
    warning: str

    @property
    def name(self) -> str:
        return self.path.name

    def __str__(self) -> str:
        rank = f", rank {self.rank}" if self.rank else ""
        made_for = f"made for {self.base} ({self.said_by})" if self.base else "it does not say what it was made for"
        return f"{self.name}: a LoRA in {self.layout}{rank}, {self.tensors} tensors; {made_for}"


def read_lora(path: str | os.PathLike[str]) -> LoraFile:
    """Raises WeightFileError where this is no whole safetensors file, no LoRA, or one for another architecture."""
    header = read_header(path)
    found = recognise.recognise(header.tensors)
    if found.kind != "lora":
        belongs = recognise.KINDS[found.kind][0]
        place = f" (it belongs in models/{belongs}/)" if belongs else ""
        raise WeightFileError(f"{header.path.name}: this is {found.label}{place}, but what is needed here is a LoRA")
    base, said_by = _base(header)
    if base and base not in OURS:
        raise WeightFileError(
            f"{header.path.name}: this LoRA was made for {base} ({said_by}), whose layers FLUX.1 Krea does not have: "
            "nothing of it would work. Choose one for FLUX.1 dev or Krea"
        )
    return LoraFile(
        path=header.path,
        base=base,
        said_by=said_by,
        layout=_layout(header.tensors),
        rank=_rank(header.tensors),
        tensors=len(header.tensors),
        warning=_warning(header.tensors, base),
    )


def layer_of(key: str) -> str:
    """The name of the layer that a tensor of a LoRA file belongs to, as the file spells it."""
    return PARTS.sub("", key)


def _base(header: Header) -> tuple[str, str]:
    """What it was made for, and who says so: the layers decide the architecture, the maker's words within FLUX.1."""
    by_layers = _architecture(header.tensors)
    by_words = _by_words(header.metadata)
    if by_layers == FLUX_1:
        return (by_words, "its maker says so") if by_words in OURS[:5] else (FLUX_1, "its layers")
    if by_layers:
        return by_layers, "its layers"
    return (by_words, "its maker says so") if by_words else ("", "")


def _by_words(metadata: Mapping[str, str]) -> str:
    """The first field that names a model wins; "FLUX" alone only where no field says more."""
    told = [metadata.get(field, "")[:500].lower() for field in _TOLD]
    named = [next((base for pattern, base in _WORDS if re.search(pattern, text)), "") for text in told]
    return next((base for base in named if base not in ("", FLUX_1)), FLUX_1 if FLUX_1 in named else "")


def _architecture(tensors: Mapping[str, Tensor]) -> str:
    text = "\n".join(sorted(tensors)[:20_000]).replace("_", ".")
    if "txtfusion" in text or re.search(r"blocks\.\d+\.attn\.w[qkvo]\b", text):
        return KREA_2
    if re.search(r"double\.blocks|single\.transformer\.blocks|single\.blocks", text):
        if "individual.token.refiner" in text or "attn.qkv.fc" in text or "modulation.linear" in text:
            return HUNYUAN
        return FLUX_2 if "stream.modulation" in text or _width(tensors) not in (0, 3072) else FLUX_1
    if re.search(r"transformer\.blocks\.\d+\.(?:img|txt)\.(?:mlp|mod)", text):
        return QWEN
    if re.search(r"blocks\.\d+\.cross\.attn", text):
        return WAN
    if re.search(r"joint\.blocks\.\d+\.|joint\.transformer\.blocks", text):
        return SD_3
    if re.search(r"(?:input|down|output|up|middle|mid)\.blocks?\.", text):
        # Only one text encoder, or a wide one, stands behind a U-Net's cross attention.
        context = _context_width(tensors)
        return {768: SD_15, 1024: SD_2}.get(context, SDXL)
    return ""


def _width(tensors: Mapping[str, Tensor]) -> int:
    """How wide the layers are that take the stream itself, by what the LoRA takes in; 0 where that cannot be told."""
    for key, tensor in tensors.items():
        takes_stream = re.search(r"(?:attn[._]qkv|attn[._](?:to|add)[._][qkv]|linear1)", key)
        if takes_stream and re.search(r"lora[._]?(?:down|A)\b|lora_down|lora_A", key) and len(tensor.shape) == 2:
            return tensor.shape[1]
    return 0


def _context_width(tensors: Mapping[str, Tensor]) -> int:
    for key, tensor in tensors.items():
        if re.search(r"attn2[._]to[._][kv]\b|attn2_to_[kv]", key) and re.search(r"down|lora_A", key):
            return tensor.shape[1] if len(tensor.shape) == 2 else 0
    return 0


def _layout(tensors: Mapping[str, Tensor]) -> str:
    first = next(iter(sorted(tensors)))
    layouts = (
        (r"lora_unet_|lora_te|lora_transformer_", "kohya's layout"),
        (r"lycoris_", "LyCORIS' layout"),
        (r"(?:transformer|base_model|unet|text_encoder)\.", "diffusers' layout"),
        (r"diffusion_model\.|double_blocks\.|single_blocks\.", "FLUX.1's own layout"),
    )
    return next((name for pattern, name in layouts if re.match(pattern, first)), "an unusual layout")


def _rank(tensors: Mapping[str, Tensor]) -> int:
    ranks = [
        tensor.shape[0]
        for key, tensor in tensors.items()
        if len(tensor.shape) >= 2
        and re.search(r"lora_down\.weight$|lora_A(?:\.default)?\.weight$|lora\.down\.weight$", key)
    ]
    return max(ranks, default=0)


def _warning(tensors: Mapping[str, Tensor], base: str) -> str:
    if "img_in.lora_A.weight" in tensors and tensors["img_in.lora_A.weight"].shape[1:] != (64,):
        return (
            "made for canny or depth control: it widens the model's input, so the picture to follow must come in "
            "through ComfyUI's InstructPixToPixConditioning node"
        )
    return _ADVICE.get(base, "")
