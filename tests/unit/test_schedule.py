"""The krea schedule against the reference's formula, written out here once more, in its own form."""

import math

import pytest
from flux_krea.nodes.sampling import schedule


def reference_schedule(steps: int, width: int, height: int) -> list[float]:
    """`get_schedule`, `time_shift` and `get_lin_function` of black-forest-labs/flux, src/flux/sampling.py."""
    tokens = (width // 16) * (height // 16)
    slope = (1.15 - 0.5) / (4096 - 256)
    mu = slope * tokens + (0.5 - slope * 256)
    timesteps = [1 - i / steps for i in range(steps + 1)]
    return [math.exp(mu) / (math.exp(mu) + (1 / t - 1) ** 1.0) if t > 0 else 0.0 for t in timesteps]


@pytest.mark.parametrize("width, height", [(512, 512), (1024, 1024), (1536, 640), (2048, 2048)])
@pytest.mark.parametrize("steps", [1, 4, 28, 50])
def test_sigmas_equal_the_reference(width, height, steps):
    ours = schedule.sigmas(steps, schedule.shift(schedule.token_count(height // 8, width // 8)))
    assert ours == pytest.approx(reference_schedule(steps, width, height), abs=1e-6)


def test_the_figures_measured_from_the_reference_at_one_megapixel():
    levels = schedule.sigmas(28, schedule.shift(4096))
    assert levels[:3] == pytest.approx([1.0, 0.9884086, 0.9762225], abs=1e-7)
    assert levels[14] == pytest.approx(0.7595109, abs=1e-7)
    assert levels[-2:] == pytest.approx([0.1047209, 0.0], abs=1e-7)


def test_an_odd_latent_counts_the_padded_patch():
    assert schedule.token_count(65, 64) == 33 * 32
