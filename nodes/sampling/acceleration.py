"""Acceleration: some steps of a run are not computed. What the model would have said is predicted from those that are.

Along a run the model's answer changes smoothly with the noise level, so the last two computed answers tell the next ones.
When an answer is computed again, a curve through it and those before says by how much the steps in between went wrong, and
an Euler step makes that good. Nothing inside of the network is touched: everything happens around ComfyUI's
`apply_model`, so a predicted step costs nothing, and LoRA, GGUF, ControlNet, torch.compile and the patches of other packs
stay as they are.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from comfy.k_diffusion import sampling as k_diffusion
from comfy.patcher_extension import WrappersMP

from . import redux
from .flux_call import ModelCall, core_flux, has_foreign_forward

KEY = "flux_krea_acceleration"
NONE = "none"
FEWEST_STEPS = 3  # that are computed: the first and the last two
SLOPE = 0.5  # how far a prediction goes from the last answer towards the line through the last two
FARTHEST = 4.0  # times the distance of two points that a line through them tells anything
SAME_LEVEL = 2e-6  # two noise levels nearer than this, relatively, are one: samplers recompute them
OWN_LEVELS = ("dpm_fast_function", "dpm_adaptive_function")  # k-diffusion's samplers that do not go from sigma to sigma

Point = tuple[float, torch.Tensor]  # (noise level, answer)

# What other caches put into a model's transformer options.
OTHER_CACHES = {
    "easycache": "EasyCache or LazyCache",
    "enable_teacache": "TeaCache",
    "rel_l1_thresh": "TeaCache",
}


# --- how many, and which --------------------------------------------------------------------------------------------


class Budget(NamedTuple):
    """How many steps of a run are computed: `share` of them, and not fewer than `least`."""

    share: float = 0.0
    least: int = 0

    def of(self, total: int) -> int:
        return min(total, max(math.ceil(total * self.share), self.least, FEWEST_STEPS))


# With fewer than seven computed steps, simply asking for as many steps gave pictures as good, on a trained miniature.
WORDS = {"regular": Budget(2 / 3, least=7), "high": Budget(1 / 2, least=7)}


def words() -> list[str]:
    return [NONE, *WORDS]


def budget(word: str, computed_steps: int, steps: int) -> Budget | None:
    """What the inputs of Krea Sampler ask for; None: everything is computed."""
    if word not in words():
        raise ValueError(f"acceleration must be one of {', '.join(words())}, got {word!r}.")
    if computed_steps and computed_steps >= steps:
        return None
    if computed_steps:
        return Budget(least=computed_steps)
    return WORDS.get(word)


def computed_steps(total: int, count: int) -> frozenset[int]:
    """Which `count` of `total` steps: the first, the last two, and the others as evenly between as they can be.

    Where the gaps cannot all be one size, the wider ones lie in the middle: the answer changes fastest at both ends, as
    measured on a trained miniature.
    """
    if count >= total:
        return frozenset(range(total))
    gaps = count - 2
    narrow, wider = divmod(total - 2, gaps)
    first_wide = (gaps - wider + 1) // 2
    sizes = (narrow + (first_wide <= gap < first_wide + wider) for gap in range(gaps))
    return frozenset((*itertools.accumulate(sizes, initial=0), total - 1))


# --- one prompt's answers -------------------------------------------------------------------------------------------


@dataclass
class Answers:
    """What the model said to one kind of call, at the step `last_computed` last, and what was said in its place since then.

    `computed` (noise level, answer): the last three, through which lines and curves go. `predicted` (noise level, next noise
    level, answer): those since the last computed one.
    """

    computed: list[Point] = field(default_factory=list)
    last_computed: int = -1
    predicted: list[tuple[float, float, torch.Tensor]] = field(default_factory=list)
    evaluations: int = 0
    computed_evaluations: int = 0

    def can_predict(self, level: float) -> bool:
        """Never at a level that was just computed, nor above it: there the sampler looks once more."""
        return bool(self.computed) and is_above(self.computed[-1][0], level)

    def keep(self, level: float, answer: torch.Tensor) -> None:
        earlier = [point for point in self.computed if is_above(point[0], level)]
        if len(earlier) < len(self.computed) and is_above(level, self.computed[-1][0]):
            earlier = []  # the noise has risen again
        self.computed = [*earlier[-2:], (level, answer)]
        if len(self.computed) == 3 and is_too_far(level, *self.computed[:2]):
            del self.computed[0]


def is_above(level: float, other: float) -> bool:
    return level > other * (1 + SAME_LEVEL)


def is_too_far(level: float, before: Point, last: Point) -> bool:
    """Whether two points lie so near each other that what is between them says nothing of this level."""
    return last[0] - level > FARTHEST * (before[0] - last[0])


def curve(points: list[Point], level: float) -> torch.Tensor:
    """The value at `level` of the polynomial through these points: a line through two, a parabola through three."""
    total = None
    for here, value in points:
        weight = math.prod((level - there) / (here - there) for there, _ in points if there != here)
        total = value * weight if total is None else total.add(value, alpha=weight)
    return total


def prediction(points: list[Point], level: float) -> torch.Tensor:
    """Half-way between the last answer and the line: on a trained miniature nearer to the model's own than either."""
    last = points[-1][1]
    if len(points) == 1 or is_too_far(level, *points[-2:]):
        return last
    return last.lerp(curve(points[-2:], level), SLOPE)


