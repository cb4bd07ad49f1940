"""Draws the templates' thumbnails: what goes in, what comes out, and where it is made. `python tests/draw_thumbnails.py`

One look for all, and legible at 280 pixels: ComfyUI shows them that large beside its own.
"""

from __future__ import annotations

import math
import random
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageStat

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
SIDE = 560  # pixels of a finished thumbnail
FINE = 2  # drawn this many times as large, for smooth edges

INK, PAPER, MUTED, BLUE = (20, 24, 34), (243, 240, 232), (128, 136, 152), (86, 148, 255)
PINK, GREEN, AMBER, RED = (255, 92, 138), (70, 190, 120), (245, 166, 35), (229, 72, 77)
Palette = tuple[tuple[int, int, int], ...]  # sky above, sky below, sun, far hill, middle hill, near hill
DUSK: Palette = ((64, 50, 120), (250, 170, 140), (255, 226, 170), (160, 96, 130), (92, 60, 106), (44, 34, 74))
DAY: Palette = ((104, 176, 226), (222, 240, 244), (255, 214, 92), (132, 186, 148), (72, 142, 114), (32, 90, 82))
EMBER: Palette = ((120, 30, 40), (250, 140, 70), (255, 224, 120), (150, 56, 50), (98, 36, 46), (52, 22, 36))
NIGHT: Palette = ((14, 20, 52), (52, 78, 140), (236, 240, 252), (40, 58, 110), (26, 38, 80), (12, 18, 46))
ICE: Palette = ((150, 190, 220), (236, 244, 250), (255, 255, 255), (176, 204, 224), (120, 160, 196), (70, 110, 156))
Box = tuple[float, float, float, float]


class Board:
    """A square to draw on, 0 to 100 on each side."""

    def __init__(self) -> None:
        self.unit = SIDE * FINE / 100
        self.image = Image.new("RGB", (SIDE * FINE,) * 2, INK)
        for line in range(SIDE * FINE):
            share = line / (SIDE * FINE)
            self.draw.line([(0, line), (SIDE * FINE, line)], fill=mixed((38, 46, 66), INK, share))

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image)

    def at(self, *numbers: float) -> list[float]:
        return [number * self.unit for number in numbers]

    def put(self, picture: Image.Image, box: Box, corner: float = 4) -> None:
        """A picture with round corners, on a soft shadow."""
        left, top, right, bottom = (round(number) for number in self.at(*box))
        picture = picture.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        mask = Image.new("L", picture.size)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, right - left - 1, bottom - top - 1), corner * self.unit, fill=255)
        shadow = Image.new("L", self.image.size)
        shadow.paste(mask.point(lambda value: value * 0.6), (left, round(top + 1.5 * self.unit)))
        self.image.paste((0, 0, 0), mask=shadow.filter(ImageFilter.GaussianBlur(2 * self.unit)))
        self.image.paste(picture, (left, top), mask)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour=BLUE) -> None:
        (x0, y0), (x1, y1) = start, end
        angle = math.atan2(y1 - y0, x1 - x0)
        back = [(x1 - 6 * math.cos(angle + turn), y1 - 6 * math.sin(angle + turn)) for turn in (0.6, -0.6)]
        neck = ((back[0][0] + back[1][0]) / 2, (back[0][1] + back[1][1]) / 2)
        self.draw.line([*self.at(x0, y0), *self.at(*neck)], fill=colour, width=round(2 * self.unit))
        self.draw.polygon([*self.at(x1, y1), *self.at(*back[0]), *self.at(*back[1])], fill=colour)

    def words(self, text: str, middle: tuple[float, float], size: float, colour=PAPER) -> None:
        font = ImageFont.load_default(size * self.unit)
        self.draw.text(self.at(*middle), text, fill=colour, font=font, anchor="mm", stroke_width=self.unit * 0.12)

    def badge(self, words: str, colour, box: Box = (6, 83, 40, 94)) -> None:
        """Where the picture is made."""
        self.draw.rounded_rectangle(self.at(*box), 5.5 * self.unit, fill=colour)
        self.words(words, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), 6, INK)

    def disc(self, middle: tuple[float, float], radius: float, fill) -> None:
        x, y = middle
        self.draw.ellipse(self.at(x - radius, y - radius, x + radius, y + radius), fill=fill)

    def tick(self, middle: tuple[float, float], size: float, colour=PAPER) -> None:
        x, y = middle
        points = self.at(x - size, y, x - size * 0.25, y + size * 0.7, x + size, y - size * 0.7)
        self.draw.line(points, fill=colour, width=round(size * 0.42 * self.unit), joint="curve")

    def finished(self) -> Image.Image:
        return self.image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def mixed(one, other, share: float) -> tuple[int, ...]:
    return tuple(round(a + (b - a) * share) for a, b in zip(one, other, strict=True))


