"""The trained miniature through our nodes: what guidance, schedule, image to image and masks do to a picture.

It draws simple scenes from prompts; a checker that looks at pixels says what a picture shows (scenes.py). Random weights can
show that numbers agree, only these can show that a picture becomes what was asked. They say nothing about Krea's own quality.
"""

import random
from dataclasses import replace

import miniature
import numpy
import pytest
import scenes
import trained
from comfyui import ROOT, ComfyUI, link_folder
from graphs import Graph
from PIL import Image
from scenes import Scene

SIDE, STEPS, GUIDANCE = 128, 8, 3.0
TOKENS = 24  # of the text; the rest of the padding says nothing to these encoders
RANDOM = "flux_scenes_random.safetensors"


class SceneGraph(Graph):
    """One batch of scenes, a prompt each, and what is drawn for them."""

    def __init__(self, wanted: list[Scene]):
        super().__init__()
        self.wanted = wanted
        self.model, self.clip, self.vae = trained.load(self)
        self.positive = self.prompts([scene.prompt for scene in wanted])

    def prompts(self, lines: list[str]) -> list:
        return [self.add("ProbePrompts", clip=self.clip, text="\n".join(lines), tokens=TOKENS), 0]

    def drawn(self, positive=None, latent=None, side: int = SIDE, **settings) -> list:
        """A picture for each scene."""
        settings = {"steps": STEPS, "guidance": GUIDANCE, **settings}
        latent = latent or self.size(side, side, len(self.wanted))
        samples = self.sampler(self.model, positive or self.positive, latent, **settings)
        return [self.add("VAEDecode", samples=samples, vae=self.vae), 0]

    def encoded(self, images: list) -> list:
        return [self.add("VAEEncode", pixels=images, vae=self.vae), 0]

    def loaded(self, comfyui, name: str) -> list:
        """The scenes as a program draws them, through files and Load Image."""
        batch = None
        for index, scene in enumerate(self.wanted):
            path = comfyui.base / "input" / f"{name}_{index}.png"
            Image.fromarray((scenes.draw(scene, SIDE) * 255).round().astype("uint8")).save(path)
            image = [self.add("LoadImage", image=path.name), 0]
            batch = [self.add("ImageBatch", image1=batch, image2=image), 0] if batch else image
        return batch

    def save(self, images: list) -> str:
        return self.add("SaveImage", images=images, filename_prefix="scenes")


def pictures(comfyui, history: dict, node: str) -> list[numpy.ndarray]:
    return [trained.pixels(comfyui.base / "output" / one["filename"]) for one in history["outputs"][node]["images"]]


def met(shown: list[numpy.ndarray], wanted: list[Scene]) -> int:
    """How many pictures show all that was asked."""
    return sum(scenes.score(picture, scene).met for picture, scene in zip(shown, wanted, strict=True))


@pytest.fixture(scope="module")
def comfyui(models, tmp_path_factory):
    """A server of its own: the narrow miniature needs a change to ComfyUI 0.3.75 that no other test shall have."""
    base = tmp_path_factory.mktemp("trained")
    (base / "models").mkdir()
    (base / "models" / "text_encoders").symlink_to(models / "text_encoders")
    paths = trained.place(base / "models")
    layout = miniature.read_layout(paths["diffusion_model"])
    miniature.write_safetensors(base / "models" / "diffusion_models" / RANDOM, layout)
    server = ComfyUI(base, arguments=("--cpu",))
    server.prepare()
    link_folder(base / "custom_nodes" / "probe", ROOT / "tests" / "integration" / "probe")
    link_folder(base / "custom_nodes" / "narrow_flux", trained.NARROW_FLUX)
    with server:
        yield server


@pytest.fixture(scope="module")
def some() -> list[Scene]:
    """Scenes of two things, never trained on."""
    return [scene for scene in scenes.held_out_scenes(16, seed=1) if len(scene.things) == 2]


def other_than(wanted: list[Scene]) -> list[Scene]:
    """For each scene one with another background, other colours and shapes, in the same places."""
    chance = random.Random(5)
    found = []
    for scene in wanted:
        while True:
            other = scenes.any_scene(chance, len(scene.things))
            looks = zip(other.things, scene.things, strict=True)
            if other.background != scene.background and all(a.colour != b.colour for a, b in looks):
                found.append(other)
                break
    return found


def test_of_200_prompts_never_trained_on_nearly_all_are_met(comfyui):
    """191 where it was measured; another processor rounds otherwise, and a picture or two at the border change sides."""
    wanted = scenes.held_out_scenes(200)
    graph = SceneGraph(wanted)
    node = graph.save(graph.drawn())

    shown = pictures(comfyui, comfyui.run(graph), node)

    assert met(shown, wanted) >= 187


def test_random_weights_of_the_same_shapes_meet_none(comfyui):
    wanted = scenes.held_out_scenes(40)
    graph = SceneGraph(wanted)
    graph["trained model"]["inputs"]["unet_name"] = RANDOM
    node = graph.save(graph.drawn())

    assert met(pictures(comfyui, comfyui.run(graph), node), wanted) == 0


