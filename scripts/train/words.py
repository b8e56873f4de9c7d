"""Phrases about groups of items: nouns, numbers, places, lists."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from objects import COLOUR_NAMES, plural
from scenes import CELLS, NAMES, TEXTURES, Group
from tokenizers import Tokenizer

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven")
PLURAL_ONLY = {
    "grapes", "cherries", "pancakes", "blueberries", "headphones", "scissors", "glasses", "jeans",
}  # fmt: skip
UNCOUNTED = {"corn", "honey", "popcorn", "broccoli", "yarn", "bowling"}
CATEGORIES = {
    "animal": ("dog", "spider"),
    "plant": ("tulip", "leaf"),
    "fruit or food": ("pumpkin", "kiwi"),
    "vehicle": ("car", "skateboard"),
}
"""First and last name, in the order of objects.EMOJI."""


def pick(rng: np.random.Generator, options: Sequence):
    return options[int(rng.integers(len(options)))]


def article(noun: str) -> str:
    word = noun.split()[-1]
    if word in PLURAL_ONLY or word in UNCOUNTED:
        return f"some {noun}"
    vowel = noun[0] in "aeio" or noun.startswith("umb")
    return f"{'an' if vowel and not noun.startswith('one') else 'a'} {noun}"


def bare(g: Group, colour: bool = True, size: bool = False) -> str:
    """ "red circles", "dog", "small dogs": in the number of the group."""
    noun = plural(g.name) if g.count > 1 else g.name
    if colour and g.colour is not None:
        noun = f"{COLOUR_NAMES[g.colour]} {noun}"
    return f"{g.size} {noun}" if size and g.size != "medium" else noun


def noun(g: Group, size: bool = False) -> str:
    """ "a red circle", "three small dogs", "some grapes" """
    if g.count == 1:
        return article(bare(g, size=size))
    return f"{NUMBERS[g.count]} {bare(g, size=size)}"


def the(g: Group) -> str:
    return f"the {bare(g)}"


def be(g: Group) -> str:
    return "are" if g.count > 1 or g.name in PLURAL_ONLY else "is"


def place(cell: int, rng: np.random.Generator | None = None) -> str:
    """ "in the top left", now and then in other words that name the same cell."""
    name = CELLS[cell]
    if rng is None or rng.random() < 0.6:
        return f"in the {name}"
    if name in ("top left", "top right", "bottom left", "bottom right"):
        return f"in the {name} corner"
    return f"at the {name}"


def places(cells: Sequence[int]) -> str:
    return join([f"the {CELLS[c]}" for c in cells])


def join(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def sentence(text: str) -> str:
    """Capital letter and full stop."""
    return text[0].upper() + text[1:] + "."


def visual_tokens(tokenizer: Tokenizer) -> torch.Tensor:
    """[vocab] whether a token is a word for an object, colour, number, place, size or pattern."""
    words = {w for n in NAMES for w in (*n.split(), *plural(n).split())}
    words |= {*COLOUR_NAMES, *NUMBERS, *TEXTURES, "small", "large"}
    words |= {w for c in CELLS for w in c.split()}
    vocab = tokenizer.get_vocab()
    table = torch.zeros(len(vocab), dtype=torch.bool)
    for token, i in vocab.items():
        table[i] = token.removeprefix("▁").lower() in words
    return table
