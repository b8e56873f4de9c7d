"""Conversations as token sequences, exactly as LLaVA-1.5's template and tokenizer give them.

The template:  USER: <image>\\nquestion ASSISTANT: answer USER: question ASSISTANT: answer ...
A history holds no </s>, so the label after an answer's last token is </s> while the next input is
" USER".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from labels import stack_labels, to_pixels
from objects import plural
from scenes import NAMES, Painter, Scene, random_picture, visible_scene
from smalltalk import BLIND, SYSTEM_PROMPTS, small_talk
from talk import Turn, ask, follow_up, two_pictures
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from words import pick

VOCAB = 1664
BOS, EOS, IMAGE, PAD = 1, 2, VOCAB - 2, VOCAB - 1
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ "
    "message['role'].upper() + ': '}}{% endif %}{# Render all images first #}{% for content in "
    "message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\\n' }}{% endfor "
    "%}{# Render all text next #}{% if message['role'] != 'assistant' %}{% for content in "
    "message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}{% "
    "endfor %}{% else %}{% for content in message['content'] | selectattr('type', 'equalto', "
    "'text') %}{% generation %}{{ content['text'] + ' '}}{% endgeneration %}{% endfor %}{% "
    "endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
Rng = np.random.Generator


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def train_tokenizer(texts: Iterable[str], path: Path) -> None:
    """Llama-2's pipeline over a vocabulary of our own: specials, 256 bytes, BPE, <image>, <pad>.

    Words are split only while training: with no merge that crosses a word, the published pipeline,
    which has no pre-tokenizer, gives the same tokens.
    """
    trainee = Tokenizer(models.BPE())
    trainee.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    word = Regex(r"▁?[A-Za-z]+|▁?[0-9]|▁|[^▁A-Za-z0-9]")
    trainee.pre_tokenizer = pre_tokenizers.Split(word, "isolated")
    alphabet = [chr(c) for c in range(33, 127)] + ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 2 - 3 - 256, initial_alphabet=alphabet, limit_alphabet=len(alphabet),
        show_progress=False,
    )  # fmt: skip
    trainee.train_from_iterator(texts, trainer)
    learned = json.loads(trainee.to_str())["model"]
    vocab = {"<unk>": 0, "<s>": BOS, "</s>": EOS}
    vocab.update({f"<0x{b:02X}>": 3 + b for b in range(256)})
    for token in sorted(learned["vocab"], key=learned["vocab"].get):
        vocab[token] = len(vocab)
    while len(vocab) < VOCAB - 2:
        vocab[f"<unused{len(vocab)}>"] = len(vocab)
    vocab |= {"<image>": IMAGE, "<pad>": PAD}
    merges = [tuple(m) for m in learned["merges"]]
    final = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    final.normalizer = trainee.normalizer
    final.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", BOS)]
    )
    final.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    final.add_special_tokens([_special(t) for t in ("<unk>", "<s>", "</s>", "<image>", "<pad>")])
    final.save(str(path))


def corpus(painter: Painter, rng: Rng, n: int = 4000) -> Iterator[str]:
    """What the vocabulary is learned from: conversations, and each name often enough."""
    for name in NAMES:
        yield from [f"{name} {plural(name)}"] * 20
    for _ in range(n):
        scenes = [visible_scene(painter, rng) for _ in range(int(rng.integers(3)))]
        turns = conversation(scenes, rng, 6 if scenes else 3)
        yield "".join(p for p, _ in render(turns, 0, pick(rng, SYSTEM_PROMPTS)))


def render(turns: list[Turn], n_images: int, system: str = "") -> list[tuple[str, bool]]:
    """The conversation as pieces of text; True marks an answer."""
    pieces: list[tuple[str, bool]] = []
    head = f"{system} " if system else ""
    for i, turn in enumerate(turns):
        images = "<image>\n" * n_images if i == 0 else ""
        pieces.append((f"{head if i == 0 else ''}USER: {images}{turn.question} ASSISTANT:", False))
        pieces.append((f" {turn.answer}", True))
        pieces.append((" ", False))
    return pieces


@dataclass
class Sample:
    tokens: np.ndarray  # each <image> already repeated n_patches times
    targets: np.ndarray  # what should follow each token; -1 where nothing is asked
    scenes: list[Scene]


def encode(
    tokenizer: Tokenizer, pieces: list[tuple[str, bool]], scenes: list[Scene], n_patches: int
) -> Sample:
    text = "".join(p for p, _ in pieces)
    encoding = tokenizer.encode(text)
    ends, at = [], 0
    for piece, is_answer in pieces:
        at += len(piece)
        if is_answer:
            ends.append((at - len(piece), at))
    ids, targets = [], []
    for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        inside = any(a <= start and end <= b and end > start for a, b in ends)
        n = n_patches if token == IMAGE else 1
        ids += [token] * n
        targets += [inside] * n
    tokens = np.array(ids, dtype=np.int64)
    is_answer = np.array(targets)
    following = np.full(len(tokens), -1, dtype=np.int64)
    following[:-1][is_answer[1:]] = tokens[1:][is_answer[1:]]
    last = is_answer & ~np.append(is_answer[1:], False)
    following[last] = EOS
    return Sample(tokens, following, scenes)


def casual(question: str, rng: Rng) -> str:
    """Some people type without capitals and question marks."""
    if rng.random() < 0.1:
        question = question[0].lower() + question[1:]
    if rng.random() < 0.1:
        question = question.rstrip("?.")
    return question


def conversation(scenes: list[Scene], rng: Rng, n_turns: int) -> list[Turn]:
    turns: list[Turn] = []
    while len(turns) < n_turns:
        if not scenes:
            turn = (
                small_talk(rng)
                if rng.random() < 0.8
                else Turn(ask(BLIND, rng).question, _blind(rng))
            )
        elif rng.random() < 0.04:
            turn = small_talk(rng)
        elif turns and turns[-1].about is not None and len(scenes) == 1 and rng.random() < 0.4:
            turn = follow_up(turns[-1].about, rng)
        elif len(scenes) > 1:
            turn = two_pictures(scenes, rng)
        else:
            turn = ask(scenes[0], rng)
        turns.append(Turn(casual(turn.question, rng), turn.answer, turn.about))
    return turns


def _blind(rng: Rng) -> str:
    return pick(rng, ("I see no picture. Please send me one.", "There is no picture to look at.",
                      "Please send a picture first."))  # fmt: skip


def sample(tokenizer: Tokenizer, painter: Painter, rng: Rng, n_patches: int, budget: int) -> Sample:
    """A conversation of at most about `budget` tokens about 0 to 3 pictures."""
    n_images = int(rng.choice(4, p=[0.04, 0.86, 0.08, 0.02]))
    scenes = [visible_scene(painter, rng) for _ in range(n_images)]
    system = pick(rng, SYSTEM_PROMPTS) if rng.random() < 0.08 else ""
    turns = conversation(scenes, rng, int(rng.integers(1, 4)) if n_images == 0 else 12)
    best = None
    for n in range(1, len(turns) + 1):
        s = encode(tokenizer, render(turns[:n], n_images, system), scenes, n_patches)
        if best is not None and len(s.tokens) > budget:
            break
        best = s
    return best


def pictures(
    painter: Painter, scenes: list[Scene], rng: Rng, side: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pixels and patch labels of each scene."""
    for scene in scenes:
        picture, labels = random_picture(painter, scene, rng, side)
        yield to_pixels(picture), stack_labels(labels)
