"""The block cache: its error beside other ways to skip an evaluation, what a reuse costs, and the curve for real weights.

    python dev.py bench acceleration
    python dev.py bench acceleration --model FILE [--clip-l FILE --t5 FILE] [--vae FILE] [--size 1024] [--steps 28]

Without --model: a miniature with random weights and forced skips. That orders the methods, by how much of the new step each
of them uses; how large the errors are on real pictures only --model can tell. Random prompts stand in where no encoders are
given, and PSNR is printed where a VAE is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

import miniature
import torch
from bench import _engine
from comfy.patcher_extension import WrappersMP
from comfyui import ROOT
from flux_krea.nodes.sampling import block_cache, sample

MINIATURE = ROOT / ".dev" / "bench" / "flux_2_2.safetensors"
SKIPS = (5, 7, 9, 11)  # of 14
THRESHOLDS = (0.04, 0.06, 0.08, 0.10, 0.12, 0.16)
PROMPT = "A candid photograph of a ceramicist at her wheel in a sunlit garage studio, clay on her forearms"


def run(arguments: Iterable[str] = ()) -> Iterable[dict]:
    parser = argparse.ArgumentParser("bench acceleration")
    for name in ("model", "clip-l", "t5", "vae"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(list(arguments))
    if options.model:
        yield from curve(options)
    else:
        miniature.write_safetensors(MINIATURE, miniature.flux_layout(2, 2, "F8_E4M3"))
        yield from methods(_engine.load_model(MINIATURE))


def methods(model) -> Iterable[dict]:
    """Relative L2 of the latent after the same four skips, each method beside the block cache."""
    positive = _engine.random_conditioning()
    full = sampled(model, positive, size=64, steps=14)
    cache = block_cache.BlockCache(block_cache.Settings(pattern=frozenset(SKIPS)))
    ours = relative(sampled(cache.attach(model), positive, size=64, steps=14), full)
    for name, predict in PREDICTORS.items():
        predictor = Predictor(predict)
        error = relative(sampled(predictor.attach(model), positive, size=64, steps=14), full)
        assert predictor.evaluations == cache.evaluations == 14 and cache.computed == 10
        yield {
            "bench": f"acceleration error, {len(SKIPS)} of 14 evaluations skipped, beside {name}",
            "ours": round(ours, 5),
            "reference": round(error, 5),
            "ratio": round(ours / error, 3),
            "unit": "relative L2 of the latent",
            "n": 1,
            "device": _engine.DEVICE,
        }


def curve(options) -> Iterable[dict]:
    """Error, time and evaluations for a range of thresholds and for forced shares, beside the same seeds without."""
    model = _engine.load_model(options.model)
    vae = _engine.load_vae(options.vae) if options.vae else None
    known = options.clip_l and options.t5
    positive = _engine.encode(options.clip_l, options.t5, PROMPT) if known else _engine.random_conditioning()
    sampled(model, positive, options.size, 2)  # warms up
    settings = {name: level for name, level in block_cache.LEVELS.items()}
    settings |= {
        f"threshold {threshold}, {limit} in a row": block_cache.Settings(threshold, in_a_row=limit)
        for limit in (1, 2, 3)
        for threshold in THRESHOLDS
    }
    settings |= {
        f"forced {share:.0%}": block_cache.Settings(pattern=forced(options.steps, share)) for share in (0.3, 0.5)
    }
    for seed in range(options.seeds):
        full, full_seconds = timed(model, positive, options.size, options.steps, seed)
        for name, setting in settings.items():
            cache = block_cache.BlockCache(setting)
            result, seconds = timed(cache.attach(model), positive, options.size, options.steps, seed)
            yield {
                "bench": f"acceleration {name}, {options.size} px, {options.steps} steps, seed {seed}",
                "ours": round(seconds, 3),
                "reference": round(full_seconds, 3),
                "ratio": round(seconds / full_seconds, 4),
                "unit": "s",
                "n": 1,
                "device": _engine.DEVICE,
                "computed": cache.computed,
                "evaluations": cache.evaluations,
                "relative_l2": round(relative(result, full), 5),
                "psnr": round(psnr(vae.decode(result), vae.decode(full)), 2) if vae else None,
            }


def forced(steps: int, share: float) -> frozenset[int]:
    """Evenly spread over all steps but the first two and the last."""
    middle = range(2, steps - 1)
    count = round(share * steps)
    return frozenset(middle[int(index * len(middle) / count)] for index in range(count))


def sampled(model, positive, size: int, steps: int, seed: int = 0) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 16, size // 8, size // 8)}
    settings = {"guidance": 4.5, "denoise": 1.0, "sampler_name": "euler", "scheduler": sample.KREA}
    with torch.inference_mode():
        return sample.sample(model, positive, latent, seed=seed, steps=steps, **settings)["samples"]


def timed(*arguments) -> tuple[torch.Tensor, float]:
    started = time.perf_counter()
    result = sampled(*arguments)  # on the CPU when it returns, so a GPU has finished
    return result, time.perf_counter() - started


def relative(result, full) -> float:
    return float((result - full).norm() / full.norm())


def psnr(picture, full) -> float:
    return float(-10 * torch.log10(((picture - full) ** 2).mean()))


class Predictor:
    """Skips the same evaluations by predicting FLUX's output from those before, given as (input, output, sigma)."""

    def __init__(self, predict):
        self.predict = predict
        self.evaluations = 0
        self.past: list[tuple] = []

    def attach(self, model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "predictor", self.around_model)
        return model

    def around_model(self, executor, x, *arguments, **keywords):
        number, self.evaluations = self.evaluations, self.evaluations + 1
        sigma = float(arguments[-1]["sigmas"])
        if number in SKIPS:
            return self.predict(x.clone(), sigma, self.past)
        output = executor(x, *arguments, **keywords)
        self.past = [*self.past[-1:], (x.clone(), output.clone(), sigma)]
        return output


def linear(x, sigma, past):
    (_, before, sigma_before), (_, last, sigma_last) = past
    return last + (last - before) * ((sigma - sigma_last) / (sigma_last - sigma_before))


PREDICTORS = {
    "core's EasyCache formula on a copy of its input": lambda x, sigma, past: x + (past[-1][1] - past[-1][0]),
    "the last output held": lambda x, sigma, past: past[-1][1],
    "linear extrapolation": linear,
}
