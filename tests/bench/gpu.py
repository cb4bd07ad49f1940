"""Everything that only a GPU can show, with a full-size FLUX.1 of random weights made on the device: needs no download.

    python dev.py bench gpu [--minutes 8] [--smallest] [--only PART ...]

Seconds a step and peak memory beside core's own graph (FluxGuidance + KSampler) for bf16, fp8 and scaled fp8, 1024² and
2048², 28 steps; each acceleration level and what a skipped step costs; Krea Redux at strength 0.5 beside core's N×N mask,
under every attention that is installed; the detector; the loader. It compares as it goes: `error` is the largest difference
to core's latent. The JSON lines go to the output, one table to the error stream. On a CPU only the smallest form runs (one
block, 64 px, a step or six): it shows that this script works, and nothing about speed. Random weights say nothing
about pictures either.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import miniature
import torch
from bench import _engine
from comfy.ldm.modules import attention
from comfy.sd import load_diffusion_model, load_diffusion_model_state_dict
from flux_krea.nodes.model_files import weights
from flux_krea.nodes.safety import detector, vit
from flux_krea.nodes.sampler import FluxKreaSampler
from flux_krea.nodes.sampling import redux
from safetensors.torch import save_file

import nodes as comfy_nodes

STRENGTH = 0.5  # of Redux
ALMOST_EQUAL = 0.02  # of the latent's spread: what rounding in half precision may do to a Redux mask
DTYPES = {"BF16": torch.bfloat16, "F8_E4M3": torch.float8_e4m3fn, "F32": torch.float32}
PRECISIONS = ("fp8 scaled", "fp8", "bf16")  # bf16 last: the parts that follow use it


class Form(NamedTuple):
    """How large everything is: `blocks` of FLUX.1, `sides` in pixels, `tokens` of prompt and Redux, `vit` as vit.Shape."""

    blocks: tuple[int, int]
    sides: tuple[int, ...]
    steps: int
    plain_steps: int
    tokens: tuple[int, int]
    batch: int
    vit: tuple[int, ...]


FULL = Form((19, 38), (1024, 2048), 28, 28, (256, 729), 16, (224, 16, 768, 12, 12, 3072))
SMALLEST = Form((1, 0), (64,), 6, 1, (8, 16), 2, (32, 16, 64, 2, 4, 128))


def run(arguments: Iterable[str] = ()) -> Iterator[dict]:
    parser = argparse.ArgumentParser("bench gpu")
    parser.add_argument("--minutes", type=float, default=8.0, help="nothing is begun after this")
    parser.add_argument("--smallest", action="store_true", help="as on a CPU")
    parts = {part.__name__: part for part in (plain_steps, accelerated_steps, redux_steps, detector_batch, loading)}
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts), help="some of its parts")
    options = parser.parse_args(list(arguments))
    form = FULL if torch.cuda.is_available() and not options.smallest else SMALLEST
    deadline = time.monotonic() + 60 * options.minutes
    rows = []
    for name in options.only:
        for row in parts[name](form):
            rows.append({**row, "n": 1, "device": _engine.DEVICE})
            yield rows[-1]
            if time.monotonic() > deadline:
                print(f"stopped after {options.minutes:g} minutes, in {name}", file=sys.stderr)
                return table(rows)
    return table(rows)


def table(rows: list[dict]) -> None:
    print(f"\n{_engine.DEVICE}, torch {torch.__version__}\n", file=sys.stderr)
    print("| what | ours | reference | ratio | unit | error |\n|---|---|---|---|---|---|", file=sys.stderr)
    for row in rows:
        cells = [row["bench"].removeprefix("gpu "), *(row[key] for key in ("ours", "reference", "ratio", "unit"))]
        print("|", " | ".join(str(cell) for cell in [*cells, row.get("error", "")]), "|", file=sys.stderr)


def row(name: str, ours: float, reference: float | None, unit: str, **more) -> dict:
    ratio = round(ours / reference, 3) if reference else None
    return {
        "bench": f"gpu {name}",
        "ours": _short(ours),
        "reference": _short(reference),
        "ratio": ratio,
        "unit": unit,
        **more,
    }


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


# --- models ---------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)  # one at a time: three full-size models are 48 GB
def model(form_blocks: tuple[int, int], precision: str):
    """A FLUX.1 of random weights, made on the device and loaded by core as any file is."""
    return load_diffusion_model_state_dict(state(form_blocks, precision))


def state(blocks: tuple[int, int], precision: str) -> dict[str, torch.Tensor]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = miniature.flux_layout(*blocks, {"bf16": "BF16", "fp8": "F8_E4M3", "fp8 scaled": "fp8_scaled"}[precision])
    torch.manual_seed(0)
    tensors = {}
    for key, (dtype, shape) in layout.items():
        spread = shape[-1] ** -0.5 if len(shape) == 2 else 0.02
        is_scaled = precision == "fp8 scaled" and len(shape) == 2
        if key.endswith("_norm.scale"):
            values = torch.ones(shape, device=device)
        elif key.endswith("scale_weight"):
            width = layout[key.removesuffix("scale_weight") + "weight"][1][-1]
            values = torch.tensor(width**-0.5 / miniature.FP8_SPREAD, device=device)
        elif key == "scaled_fp8":
            values = torch.zeros(shape, device=device)
        else:
            values = torch.randn(shape, device=device, dtype=torch.bfloat16) * (
                miniature.FP8_SPREAD if is_scaled else spread
            )
        tensors[key] = values.to(DTYPES[dtype])
    return tensors


# --- sampling -------------------------------------------------------------------------------------------------------


def ours(model, positive, side: int, steps: int, **changes) -> torch.Tensor:
    """What Krea Sampler draws, and what it says."""
    values = {
        "seed": 7,
        "steps": steps,
        "guidance": 4.5,
        "denoise": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
    }
    with torch.inference_mode():
        result = FluxKreaSampler.execute(
            model=model, positive=positive, latent_image=empty(side), **{**values, "acceleration": "none", **changes}
        )
    ours.said = " ".join(result.ui["text"])
    return result.args[0]["samples"]


def cores(model, positive, side: int, steps: int) -> torch.Tensor:
    """What FluxGuidance and KSampler draw."""
    guided = [[text, {**options, "guidance": 4.5}] for text, options in positive]
    with torch.inference_mode():
        sampled = comfy_nodes.common_ksampler(model, 7, steps, 1.0, "euler", "simple", guided, guided, empty(side))
    return sampled[0]["samples"]


def empty(side: int) -> dict[str, torch.Tensor]:
    return {"samples": torch.zeros(1, 16, side // 8, side // 8)}


def measured(work: Callable[[], torch.Tensor]) -> tuple[torch.Tensor, float, float | None]:
    """What it returns, its seconds, and the peak of allocated GPU memory in GB; None on a CPU."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    result = work()  # on the CPU when it returns, so a GPU has finished
    seconds = time.perf_counter() - started
    return result, seconds, torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    assert torch.isfinite(a).all() and torch.isfinite(b).all(), "a latent is not finite"
    return float((a - b).abs().max())


