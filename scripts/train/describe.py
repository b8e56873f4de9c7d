"""Long and short descriptions of a scene, in many wordings."""

from __future__ import annotations

import numpy as np
from objects import COLOUR_NAMES
from scenes import CELLS, Group, Scene
from words import NUMBERS, bare, be, join, noun, pick, place, places, sentence, the

Rng = np.random.Generator


def ground(scene: Scene, rng: Rng) -> str:
    """ "a striped blue background" """
    colour = COLOUR_NAMES[scene.colour]
    if scene.texture == "plain" and rng.random() < 0.6:
        return f"{'an' if colour == 'orange' else 'a'} {colour} background"
    return f"a {scene.texture} {colour} background"


def brief(scene: Scene, rng: Rng) -> str:
    things = join([noun(g, size=rng.random() < 0.2) for g in scene.groups])
    form = int(rng.integers(4))
    if form == 0:
        return sentence(f"{things} on {ground(scene, rng)}")
    if form == 1:
        return sentence(f"the picture shows {things}")
    if form == 2:
        return sentence(f"I see {things} on {ground(scene, rng)}")
    return sentence(f"there {be(scene.groups[0])} {things} in the picture")


def _opening(scene: Scene, rng: Rng) -> str:
    total = sum(g.count for g in scene.groups)
    things = "one thing" if total == 1 else f"{NUMBERS[total]} things"
    on = ground(scene, rng)
    return sentence(pick(rng, (
        f"this picture shows {things} on {on}",
        f"the image shows {join([noun(g) for g in scene.groups])} on {on}",
        f"there {'is' if total == 1 else 'are'} {things} on {on}",
        f"I see {on} with {things} on it",
        f"the picture has {on}",
        f"on {on} I see {join([noun(g) for g in scene.groups])}",
    )))  # fmt: skip


def _about(g: Group, rng: Rng) -> str:
    """One or two sentences that give what, how many and where."""
    sized = rng.random() < 0.5
    what = noun(g, size=sized)
    if g.count == 1:
        where = place(g.cells[0], rng)
        return sentence(pick(rng, (
            f"{what} {be(g)} {where}",
            f"there {be(g)} {what} {where}",
            f"{where} there {be(g)} {what}",
            f"I can see {what} {where}",
            f"{where} of the picture {be(g)} {what}",
        )))  # fmt: skip
    each = join([f"one {place(c)}" for c in g.cells])
    return pick(rng, (
        sentence(f"there are {what}: {each}"),
        sentence(f"{what} are in {places(g.cells)}"),
        sentence(f"I count {what}, {each}"),
        sentence(f"there are also {what}") + " " + sentence(f"they are in {places(g.cells)}"),
        sentence(f"{what} can be seen in {places(g.cells)}"),
    ))  # fmt: skip


def _relation(scene: Scene, rng: Rng) -> str | None:
    alone = [g for g in scene.groups if g.count == 1]
    if len(alone) < 2:
        return None
    a, b = alone[0], alone[1]
    dx = a.cells[0] % 3 - b.cells[0] % 3
    dy = a.cells[0] // 3 - b.cells[0] // 3
    words = []
    if dx:
        words.append("to the left of" if dx < 0 else "to the right of")
    if dy:
        words.append("above" if dy < 0 else "below")
    return sentence(f"{the(a)} {be(a)} {pick(rng, words)} {the(b)}")


def _many(g: Group) -> str:
    """The group's noun, always in the plural."""
    return bare(Group(g.kind, g.colour, g.size, [0, 0]))


def _comparison(scene: Scene, rng: Rng) -> str | None:
    counted = [g for g in scene.groups if g.count > 1]
    if len(scene.groups) < 2 or not counted:
        return None
    a = max(scene.groups, key=lambda g: g.count)
    b = min(scene.groups, key=lambda g: g.count)
    if a.count == b.count:
        return None
    return sentence(f"there are more {bare(a)} than {_many(b)}")


def _colours(scene: Scene, rng: Rng) -> str | None:
    shapes = [g for g in scene.groups if g.colour is not None]
    if not shapes:
        return None
    g = shapes[0]
    return sentence(f"the {bare(g, colour=False)} {be(g)} {COLOUR_NAMES[g.colour]}")


def _emptiness(scene: Scene, rng: Rng) -> str | None:
    used = {c for g in scene.groups for c in g.cells}
    free = [c for c in range(9) if c not in used]
    if not free:
        return None
    return sentence(
        pick(rng, (f"the {CELLS[free[0]]} is empty", f"there is nothing {place(free[0])}"))
    )


def _ending(scene: Scene, rng: Rng) -> str:
    total = sum(g.count for g in scene.groups)
    verb, things = ("is", "thing") if total == 1 else ("are", "things")
    return pick(rng, (
        sentence(f"the background is {scene.texture} and {COLOUR_NAMES[scene.colour]}"),
        sentence(f"in total there {verb} {NUMBERS[total]} {things}"),
        "Nothing else is in the picture.",
        "The rest of the picture is empty.",
        sentence(f"altogether I count {NUMBERS[total]} {things}"),
    ))  # fmt: skip


def detailed(scene: Scene, rng: Rng) -> str:
    """Four to nine sentences."""
    parts = [_opening(scene, rng)] + [_about(g, rng) for g in scene.groups]
    extras = (_relation, _comparison, _colours, _emptiness)
    wanted = 3 if len(scene.groups) < 3 else 2
    found = [text for text in (extra(scene, rng) for extra in extras) if text]
    parts += found[:wanted]
    parts.append(_ending(scene, rng))
    return " ".join(parts)
