"""The scenes of the trained miniature, their checker, the VAE built by hand and the encoder that keeps words in order."""

import hashlib
import random

import flat_vae
import miniature
import numpy
import pytest
import scenes
import torch
import trained
from torch.nn import functional


def two(background, *looks, where="left of"):
    places = scenes.RELATIONS[where]
    things = (scenes.Thing(colour, shape, "", at) for (colour, shape), at in zip(looks, places, strict=True))
    return scenes.Scene(background, tuple(things), where)


def test_a_drawn_scene_is_met_and_its_prompt_gives_it_back():
    chance = random.Random(0)
    for number in range(12):
        scene = scenes.any_scene(chance, 1 + number % 2)
        assert scenes.score(scenes.draw(scene, 128), scene).met, scene.prompt
        assert scenes.parse(scene.prompt) == scene


def test_the_checker_tells_what_is_wrong():
    asked = two("black", ("green", "triangle"), ("white", "circle"))
    wrong = {
        "background": two("blue", ("green", "triangle"), ("white", "circle")),
        "colour": two("black", ("red", "triangle"), ("white", "circle")),
        "shape": two("black", ("green", "square"), ("white", "circle")),
        "place": two("black", ("green", "triangle"), ("white", "circle"), where="right of"),
    }
    for what, drawn in wrong.items():
        found = scenes.score(scenes.draw(drawn, 128), asked)
        assert not getattr(found, what) and not found.met
        assert all(getattr(found, other) for other in wrong if other != what), what
    assert not scenes.score(scenes.draw(scenes.parse("a green triangle at the left on black"), 128), asked).count


def test_noise_shows_no_scene():
    noise = numpy.random.default_rng(0).random((128, 128, 3), numpy.float32)
    assert not any(scenes.score(noise, scene).met for scene in scenes.held_out_scenes(20))


def test_a_prompt_that_is_no_scene_is_answered_with_the_words_there_are():
    with pytest.raises(ValueError, match="'a red fox in the snow' is not a scene.*Colours: black, red.*Shapes: circle"):
        scenes.parse("a red fox in the snow")


def test_prompts_that_people_type_are_understood():
    scene = scenes.parse("A small red circle above a blue square, on a yellow background.")
    assert scene.background == "yellow" and scene.where == "above"
    assert [thing.words for thing in scene.things] == ["small red circle", "blue square"]


def test_the_200_held_out_scenes_differ_and_every_other_one_has_two_things():
    found = scenes.held_out_scenes(200)
    assert len(set(found)) == 200 and all(scene.held_out for scene in found)
    assert sum(len(scene.things) == 2 for scene in found) == 100


def layers(weights, x, steps):
    """A run of TAESD's layers, by the names of its keys; a number is a block, "up" and "down" are what they say."""
    for step in steps:
        if step == "up":
            x = functional.interpolate(x, scale_factor=2)
        elif step == "relu":
            x = x.relu()
        elif isinstance(step, int):
            inner = x
            for layer in (0, 2, 4):
                inner = conv(weights, f"{step}.conv.{layer}", inner)
                inner = inner.relu() if layer < 4 else inner
            x = (x + inner).relu()
        else:
            name, stride = step
            x = conv(weights, name, x, stride)
    return x


def conv(weights, name, x, stride=1):
    bias = weights.get(f"{name}.bias")
    weight = torch.from_numpy(weights[f"{name}.weight"])
    return functional.conv2d(x, weight, None if bias is None else torch.from_numpy(bias), stride, padding=1)


ENCODER = [("0", 1), 1, ("2", 2), 3, 4, 5, ("6", 2), 7, 8, 9, ("10", 2), 11, 12, 13, ("14", 1)]
DECODER = [
    ("1", 1),
    "relu",
    3,
    4,
    5,
    "up",
    ("7", 1),
    8,
    9,
    10,
    "up",
    ("12", 1),
    13,
    14,
    15,
    "up",
    ("17", 1),
    18,
    ("19", 1),
]


def test_the_vae_takes_block_means_of_the_colour_cube_and_gives_the_scene_back():
    scene = two("yellow", ("red", "circle"), ("blue", "square"), where="above")
    picture = torch.from_numpy(scenes.draw_cube(scene, 128, fine=1)).permute(2, 0, 1)[None]
    shown = torch.from_numpy(scenes.shown(picture[0].permute(1, 2, 0).numpy())).permute(2, 0, 1)[None]

    latent = layers(flat_vae.encoder(), shown, ENCODER)
    back = layers(flat_vae.decoder(), latent, DECODER)

    means = flat_vae.GAIN * (functional.avg_pool2d(picture, 8) - 0.5)
    assert (latent[:, :3] - means).abs().max() < 1e-4
    assert latent[:, 3:].abs().max() == 0
    assert (back - shown).abs().mean() < 0.02
    assert scenes.score(back[0].permute(1, 2, 0).numpy(), scene).met


def test_each_head_of_the_text_encoder_looks_one_word_further_back():
    bias = miniature.one_word_back_a_head(32, 2)
    assert bias.shape == (32, 2) and bias.argmax(0).tolist() == [1, 2]
    assert (bias[0] == 20).all()  # itself, where nothing stands that far back


def test_the_trained_model_is_the_file_that_its_readme_names():
    folder = trained.ROOT / "tests" / "trained"
    (file,) = folder.glob("*.safetensors")
    assert hashlib.sha256(file.read_bytes()).hexdigest() in (folder / "README.md").read_text(encoding="utf-8")
