"""Questions about scenes, and their answers.

Every function of QUESTIONS takes (scene, rng) and returns a Turn, or None where the question does
not fit the scene.  `about` names the group that a follow-up ("Where is it?") may refer to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from describe import brief, detailed
from objects import COLOUR_NAMES, plural
from scenes import CELLS, N_EMOJI, NAMES, SINGLE, Group, Scene
from words import (
    CATEGORIES,
    NUMBERS,
    PLURAL_ONLY,
    UNCOUNTED,
    article,
    bare,
    be,
    join,
    noun,
    pick,
    place,
    places,
    sentence,
    the,
)


@dataclass
class Turn:
    question: str
    answer: str
    about: Group | None = None


Rng = np.random.Generator
DETAILED = (
    "Describe this picture in detail.", "Describe the image in detail.",
    "Please describe everything you see in this image.",
    "Give a detailed description of the picture.",
    "Describe the picture in many words.", "Tell me everything about this picture.",
    "Write a long description of the image.", "What do you see? Please give all details.",
    "Describe the picture. Please answer with at least 1000 words.",
    "Describe this image in detail, with places, colours and numbers.",
    "Explain in detail what this picture shows.", "Can you describe this image in detail?",
)  # fmt: skip
BRIEF = (
    "What is in this picture?", "What do you see?", "Describe the picture in one sentence.",
    "Write a short caption.", "What does the image show?", "What is in the image?",
    "Describe this picture briefly.", "Caption this image.", "What can you see in this picture?",
)  # fmt: skip


def describe_long(scene: Scene, rng: Rng) -> Turn:
    return Turn(pick(rng, DETAILED), detailed(scene, rng))


def describe_short(scene: Scene, rng: Rng) -> Turn:
    about = scene.groups[0] if len(scene.groups) == 1 else None
    return Turn(pick(rng, BRIEF), brief(scene, rng), about)


def name_single(scene: Scene, rng: Rng) -> Turn | None:
    if len(scene.groups) != 1 or scene.groups[0].count != 1:
        return None
    g = scene.groups[0]
    question = pick(rng, ("What is this?", "What object is this?", "What is shown here?",
                          "Name the object in the picture.",
                          "What kind of thing is this?"))  # fmt: skip
    what = noun(g, size=rng.random() < 0.3)
    answer = pick(rng, (f"this is {what}", f"it is {what}", f"the picture shows {what}"))
    return Turn(question, sentence(answer), g)


def name_at(scene: Scene, rng: Rng) -> Turn:
    by_cell = {c: g for g in scene.groups for c in g.cells}
    occupied = rng.random() < 0.8
    cells = sorted(by_cell) if occupied else [c for c in range(9) if c not in by_cell]
    cell = pick(rng, cells)
    where = place(cell, rng)
    question = pick(rng, (f"What is {where}?", f"What do you see {where}?",
                          f"Which object is {where}?",
                          f"What thing is {where} of the picture?"))  # fmt: skip
    if not occupied:
        answer = pick(rng, (f"there is nothing {where}", f"the {CELLS[cell]} is empty",
                            f"nothing is {where}"))  # fmt: skip
        return Turn(question, sentence(answer))
    g = by_cell[cell]
    one = Group(g.kind, g.colour, g.size, [cell])
    what = noun(one, size=rng.random() < 0.2)
    verb = "are" if g.name in PLURAL_ONLY else "is"
    answer = pick(
        rng, (what, f"there {verb} {what} {where}", f"I see {what} there", f"it is {what}")
    )
    return Turn(question, sentence(answer), g if g.count == 1 else None)


def _some_group(scene: Scene, rng: Rng) -> Group:
    return pick(rng, scene.groups)


def _absent(scene: Scene, rng: Rng) -> str:
    """The name of something that is not in the scene."""
    there = {g.kind for g in scene.groups}
    while True:
        kind = int(rng.integers(len(NAMES)))
        if kind not in there and NAMES[kind] not in UNCOUNTED:
            return NAMES[kind]


def _only_of_kind(scene: Scene, g: Group) -> bool:
    return sum(o.kind == g.kind for o in scene.groups) == 1


def count(scene: Scene, rng: Rng) -> Turn | None:
    several = [g for g in scene.groups if g.count > 1]
    g = pick(rng, several) if several and rng.random() < 0.5 else _some_group(scene, rng)
    if g.name in SINGLE:
        return None
    if rng.random() < 0.08:
        many = plural(_absent(scene, rng))
        answer = pick(rng, (f"there are no {many} in the picture", f"I see no {many}", "none"))
        return Turn(f"How many {many} are there?", sentence(answer))
    many = plural(g.name)
    if not _only_of_kind(scene, g):
        many = f"{COLOUR_NAMES[g.colour]} {many}"
    question = pick(rng, (f"How many {many} are there?", f"How many {many} do you see?",
                          f"Count the {many}.",
                          f"How many {many} are in the picture?"))  # fmt: skip
    number = NUMBERS[g.count]
    what = f"{number} {plural(g.name) if g.count > 1 else g.name}"
    answer = pick(rng, (f"there {be(g)} {what}", f"I see {what}", number, f"I count {what}"))
    return Turn(question, sentence(answer), g)


def count_all(scene: Scene, rng: Rng) -> Turn:
    total = sum(g.count for g in scene.groups)
    question = pick(rng, ("How many things are there in total?", "How many objects do you see?",
                          "Count all the objects.",
                          "How many items are in the picture?"))  # fmt: skip
    things = "thing" if total == 1 else "things"
    verb = "is" if total == 1 else "are"
    answer = pick(
        rng, (f"there {verb} {NUMBERS[total]} {things}", f"I count {NUMBERS[total]} {things}")
    )
    return Turn(question, sentence(answer))


def locate(scene: Scene, rng: Rng) -> Turn:
    if rng.random() < 0.08:
        name = _absent(scene, rng)
        verb = "are" if name in PLURAL_ONLY else "is"
        answer = pick(rng, (f"there is no {name} in the picture", f"I do not see a {name}"))
        return Turn(f"Where {verb} the {name}?", sentence(answer))
    g = _some_group(scene, rng)
    question = pick(rng, (f"Where {be(g)} {the(g)}?", f"Where do you see {the(g)}?",
                          f"In which part {be(g)} {the(g)}?"))  # fmt: skip
    if g.count == 1:
        where = place(g.cells[0], rng)
        pronoun = "they are" if g.name in PLURAL_ONLY else "it is"
        answer = pick(rng, (f"{the(g)} {be(g)} {where}", f"{pronoun} {where}", where))
    else:
        where = places(g.cells)
        answer = pick(rng, (f"{the(g)} are in {where}", f"they are in {where}"))
    return Turn(question, sentence(answer), g)


def exists(scene: Scene, rng: Rng) -> Turn:
    if rng.random() < 0.5:
        name = _absent(scene, rng)
        what = f"any {name}" if name in PLURAL_ONLY else article(name)
        question = pick(rng, (f"Is there {what} in the picture?", f"Do you see {what}?"))
        answer = pick(
            rng, (f"No, I see no {name}.", f"No, there is no {name} in the picture.", "No.")
        )
        return Turn(question, answer)
    g = _some_group(scene, rng)
    one = Group(g.kind, g.colour, g.size, g.cells[:1])
    question = pick(rng, (f"Is there {noun(one)} in the picture?", f"Do you see {noun(one)}?"))
    if g.count == 1:
        answer = pick(rng, (f"Yes, there {be(g)} {noun(g)} {place(g.cells[0])}.", "Yes."))
    else:
        answer = pick(rng, (f"Yes, there are {noun(g)}.", "Yes."))
    return Turn(question, answer, g)


def colour_of_background(scene: Scene, rng: Rng) -> Turn:
    colour = COLOUR_NAMES[scene.colour]
    word = pick(rng, ("colour", "color"))
    question = pick(
        rng, (f"What {word} is the background?", f"Which {word} does the background have?")
    )
    answer = pick(rng, (f"the background is {colour}", colour, f"it is {colour}"))
    return Turn(question, sentence(answer))


def texture(scene: Scene, rng: Rng) -> Turn:
    question = pick(rng, ("What pattern does the background have?",
                          "What does the background look like?",
                          "Is the background plain?"))  # fmt: skip
    colour = COLOUR_NAMES[scene.colour]
    answer = f"the background is {scene.texture}"
    if "look" in question:
        answer = pick(rng, (f"it is {scene.texture} and {colour}", f"{answer} and {colour}"))
    if question.startswith("Is"):
        return Turn(question, "Yes, it is plain." if scene.texture == "plain" else f"No, {answer}.")
    return Turn(question, sentence(answer))


def colour_of_shape(scene: Scene, rng: Rng) -> Turn | None:
    shapes = [g for g in scene.groups if g.colour is not None and _only_of_kind(scene, g)]
    if not shapes:
        return None
    g = pick(rng, shapes)
    it = bare(g, colour=False)
    colour = COLOUR_NAMES[g.colour]
    word = pick(rng, ("colour", "color"))
    question = pick(rng, (f"What {word} {be(g)} the {it}?", f"Which {word} {be(g)} the {it}?"))
    answer = pick(rng, (f"the {it} {be(g)} {colour}", colour))
    return Turn(question, sentence(answer), g)


def more(scene: Scene, rng: Rng) -> Turn | None:
    countable = [g for g in scene.groups if g.name not in SINGLE and _only_of_kind(scene, g)]
    if len(countable) < 2:
        return None
    a, b = (countable[i] for i in rng.permutation(len(countable))[:2])
    many_a, many_b = plural(a.name), plural(b.name)
    if a.count == b.count:
        reason = f"there {be(a)} {NUMBERS[a.count]} of each"
    else:
        reason = f"there {be(a)} {noun(a)} and {noun(b)}"
    if rng.random() < 0.5:
        yes = "Yes" if a.count > b.count else "No"
        return Turn(f"Are there more {many_a} than {many_b}?", f"{yes}, {reason}.")
    if a.count == b.count:
        return Turn(f"Are there more {many_a} or more {many_b}?", sentence(reason))
    most = many_a if a.count > b.count else many_b
    return Turn(f"Are there more {many_a} or more {many_b}?", f"There are more {most}.")


def relation(scene: Scene, rng: Rng) -> Turn | None:
    alone = [g for g in scene.groups if g.count == 1]
    if len(alone) < 2:
        return None
    a, b = (alone[i] for i in rng.permutation(len(alone))[:2])
    dx = a.cells[0] % 3 - b.cells[0] % 3
    dy = a.cells[0] // 3 - b.cells[0] // 3
    words = []
    if dx:
        words.append(("to the left of", "to the right of")[:: 1 if dx < 0 else -1])
    if dy:
        words.append(("above", "below")[:: 1 if dy < 0 else -1])
    true, false = pick(rng, words)
    asked = true if rng.random() < 0.5 else false
    yes = "Yes" if asked == true else "No"
    question = f"{be(a).capitalize()} {the(a)} {asked} {the(b)}?"
    return Turn(question, f"{yes}, {the(a)} {be(a)} {true} {the(b)}.")


def bigger(scene: Scene, rng: Rng) -> Turn | None:
    alone = [g for g in scene.groups if g.count == 1 and g.name not in PLURAL_ONLY]
    if len(alone) < 2:
        return None
    a, b = (alone[i] for i in rng.permutation(len(alone))[:2])
    question = f"Which is {pick(rng, ('bigger', 'larger'))}, {the(a)} or {the(b)}?"
    if a.size == b.size:
        return Turn(question, "They have the same size.")
    big = a if a.size != "small" else b
    return Turn(question, sentence(f"{the(big)} is bigger"), big)


def listing(scene: Scene, rng: Rng) -> Turn:
    question = pick(rng, ("List the things in the picture.", "Which objects are in the picture?",
                          "Name all the objects.", "What things are there?"))  # fmt: skip
    return Turn(
        question, sentence(pick(rng, ("", "I see ")) + join([noun(g) for g in scene.groups]))
    )


def category(scene: Scene, rng: Rng) -> Turn:
    word = pick(rng, tuple(CATEGORIES))
    first, last = (NAMES.index(n) for n in CATEGORIES[word])
    found = [g for g in scene.groups if first <= g.kind <= last and g.kind < N_EMOJI]
    many = "fruits or foods" if "food" in word else f"{word}s"
    question = pick(
        rng, (f"Which {many} do you see?", f"Are there any {many}?", f"What {many} are there?")
    )
    if not found:
        return Turn(question, f"There are no {many} in the picture.")
    return Turn(question, sentence(f"I see {join([noun(g) for g in found])}"))


QUESTIONS: tuple[tuple[float, Callable[[Scene, Rng], Turn | None]], ...] = (
    (2.2, describe_long), (1.5, describe_short), (1.5, name_single), (3.0, name_at), (3.0, count),
    (0.6, count_all), (3.0, locate), (1.0, exists), (1.0, colour_of_background), (0.5, texture),
    (1.5, colour_of_shape), (0.8, more), (1.2, relation), (0.6, bigger), (1.0, listing),
    (0.6, category),
)  # fmt: skip
_WEIGHTS = np.array([w for w, _ in QUESTIONS])
_WEIGHTS /= _WEIGHTS.sum()


def follow_up(g: Group, rng: Rng) -> Turn:
    """A question that says "it" or "they" about the group of the last turn."""
    several = g.count > 1 or g.name in PLURAL_ONLY
    they, are = ("they", "are") if several else ("it", "is")
    kinds = ["where", "what"]
    if g.name not in SINGLE:
        kinds.append("count")
    if g.colour is not None:
        kinds.append("colour")
    kind = pick(rng, kinds)
    if kind == "where":
        where = place(g.cells[0], rng) if g.count == 1 else f"in {places(g.cells)}"
        return Turn(f"Where {are} {they}?", sentence(f"{they} {are} {where}"), g)
    if kind == "what":
        size = {"small": "small", "medium": "not large", "large": "large"}[g.size]
        return Turn(
            f"{are.capitalize()} {they} small or large?", sentence(f"{they} {are} {size}"), g
        )
    if kind == "count":
        return Turn("How many are there?", sentence(f"there {be(g)} {NUMBERS[g.count]}"), g)
    return Turn(f"What colour {are} {they}?", sentence(f"{they} {are} {COLOUR_NAMES[g.colour]}"), g)


def ask(scene: Scene, rng: Rng) -> Turn:
    """Some question that fits the scene."""
    while True:
        turn = QUESTIONS[int(rng.choice(len(QUESTIONS), p=_WEIGHTS))][1](scene, rng)
        if turn is not None:
            return turn


ORDINALS = ("first", "second", "third")


def two_pictures(scenes: list[Scene], rng: Rng) -> Turn:
    """A question about one of several pictures, or about all of them."""
    which = int(rng.integers(len(scenes)))
    scene, ordinal = scenes[which], ORDINALS[which]
    kind = int(rng.integers(5))
    if kind == 0:
        question = pick(
            rng, (f"What is in the {ordinal} picture?", f"What does the {ordinal} image show?")
        )
        return Turn(
            question,
            sentence(f"the {ordinal} picture shows {join([noun(g) for g in scene.groups])}"),
        )
    if kind == 1:
        colour = COLOUR_NAMES[scene.colour]
        question = f"What colour is the background of the {ordinal} picture?"
        return Turn(question, sentence(f"the background of the {ordinal} picture is {colour}"))
    if kind == 2:
        g = _some_group(scene, rng)
        others = [s for s in scenes if s is not scene]
        if not any(o.kind == g.kind for s in others for o in s.groups):
            return Turn(f"Which picture shows {noun(g)}?", f"The {ordinal} picture.")
    if kind == 3:
        turn = locate(scene, rng)
        question = turn.question.rstrip("?")
        return Turn(
            f"{question} in the {ordinal} picture?".replace("in the picture in", "in"), turn.answer
        )
    parts = [f"the {ORDINALS[i]} picture shows {join([noun(g) for g in s.groups])}"
             for i, s in enumerate(scenes)]  # fmt: skip
    question = pick(
        rng, ("Describe the pictures.", "What is in each picture?", "Compare the pictures.")
    )
    return Turn(question, " ".join(sentence(p) for p in parts))
