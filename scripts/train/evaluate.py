"""Measures a target and its drafts on held-out compositions; writes JSON.

Answers   Greedy answers about scenes whose asked property (kind in this cell, count of this kind,
          colour of this shape) never occurred in training, judged by the words they hold.
Drafts    Tokens per round on long descriptions of held-out scenes, greedy and at temperature 1, for
          several trees, and the share of drafted tokens accepted, for words that depend on the
          picture and for the others.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from chat import casual, pictures, render
from draft import VARIANTS, Draft
from generate import generate
from model import Llava
from objects import COLOUR_NAMES, plural
from patterns import count as count_patterns
from scenes import CELLS, NAMES, SINGLE, Group, Painter, Scene, held_out, visible_scene
from talk import DETAILED, Turn, two_pictures
from tokenizers import Tokenizer
from train_draft import answer, batch_of, prompt_ids
from tree import Tree, replay
from words import NUMBERS, be, place, the, visual_tokens

SEED = 20261126
TREES = {"paper": Tree(), "eight": Tree(2, 4, 8), "chain": Tree(2, 1, 4)}
Check = Callable[[str], bool]


def find(text: str, words: tuple[str, ...]) -> set[str]:
    """Which of the words (or phrases) the text holds; the longest match wins."""
    pattern = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    return set(re.findall(rf"\b(?:{pattern})\b", text.lower()))


def find_names(text: str) -> set[str]:
    singular = {plural(n): n for n in NAMES} | {n: n for n in NAMES}
    return {singular[w] for w in find(text, tuple(singular))}


def find_cells(text: str) -> set[str]:
    return find(text, CELLS)


def object_question(scene: Scene, rng: np.random.Generator) -> tuple[str, Check] | None:
    for g in scene.groups:
        for c in g.cells:
            if "place" in held_out(Group(g.kind, g.colour, g.size, [c])):
                return f"What is {place(c)}?", lambda a, g=g: find_names(a) == {g.name}
    return None


def place_question(scene: Scene, rng: np.random.Generator) -> tuple[str, Check] | None:
    for g in scene.groups:
        alone = sum(o.kind == g.kind for o in scene.groups) == 1
        if g.count == 1 and alone and "place" in held_out(g):
            where = {CELLS[c] for c in g.cells}
            return f"Where {be(g)} {the(g)}?", lambda a, where=where: find_cells(a) == where
    return None


def count_question(scene: Scene, rng: np.random.Generator) -> tuple[str, Check] | None:
    for g in scene.groups:
        alone = sum(o.kind == g.kind for o in scene.groups) == 1
        if g.name not in SINGLE and alone and "count" in held_out(g):
            number = NUMBERS[g.count]
            return (
                f"How many {plural(g.name)} are there?",
                lambda a, n=number: find(a, NUMBERS) == {n},
            )
    return None


def colour_question(scene: Scene, rng: np.random.Generator) -> tuple[str, Check] | None:
    for g in scene.groups:
        alone = sum(o.kind == g.kind for o in scene.groups) == 1
        if alone and "colour" in held_out(g):
            name = plural(g.name) if g.count > 1 else g.name
            colour = COLOUR_NAMES[g.colour]
            question = f"What colour {be(g)} the {name}?"
            return question, lambda a, c=colour: find(a, COLOUR_NAMES) == {c}
    return None


def ground_question(scene: Scene, rng: np.random.Generator) -> tuple[str, Check]:
    colour = COLOUR_NAMES[scene.colour]
    return "What colour is the background?", lambda a: find(a, COLOUR_NAMES) == {colour}


def description(scene: Scene, rng: np.random.Generator) -> tuple[str, Check]:
    """Right when the description names exactly the kinds that are there."""
    names = {g.name for g in scene.groups}
    return casual(DETAILED[int(rng.integers(len(DETAILED)))], rng), lambda a: find_names(a) == names


QUESTIONS = {
    "object at a place": object_question,
    "place of an object": place_question,
    "count": count_question,
    "colour of a shape": colour_question,
    "colour of the background": ground_question,
    "description names exactly what is there": description,
}


class Judge:
    def __init__(self, args: argparse.Namespace):
        self.target = Llava.load(args.model)
        self.tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
        self.painter = Painter(args.emoji)
        self.eos = self.tokenizer.token_to_id("</s>")

    def answers(self, asked: list[tuple[str, list[Scene]]], rng: np.random.Generator) -> list[str]:
        """Greedy answers to (question, scenes)."""
        cfg, out = self.target.cfg, []
        for first in range(0, len(asked), 100):
            part = asked[first : first + 100]
            seen = [
                p
                for _, scenes in part
                for p, _ in pictures(self.painter, scenes, rng, cfg.image_size)
            ]
            with torch.no_grad():
                features = self.target.see(torch.from_numpy(np.stack(seen)))
            texts = [render([Turn(q, "")], len(s))[0][0] for q, s in part]
            prompts = [prompt_ids(self.tokenizer, t, cfg.image_token, cfg.n_patches) for t in texts]
            tokens = generate(self.target, prompts, features, self.eos, 160)
            out += [self.tokenizer.decode(t) for t in tokens]
        return out

    def questions(self, kind: str, n: int) -> dict:
        rng = np.random.default_rng([SEED, *kind.encode()])
        asked, checks = [], []
        while len(asked) < n:
            scene = visible_scene(self.painter, rng, evaluation=True)
            found = QUESTIONS[kind](scene, rng)
            if found:
                asked.append((found[0], [scene]))
                checks.append(found[1])
        answers = self.answers(asked, rng)
        right = [check(a) for check, a in zip(checks, answers, strict=True)]
        wrong = [
            {"question": q, "answer": a, "scene": s[0].describe()["groups"]}
            for (q, s), a, ok in zip(asked, answers, right, strict=True) if not ok
        ]  # fmt: skip
        return {"n": n, "right": sum(right), "share": sum(right) / n, "some_wrong": wrong[:3]}

    def several_pictures(self, n: int) -> dict:
        """Which objects the named one of two pictures holds."""
        rng = np.random.default_rng([SEED, 7])
        asked = []
        while len(asked) < n:
            scenes = [visible_scene(self.painter, rng, evaluation=True) for _ in range(2)]
            turn = two_pictures(scenes, rng)
            if "picture shows" in turn.answer and turn.answer.count("picture shows") == 1:
                asked.append((turn, scenes))
        answers = self.answers([(t.question, s) for t, s in asked], rng)
        right = [
            find_names(a) == find_names(t.answer) for (t, _), a in zip(asked, answers, strict=True)
        ]
        return {"n": n, "right": sum(right), "share": sum(right) / n}

    def drafts(self, folders: dict[str, Path], n: int) -> dict:
        visual = visual_tokens(self.tokenizer)
        report: dict = {}
        for temperature in (0.0, 1.0):
            rng = np.random.default_rng([SEED, 8])
            scenes = [visible_scene(self.painter, rng, evaluation=True) for _ in range(n)]
            asked = [
                (render([Turn(DETAILED[i % len(DETAILED)], "")], 1)[0][0], s)
                for i, s in enumerate(scenes)
            ]
            made = answer(self.target, self.tokenizer, self.painter, asked, rng, temperature, 200)
            seqs = batch_of(self.target, *made)
            starts = torch.tensor([s["start"] for s in made[0]])
            for variant, folder in folders.items():
                draft = Draft.load(folder, self.target.cfg, variant)
                for name, tree in TREES.items():
                    rounds = replay(draft, self.target, seqs, starts, tree)
                    key = f"temperature {temperature:g}"
                    entry = report.setdefault(variant, {}).setdefault(key, {})
                    entry[name] = summary(rounds, seqs.tokens, visual) | {"tree": asdict(tree)}
        return report


def summary(rounds: list, tokens: torch.Tensor, visual: torch.Tensor) -> dict:
    """Tokens per round, and acceptance of drafted-for tokens by class of word."""
    tried, accepted, lengths = Counter(), Counter(), Counter()
    made = 0
    for b, of_sequence in enumerate(rounds):
        for r in of_sequence:
            lengths[r.accepted] += 1
            for i in range(r.tried):
                kind = "picture words" if visual[tokens[b, r.first + i]] else "other words"
                tried[kind] += 1
                accepted[kind] += i < r.accepted
        made += of_sequence[-1].first + of_sequence[-1].tried - of_sequence[0].first
    n_rounds = sum(lengths.values())
    return {
        "rounds": n_rounds,
        "tokens": made,
        "tokens_per_round": made / n_rounds,
        "accepted_per_round": {str(k): lengths[k] / n_rounds for k in sorted(lengths)},
        "acceptance": {k: accepted[k] / tried[k] for k in sorted(tried)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--emoji", type=Path, required=True)
    parser.add_argument(
        "--drafts", type=Path, help="folder with draft-vispec, draft-eagle, draft-text"
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    parser.add_argument("--questions", type=int, default=300, help="of each kind")
    parser.add_argument("--descriptions", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(2)
    judge = Judge(args)
    result = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.questions:
        result["objects_known"] = len(NAMES)
        result["sentence_patterns"] = count_patterns(judge.painter)
        result["answers"] = {k: judge.questions(k, args.questions) for k in QUESTIONS}
        result["answers"]["one of two pictures"] = judge.several_pictures(args.questions)
        for kind, entry in result["answers"].items():
            print(f"{kind}: {entry['right']} of {entry['n']}")
    if args.drafts:
        folders = {v: args.drafts / f"draft-{v}" for v in VARIANTS}
        there = {v: f for v, f in folders.items() if f.exists()}
        result["drafts"] = judge.drafts(there, args.descriptions)
        for variant, entry in result["drafts"].items():
            for temperature, trees in entry.items():
                rates = ", ".join(f"{k} {t['tokens_per_round']:.2f}" for k, t in trees.items())
                print(f"{variant}, {temperature}: tokens per round {rates}")
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