def test_image_to_image_keeps_the_scene_at_denoise_03_and_draws_the_prompt_at_1(comfyui, some):
    graph = SceneGraph(some)
    source = graph.encoded(graph.loaded(comfyui, "source"))
    asked = other_than(some)
    other = graph.prompts([scene.prompt for scene in asked])
    nodes = {denoise: graph.save(graph.drawn(other, source, denoise=denoise)) for denoise in (0.3, 1.0)}

    history = comfyui.run(graph)

    little, whole = (pictures(comfyui, history, node) for node in nodes.values())
    grounds = [scenes.look(picture)[0] == scene.background for picture, scene in zip(little, some, strict=True)]
    assert all(grounds) and met(little, asked) == 0
    assert met(whole, asked) >= len(some) - 1 and met(whole, some) == 0


def test_inpainting_changes_what_the_mask_covers_and_nothing_else(comfyui, some):
    """The half in which the second thing stands is drawn anew, with that thing in another colour and shape."""
    wanted = [scene for scene in some if scene.where == "left of"] or some[:1]
    assert wanted[0].where == "left of"
    scene = wanted[0]
    chance = random.Random(2)
    left, right = scene.things
    free = [colour for colour in scenes.COLOURS if colour not in (scene.background, left.colour, right.colour)]
    shape = next(shape for shape in scenes.SHAPES if shape != right.shape)
    changed = replace(right, colour=chance.choice(free), shape=shape)
    asked = replace(scene, things=(left, changed))
    graph = SceneGraph([scene])
    source = graph.encoded(graph.loaded(comfyui, "inpainted"))
    ground = [graph.add("SolidMask", value=0.0, width=SIDE, height=SIDE), 0]
    half = [graph.add("SolidMask", value=1.0, width=SIDE // 2, height=SIDE), 0]
    mask = graph.add("MaskComposite", destination=ground, source=half, x=SIDE // 2, y=0, operation="add")
    masked = [graph.add("SetLatentNoiseMask", samples=source, mask=[mask, 0]), 0]
    drawn = graph.save(graph.drawn(graph.prompts([asked.prompt]), masked, steps=12))
    before = graph.save([graph.add("VAEDecode", samples=source, vae=graph.vae), 0])

    history = comfyui.run(graph)

    (after,), (unchanged,) = (pictures(comfyui, history, node) for node in (drawn, before))
    assert scenes.score(after, asked).met
    assert abs(after - unchanged)[:, : SIDE // 2 - 8].max() < 0.02  # the VAE looks a block beyond the border
    assert abs(after - unchanged)[:, SIDE // 2 :].max() > 0.3


def test_guidance_pulls_pictures_to_their_prompts(comfyui):
    """In few steps guidance 1 leaves much undecided; more of it gives clearer pictures that show more of what was asked."""
    wanted = scenes.held_out_scenes(24, seed=2)
    graph = SceneGraph(wanted)
    nodes = {guidance: graph.save(graph.drawn(guidance=guidance, steps=4)) for guidance in (1.0, 3.0, 8.0)}

    history = comfyui.run(graph)

    weak, usual, strong = (pictures(comfyui, history, node) for node in nodes.values())
    assert met(weak, wanted) < met(usual, wanted)
    assert numpy.mean([scenes.clearness(one) for one in weak]) < numpy.mean([scenes.clearness(one) for one in strong])
    assert numpy.mean([abs(a - b).mean() for a, b in zip(weak, strong, strict=True)]) > 0.01


def test_the_krea_schedule_draws_what_is_asked_at_a_size_where_simple_differs(comfyui):
    """At 256 px the reference's shift is 0.5 and ComfyUI's stays 1.15: simple spends its steps on the noise."""
    wanted = scenes.held_out_scenes(8, seed=3)
    graph = SceneGraph(wanted)
    nodes = [graph.save(graph.drawn(scheduler=name, side=256, steps=6)) for name in ("krea", "simple")]

    history = comfyui.run(graph)

    krea, simple = (pictures(comfyui, history, node) for node in nodes)
    assert met(krea, wanted) >= 7
    assert met(krea, wanted) >= met(simple, wanted)
    assert numpy.mean([abs(a - b).mean() for a, b in zip(krea, simple, strict=True)]) > 0.0005


def test_a_batch_of_one_prompt_is_of_different_pictures_that_all_meet_it(comfyui):
    scene = scenes.parse("a red circle at the left on blue")
    graph = SceneGraph([scene])
    node = graph.save(graph.drawn(latent=graph.size(SIDE, SIDE, 6)))

    shown = pictures(comfyui, comfyui.run(graph), node)

    assert met(shown, [scene] * 6) >= 5
    assert all(abs(one - shown[0]).max() > 0.1 for one in shown[1:])


def test_a_negative_prompt_with_cfg_pushes_away_from_what_it_names(comfyui):
    """A thing in the middle moves to the right when the negative says left, and to the left when it says right."""
    colours = list(scenes.COLOURS)
    middle = [
        scenes.parse(f"a {colours[i]} {scenes.SHAPES[i % 3]} in the middle on {colours[(i + 3) % 8]}") for i in range(8)
    ]
    graph = SceneGraph(middle)
    nodes = []
    for side in ("at the right", "in the middle", "at the left"):
        negative = graph.prompts([scene.prompt.replace("in the middle", side) for scene in middle])
        nodes.append(graph.save(graph.drawn(guidance=3.5, negative=negative, cfg=2.0)))

    history = comfyui.run(graph)

    def across(node: str) -> float:
        """The mean place of the largest thing, from 0 at the left to 1 at the right."""
        return float(numpy.mean([scenes.look(one)[1][0].place[0] for one in pictures(comfyui, history, node)]))

    assert across(nodes[0]) < across(nodes[1]) - 0.005 < across(nodes[2]) - 0.01