def plain_steps(form: Form) -> Iterator[dict]:
    positive, steps = _engine.random_conditioning(tokens=form.tokens[0]), form.plain_steps
    for precision in PRECISIONS:
        loaded = model(form.blocks, precision)
        for side in form.sides:
            ours(loaded, positive, side, 1)  # onto the device, and warm
            mine, seconds, memory = measured(lambda m=loaded, s=side: ours(m, positive, s, steps))
            theirs, core_seconds, core_memory = measured(lambda m=loaded, s=side: cores(m, positive, s, steps))
            error = difference(mine, theirs)
            assert error == 0, f"{precision}, {side} px: not core's latent"
            name = f"{precision}, {side} px, {steps} steps"
            yield row(name, seconds / steps, core_seconds / steps, "s/step", error=error)
            if memory is not None:
                yield row(f"{name}, peak memory", memory, core_memory, "GB")


def accelerated_steps(form: Form) -> Iterator[dict]:
    """Each level as it is; with budgets the steps that are skipped do not depend on the weights."""
    positive, steps, side = _engine.random_conditioning(tokens=form.tokens[0]), form.steps, form.sides[0]
    loaded = model(form.blocks, "bf16")
    full, full_seconds, _ = measured(lambda: ours(loaded, positive, side, steps))
    for level in ("regular", "high"):
        drawn, seconds, _ = measured(lambda word=level: ours(loaded, positive, side, steps, acceleration=word))
        computed = next(int(word) for word in ours.said.split() if word.isdigit())
        skipped = steps - computed
        error = difference(drawn, full) / float(full.std())
        yield row(
            f"{level}: {computed} of {steps} steps computed", seconds, full_seconds, "s/picture", relative=_short(error)
        )
        if skipped:
            cost = (seconds - full_seconds * computed / steps) / skipped
            yield row(f"{level}: one skipped step", cost, full_seconds / steps, "s/step")


# --- Redux ----------------------------------------------------------------------------------------------------------