def correction(answers: Answers, step: float) -> torch.Tensor | None:
    """What an Euler step of this length must add to its velocity to undo the errors of the predicted steps before it.

    They were told from the points before them; now there is a point behind them, too.
    """
    if not answers.predicted:
        return None
    error = sum(
        (following - level) * (curve(answers.computed, level) - used) for level, following, used in answers.predicted
    )
    return error / step


# --- one run --------------------------------------------------------------------------------------------------------


class Run:
    """One sampling: its noise levels, its plan, and the answers of each kind of call. It ends with the run."""

    def __init__(self, levels: list[float], count: int, pattern: frozenset[int] | None, guider, sampler):
        self.levels = levels
        self.is_euler, self.adds_noise = is_plain_euler(sampler), adds_noise(sampler)
        self.is_counted = self.is_euler and not is_wrapped(guider.model_options["transformer_options"])
        steps = len(levels) - 1
        self.plan = frozenset(range(steps)) - pattern if pattern is not None else computed_steps(steps, count)
        self.answers: dict[tuple, Answers] = {}
        self.nets = control_nets(guider.conds)
        self.open_nets: tuple[bool, ...] = ()
        self.step, self.level = -1, math.inf
        self.looks: dict[tuple, int] = {}

    @property
    def following(self) -> float:
        """The noise level of the next step."""
        return self.levels[self.step + 1]

    def are_stale(self, answers: Answers) -> bool:
        """Whether a planned step has gone by without a call of their kind."""
        return answers.last_computed < max((step for step in self.plan if step < self.step), default=0)

    def look(self, sigma: torch.Tensor) -> None:
        """The sampler asks again. Euler asks once for each level of the run, so nobody need wait for the GPU to tell, unless
        another pack's wrapper may ask twice or not at all."""
        if self.is_counted:
            self.step += 1
            self.level = self.levels[self.step]
        else:
            self.level = float(sigma.max())
            self.step = sum(is_above(level, self.level) for level in self.levels[:-2])
        self.looks = {}
        self.open_nets = tuple(is_open(net, self.level) for net in self.nets)

    def answers_to(self, call: ModelCall) -> Answers:
        """Those to calls of this very kind: the same prompts, sizes, device, patches on the blocks, references in the
        prompt, ControlNets. Guidance nodes look twice in one step: the second look is a kind of its own."""
        options, control = call.options, call.control or {}
        kind = (
            tuple(options.get("uuids", ())),
            tuple(options.get("cond_or_uncond", ())),
            call.x.shape,
            call.x.device,
            None if call.context is None else call.context.shape,
            frozenset(block for blocks in options.get("patches_replace", {}).values() for block in blocks),
            options.get(redux.KEY),
            tuple((name, tuple(part is None for part in parts)) for name, parts in sorted(control.items())),
            self.open_nets,
        )
        number = self.looks[kind] = self.looks.get(kind, -1) + 1
        return self.answers.setdefault((*kind, number), Answers())


class Acceleration:
    """Attached to a clone of a model; counts what was computed, over all runs of that clone."""

    def __init__(self, wanted: Budget, pattern: frozenset[int] | None = None):
        """`pattern`: exactly these steps are predicted, by number, from 0; for tests and benchmarks."""
        self.wanted, self.pattern = wanted, pattern
        self.evaluations = self.computed = 0
        self.refused = ""

    def attach(self, model):
        """A clone of the model with the acceleration around it."""
        model = model.clone()
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, self.around_sampling)
        return model

    def report(self) -> str:
        return self.refused or f"{self.computed} of {self.evaluations} evaluations computed"

    def around_sampling(self, executor, noise, latent_image, sampler, sigmas, *arguments, **keywords):
        guider = executor.class_obj
        self.refused = why_all(guider, sampler)
        if self.refused:
            logging.warning("Krea Sampler: %s", self.refused)
            return executor(noise, latent_image, sampler, sigmas, *arguments, **keywords)
        run = Run(sigmas.tolist(), self.wanted.of(len(sigmas) - 1), self.pattern, guider, sampler)
        options = guider.model_options["transformer_options"]
        wrap(options, WrappersMP.PREDICT_NOISE, functools.partial(around_look, run))
        wrap(options, WrappersMP.APPLY_MODEL, functools.partial(around_model, run))
        try:
            return executor(noise, latent_image, sampler, sigmas, *arguments, **keywords)
        finally:
            unwrap(options)
            self.evaluations += sum(answers.evaluations for answers in run.answers.values())
            self.computed += sum(answers.computed_evaluations for answers in run.answers.values())
            logging.info("Krea Sampler: %s", self.report())
            run.answers.clear()


