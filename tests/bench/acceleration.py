"""Ways to leave out evaluations, measured on a trained network; and time and error of each budget for real weights.

    python dev.py bench acceleration [--scenes 24]
    python dev.py bench acceleration --model FILE [--clip-l FILE --t5 FILE] [--vae FILE] [--size 1024] [--steps 28]

Without --model: the trained miniature draws scenes it was never trained on, once with every evaluation and then with some
left out. First by several methods at the same pattern: core's EasyCache formula, the last output held or continued in a line,
the first-block cache with what the other blocks added held (version 0.1.0) or continued in a line. Then Krea Sampler's words
and budgets from a half to three quarters, each beside the first-block cache of 0.1.0 with the same steps left out and beside
as many plain steps, which is what an artist would do instead. Then half of the steps with other samplers. Last, budgets beside
guidance that looks twice at a step and beside a ControlNet, as a share of the whole effect of those.
`ours` is the error of the method, `reference` that of the plain steps: of the latent's three channels that carry something,
relative to all evaluations, the mean over the pictures. `met` counts pictures that show all that was asked.
A small network is smoother than a large one: the order of the methods can be told from it, errors of the 12B model cannot.

With --model: error and time for a range of budgets on real weights. Random prompts stand in where no encoders are given, and
PSNR is printed where a VAE is.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import scenes
import torch
import trained
from bench import _engine
from comfy.patcher_extension import WrappersMP
from comfyui import ROOT
from flux_krea.nodes.sampling import acceleration, sample

FOLDER = ROOT / ".dev" / "bench" / "models"
SIDE, TOKENS, GUIDANCE = 128, 24, 3.0
EASYCACHE = (0.05, 0.1, 0.2, 0.4)
SHARES = (1 / 2, 5 / 8, 3 / 4)
OTHER_SAMPLERS = ("dpmpp_2m", "heun", "euler_ancestral", "uni_pc", "res_multistep")
PROMPT = "A candid photograph of a ceramicist at her wheel in a sunlit garage studio, clay on her forearms"


def run(arguments: Iterable[str] = ()) -> Iterable[dict]:
    parser = argparse.ArgumentParser("bench acceleration")
    for name in ("model", "clip-l", "t5", "vae"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=24)
    options = parser.parse_args(list(arguments))
    if options.model:
        yield from curve(options)
    else:
        drawing = Drawing(options.scenes)
        yield from methods(drawing)
        yield from budgets(drawing)
        yield from samplers(drawing)
        yield from effects(drawing)


# --- on the trained miniature ---------------------------------------------------------------------------------------


class Drawing:
    """The trained miniature and some scenes that it was never trained on, each drawn alone."""

    def __init__(self, count: int):
        paths = trained.place(FOLDER)
        _engine.narrow_flux()
        self.model = _engine.load_model(paths["diffusion_model"])
        self.vae = _engine.load_vae(paths["vae"])
        self.scenes = scenes.held_out_scenes(count)
        prompts = [scene.prompt for scene in self.scenes]
        self.prompts = _engine.encode_all(paths["clip_l"], paths["t5"], prompts, TOKENS)
        self.full: dict[int, list[torch.Tensor]] = {}

    def drawn(self, steps: int, model=None, change: Callable | None = None, sampler="euler") -> list[torch.Tensor]:
        """`change` makes another prompt of each."""
        model = model or self.model
        prompts = map(change, self.prompts) if change else self.prompts
        return [sampled(model, prompt, SIDE, steps, seed, GUIDANCE, sampler) for seed, prompt in enumerate(prompts)]

    @contextlib.contextmanager
    def counted(self):
        """Counts how often the network's last block runs: once for each evaluation that is computed."""
        counter = collections.Counter()
        last = self.model.model.diffusion_model.single_blocks[-1]
        hook = last.register_forward_hook(lambda *_: counter.update(["last block"]))
        try:
            yield counter
        finally:
            hook.remove()

    def error(self, results: list[torch.Tensor], steps: int) -> float:
        """Relative to every evaluation computed; the channels that nobody reads are left out."""
        if steps not in self.full:
            self.full[steps] = self.drawn(steps)
        return mean_error(results, self.full[steps])

    def met(self, results: list[torch.Tensor]) -> int:
        pictures = [self.vae.decode(result)[0].detach().numpy() for result in results]
        return sum(scenes.score(picture, scene).met for picture, scene in zip(pictures, self.scenes, strict=True))


class Skipped(NamedTuple):
    """Which evaluations are left out: of every `period` after the first two, all but one; never the last."""

    name: str
    period: int

    def of(self, steps: int) -> frozenset[int]:
        return frozenset(i for i in range(2, steps - 1) if (i - 2) % self.period != self.period - 1)


PATTERNS = (Skipped("every 2nd", 2), Skipped("2 of 3", 3), Skipped("3 of 4", 4))


