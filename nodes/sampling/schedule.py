"""The reference schedule of FLUX.1, computed for the latent's own size.

Source: `get_schedule` in black-forest-labs/flux and krea-ai/flux-krea (src/flux/sampling.py in both): timesteps from 1 to 0
in equal steps, each bent by e^mu / (e^mu + 1/t - 1), where mu grows linearly with the number of image tokens.
ComfyUI's own default keeps mu at 1.15 whatever the size, which is right at 1024 × 1024 only.
"""

from __future__ import annotations

import math

BASE_SHIFT, MAX_SHIFT = 0.5, 1.15
BASE_TOKENS, MAX_TOKENS = 256, 4096
PATCH = 2  # latent pixels along a token's side


def token_count(latent_height: int, latent_width: int) -> int:
    """Tokens of one image. FLUX pads an odd side up to the next patch."""
    return math.ceil(latent_height / PATCH) * math.ceil(latent_width / PATCH)


def shift(tokens: int) -> float:
    """The reference's mu for this many image tokens."""
    slope = (MAX_SHIFT - BASE_SHIFT) / (MAX_TOKENS - BASE_TOKENS)
    return BASE_SHIFT + slope * (tokens - BASE_TOKENS)


def sigmas(steps: int, mu: float) -> list[float]:
    """`steps` + 1 noise levels from 1 down to 0."""
    bend = math.exp(mu)
    return [1.0, *(bend / (bend + steps / (steps - i) - 1) for i in range(1, steps)), 0.0]
