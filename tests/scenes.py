"""Scenes of simple things: their prompts, their pictures, and a checker that looks at a picture's pixels only.

A scene is a background and one or two objects, each of a colour, a shape and a place. `draw` makes the picture that a
prompt asks for, `score` says whether a picture shows a scene. The trained miniature learns on these and is measured by them.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass

import numpy

# As the VAE's corners of a cube (red, green and blue each off or on) and as they are shown.
COLOURS = {
    "black": ((0, 0, 0), (0.07, 0.07, 0.09)),
    "red": ((1, 0, 0), (0.86, 0.20, 0.18)),
    "green": ((0, 1, 0), (0.16, 0.66, 0.31)),
    "blue": ((0, 0, 1), (0.15, 0.33, 0.80)),
    "yellow": ((1, 1, 0), (0.98, 0.82, 0.20)),
    "cyan": ((0, 1, 1), (0.22, 0.76, 0.84)),
    "pink": ((1, 0, 1), (0.94, 0.44, 0.70)),
    "white": ((1, 1, 1), (0.97, 0.96, 0.93)),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 0.3, "": 0.37, "large": 0.45}  # across, as a share of the picture's side
PLACES = {
    "in the middle": (0.5, 0.5),
    "at the left": (0.27, 0.5),
    "at the right": (0.73, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
}
# Where the first object stands when it is so beside the second.
RELATIONS = {
    "above": ((0.5, 0.27), (0.5, 0.73)),
    "below": ((0.5, 0.73), (0.5, 0.27)),
    "left of": ((0.27, 0.5), (0.73, 0.5)),
    "right of": ((0.73, 0.5), (0.27, 0.5)),
}
HELD_OUT_SHARE = 8  # one combination in so many is never trained on
GRID = 64  # the checker's own resolution


@dataclass(frozen=True)
class Thing:
    """One object. `place` and `across` are shares of the picture's side; `size` is the word, "" for none."""

    colour: str
    shape: str
    size: str
    place: tuple[float, float]

    @property
    def across(self) -> float:
        return SIZES[self.size]

    @property
    def words(self) -> str:
        return " ".join(filter(None, (self.size, self.colour, self.shape)))


@dataclass(frozen=True)
class Scene:
    background: str
    things: tuple[Thing, ...]
    where: str  # a place for one thing ("" for any), a relation for two

    @property
    def prompt(self) -> str:
        first, *others = (f"a {thing.words}" for thing in self.things)
        return " ".join(filter(None, (first, self.where, *others, "on", self.background)))

    @property
    def held_out(self) -> bool:
        """Whether this combination, whatever its sizes, is kept for the tests."""
        named = [(thing.colour, thing.shape) for thing in self.things]
        return zlib.crc32(repr((named, self.where, self.background)).encode()) % HELD_OUT_SHARE == 0


def any_scene(chance: random.Random, things: int, placed: bool = True) -> Scene:
    background, *colours = chance.sample(list(COLOURS), things + 1)
    looks = [(colour, chance.choice(SHAPES), chance.choice(["", "", *SIZES])) for colour in colours]
    if things == 2:
        where = chance.choice(list(RELATIONS))
        return Scene(
            background, tuple(Thing(*look, at) for look, at in zip(looks, RELATIONS[where], strict=True)), where
        )
    where = chance.choice(list(PLACES))
    return Scene(background, (Thing(*looks[0], PLACES[where]),), where if placed else "")


def held_out_scenes(count: int, seed: int = 0) -> list[Scene]:
    """Scenes never trained on, every other one with two things."""
    chance, found = random.Random(seed), []
    while len(found) < count:
        scene = any_scene(chance, 1 + len(found) % 2)
        if scene.held_out and scene not in found:
            found.append(scene)
    return found