def landscape(
    palette: Palette, seed: int, sun: tuple[float, float] | None = (0.62, 0.4), side: int = 700
) -> Image.Image:
    """Sky, sun and three ridges of hills."""
    sky, horizon, light, *hills = palette
    picture, chance = Image.new("RGB", (side, side), sky), random.Random(seed)
    draw = ImageDraw.Draw(picture)
    for line in range(side):
        draw.line([(0, line), (side, line)], fill=mixed(sky, horizon, min(1, line / side / 0.72)))
    if sun:
        (x, y), radius = (sun[0] * side, sun[1] * side), 0.13 * side
        draw.ellipse((x - radius * 1.35, y - radius * 1.35, x + radius * 1.35, y + radius * 1.35),
                     fill=mixed(light, horizon, 0.6))  # fmt: skip
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=light)
    for index, colour in enumerate(hills):
        phase, waves = chance.uniform(0, math.tau), chance.uniform(0.5, 1.1) + 0.35 * index
        ridge = [
            (x, side * (0.58 + 0.13 * index + 0.06 * math.sin(phase + math.tau * waves * x / side)))
            for x in range(0, side + 10, 10)
        ]
        draw.polygon([(0, side), *ridge, (side, side)], fill=colour)
    return picture


def prompt_card() -> Image.Image:
    """Lines of writing; what matters in them is marked."""
    card = Image.new("RGB", (640, 460), PAPER)
    draw = ImageDraw.Draw(card)
    lines = (
        ((0.62, MUTED), (0.28, RED)),
        ((0.3, BLUE), (0.55, MUTED)),
        ((0.46, MUTED), (0.34, AMBER)),
        ((0.38, MUTED),),
    )
    for row, words in enumerate(lines):
        left, top = 60, 68 + 90 * row
        for width, colour in words:
            draw.rounded_rectangle((left, top, left + 520 * width, top + 44), 22, fill=colour)
            left += 520 * width + 26
    return card


def with_stroke(picture: Image.Image) -> Image.Image:
    """A mask that was painted on it by hand."""
    side = picture.width
    mask = Image.new("L", picture.size)
    draw = ImageDraw.Draw(mask)
    points = [
        (side * x, side * y)
        for x, y in ((0.46, 0.32), (0.78, 0.3), (0.48, 0.42), (0.8, 0.42), (0.5, 0.54), (0.76, 0.54))
    ]
    draw.line(points, fill=190, width=round(side * 0.12), joint="curve")
    painted = picture.copy()
    painted.paste(PINK, mask=mask)
    return painted


def with_balloon(picture: Image.Image) -> Image.Image:
    side = picture.width
    draw = ImageDraw.Draw(picture)
    left, top, right, bottom = (side * part for part in (0.48, 0.16, 0.78, 0.48))
    basket = (side * 0.59, side * 0.57, side * 0.67, side * 0.64)
    for x in (0.53, 0.73):
        draw.line([(side * x, side * 0.42), (side * (0.6 if x < 0.6 else 0.66), basket[1])], fill=INK, width=5)
    draw.ellipse((left, top, right, bottom), fill=RED)
    draw.ellipse((left + side * 0.08, top, right - side * 0.08, bottom), fill=PAPER)
    draw.ellipse((left + side * 0.12, top, right - side * 0.12, bottom), fill=RED)
    draw.rounded_rectangle(basket, 8, fill=(120, 78, 40))
    return picture


