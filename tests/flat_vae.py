"""A VAE built by hand for flat pictures in the palette of scenes.py: TAESD's layout, no training.

The encoder sorts each pixel into a corner of the colour cube (red, green and blue each off or on) and takes the mean over
8 × 8 pixels; the latent that the model sees is GAIN · (mean - 1/2), in three of the sixteen channels. The decoder enlarges
smoothly, makes the slope at a half steep, so that edges are sharp and round shapes round, and gives each corner its colour.
All activations are ReLU, so what must keep its sign goes as a pair: x and -x, each cut at 0.

`write_full` does as much in the layout of FLUX's own autoencoder, ten times slower: block means in, a smooth enlargement
out. Its only nonlinearities are norms and swish, so edges stay soft and colours are the cube's own.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import miniature
import numpy
import scenes

GAIN = miniature.LATENT_GAIN
SHIFT, SCALE = (
    miniature.CONSTANTS["vae_shift"],
    miniature.CONSTANTS["vae_scale"],
)  # the model sees (latent - SHIFT) · SCALE
STEEP = 5.0  # the slope of the decoder's edges; the zeros beyond the picture's border weaken its outermost pixels to a quarter
INWARD = 1 / 8  # the latent's size inside TAESD, whose first layer squeezes what is large
# Between which values of the shown colour a channel goes from off to on. The palette leaves a gap in each.
EDGES = ((0.30, 0.80), (0.48, 0.62), (0.35, 0.65))
MEAN = numpy.array([[0, 0, 0], [0, 1, 1], [0, 1, 1]]) / 4  # of 2 × 2, for a stride of 2
SMOOTH = numpy.outer((1, 2, 1), (1, 2, 1)) / 16
POINT = numpy.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]])


class Built(dict):
    """Weights by key, all zero but what is set."""

    def __init__(self, layout: miniature.Layout):
        super().__init__({key: numpy.zeros(shape, numpy.float32) for key, (_, shape) in layout.items()})

    def take(self, layer: str, output: int, sources: dict[int, float], bias: float = 0.0, kernel=POINT) -> None:
        """Makes one output channel a sum of input channels."""
        for source, factor in sources.items():
            self[f"{layer}.weight"][output, source] = factor * kernel
        if bias:
            self[f"{layer}.bias"][output] = bias


def encoder(scale: float = 1.0) -> Built:
    """From pixels of 0 to 1 to `scale` times the latent that the model sees."""
    built = Built(miniature.tiny_encoder_layout())
    for colour, (low, high) in enumerate(EDGES):
        built.take("0", colour, {colour: 1.0})
        clipped(built, "1", colour, {colour: 1 / (high - low)}, -low / (high - low), 3 + colour)
        for layer in ("2", "6", "10"):
            built.take(layer, 3 + colour, {3 + colour: 1.0}, kernel=MEAN)
        built.take("14", colour, {3 + colour: scale * GAIN}, -scale * GAIN / 2)
    return built


def decoder(scale: float = 1.0) -> Built:
    """From `scale` times the latent that the model sees to pixels of 0 to 1."""
    built = Built(miniature.tiny_decoder_layout())
    for colour in range(3):
        for channel, sign in ((2 * colour, 1.0), (2 * colour + 1, -1.0)):
            built.take("1", channel, {colour: sign / (scale * GAIN)})
            for layer in ("7", "12", "17"):
                built.take(layer, channel, {channel: 1.0}, kernel=SMOOTH)
        steep = {2 * colour: STEEP, 2 * colour + 1: -STEEP}
        clipped(built, "18", colour, steep, 0.5, None)
    # Sums over subsets of the three, cut at 0, tell the corners of the cube apart.
    subsets = [subset for count in (1, 2, 3) for subset in itertools.combinations(range(3), count)]
    for index, subset in enumerate(subsets):
        sources = {channel: sign for colour in subset for channel, sign in ((2 * colour, 1.0), (2 * colour + 1, -1.0))}
        built.take("18.conv.4", 6 + index, sources, 1.0 - len(subset))
    corners = numpy.array([corner for corner, _ in scenes.COLOURS.values()])
    colours = numpy.array([colour for _, colour in scenes.COLOURS.values()])
    features = [numpy.maximum(corners[:, list(subset)].sum(1) + 1 - len(subset), 0) for subset in subsets]
    weights = numpy.linalg.solve(numpy.stack([*features, numpy.ones(8)], 1), colours)
    for output in range(3):
        built.take("19", output, {6 + index: weights[index, output] for index in range(7)}, weights[7, output])
    return built


def clipped(built: Built, block: str, colour: int, sources: dict[int, float], bias: float, output: int | None) -> None:
    """In a residual block: a sum, cut at 0 and at 1, in channel `output` behind it (None: not brought out of it)."""
    built.take(f"{block}.conv.0", 2 * colour, sources, bias)
    built.take(f"{block}.conv.0", 2 * colour + 1, sources, bias - 1)
    for channel in (2 * colour, 2 * colour + 1):
        built.take(f"{block}.conv.2", channel, {channel: 1.0})
    if output is not None:
        built.take(f"{block}.conv.4", output, {2 * colour: 1.0, 2 * colour + 1: -1.0})


def write(path: Path) -> Path:
    """Both halves in one file, as ComfyUI takes them from models/vae."""
    values = {"vae_scale": SCALE * INWARD, "vae_shift": SHIFT}
    for name, half in (("encoder", encoder(INWARD)), ("decoder", decoder(INWARD))):
        values |= {f"taesd_{name}.{key}": value for key, value in half.items()}
    return miniature.write_values(path, miniature.tiny_vae_layout(), values, "built by hand, for flat pictures")


def write_previews(folder: Path) -> Path:
    """The decoder alone, which ComfyUI's previews find in models/vae_approx."""
    path = folder / "taef1_decoder.safetensors"
    return miniature.write_values(path, miniature.tiny_decoder_layout(), decoder(), "built by hand, for flat pictures")


