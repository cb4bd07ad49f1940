"""The safety detector beside transformers' pipeline: a random ViT-B/16, from pictures in memory to scores."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import conftest  # noqa: F401  loads the pack
import numpy
import torch
import transformers
from flux_krea.nodes.safety import detector
from PIL import Image

BATCHES = {1: 12, 16: 4}  # images in a batch: timed pairs
SIDE = 1024


def run(arguments: Iterable[str] = ()) -> Iterable[dict]:
    """Milliseconds an image. Pairs are timed one after the other, in turn first and second, so load hits both alike."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as place:
        write_random_vit(Path(place))
        ours = detector.load(Path(place), "random ViT-B/16")
        reference = transformers.pipeline("image-classification", model=place, device=device)
    ours.model.to(device)
    for batch, pairs in BATCHES.items():
        pixels = numpy.random.default_rng(batch).integers(0, 256, (batch, SIDE, SIDE, 3), dtype=numpy.uint8)
        images, pictures = torch.from_numpy(pixels) / 255, [Image.fromarray(picture) for picture in pixels]
        pair = (
            lambda images=images: [answer.score for answer in ours.score(images, device=device)],
            lambda pictures=pictures, batch=batch: scores(reference(pictures, batch_size=batch)),
        )
        assert numpy.allclose(pair[0](), pair[1](), atol=1e-2), "the two do not answer the same"
        times = numpy.array([timed(pair, swap=index % 2 == 1) for index in range(pairs)]) * 1000 / batch
        yield {
            "bench": f"safety batch {batch}",
            "ours": round(statistics.median(times[:, 0]), 2),
            "reference": round(statistics.median(times[:, 1]), 2),
            "ratio": round(statistics.median(times[:, 0] / times[:, 1]), 3),
            "unit": "ms/image",
            "n": pairs,
            "device": device,
        }


def write_random_vit(folder: Path) -> None:
    torch.manual_seed(0)
    labels = {"id2label": {0: "normal", 1: "nsfw"}, "label2id": {"normal": 0, "nsfw": 1}}
    transformers.ViTForImageClassification(transformers.ViTConfig(**labels)).save_pretrained(folder)
    transformers.ViTImageProcessor().save_pretrained(folder)


def scores(answers: list[list[dict]]) -> list[float]:
    return [next(label["score"] for label in answer if label["label"] == "nsfw") for answer in answers]


def timed(pair: tuple[Callable, Callable], swap: bool) -> list[float]:
    """Seconds of each; both return Python numbers, so a GPU has finished when they return."""
    seconds = [0.0, 0.0]
    for index in (1, 0) if swap else (0, 1):
        started = time.perf_counter()
        pair[index]()
        seconds[index] = time.perf_counter() - started
    return seconds