def wrap(options: dict, kind: str, wrapper: Callable) -> None:
    """Puts it innermost, so that it sees each call as Redux and other packs have made it."""
    options.setdefault("wrappers", {}).setdefault(kind, {})[KEY] = [wrapper]


def unwrap(options: dict) -> None:
    for wrappers in options["wrappers"].values():
        wrappers.pop(KEY, None)


def around_look(run: Run, executor, x, timestep, *arguments, **keywords):
    run.look(timestep)
    return executor(x, timestep, *arguments, **keywords)


def around_model(run: Run, executor, *arguments, **keywords) -> torch.Tensor:
    """The denoised latent [B,C,H,W], from the model or from its answers before.

    The answer is the velocity (x - denoised) / level, which changes least along a run. Where the sampler adds noise at every
    step, the velocity jumps with it: there it is the denoised latent itself.
    """
    call = ModelCall.of(arguments, keywords)
    refuse_other_caches(executor.class_obj)
    answers, level, following = run.answers_to(call), run.level, run.following
    answers.evaluations += 1
    if run.are_stale(answers):
        answers.predicted.clear()
    elif run.step not in run.plan and answers.can_predict(level):
        answer = prediction(answers.computed, level)
        answers.predicted.append((level, following, answer))
        return answer if run.adds_noise else call.x - level * answer
    denoised = call.through(executor)
    answers.computed_evaluations += 1
    answers.keep(level, denoised if run.adds_noise else (call.x - denoised) / level)
    answers.last_computed = run.step
    if following == level:
        return denoised  # nothing moves in this step
    correct = correction(answers, following - level) if run.is_euler else None
    answers.predicted.clear()
    return denoised if correct is None else denoised - level * correct


def is_plain_euler(sampler) -> bool:
    """Whether its steps are x + (next level - level) · velocity, one answer for each."""
    function = getattr(sampler, "sampler_function", None)
    return function is k_diffusion.sample_euler and not sampler.extra_options


def adds_noise(sampler) -> bool:
    """Whether it is one of the ancestral and stochastic samplers: k-diffusion hands those a source of noise."""
    function = getattr(sampler, "sampler_function", None)
    return function is not None and "noise_sampler" in inspect.signature(function).parameters


def is_wrapped(options: dict) -> bool:
    """Whether another pack stands between the sampler and our count of its looks."""
    wrappers = options.get("wrappers", {})
    kinds = (WrappersMP.SAMPLER_SAMPLE, WrappersMP.PREDICT_NOISE)
    return any(key != KEY for kind in kinds for key in wrappers.get(kind, {}))


def why_all(guider, sampler) -> str:
    """Why no step may be left out, "" where some may."""
    if changes_with_time(guider.conds):
        return "hook keyframes change the model during the run, so every step is computed."
    if getattr(getattr(sampler, "sampler_function", None), "__name__", "") in OWN_LEVELS:
        return "this sampler chooses its own noise levels, so every step is computed."
    return ""


def control_nets(conds: dict) -> list:
    """Each ControlNet of all prompts, with those it was applied after."""
    nets = []
    for cond in (cond for prompts in conds.values() for cond in prompts):
        net = cond.get("control")
        while net is not None:
            nets.append(net)
            net = getattr(net, "previous_controlnet", None)
    return nets


def is_open(net, level: float) -> bool:
    """Whether it has a say at this noise level, as its own get_control asks."""
    span = getattr(net, "timestep_range", None)
    return span is None or span[1] <= level <= span[0]


def changes_with_time(conds: dict) -> bool:
    hooks = [cond.get("hooks") for prompts in conds.values() for cond in prompts]
    return any(hook.hook_keyframe.keyframes for group in hooks if group for hook in group.hooks)


# --- for Krea Sampler -----------------------------------------------------------------------------------------------


def accelerate(model, wanted: Budget) -> tuple[object, Callable[[], str]]:
    """A clone of the model that computes as many steps as wanted, and what to ask, after sampling, for what it did."""
    require_alone(model)
    acceleration = Acceleration(wanted)
    return acceleration.attach(model), acceleration.report


def require_alone(model) -> None:
    """Two caches would each predict from the other's shortcuts."""
    options = model.model_options["transformer_options"]
    for key, name in OTHER_CACHES.items():
        if key in options:
            raise ValueError(f"{name} is already on this model: remove it, or set acceleration to none.")


def refuse_other_caches(model) -> None:
    network = core_flux(model)
    if network is not None and has_foreign_forward(network):
        raise ValueError(
            "another node has replaced FLUX's forward pass (TeaCache, WaveSpeed and PuLID do): remove it, or set "
            "acceleration to none."
        )