def redux_steps(form: Form) -> Iterator[dict]:
    """Strength 0.5 under every attention at hand, beside core's N×N mask under PyTorch's. Steps are the half of the rest."""
    positive, steps, side = _engine.random_conditioning(tokens=form.tokens[0]), max(1, form.steps // 2), form.sides[0]
    tokens = torch.randn(form.tokens[1], 4096, generator=torch.Generator().manual_seed(3))
    loaded = model(form.blocks, "bf16")
    masked = with_cores_mask(positive, tokens)
    cores_own, core_seconds, core_memory = measured(lambda: ours(loaded, masked, side, steps))
    plain, plain_seconds, _ = measured(lambda: ours(loaded, with_redux(positive, tokens, 1.0), side, steps))
    spread, effect = float(cores_own.std()), difference(plain, cores_own)
    yield row(
        "Redux at strength 1, no mask, beside core's mask at 0.5", plain_seconds / steps, core_seconds / steps, "s/step"
    )
    for name, function in attentions():
        chosen = under(loaded, function)
        mine, seconds, memory = measured(lambda m=chosen: ours(m, with_redux(positive, tokens, STRENGTH), side, steps))
        error = difference(mine, cores_own)
        assert error < max(ALMOST_EQUAL * spread, 0.1 * effect), f"Redux under {name}: {error:.3g} beside {effect:.3g}"
        yield row(f"Redux at 0.5 under {name}", seconds / steps, core_seconds / steps, "s/step", error=_short(error))
        if memory is not None:
            yield row(f"Redux at 0.5 under {name}, peak memory", memory, core_memory, "GB")


def with_redux(positive: list, tokens: torch.Tensor, strength: float) -> list:
    return redux.apply(positive, tokens, redux.Settings(strength=strength))


def with_cores_mask(positive: list, tokens: torch.Tensor) -> list:
    class Style:
        def get_cond(self, seen):
            return tokens[None]

    (conditioning,) = comfy_nodes.StyleModelApply().apply_stylemodel(positive, Style(), None, STRENGTH, "attn_bias")
    return conditioning


def attentions() -> Iterator[tuple[str, Callable]]:
    """PyTorch's, and each of sage, flash and xformers that core has registered because it is installed."""
    for name in ("pytorch", "sage", "flash", "xformers"):
        function = attention.get_attention_function(name, None)
        if function is not None:
            yield name, function


def under(model, function: Callable):
    """The model with this attention in force, as a node that chooses one sets it."""
    chosen = model.clone()
    options = chosen.model_options["transformer_options"]
    options["optimized_attention_override"] = lambda default, *arguments, **keywords: function(*arguments, **keywords)
    return chosen


# --- the rest -------------------------------------------------------------------------------------------------------


def detector_batch(form: Form) -> Iterator[dict]:
    """A random vision transformer of the usual detector's size, from pictures in memory to scores."""
    image, patch, width, depth, heads, mlp = form.vit
    shape = vit.Shape(image, patch, width, depth, heads, mlp, labels=2, epsilon=1e-12)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    network = vit.ViT(shape).to(device)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    preprocessing = detector.Preprocessing(image, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    description = detector.Description(shape, vit.timm_layout, ("normal", "nsfw"), preprocessing)
    checker = detector.Detector("random", description, network.eval(), "", "")
    images = torch.rand(form.batch, 1024, 1024, 3)
    together = [answer.score for answer in checker.score(images, device=device)]
    _, seconds, _ = measured(lambda: checker.score(images, device=device))
    alone, alone_seconds, _ = measured(lambda: [checker.score(one[None], device=device)[0].score for one in images])
    error = max(abs(a - b) for a, b in zip(together, alone, strict=True))
    assert error < 1e-3, "a batch answers otherwise than its pictures one by one"
    per_image = 1000 / len(images)
    name = f"detector, batch of {len(images)}, beside one by one"
    yield row(name, seconds * per_image, alone_seconds * per_image, "ms/image", error=_short(error))


def loading(form: Form) -> Iterator[dict]:
    """Reading and judging the header of a file in scaled fp8, beside loading it as core does."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "flux1-krea-dev_fp8_scaled.safetensors")
        model.cache_clear()
        save_file(state(form.blocks, "fp8 scaled"), path)
        file, seconds, _ = measured(lambda: weights.require(path, "diffusion_model"))
        loaded, load_seconds, _ = measured(lambda: load_diffusion_model(str(path)))
        assert loaded is not None and file.precision == "fp8_scaled"
        size = f"{file.bytes / 1e9:.1f} GB"
        yield row(f"loader: header of {size}, beside loading it", seconds, load_seconds, "s")
