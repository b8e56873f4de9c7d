"""Composes scenes: what stands where (Scene), and its picture (Painter).

A scene is a background and up to seven items, each in a cell of its own of a 3 x 3 grid.  Items of
one kind, colour and size form a group ("three small red circles"); groups are in reading order of
their first cells.  A scene is a pure function of its random generator, so training data is never
stored.

Held-out compositions: some pairs (kind, cell), (kind, count) and (shape, colour) never occur in a
training scene.  A scene for evaluation holds at least one of them.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from objects import COLOUR_NAMES, COLOURS, SHAPES, draw_shape, load_sprites, names
from PIL import Image

NAMES = tuple(names()) + SHAPES  # by kind
N_EMOJI = len(NAMES) - len(SHAPES)
TEXTURES = ("plain", "striped", "dotted", "checkered")
CELLS = (
    "top left", "top center", "top right",
    "middle left", "center", "middle right",
    "bottom left", "bottom center", "bottom right",
)  # fmt: skip
MAX_COUNT = 6
# Fractions of the picture's side; the gaps keep the words unambiguous.
SIZES = {"small": (0.21, 0.24), "medium": (0.29, 0.33), "large": (0.45, 0.6)}
SINGLE = {
    "grapes", "cherries", "pancakes", "blueberries", "headphones", "scissors", "glasses", "jeans",
    "corn", "honey", "popcorn", "broccoli", "yarn", "bowling",
}  # fmt: skip
"""Kinds that are never counted: they come alone."""


@dataclass
class Group:
    kind: int
    colour: int | None  # shapes only; index into COLOUR_NAMES
    size: str
    cells: list[int]

    @property
    def name(self) -> str:
        return NAMES[self.kind]

    @property
    def count(self) -> int:
        return len(self.cells)


@dataclass
class Scene:
    colour: int  # of the background
    texture: str
    groups: list[Group] = field(default_factory=list)

    def describe(self) -> dict:
        """The contents as plain data."""
        return {
            "background": {"colour": COLOUR_NAMES[self.colour], "texture": self.texture},
            "groups": [
                {
                    "name": g.name,
                    "colour": None if g.colour is None else COLOUR_NAMES[g.colour],
                    "size": g.size,
                    "count": g.count,
                    "places": [CELLS[c] for c in g.cells],
                }
                for g in self.groups
            ],
        }


def held_out(group: Group) -> set[str]:
    """Which properties of this group are kept out of training: place, count, colour."""
    found = set()
    if any((group.kind * 9 + c) % 23 == 7 for c in group.cells):
        found.add("place")
    if group.count > 1 and (group.kind * 5 + group.count) % 11 == 3:
        found.add("count")
    if group.colour is not None and (group.kind * 3 + group.colour) % 11 == 5:
        found.add("colour")
    return found


def _random_counts(rng: np.random.Generator) -> list[int]:
    """How many items each group has; at most seven together."""
    n_groups = int(rng.choice([1, 2, 3, 4], p=[0.2, 0.35, 0.3, 0.15]))
    counts = [
        1 if rng.random() < 0.5 else int(rng.integers(2, MAX_COUNT + 1)) for _ in range(n_groups)
    ]
    while sum(counts) > 7:
        counts[int(np.argmax(counts))] -= 1
    return counts


def _compose(rng: np.random.Generator) -> Scene:
    scene = Scene(
        colour=int(rng.integers(len(COLOURS))),
        texture=TEXTURES[int(rng.choice(4, p=[0.55, 0.15, 0.15, 0.15]))],
    )
    counts = _random_counts(rng)
    alone = sum(counts) == 1
    cells = rng.permutation(9)
    used: set[tuple[int, int | None]] = set()
    for count in counts:
        is_shape = rng.random() < 0.2
        kind = int(rng.integers(N_EMOJI, len(NAMES)) if is_shape else rng.integers(N_EMOJI))
        colour = int(rng.integers(len(COLOURS))) if is_shape else None
        if (kind, colour) in used or colour == scene.colour:
            continue
        used.add((kind, colour))
        if NAMES[kind] in SINGLE:
            count = 1
        size = "large" if alone and rng.random() < 0.6 else str(rng.choice(["small", "medium"]))
        where, cells = cells[:count], cells[count:]
        scene.groups.append(Group(kind, colour, size, sorted(int(c) for c in where)))
    scene.groups.sort(key=lambda g: g.cells[0])
    return scene


def random_scene(rng: np.random.Generator, evaluation: bool = False) -> Scene:
    """A scene with no held-out property, or (evaluation) with at least one."""
    while True:
        scene = _compose(rng)
        novel = any(held_out(g) for g in scene.groups)
        if scene.groups and novel == evaluation:
            return scene


@dataclass
class PatchLabels:
    """What each patch of the grid shows; -1 where a label does not apply.

    kind: NAMES index, len(NAMES) for background.  colour: of the shape or of the background.
    cell, count, size: of the item's group, for patches of items.
    """

    kind: np.ndarray
    colour: np.ndarray
    cell: np.ndarray
    count: np.ndarray
    size: np.ndarray


class Painter:
    """Draws scenes.  Holds the sprites; safe to use from one process at a time."""

    def __init__(self, package_dir: Path):
        self.sprites = load_sprites(package_dir)
        self.masks = [draw_shape(s) for s in SHAPES]
        self.tints = [self._mean_colour(s) for s in self.sprites]

    @staticmethod
    def _mean_colour(sprite: Image.Image) -> np.ndarray:
        pixels = np.asarray(sprite, dtype=np.float32).reshape(-1, 4)
        return (pixels[:, :3] * pixels[:, 3:]).sum(0) / pixels[:, 3].sum()

    def hides(self, scene: Scene) -> bool:
        """Whether an emoji has nearly the colour of the background."""
        ground = np.array(COLOURS[COLOUR_NAMES[scene.colour]], dtype=np.float32)
        emoji = [g.kind for g in scene.groups if g.colour is None]
        return any(np.abs(self.tints[k] - ground).max() < 40 for k in emoji)

    def _sprite(self, group: Group, rng: np.random.Generator) -> Image.Image:
        if group.colour is None:
            return self.sprites[group.kind]
        mask = self.masks[group.kind - N_EMOJI]
        rgb = _jitter(COLOURS[COLOUR_NAMES[group.colour]], rng, 14)
        sprite = Image.new("RGBA", mask.size, (*rgb, 255))
        sprite.putalpha(mask)
        return sprite

    def paint(
        self, scene: Scene, rng: np.random.Generator, side: int, n_patches: int = 9
    ) -> tuple[Image.Image, PatchLabels]:
        """The picture (RGB, side x side) and the labels of its n_patches x n_patches patches."""
        picture = _background(scene, rng, side)
        best = np.full((n_patches, n_patches), 0.2, dtype=np.float32)
        shape = (n_patches, n_patches)
        labels = PatchLabels(
            kind=np.full(shape, len(NAMES), dtype=np.int64),
            colour=np.full(shape, scene.colour, dtype=np.int64),
            cell=np.full(shape, -1, dtype=np.int64),
            count=np.full(shape, -1, dtype=np.int64),
            size=np.full(shape, -1, dtype=np.int64),
        )
        for group in scene.groups:
            sprite = self._sprite(group, rng)
            size = list(SIZES).index(group.size)
            for cell in group.cells:
                cover = _put(picture, sprite, cell, group.size, rng, n_patches)
                here = cover > best
                best = np.maximum(best, cover)
                labels.kind[here] = group.kind
                labels.colour[here] = -1 if group.colour is None else group.colour
                labels.cell[here] = cell
                labels.count[here] = group.count - 1
                labels.size[here] = size
        return picture, labels


def _jitter(rgb: tuple[int, int, int], rng: np.random.Generator, by: int) -> tuple[int, int, int]:
    return tuple(int(v) for v in np.clip(np.array(rgb) + rng.integers(-by, by + 1, 3), 0, 255))


def _background(scene: Scene, rng: np.random.Generator, side: int) -> Image.Image:
    base = np.array(_jitter(COLOURS[COLOUR_NAMES[scene.colour]], rng, 12), dtype=np.float32)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    slope = rng.uniform(-14, 14, 2)
    light = slope[0] * (x - 0.5) + slope[1] * (y - 0.5)
    period = rng.uniform(0.09, 0.16)
    step = 34 if base.mean() < 128 else -34
    if scene.texture == "striped":
        angle = rng.choice([0.0, np.pi / 2, np.pi / 4])
        light += step * (((x * np.cos(angle) + y * np.sin(angle)) / period) % 1 < 0.5)
    elif scene.texture == "checkered":
        light += step * (((x // period) + (y // period)) % 2 < 1)
    elif scene.texture == "dotted":
        dx, dy = (x / period) % 1 - 0.5, (y / period) % 1 - 0.5
        light += 1.3 * step * (dx * dx + dy * dy < 0.08)
    pixels = base[None, None, :] + light[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _put(
    picture: Image.Image,
    sprite: Image.Image,
    cell: int,
    size: str,
    rng: np.random.Generator,
    n_patches: int,
) -> np.ndarray:
    """Pastes the sprite with its centre in the cell; returns how much of each patch it covers."""
    side = picture.width
    extent = rng.uniform(*SIZES[size])
    pixels = max(4, round(extent * side))
    play = {"small": 0.035, "medium": 0.01, "large": 0.04}[size]
    centre = (np.array([cell % 3, cell // 3]) + 0.5) / 3 + rng.uniform(-play, play, 2)
    centre = np.clip(centre, extent / 2 - 0.02, 1 - extent / 2 + 0.02)
    sprite = sprite.rotate(rng.uniform(-8, 8), Image.Resampling.BILINEAR)
    sprite = sprite.resize((pixels, pixels), Image.Resampling.BICUBIC)
    corner = tuple(int(v) for v in np.round(centre * side - pixels / 2))
    picture.paste(sprite, corner, sprite)
    fine = 4 * n_patches
    scale = fine / side
    small = max(1, round(pixels * scale))
    alpha = Image.new("L", (fine, fine))
    at = (round(corner[0] * scale), round(corner[1] * scale))
    alpha.paste(sprite.getchannel("A").resize((small, small), Image.Resampling.NEAREST), at)
    cover = np.asarray(alpha, dtype=np.float32).reshape(n_patches, 4, n_patches, 4)
    return cover.mean(axis=(1, 3)) / 255


def visible_scene(painter: Painter, rng: np.random.Generator, evaluation: bool = False) -> Scene:
    """A random scene in which nothing has the colour of the background."""
    while True:
        scene = random_scene(rng, evaluation)
        if not painter.hides(scene):
            return scene


def random_picture(
    painter: Painter, scene: Scene, rng: np.random.Generator, side: int
) -> tuple[Image.Image, PatchLabels]:
    """A picture as a user may send it: of some size, now and then through JPEG; then resized."""
    drawn = side if rng.random() < 0.75 else int(rng.integers(side, 2 * side))
    picture, labels = painter.paint(scene, rng, drawn)
    if rng.random() < 0.15:
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=int(rng.integers(60, 96)))
        picture = Image.open(data).convert("RGB")
    if drawn != side:
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
    return picture, labels
