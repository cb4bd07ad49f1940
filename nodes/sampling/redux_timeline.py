"""When a Redux reference counts in a run, and how strongly at each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

SAME_LEVEL = 5e-4  # of 1: core's schedulers look levels up in a table of 10,000, percentages are computed


class Reference(NamedTuple):
    """Tokens `start` to `stop` of a prompt: how strongly everything else sees them, and when.

    The strength goes in equal parts from `strength` at the first step of the window to `end_strength` at its last one.
    Outside of the window a reference is taken out of the prompt; the prompt itself (`is_prompt`) counts as it is.
    """

    start: int
    stop: int
    strength: float = 1.0
    end_strength: float = 1.0
    where: torch.Tensor | None = None  # [1,1,H,W], 0 to 1: the places in the result where it counts
    start_percent: float = 0.0
    end_percent: float = 1.0
    is_prompt: bool = False

    @property
    def has_window(self) -> bool:
        return self.start_percent > 0 or self.end_percent < 1

    @property
    def is_core_redux(self) -> bool:
        """Whether it is what core's StyleModelApply does."""
        return self.strength == self.end_strength == 1 and self.where is None and not self.has_window


class Timeline(NamedTuple):
    """The noise levels from which a run takes its steps, falling, and what a percentage of the run means in them."""

    levels: list[float]
    percent_to_sigma: Callable[[float], float]

    def is_open(self, reference: Reference, sigma: float) -> bool:
        """From the step at start_percent on, up to but not including the one at end_percent."""
        is_early = reference.start_percent > 0 and above(sigma, self.percent_to_sigma(reference.start_percent))
        is_late = reference.end_percent < 1 and not above(sigma, self.percent_to_sigma(reference.end_percent))
        return not is_early and not is_late

    def steps(self, reference: Reference) -> list[int]:
        """The steps of this run, from 0, in which the reference counts."""
        return [step for step, level in enumerate(self.levels) if self.is_open(reference, level)]

    def strength(self, reference: Reference, sigma: float) -> float:
        """Exactly `strength` at the window's first step and `end_strength` at its last; samplers look between, too."""
        steps = self.steps(reference)
        if len(steps) < 2 or reference.strength == reference.end_strength:
            return reference.strength
        share = (self.place(sigma) - steps[0]) / (steps[-1] - steps[0])
        share = min(max(share, 0.0), 1.0)
        return reference.strength * (1 - share) + reference.end_strength * share

    def place(self, sigma: float) -> float:
        """The step that is taken from this level; between two steps a fraction."""
        after = sum(above(level, sigma) for level in self.levels)
        if after == len(self.levels) or after == 0 or not above(sigma, self.levels[after]):
            return after
        before, behind = self.levels[after - 1], self.levels[after]
        return after - 1 + (before - sigma) / (before - behind)


def above(level: float, other: float) -> bool:
    return level > other + SAME_LEVEL


def timeline(levels: torch.Tensor, model_sampling) -> Timeline:
    return Timeline(levels[:-1].tolist(), lambda percent: float(model_sampling.percent_to_sigma(percent)))


def in_words(references: Sequence[Reference], when: Timeline) -> list[str]:
    """What a run makes of references that change with time, for the log and the sampler."""
    sentences = []
    own = [reference for reference in references if not reference.is_prompt]
    for number, reference in enumerate(own, start=1):
        if not reference.has_window and reference.strength == reference.end_strength:
            continue
        steps, total = when.steps(reference), len(when.levels)
        if not steps:
            sentences.append(
                f"reference {number} of Krea Redux counts in none of {total} steps: there is none between start_percent "
                f"{reference.start_percent:g} and end_percent {reference.end_percent:g}."
            )
            continue
        first, last = (when.strength(reference, when.levels[step]) for step in (steps[0], steps[-1]))
        strength = f"{first:g}" if first == last else f"{first:g} to {last:g}"
        sentences.append(
            f"reference {number} of Krea Redux counts in {len(steps)} of {total} steps, {steps[0] + 1} to {steps[-1] + 1}, "
            f"with strength {strength}."
        )
    return sentences
