"""The things that training pictures show: Noto emoji by name, and drawn shapes by name and colour.

An entry of EMOJI is "name=short_name", or "name" where both are the same; short_name is the key of
emoji.json in the npm package emoji-datasource-google.  Names are what the model says.  Things that
look alike (two books, four kinds of train) appear once.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, ImageDraw

EMOJI = """
 dog=dog2 cat=cat2 mouse=mouse2 rabbit=rabbit2 tiger=tiger2 cow=cow2 pig=pig2 horse=racehorse
sheep monkey rooster elephant octopus snail caterpillar=bug ant bee ladybug fish turtle
chick=hatched_chick penguin camel whale=whale2 snake crocodile frog bear panda=panda_face
lion=lion_face crab eagle duck bat shark owl fox=fox_face butterfly giraffe=giraffe_face
zebra=zebra_face hedgehog peacock parrot raccoon lobster flamingo unicorn=unicorn_face spider
tulip rose sunflower cactus palm=palm_tree mushroom clover=four_leaf_clover leaf=maple_leaf
pumpkin=jack_o_lantern taco corn tomato eggplant grapes watermelon lemon banana pineapple apple
pear cherries strawberry hamburger pizza doughnut cookie candy lollipop cake=birthday
honey=honey_pot egg=fried_egg teapot beer=beer popcorn croissant avocado carrot sandwich
cheese=cheese_wedge cupcake onion broccoli pancakes blueberries kiwi=kiwifruit car=red_car bus
taxi ambulance tractor truck bicycle=bike rocket helicopter airplane sailboat=boat
train=steam_locomotive skateboard anchor house castle=european_castle fountain volcano rainbow
umbrella snowman cloud sun=sunny globe=earth_africa traffic_light balloon gift trophy
soccer_ball=soccer basketball baseball bowling yarn teddy_bear kite drum=drum_with_drumsticks
guitar trumpet violin microphone=studio_microphone headphones camera television=tv telephone=phone
computer battery bulb flashlight candle book=green_book pencil=pencil2 scissors key lock bell
hammer wrench magnet ladder axe clock=alarm_clock crown hat=tophat glasses=eyeglasses shirt dress
jeans boot sock=socks scarf backpack=school_satchel ring gem envelope=email package bucket broom
chair bed mailbox bomb
"""

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "arrow")
COLOURS = {
    "red": (214, 38, 38),
    "orange": (245, 140, 20),
    "yellow": (248, 218, 40),
    "green": (44, 160, 60),
    "blue": (40, 90, 220),
    "purple": (130, 50, 170),
    "pink": (250, 150, 195),
    "brown": (125, 75, 35),
    "black": (22, 22, 22),
    "white": (248, 248, 248),
    "grey": (138, 138, 138),
}
COLOUR_NAMES = tuple(COLOURS)
PLURALS = {
    "mouse": "mice", "fish": "fish", "sheep": "sheep", "leaf": "leaves", "octopus": "octopuses",
    "grapes": "grapes", "cherries": "cherries", "pancakes": "pancakes", "blueberries":
    "blueberries", "headphones": "headphones", "scissors": "scissors", "glasses": "glasses",
    "jeans": "jeans", "honey": "honeys", "popcorn": "popcorns", "tomato": "tomatoes", "corn":
    "corn", "broccoli": "broccoli", "candy": "candies", "yarn": "yarn", "cross": "crosses", "bus":
    "buses", "sandwich": "sandwiches", "dress": "dresses", "fox": "foxes", "butterfly":
    "butterflies", "strawberry": "strawberries", "battery": "batteries", "cactus": "cactuses", "snowman":
    "snowmen", "trophy": "trophies",
}  # fmt: skip
SPRITE = 72  # pixels of a shape's own picture; an emoji's is 64


def names() -> list[str]:
    """All names of emoji objects, in the fixed order that class numbers refer to."""
    return [entry.split("=")[0].replace("_", " ") for entry in EMOJI.split()]


def plural(name: str) -> str:
    if name in PLURALS:
        return PLURALS[name]
    return name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")


def load_sprites(package_dir: Path) -> list[Image.Image]:
    """One RGBA picture per name, cut to what is not transparent and made square again."""
    emoji = json.loads((package_dir / "emoji.json").read_text())
    files = {name: e["image"] for e in emoji for name in e["short_names"]}
    sprites = []
    for entry in EMOJI.split():
        short_name = entry.split("=")[-1]
        path = package_dir / "img" / "google" / "64" / files[short_name]
        picture = Image.open(path).convert("RGBA")
        picture = picture.crop(picture.getchannel("A").getbbox())
        side = max(picture.size)
        square = Image.new("RGBA", (side, side))
        square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
        sprites.append(square)
    return sprites


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corner points in [0, 1]^2 of a shape that is a polygon."""
    polygons = {
        "square": [(0.08, 0.08), (0.92, 0.08), (0.92, 0.92), (0.08, 0.92)],
        "triangle": [(0.5, 0.05), (0.97, 0.92), (0.03, 0.92)],
        "diamond": [(0.5, 0.0), (0.88, 0.5), (0.5, 1.0), (0.12, 0.5)],
        "star": [(0.5, 0.0), (0.62, 0.36), (1.0, 0.38), (0.7, 0.6), (0.81, 0.97), (0.5, 0.76),
                 (0.19, 0.97), (0.3, 0.6), (0.0, 0.38), (0.38, 0.36)],
        "cross": [(0.33, 0.03), (0.67, 0.03), (0.67, 0.33), (0.97, 0.33), (0.97, 0.67),
                  (0.67, 0.67), (0.67, 0.97), (0.33, 0.97), (0.33, 0.67), (0.03, 0.67),
                  (0.03, 0.33), (0.33, 0.33)],
        "arrow": [(0.0, 0.34), (0.5, 0.34), (0.5, 0.06), (1.0, 0.5), (0.5, 0.94), (0.5, 0.66),
                  (0.0, 0.66)],
    }  # fmt: skip
    return polygons[shape]


def draw_shape(shape: str) -> Image.Image:
    """The coverage mask (mode L) of a shape."""
    big = SPRITE * 4
    mask = Image.new("L", (big, big))
    pen = ImageDraw.Draw(mask)
    if shape == "circle":
        pen.ellipse((0.04 * big, 0.04 * big, 0.96 * big, 0.96 * big), fill=255)
    elif shape == "heart":
        pen.pieslice((0.02 * big, 0.05 * big, 0.52 * big, 0.55 * big), 150, 360, fill=255)
        pen.pieslice((0.48 * big, 0.05 * big, 0.98 * big, 0.55 * big), 180, 390, fill=255)
        pen.polygon(
            [(p[0] * big, p[1] * big) for p in ((0.05, 0.42), (0.5, 0.96), (0.95, 0.42))], 255
        )
        pen.rectangle((0.06 * big, 0.3 * big, 0.94 * big, 0.42 * big), fill=255)
    else:
        pen.polygon([(x * big, y * big) for x, y in _outline(shape)], fill=255)
    return mask.resize((SPRITE, SPRITE), Image.Resampling.BOX)
