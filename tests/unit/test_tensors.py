"""Input images on their way to a provider, and its pictures on their way into the graph."""

import hashlib
import io
import tracemalloc

import numpy
import pytest
import torch
from fake_provider import png
from flux_krea.nodes.bridge import tensors
from flux_krea.nodes.providers.contract import BadAnswer, Picture, RequestRefused
from PIL import Image


def noise(height, width, channels=3, seed=0):
    return torch.rand(1, height, width, channels, generator=torch.Generator().manual_seed(seed))


def in_one_piece(image):
    """As version 0.1.0 encoded it: the hash of what it paid for is made of these bytes."""
    pixels = (image[0].clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    picture = Image.fromarray(pixels)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


@pytest.mark.parametrize(
    "image",
    [
        noise(64, 48),
        noise(150, 110),
        noise(130, 70, 4),
        noise(120, 100, 4),
        noise(40, 40) * 3 - 1,
        noise(40, 50).half(),
        noise(40, 50).bfloat16(),
        torch.full([1, 300, 300, 3], 0.5),
    ],
    ids=lambda image: f"{tuple(image.shape)} {image.dtype}",
)
def test_an_image_within_the_cap_is_encoded_to_the_same_bytes_as_ever(image, monkeypatch):
    monkeypatch.setattr(tensors, "BAND", 1000)
    assert hashlib.sha256(tensors.to_png(image)).digest() == hashlib.sha256(in_one_piece(image)).digest()


@pytest.mark.parametrize(
    "width, height, sent",
    [
        (2048, 2048, (2048, 2048)),
        (2049, 2048, (2048, 2047)),
        (8192, 8192, (2048, 2048)),
        (8192, 4096, (2896, 1448)),
        (1, 2**23, (1, 2**22)),
        (2**23, 2, (2**22, 1)),
        (2**22 + 1, 1, (2**22, 1)),
    ],
)
def test_a_large_image_is_scaled_down_in_shape(width, height, sent):
    assert tensors.sent_size(width, height) == sent


@pytest.mark.parametrize("channels", [3, 4])
def test_a_large_image_is_scaled_and_costs_little_more_than_its_bytes(channels, monkeypatch):
    monkeypatch.setattr(tensors, "LARGEST_INPUT", 2**16)
    monkeypatch.setattr(tensors, "BAND", 2**14)
    image = torch.full([1, 1024, 1024, channels], 0.25)
    if channels == 4:
        image[..., 3] = 1.0
    tracemalloc.start()
    encoded = tensors.to_png(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    picture = Image.open(io.BytesIO(encoded))
    assert (picture.size, picture.mode, picture.getpixel((7, 9))) == ((256, 256), "RGB", (64, 64, 64))
    assert peak < 2.5 * 1024 * 1024 * channels  # numpy's; what it holds in floats would be four times that


@pytest.mark.parametrize(
    "shape, sentence",
    [
        ((2, 8, 8, 3), "batch of 2"),
        ((0, 8, 8, 3), "batch of 0"),
        ((8, 8, 3), "batch of 8"),
        ((1, 8, 8, 1), "1 channels"),
        ((1, 8, 8, 2), "2 channels"),
        ((1, 8, 8, 7), "7 channels"),
        ((1, 0, 8, 3), "8×0"),
        ((1, 8, 0, 3), "0×8"),
    ],
)
def test_what_is_no_single_picture_is_refused_with_a_sentence(shape, sentence):
    with pytest.raises(RequestRefused, match=sentence):
        tensors.to_png(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_pixels_that_are_no_numbers_are_refused_wherever_they_stand(value, monkeypatch):
    monkeypatch.setattr(tensors, "BAND", 1000)
    image = torch.zeros(1, 150, 100, 3)
    image[0, -1, -1, -1] = value
    with pytest.raises(RequestRefused, match="finite"):
        tensors.to_png(image)


# What comes back


def kept(folder, name, width, height, content=None):
    path = folder / name
    if content is None:
        Image.new("RGB", (width, height), (10, 20, 30)).save(path, compress_level=1)
    else:
        path.write_bytes(content)
    return Picture(str(path), width, height)


def test_pictures_of_several_sizes_stand_on_black(tmp_path):
    batch = tensors.to_batch([kept(tmp_path, "a.png", 4, 8), kept(tmp_path, "b.png", 8, 2)])
    assert batch.shape == (2, 8, 8, 3)
    assert numpy.allclose(batch[0, 0, 2] * 255, (10, 20, 30)) and not batch[0, :, :2].any() and not batch[1, :3].any()


def test_a_batch_that_would_be_too_large_is_refused_before_it_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(tensors, "LARGEST_BATCH", 2**21)
    pictures = [kept(tmp_path, "wide.png", 1600, 100), kept(tmp_path, "high.png", 100, 1600)]
    tracemalloc.start()
    with pytest.raises(BadAnswer) as refusal:
        tensors.to_batch(pictures)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sentence = str(refusal.value)
    assert refusal.value.paid is True and peak < 2 * 2**20
    assert "1600×100, 100×1600" in sentence and "4 megapixels; more than 2" in sentence
    assert "Paid and waiting" in sentence and str(tmp_path) in sentence and "wide.png, high.png" in sentence
    assert all((tmp_path / name).exists() for name in ("wide.png", "high.png"))


def test_the_largest_batch_is_ten_pictures_of_the_largest_tier():
    assert tensors.LARGEST_BATCH == 10 * 4096 * 4096 < 2 * 16000 * 16000


def test_more_pixels_than_a_batch_may_have_are_not_even_decoded(tmp_path):
    pictures = [kept(tmp_path, f"{index}.png", 8192, 8192, b"never read") for index in range(3)]
    with pytest.raises(BadAnswer, match="192 megapixels"):
        tensors.to_batch(pictures)


@pytest.mark.parametrize("content", [b"", b"GIF89a", png(64, 64)[:-30], png()[:40] + b"\xff" * 40])
@pytest.mark.parametrize("read", [tensors.decode, tensors.thumbnail])
def test_a_picture_that_cannot_be_decoded_is_named(tmp_path, content, read):
    with pytest.raises(BadAnswer, match="cannot be decoded.*a.png") as refusal:
        read(kept(tmp_path, "a.png", 8, 8, content))
    assert refusal.value.paid is True


# Masks


@pytest.mark.parametrize(
    "mask",
    [torch.zeros(1, 64, 64), torch.full([64, 64], 0.001), torch.full([1, 8, 8], -1.0)],
    ids=["black", "almost", "below"],
)
def test_a_mask_that_repaints_nothing_is_refused_before_it_is_paid(mask):
    with pytest.raises(RequestRefused, match="mask has no white.*Nothing was paid"):
        tensors.mask_to_png(mask, noise(64, 64))


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (torch.ones(0, 64, 64), "a batch of 0"),
        (torch.ones(2, 64, 64), "a batch of 2"),
        (torch.ones(1, 0, 64), "64×0"),
        (torch.ones(1, 64, 0), "0×64"),
        (torch.ones(1, 1, 64, 64), "no mask"),
        (torch.ones(64), "no mask"),
        (torch.full([1, 64, 64], float("nan")), "not finite"),
        (torch.full([1, 64, 64], float("-inf")), "not finite"),
    ],
)
def test_what_is_no_mask_is_refused_with_what_it_is(mask, sentence):
    with pytest.raises(RequestRefused, match=sentence):
        tensors.mask_to_png(mask, noise(64, 64))


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float16, torch.bfloat16])
def test_a_mask_of_any_kind_and_size_is_scaled_to_its_image(kind):
    mask = torch.zeros(1, 10, 20)
    mask[:, :, 10:] = 1
    picture = Image.open(io.BytesIO(tensors.mask_to_png(mask.to(kind), noise(64, 48))))
    assert (picture.mode, picture.size) == ("L", (48, 64))
    assert picture.getpixel((2, 30)) == 0 and picture.getpixel((45, 30)) == 255