def parse(prompt: str) -> Scene:
    """The scene of a prompt in the form that `Scene.prompt` gives. ValueError where it is in another one."""
    words = prompt.lower().replace(".", " ").replace(",", " ").split()
    objects, colour, size = [], "", ""
    for word in words:
        size = word if word in SIZES else size
        if word in SHAPES and colour:
            objects.append((colour, word, size))
            colour = size = ""
        elif word in COLOURS:
            colour = word
    text = " ".join(words)
    known = RELATIONS if len(objects) == 2 else PLACES
    where = max((name for name in known if name in text), key=len, default="")
    allowed = {
        *COLOURS,
        *SHAPES,
        *SIZES,
        "a",
        "an",
        "the",
        "on",
        "background",
        *" ".join([*PLACES, *RELATIONS]).split(),
    }
    colours = [word for word in words if word in COLOURS]
    understood = allowed.issuperset(words) and sum(word in SHAPES for word in words) == len(objects)
    distinct = len(colours) == len(set(colours)) == len(objects) + 1
    if not (understood and distinct) or len(objects) not in (1, 2) or not colour or (len(objects) == 2 and not where):
        raise ValueError(
            f"{prompt!r} is not a scene the miniature knows: say a colour and a shape, a place, and the background, as in "
            f'"a small red circle above a blue square on yellow". Colours: {", ".join(COLOURS)}. Shapes: {", ".join(SHAPES)}.'
        )
    places = RELATIONS[where] if len(objects) == 2 else (PLACES.get(where, (0.5, 0.5)),)
    return Scene(colour, tuple(Thing(*look, at) for look, at in zip(objects, places, strict=True)), where)


# --- pictures -------------------------------------------------------------------------------------------------------


def inside(shape: str, u: numpy.ndarray, v: numpy.ndarray) -> numpy.ndarray:
    """Which points lie in a shape that fills the square from -1 to 1; v points down."""
    if shape == "circle":
        return u * u + v * v < 1
    if shape == "square":
        return numpy.maximum(abs(u), abs(v)) < 0.92
    return (abs(u) < (v + 0.92) / 1.84) & (v < 0.92)


def draw_cube(scene: Scene, side: int, fine: int = 4) -> numpy.ndarray:
    """The picture as colours in the VAE's cube, [side, side, 3] from 0 to 1, each pixel the mean of fine × fine points."""
    points = (numpy.arange(side * fine) + 0.5) / (side * fine)
    x, y = points[None, :], points[:, None]
    picture = numpy.empty((side * fine, side * fine, 3), numpy.float32)
    picture[:] = COLOURS[scene.background][0]
    for thing in scene.things:
        (left, top), half = thing.place, thing.across / 2
        picture[inside(thing.shape, (x - left) / half, (y - top) / half)] = COLOURS[thing.colour][0]
    return picture.reshape(side, fine, side, fine, 3).mean((1, 3))


def draw(scene: Scene, side: int) -> numpy.ndarray:
    """The picture as it is shown, [side, side, 3] from 0 to 1."""
    return shown(draw_cube(scene, side))


def shown(cube: numpy.ndarray) -> numpy.ndarray:
    """Colours of the cube, linearly between its corners, as they are shown."""
    picture = numpy.zeros_like(cube)
    for corner, colour in COLOURS.values():
        weight = numpy.prod([cube[..., i] if on else 1 - cube[..., i] for i, on in enumerate(corner)], axis=0)
        picture += weight[..., None] * numpy.asarray(colour, cube.dtype)
    return picture


# --- the checker ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """An object found in a picture; `area` is its share of the picture."""

    colour: str
    shape: str
    place: tuple[float, float]
    area: float


@dataclass(frozen=True)
class Score:
    background: bool
    count: bool
    colour: bool
    shape: bool
    place: bool

    @property
    def met(self) -> bool:
        return self.background and self.count and self.colour and self.shape and self.place


def look(pixels: numpy.ndarray) -> tuple[str, list[Seen]]:
    """The background's colour and the objects in a picture [H, W, 3] from 0 to 1, the largest first."""
    height, width, _ = pixels.shape
    rows = ((numpy.arange(GRID) + 0.5) * height / GRID).astype(int)
    columns = ((numpy.arange(GRID) + 0.5) * width / GRID).astype(int)
    palette = numpy.array([colour for _, colour in COLOURS.values()])
    labels = ((pixels[rows][:, columns][:, :, None] - palette) ** 2).sum(-1).argmin(-1)
    background = numpy.bincount(labels.ravel()).argmax()
    names, found = list(COLOURS), []
    for part in parts(labels, background):
        y, x = numpy.nonzero(part)
        place = (float(x.mean() + 0.5) / GRID, float(y.mean() + 0.5) / GRID)
        found.append(Seen(names[labels[y[0], x[0]]], shape_of(part), place, len(x) / GRID**2))
    return names[background], sorted(found, key=lambda seen: -seen.area)