def halves(left: Image.Image, right: Image.Image) -> Image.Image:
    joined = right.copy()
    joined.paste(left.crop((0, 0, left.width // 2, left.height)), (0, 0))
    return joined


IN, IN_LOW, OUT = (6, 8, 46, 37), (6, 45, 36, 75), (36, 28, 94, 86)
LOCAL, API = ("your GPU", GREEN), ("API", AMBER)


def one_to_one(source: Image.Image, result: Image.Image, place, source_box: Box = IN) -> Board:
    board = Board()
    board.put(result, OUT)
    board.put(source, source_box)
    board.arrow((22, source_box[3] + 4), (34, 64))
    board.badge(*place)
    return board


def text_to_image(place) -> Board:
    return one_to_one(prompt_card(), landscape(DUSK, 3), place)


def image_to_image(place) -> Board:
    return one_to_one(landscape(DAY, 5), landscape(EMBER, 5), place, (6, 8, 42, 44))


def inpaint(place) -> Board:
    picture = landscape(DAY, 8)
    return one_to_one(with_stroke(picture), with_balloon(landscape(DAY, 8, None)), place, (6, 8, 42, 44))


def lora(place) -> Board:
    board = one_to_one(prompt_card(), landscape(NIGHT, 3), place)
    board.badge("+ LoRA", BLUE, (52, 8, 84, 20))
    return board


def blend() -> Board:
    """Two models, one picture that has of both."""
    board = Board()
    for top, palette, words in ((8, DAY, "dev"), (46, EMBER, "Krea")):
        board.put(landscape(palette, 5), (6, top, 36, top + 30))
        board.words(words, (21, top + 34), 5)
        board.arrow((38, top + 15), (50, 42))
    board.put(halves(landscape(DAY, 5), landscape(EMBER, 5)), (52, 20, 94, 62))
    board.badge(*LOCAL)
    return board


def in_time() -> Board:
    """The reference counts more at first and less at the end."""
    board = redux(LOCAL, True)
    for step in range(5):
        left = 62 + 5.6 * step
        board.draw.rectangle(board.at(left, 82 - 3 * (5 - step), left + 4, 82), fill=PAPER)
    return board


def cheapest() -> Board:
    """The same picture three times; the one with the least price is taken."""
    board = Board()
    board.put(prompt_card(), (32, 5, 68, 31))
    for left, price, colour in ((4, "$0.01", GREEN), (36, "$0.025", MUTED), (68, "$0.045", MUTED)):
        board.arrow((50, 33), (left + 14, 43))
        board.put(landscape(DUSK, 3), (left, 44, left + 28, 72))
        board.badge(price, colour, (left + 2, 76, left + 26, 86))
    board.tick((18, 92), 4)
    return board


def redux(place, has_prompt: bool, result: Image.Image | None = None) -> Board:
    board = Board()
    board.put(result or landscape(EMBER, 21, (0.3, 0.34)), OUT)
    board.put(landscape(EMBER, 5), (6, 8, 42, 44))
    if has_prompt:
        board.put(prompt_card(), (52, 6, 82, 26))
        board.arrow((67, 27), (67, 36))
    board.arrow((22, 47), (34, 64))
    board.badge(*place)
    return board


def redux_masked() -> Board:
    result = halves(landscape(EMBER, 21, (0.28, 0.34)), landscape(ICE, 21, None))
    return redux(LOCAL, False, result)


def many_providers() -> Board:
    board = Board()
    corners = ((50, 4), (50, 27), (50, 50), (50, 73), (74, 15), (74, 38), (74, 61))
    for (left, top), palette in zip(corners, (DUSK, DAY, EMBER, NIGHT, ICE, DAY, DUSK), strict=True):
        board.put(landscape(palette, 30 + top), (left, top, left + 20, top + 20), 3)
    for tip in (14, 37, 60, 83):
        board.arrow((34.5, 50), (49, tip))
    board.put(prompt_card(), (5, 39, 34, 61))
    board.badge("7 APIs", AMBER, (5, 83, 34, 94))
    return board


def side_by_side() -> Board:
    board = Board()
    board.put(prompt_card(), (32, 5, 68, 31))
    for left, seed, (words, colour), tip in ((6, 3, LOCAL, 28), (52, 13, API, 72)):
        board.arrow((50, 33), (tip, 43))
        board.put(landscape(DUSK, seed), (left, 44, left + 42, 82))
        board.badge(words, colour, (left + 4, 85, left + 38, 95))
    return board


def safety_check() -> Board:
    board = Board()
    blurred = (
        landscape(EMBER, 17, side=280)
        .resize((18, 18), Image.Resampling.BOX)
        .resize((280, 280), Image.Resampling.NEAREST)
    )
    for left, picture, colour in ((6, landscape(DAY, 12), GREEN), (53, blurred, RED)):
        board.put(picture, (left, 26, left + 41, 67))
        board.disc((left + 20.5, 72), 10, INK)
        board.disc((left + 20.5, 72), 8.5, colour)
    board.tick((26.5, 72), 4)
    board.draw.line(board.at(70.5, 69, 76.5, 75), fill=PAPER, width=round(2 * board.unit))
    board.draw.line(board.at(76.5, 69, 70.5, 75), fill=PAPER, width=round(2 * board.unit))
    board.words("checked, or held back", (50, 14), 7)
    return board


def review_gate() -> Board:
    board = Board()
    board.put(landscape(DUSK, 26), (8, 20, 50, 62))
    board.arrow((53, 41), (66, 41))
    board.draw.rounded_rectangle(board.at(68, 14, 72, 68), 2 * board.unit, fill=MUTED)
    board.draw.rounded_rectangle(board.at(88, 14, 92, 68), 2 * board.unit, fill=MUTED)
    board.disc((80, 41), 12, INK)
    board.disc((80, 41), 10.5, GREEN)
    board.tick((80, 41), 5)
    board.draw.ellipse(board.at(20, 67, 52, 87), fill=PAPER)
    board.disc((36, 77), 7.5, BLUE)
    board.disc((36, 77), 3.4, INK)
    board.words("a person looks", (50, 93), 6.5)
    return board


def app_form(has_image: bool) -> Image.Image:
    """Fields from top to bottom, and a button to press."""
    form = Image.new("RGB", (400, 760), (58, 66, 84))
    draw = ImageDraw.Draw(form)
    top = 40
    for height, words in ((230 if not has_image else 130, (0.8, 0.6)), (60, (0.4,)), (60, (0.3,))):
        if has_image and top == 40:
            form.paste(landscape(EMBER, 5).resize((320, 200), Image.Resampling.LANCZOS, (0, 140, 700, 580)), (40, top))
            top += 230
        draw.rounded_rectangle((40, top, 360, top + height), 18, fill=PAPER)
        for row, width in enumerate(words):
            draw.rounded_rectangle((64, top + 18 + 46 * row, 64 + 270 * width, top + 42 + 46 * row), 12, fill=MUTED)
        top += height + 28
    draw.rounded_rectangle((40, 640, 360, 720), 40, fill=BLUE)
    draw.polygon([(180, 656), (180, 704), (226, 680)], fill=PAPER)
    return form


def app(place, palette: Palette, has_image: bool = False) -> Board:
    board = Board()
    board.put(landscape(palette, 3 if palette is DUSK else 21), (45, 22, 94, 71))
    board.put(app_form(has_image), (6, 8, 40, 73))
    board.arrow((37, 66), (49, 60), PAPER)
    board.badge(*place)
    board.words("app", (69.5, 82), 7)
    return board


THUMBNAILS = {
    "app_text_to_image": lambda: app(LOCAL, DUSK),
    "app_redux": lambda: app(LOCAL, EMBER, has_image=True),
    "app_api_text_to_image": lambda: app(API, DUSK),
    "text_to_image": lambda: text_to_image(LOCAL),
    "image_to_image": lambda: image_to_image(LOCAL),
    "inpaint": lambda: inpaint(LOCAL),
    "redux": lambda: redux(LOCAL, True),
    "redux_masked": redux_masked,
    "safety_check": safety_check,
    "review_gate": review_gate,
    "krea_lora": lambda: lora(LOCAL),
    "dev_krea_blend": blend,
    "redux_in_time": in_time,
    "api_text_to_image": lambda: text_to_image(API),
    "api_image_to_image": lambda: image_to_image(API),
    "api_redux": lambda: redux(API, False),
    "api_many_providers": many_providers,
    "api_lora": lambda: lora(API),
    "api_inpaint": lambda: inpaint(API),
    "api_cheapest": cheapest,
    "local_and_api_side_by_side": side_by_side,
}


def difference(name: str) -> float:
    """Between the file and what is drawn now: the mean over all pixels, of 255. Writing as JPEG alone makes about 1."""
    drawn = THUMBNAILS[name]().finished()
    with Image.open(WORKFLOWS / f"{name}.jpg") as file:
        if file.size != drawn.size:
            return math.inf
        return sum(ImageStat.Stat(ImageChops.difference(file.convert("RGB"), drawn)).mean) / 3


def main() -> None:
    for name, draw in THUMBNAILS.items():
        draw().finished().save(WORKFLOWS / f"{name}.jpg", quality=86, optimize=True)


if __name__ == "__main__":
    main()
