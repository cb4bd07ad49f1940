"""The miniature model files: right layout, the same bytes every time, finite numbers. integration/ loads them."""

import json
import os
from math import prod

import miniature
import numpy
import pytest
import torch

SMALL = {"a.weight": ("F32", (7, 5)), "norm.weight": ("F16", (9,)), "b.weight": ("F8_E4M3", (3, 300))}


def read(path):
    """Header and weights of a safetensors file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def parameters(layout):
    return sum(prod(shape) for _, shape in layout.values())


def test_the_full_layouts_have_the_published_sizes():
    assert parameters(miniature.flux_layout()) == 11_901_408_320
    assert parameters(miniature.vae_layout()) == 83_819_683
    assert len(miniature.t5_layout()) == 219
    assert len(miniature.clip_l_layout()) == 196
    assert len(miniature.clip_vision_layout()) == 437


def test_the_same_seed_gives_the_same_bytes_and_another_seed_gives_others(tmp_path):
    first = miniature.write_safetensors(tmp_path / "1", SMALL, seed=1).read_bytes()
    again = miniature.write_safetensors(tmp_path / "2", SMALL, seed=1).read_bytes()
    other = miniature.write_safetensors(tmp_path / "3", SMALL, seed=2).read_bytes()
    assert first == again
    assert read(tmp_path / "1")[1] != read(tmp_path / "3")[1] and len(first) == len(other)


def test_a_finished_file_is_left_alone_and_a_damaged_or_different_one_is_written_anew(tmp_path):
    path = miniature.write_safetensors(tmp_path / "x.safetensors", SMALL)
    whole = path.read_bytes()
    os.utime(path, ns=(1, 1))
    miniature.write_safetensors(path, SMALL)
    assert path.stat().st_mtime_ns == 1
    os.truncate(path, len(whole) - 1)
    miniature.write_safetensors(path, SMALL)
    assert path.read_bytes() == whole
    miniature.write_safetensors(path, SMALL, seed=9)
    assert path.read_bytes() != whole


def test_a_failure_leaves_no_file_behind(tmp_path):
    with pytest.raises(ValueError, match="U8"):
        miniature.write_safetensors(tmp_path / "x.safetensors", {"a": ("U8", (4, 4))})
    assert list(tmp_path.iterdir()) == []


def test_every_dtype_comes_back_as_the_number_that_went_in():
    values = numpy.concatenate([numpy.linspace(-440, 440, 3001), numpy.geomspace(1e-4, 400, 3000)]).astype(
        numpy.float32
    )
    for name, dtype in {"BF16": torch.bfloat16, "F16": torch.float16, "F8_E4M3": torch.float8_e4m3fn}.items():
        ours = torch.frombuffer(bytearray(miniature.encode(values, name).tobytes()), dtype=dtype).float()
        theirs = torch.from_numpy(values).to(dtype).float()
        assert ((ours - theirs).abs() <= theirs.abs() / 8 + 2**-10).all(), name
        assert (ours != theirs).float().mean() < 0.01, name  # halfway cases may be rounded either way


def test_weights_have_the_spread_of_their_layer_and_norms_are_ones(tmp_path):
    layout = {"wide.weight": ("F32", (64, 4096)), "wide.bias": ("F32", (64,)), "norm.weight": ("F32", (64,))}
    _, data = read(miniature.write_safetensors(tmp_path / "x", layout))
    weights, biases, ones = numpy.split(numpy.frombuffer(data, "<f4"), [64 * 4096, 64 * 4096 + 64])
    assert abs(weights.std() * 64 - 1) < 0.02
    assert 0.01 < biases.std() < 0.03
    assert (ones == 1).all()


def test_a_scaled_file_says_the_factor_that_brings_its_weights_back(tmp_path):
    layout = miniature._fp8_scaled({"layer.weight": (64, 256), "layer.bias": (64,)})
    header, data = read(miniature.write_safetensors(tmp_path / "x", layout))
    start, end = header["layer.scale_weight"]["data_offsets"]
    scale = numpy.frombuffer(data[start:end], "<f4")[0]
    assert scale == numpy.float32(1 / 16 / miniature.FP8_SPREAD)
    assert header["scaled_fp8"]["shape"] == [2]


def test_a_tile_that_ends_within_a_tensor_goes_on_at_its_beginning(tmp_path):
    layout = {"a.weight": ("F16", (1, miniature.TILE_VALUES + 3))}
    _, data = read(miniature.write_safetensors(tmp_path / "x", layout))
    assert len(data) == 2 * (miniature.TILE_VALUES + 3)
    assert data[-6:] == data[:6]


def test_the_set_has_the_names_and_folders_that_the_templates_use():
    assert set(miniature.set_layouts()) == {
        "diffusion_models/flux1-krea-dev.safetensors",
        "diffusion_models/flux1-krea-dev_fp8_scaled.safetensors",
        "text_encoders/clip_l.safetensors",
        "text_encoders/t5xxl_fp16.safetensors",
        "vae/ae.safetensors",
        "vae_approx/taef1_encoder.safetensors",
        "vae_approx/taef1_decoder.safetensors",
        "clip_vision/sigclip_vision_patch14_384.safetensors",
        "style_models/flux1-redux-dev.safetensors",
    }


def test_a_header_alone_has_the_full_size_and_takes_no_room(tmp_path):
    path = miniature.write_header_only(tmp_path / "flux1-krea-dev.safetensors", miniature.flux_layout())
    header, length = miniature.header_of(miniature.flux_layout()), path.stat().st_size
    assert length == len(header) + 2 * 11_901_408_320
    with open(path, "rb") as file:
        assert file.read(len(header)) == header