def methods(drawing: Drawing) -> Iterable[dict]:
    for steps in (14, 28):
        plain: dict[int, float] = {}
        full = drawing.drawn(steps)
        yield row(drawing, f"{steps} steps, none", steps, steps, full, 0.0)
        for pattern in PATTERNS:
            left_out = pattern.of(steps)
            computed = steps - len(left_out)
            for name, method in METHODS.items():
                with drawing.counted() as counter:
                    results = drawing.drawn(steps, method(left_out).attach(drawing.model))
                assert counter["last block"] == computed * len(results), (name, counter)
                title = f"{steps} steps, {pattern.name} left out: {name}"
                yield row(drawing, title, steps, computed, results, plain_error(drawing, steps, computed, plain))
        for threshold in EASYCACHE:
            with drawing.counted() as counter:
                results = drawing.drawn(steps, _engine.with_easycache(drawing.model, threshold))
            computed = counter["last block"] / len(results)
            reference = plain_error(drawing, steps, round(computed), plain)
            yield row(
                drawing, f"{steps} steps, core's EasyCache node at {threshold}", steps, computed, results, reference
            )


def budgets(drawing: Drawing) -> Iterable[dict]:
    """The words and budgets of Krea Sampler beside version 0.1.0 and beside plain steps, at the same number computed."""
    for steps in (14, 20, 28):
        wanted = acceleration.WORDS | {f"{share:.0%}": acceleration.Budget(share) for share in SHARES}
        plain: dict[int, float] = {}
        for name, budget in wanted.items():
            count = budget.of(steps)
            with drawing.counted() as counter:
                results = drawing.drawn(steps, acceleration.Acceleration(budget).attach(drawing.model))
            assert counter["last block"] == count * len(results), (name, counter)
            left_out = frozenset(range(steps)) - acceleration.computed_steps(steps, count)
            before = drawing.drawn(steps, METHODS["first-block cache, held"](left_out).attach(drawing.model))
            title = f"{steps} steps, Krea Sampler {name}"
            yield row(drawing, title, steps, count, results, plain_error(drawing, steps, count, plain)) | {
                "held_0_1_0": round(drawing.error(before, steps), 5),
            }


def samplers(drawing: Drawing, steps: int = 28) -> Iterable[dict]:
    """Half of the steps with samplers other than euler, each against all of its own."""
    budget = acceleration.Budget(1 / 2)
    for name in OTHER_SAMPLERS:
        full = drawing.drawn(steps, sampler=name)
        plain = mean_error(drawing.drawn(budget.of(steps), sampler=name), full)
        attached = acceleration.Acceleration(budget)
        error = mean_error(drawing.drawn(steps, attached.attach(drawing.model), sampler=name), full)
        title = f"{steps} steps of {name}, half of them"
        yield share(title, error, plain, "as many plain steps", len(full), computed=attached.report())


def effects(drawing: Drawing, steps: int = 28) -> Iterable[dict]:
    """The error of acceleration beside guidance and ControlNet; `reference` is their whole effect."""
    plain = drawing.drawn(steps)
    cases = {
        "skip-layer guidance": (_engine.with_skipped_layers(drawing.model), None),
        "a second look": (_engine.with_second_look(drawing.model), None),
        "a ControlNet": (drawing.model, _engine.with_control),
    }
    for name, (model, change) in cases.items():
        full = drawing.drawn(steps, model, change)
        effect = mean_error(plain, full)
        for word, budget in acceleration.WORDS.items():
            attached = acceleration.Acceleration(budget)
            error = mean_error(drawing.drawn(steps, attached.attach(model), change), full)
            title = f"{steps} steps, {word} beside {name}"
            yield share(title, error, effect, "the whole effect", len(full), computed=attached.report())


def mean_error(results: list[torch.Tensor], full: list[torch.Tensor]) -> float:
    pairs = zip(results, full, strict=True)
    return sum(relative(result[:, :3], one[:, :3]) for result, one in pairs) / len(full)


def plain_error(drawing: Drawing, steps: int, computed: int, known: dict[int, float]) -> float:
    """Of so many plain steps, against all of `steps`."""
    if computed not in known:
        known[computed] = drawing.error(drawing.drawn(computed), steps)
    return known[computed]


def row(drawing: Drawing, name: str, steps: int, computed: float, results: list, reference: float) -> dict:
    figures = {"computed": round(computed, 2), "evaluations": steps, "met": drawing.met(results)}
    return share(name, drawing.error(results, steps), reference, "as many plain steps", len(results), **figures)


def share(title: str, error: float, reference: float, of_what: str, count: int, **figures) -> dict:
    """A benchmark's row: an error, and its share of another."""
    return {
        "bench": f"acceleration on the trained miniature, {title}",
        "ours": round(error, 5),
        "reference": round(reference, 5),
        "ratio": round(error / reference, 3) if reference else None,
        "unit": f"relative L2 of the latent; the reference is {of_what}",
        "n": count,
        "device": _engine.DEVICE,
        **figures,
    }