# --- FLUX's own layout ----------------------------------------------------------------------------------------------

LARGE = (
    64.0  # each colour x goes as x, -x, LARGE, -LARGE: then a norm's mean is 0 and its deviation hardly depends on x
)
VALUES = numpy.array([1, -1, 0, 0]), numpy.array([0, 0, 1, -1]) * LARGE


def full() -> Built:
    """The autoencoder of 83.8 million parameters. All residual branches add nothing; norms are one and zero."""
    built = Built(miniature.vae_layout("F32"))
    for key, weight in built.items():
        if "norm" in key and key.endswith("weight"):
            weight[:] = 1
        if "nin_shortcut.weight" in key:
            weight[range(12), range(12), 0, 0] = 1
        if "downsample.conv.weight" in key or "upsample.conv.weight" in key:
            signal = numpy.roll(MEAN, (-1, -1), (0, 1)) if "downsample" in key else SMOOTH  # FLUX pads right and below
            for channel in range(12):
                weight[channel, channel] = signal if channel % 4 < 2 else POINT
    for colour in range(3):
        for kind in range(4):
            channel, (sign, constant) = 4 * colour + kind, (values[kind] for values in VALUES)
            built.take("encoder.conv_in", channel, {colour: sign}, constant)
            inward = 2 * SCALE / GAIN * sign
            built.take("decoder.conv_in", channel, {colour: inward}, constant - inward * SHIFT)
        # Behind the norm, swish(u) - swish(-u) is u. The encoder's groups hold sixteen channels, the decoder's four.
        for half, deviation, gain in (("encoder", 6 / 16, GAIN / 2 / SCALE), ("decoder", 2 / 4, 1.0)):
            factor = LARGE * deviation**0.5 * gain
            built.take(f"{half}.conv_out", colour, {4 * colour: factor, 4 * colour + 1: -factor})
    built["encoder.conv_out.bias"][:16] = SHIFT
    built["encoder.conv_out.bias"][16:] = -30  # the logarithm of the variance: nothing is drawn at random
    return built


def write_full(path: Path) -> Path:
    return miniature.write_values(path, miniature.vae_layout("F32"), full(), "built by hand, block means")
