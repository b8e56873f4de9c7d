"""Counts the sentence patterns of the training conversations.

A pattern is a sentence whose things, colours, numbers, places and textures are blanked out, however
long a list of them is.  With many of them for each kind of question the text alone does not give
an answer away.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
from chat import conversation
from objects import COLOUR_NAMES, plural
from scenes import CELLS, NAMES, TEXTURES, Painter, visible_scene
from words import NUMBERS

SEED = 20261128
COMMON = 20  # times a pattern must occur among all conversations to count


def _any_of(words: tuple[str, ...]) -> str:
    return rf"\b(?:{'|'.join(sorted(words, key=len, reverse=True))})\b"


_NAMES = tuple({w for n in NAMES for w in (n, plural(n))})
_BLANKS = (
    (
        rf"\b(?:(?:an?|some|{'|'.join(NUMBERS)}) )?(?:(?:small|large) )?"
        rf"(?:(?:{'|'.join(COLOUR_NAMES)}) )?{_any_of(_NAMES)}",
        "THING",
    ),
    (_any_of(CELLS), "PLACE"),
    (_any_of(COLOUR_NAMES), "COLOUR"),
    (_any_of(NUMBERS), "NUMBER"),
    (_any_of(TEXTURES), "TEXTURE"),
    (r"NUMBER (in|at) the PLACE( corner)?", "SPOT"),
    (r"(THING|SPOT|PLACE)(?:(?:, | and )(?:the )?\1)+", r"\1S"),
)


def pattern(sentence: str) -> str:
    text = sentence[0].lower() + sentence[1:].rstrip("?.")
    for blank, name in _BLANKS:
        text = re.sub(blank, name, text)
    return text


def count(painter: Painter, n: int = 4000) -> dict[str, int]:
    """Common patterns of questions, and of sentences of answers, in n conversations of 4 turns."""
    rng = np.random.default_rng(SEED)
    questions: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    for _ in range(n):
        for turn in conversation([visible_scene(painter, rng)], rng, 4):
            questions[pattern(turn.question)] += 1
            answers.update(pattern(s) for s in re.split(r"(?<=\.) ", turn.answer))
    common = [sum(v >= COMMON for v in c.values()) for c in (questions, answers)]
    return {"questions": common[0], "sentences of answers": common[1]}