class OfOutput:
    """Leaves out evaluations by number and predicts the network's output from those before: (input, output, sigma)."""

    def __init__(self, predict: Callable, left_out: frozenset[int]):
        self.predict, self.left_out = predict, left_out
        self.number, self.past = 0, []

    def attach(self, model):
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, "left out", self.around_sampling)
        model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "left out", self.around_model)
        return model

    def around_sampling(self, executor, *arguments, **keywords):
        self.number, self.past = 0, []
        return executor(*arguments, **keywords)

    def around_model(self, executor, x, *arguments, **keywords):
        number, self.number = self.number, self.number + 1
        return self.evaluate(executor, x, arguments, keywords, number in self.left_out)

    def evaluate(self, executor, x, arguments, keywords, left_out: bool):
        sigma = float(arguments[-1]["sigmas"][0])
        if left_out:
            return self.predict(x.clone(), sigma, self.past)
        output = executor(x, *arguments, **keywords)
        self.keep(x.clone(), output.clone(), sigma)
        return output

    def keep(self, *seen) -> None:
        self.past = [*self.past[-1:], seen]


class OfOtherBlocks(OfOutput):
    """Computes block 0 always and predicts what all others add to the image's tokens."""

    def evaluate(self, executor, x, arguments, keywords, left_out: bool):
        options, network = arguments[-1], executor.class_obj
        sigma = float(options["sigmas"][0])
        names = [("double_block", i) for i in range(len(network.double_blocks))]
        names += [("single_block", i) for i in range(len(network.single_blocks))]
        image = None

        def first(given, extra):
            nonlocal image
            out = extra["original_block"](given)
            image = out["img"].clone()
            return out

        def middle(given, extra):
            return unchanged(given) if left_out else extra["original_block"](given)

        def last(given, extra):
            tokens = image.shape[1]
            if left_out:
                given["img"][:, -tokens:] = image + self.predict(None, sigma, self.past)
                return unchanged(given)
            out = extra["original_block"](given)
            self.keep(None, out["img"][:, -tokens:] - image, sigma)
            return out

        blocks = dict(zip(names, [first, *[middle] * (len(names) - 2), last], strict=True))
        return executor(x, *arguments[:-1], {**options, "patches_replace": {"dit": blocks}}, **keywords)


def unchanged(given: dict) -> dict:
    return {key: given[key] for key in ("img", "txt") if key in given}


def held(x, sigma, past):
    return past[-1][1]


def linear(x, sigma, past):
    (_, before, sigma_before), (_, last, sigma_last) = past
    return last + (last - before) * ((sigma - sigma_last) / (sigma_last - sigma_before))


def easycache(x, sigma, past):
    return x + (past[-1][1] - past[-1][0])


METHODS: dict[str, Callable[[frozenset[int]], OfOutput]] = {
    "EasyCache's formula": lambda left_out: OfOutput(easycache, left_out),
    "the output held": lambda left_out: OfOutput(held, left_out),
    "the output in a line": lambda left_out: OfOutput(linear, left_out),
    "first-block cache, held": lambda left_out: OfOtherBlocks(held, left_out),
    "first-block cache, in a line": lambda left_out: OfOtherBlocks(linear, left_out),
}


# --- on real weights ------------------------------------------------------------------------------------------------


def curve(options) -> Iterable[dict]:
    """Error, time and evaluations for a range of thresholds and for forced shares, beside the same seeds without."""
    model = _engine.load_model(options.model)
    vae = _engine.load_vae(options.vae) if options.vae else None
    known = options.clip_l and options.t5
    positive = _engine.encode(options.clip_l, options.t5, PROMPT) if known else _engine.random_conditioning()
    sampled(model, positive, options.size, 2)  # warms up
    settings = acceleration.WORDS | {f"{share:.0%}": acceleration.Budget(share) for share in (0.4, *SHARES, 0.9)}
    for seed in range(options.seeds):
        full, full_seconds = timed(model, positive, options.size, options.steps, seed)
        for name, budget in settings.items():
            attached = acceleration.Acceleration(budget)
            result, seconds = timed(attached.attach(model), positive, options.size, options.steps, seed)
            fewer, _ = timed(model, positive, options.size, budget.of(options.steps), seed)
            yield {
                "bench": f"acceleration {name}, {options.size} px, {options.steps} steps, seed {seed}",
                "ours": round(seconds, 3),
                "reference": round(full_seconds, 3),
                "ratio": round(seconds / full_seconds, 4),
                "unit": "s",
                "n": 1,
                "device": _engine.DEVICE,
                "computed": attached.computed,
                "evaluations": attached.evaluations,
                "relative_l2": round(relative(result, full), 5),
                "relative_l2_of_as_many_plain_steps": round(relative(fewer, full), 5),
                "psnr": round(psnr(vae.decode(result), vae.decode(full)), 2) if vae else None,
            }


def sampled(
    model, positive, size: int, steps: int, seed: int = 0, guidance: float = 4.5, sampler: str = "euler"
) -> torch.Tensor:
    latent = {"samples": torch.zeros(1, 16, size // 8, size // 8)}
    settings = {"guidance": guidance, "denoise": 1.0, "sampler_name": sampler, "scheduler": sample.KREA}
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