def clearness(pixels: numpy.ndarray) -> float:
    """The share of pixels that have one of the palette's colours, give or take a little."""
    palette = numpy.array([colour for _, colour in COLOURS.values()])
    return float((abs(pixels[:, :, None] - palette).max(-1).min(-1) < 0.04).mean())


def parts(labels: numpy.ndarray, background: int) -> list[numpy.ndarray]:
    """Connected areas of one colour, as masks; seams along an edge and specks are left out."""
    wide = numpy.pad(labels, 1, constant_values=-1)
    beside = numpy.stack([wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]])
    cores = (beside == labels).all(0) & (labels != background)
    left, found = cores.copy(), []
    while left.any():
        part = numpy.zeros_like(left)
        part[tuple(numpy.argwhere(left)[0])] = True
        same, grown = labels == labels[part][0], spread(part)
        while (grown & same & ~part).any():
            part |= grown & same
            grown = spread(part)
        left &= ~part
        if (part & cores).sum() >= 6:
            found.append(part)
    return found


def spread(mask: numpy.ndarray) -> numpy.ndarray:
    """The mask and its four neighbours; what lies outside the picture counts as not in it."""
    wide = numpy.pad(mask, 1)
    return wide[1:-1, 1:-1] | wide[:-2, 1:-1] | wide[2:, 1:-1] | wide[1:-1, :-2] | wide[1:-1, 2:]


def shape_of(part: numpy.ndarray) -> str:
    """The shape that, drawn into the part's box, covers most of what the two cover together."""
    y, x = numpy.nonzero(part)
    box = part[y.min() : y.max() + 1, x.min() : x.max() + 1]
    height, width = box.shape
    v, u = ((numpy.arange(n) + 0.5) * 2 / n - 1 for n in (height, width))

    def overlap(shape: str) -> float:
        reach = 1.0 if shape == "circle" else 0.92
        ideal = inside(shape, u[None, :] * reach, v[:, None] * reach)
        return (box & ideal).sum() / (box | ideal).sum()

    return max(SHAPES, key=overlap)


def score(pixels: numpy.ndarray, scene: Scene) -> Score:
    """What of the scene a picture [H, W, 3] from 0 to 1 shows. `met` is all of it."""
    background, seen = look(pixels)
    if len(seen) != len(scene.things):
        return Score(background == scene.background, False, False, False, False)
    orders = [seen, seen[::-1]] if len(seen) == 2 else [seen]
    return max((compare(background, order, scene) for order in orders), key=lambda s: (s.colour + s.shape, s.place))


def compare(background: str, seen: list[Seen], scene: Scene) -> Score:
    pairs = list(zip(seen, scene.things, strict=True))
    return Score(
        background == scene.background,
        True,
        all(one.colour == thing.colour for one, thing in pairs),
        all(one.shape == thing.shape for one, thing in pairs),
        well_placed(seen, scene),
    )


def nearest_place(seen: Seen) -> str:
    return min(PLACES, key=lambda name: sum((a - b) ** 2 for a, b in zip(PLACES[name], seen.place, strict=True)))


def well_placed(seen: list[Seen], scene: Scene) -> bool:
    """One thing: nearest to its place of all. Two: apart in the direction asked, more than across it."""
    if not scene.where:
        return True
    if len(seen) == 1:
        return nearest_place(seen[0]) == scene.where
    right, down = (second - first for first, second in zip(seen[0].place, seen[1].place, strict=True))
    along = {"above": down, "below": -down, "left of": right, "right of": -right}[scene.where]
    across = right if scene.where in ("above", "below") else down
    return along > 0.15 and along > abs(across)
