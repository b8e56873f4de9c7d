"""Trains the target model in two stages, resumable: patch labels, then conversations."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import chat
import numpy as np
import torch
import torch.nn.functional as F
from export import export
from initial import embedded_config, initialise, start_from_labels
from labels import LabelHeads, stack_labels, to_pixels
from model import Config, Llava
from optim import Optimizer, schedule
from scenes import Painter, random_picture, visible_scene
from tokenizers import Tokenizer
from torch.utils.data import DataLoader, IterableDataset
from words import visual_tokens

SEED = 20261124
LONGEST = 256  # tokens of a conversation, about
VISUAL_WEIGHT = 4.0  # of tokens that tell something about the picture
LABEL_WEIGHT = 0.2  # of the patch labels while conversations are learned
FROZEN = 0.9  # of the steps, at first, in which the language model learns and the tower does not


class LabelledScenes(IterableDataset):
    """Batches of (pixels, labels); batch i depends on the seed and i only."""

    def __init__(self, package_dir: Path, side: int, batch: int, first: int, last: int):
        self.package_dir, self.side, self.batch = package_dir, side, batch
        self.first, self.last = first, last

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        painter = Painter(self.package_dir)
        for i in range(self.first, self.last):
            rng = np.random.default_rng([SEED, 1, i])
            pixels, labels = [], []
            for _ in range(self.batch):
                picture, label = random_picture(
                    painter, visible_scene(painter, rng), rng, self.side
                )
                pixels.append(to_pixels(picture))
                labels.append(stack_labels(label))
            yield torch.from_numpy(np.stack(pixels)), torch.from_numpy(np.stack(labels))


class Conversations(IterableDataset):
    """Batches of (tokens, targets, pixels, labels), padded on the right."""

    def __init__(self, args: argparse.Namespace, cfg: Config, first: int):
        self.args, self.cfg, self.first = args, cfg, first

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ...]]:
        painter = Painter(self.args.emoji)
        tokenizer = Tokenizer.from_file(str(self.args.work / "tokenizer.json"))
        n_patches, side = self.cfg.n_patches, self.cfg.image_size
        for i in range(self.first, self.args.steps):
            rng = np.random.default_rng([SEED, 2, i])
            samples = [
                chat.sample(tokenizer, painter, rng, n_patches, LONGEST)
                for _ in range(self.args.batch)
            ]
            seen = [p for s in samples for p in chat.pictures(painter, s.scenes, rng, side)]
            width = max(len(s.tokens) for s in samples)
            tokens = np.full((len(samples), width), chat.PAD, dtype=np.int64)
            targets = np.full((len(samples), width), -1, dtype=np.int64)
            for row, s in enumerate(samples):
                tokens[row, : len(s.tokens)] = s.tokens
                targets[row, : len(s.tokens)] = s.targets
            pixels = np.stack([p for p, _ in seen])
            labels = np.stack([q for _, q in seen])
            yield tuple(torch.from_numpy(a) for a in (tokens, targets, pixels, labels))


def save(path: Path, **parts: object) -> None:
    """Writes a checkpoint so that a kill leaves the old one or the new one."""
    scratch = path.with_suffix(".tmp")
    torch.save(parts, scratch)
    scratch.rename(path)


class Stage:
    """What both stages share: a model, heads and optimizer that resume from a checkpoint, and the
    loop over batches."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        self.path = args.work / f"{args.stage}.pt"
        self.model = Llava(Config(embedded_config()))
        initialise(self.model)
        self.heads = LabelHeads(self.model.cfg.text.hidden)
        self.first = 0

    def resume(self) -> bool:
        """Makes the optimizer; whether there was a checkpoint to go on from."""
        self.optimizer = Optimizer(torch.nn.ModuleList([self.model, self.heads]))
        if not self.path.exists():
            return False
        state = torch.load(self.path, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.first = state["step"]
        return True

    def run(
        self,
        data: IterableDataset,
        loss_of: Callable[[int, tuple], tuple[torch.Tensor, dict[str, float]]],
        on_save: Callable[[], None] = lambda: None,
    ) -> None:
        """loss_of(step, batch) gives the loss and some shares to print."""
        steps = self.args.steps
        began = time.time()
        loader = DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4)
        for step, batch in enumerate(loader, self.first):
            with torch.autocast("cpu", torch.bfloat16):
                loss, right = loss_of(step, batch)
            loss.backward()
            self.optimizer.step(schedule(step / steps, self.args.lr))
            if step % 20 == 0:
                rates = " ".join(f"{k} {v:.3f}" for k, v in right.items())
                spent = time.time() - began
                print(f"{step} {spent:.0f}s loss {loss.item():.3f} {rates}", flush=True)
            if (step + 1) % 50 == 0 or step + 1 == steps:
                save(
                    self.path, model=self.model.state_dict(), heads=self.heads.state_dict(),
                    optimizer=self.optimizer.state_dict(), step=step + 1,
                )  # fmt: skip
                on_save()


def train_labels(args: argparse.Namespace) -> None:
    stage = Stage(args)
    stage.model.language_model.requires_grad_(False)
    stage.resume()
    data = LabelledScenes(
        args.emoji, stage.model.cfg.image_size, args.batch, stage.first, args.steps
    )
    stage.run(data, lambda _, batch: stage.heads(stage.model.see(batch[0]), batch[1]))


def answer_loss(
    model: Llava,
    heads: LabelHeads,
    batch: tuple[torch.Tensor, ...],
    visual: torch.Tensor,
    frozen: bool,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Loss to minimise, and shares of tokens and patch labels that are right.

    Which wording an answer chooses is chance and most of the gradient's noise, so tokens that tell
    something about the picture weigh more.
    """
    tokens, targets, pixels, labels = batch
    with torch.set_grad_enabled(not frozen):
        features = model.see(pixels)
    x = model.embed(tokens, features.flatten(0, 1))
    hidden = model.language_model(x, torch.arange(tokens.shape[1])[None])
    asked = targets >= 0
    logits = model.logits(hidden[asked])
    wanted = targets[asked]
    each = F.cross_entropy(logits, wanted, reduction="none")
    seen = visual[wanted]
    weight = torch.where(seen, VISUAL_WEIGHT, 1.0)
    nll = (each * weight).sum() / weight.sum()
    correct = (logits.argmax(-1) == wanted).float()
    right = {"words": correct.mean().item(), "picture words": correct[seen].mean().item()}
    if frozen:
        return nll, right
    label_loss, label_right = heads(features, labels)
    return nll + LABEL_WEIGHT * label_loss, right | label_right


def train_answers(args: argparse.Namespace) -> None:
    tokenizer_path = args.work / "tokenizer.json"
    if not tokenizer_path.exists():
        rng = np.random.default_rng([SEED, 3])
        chat.train_tokenizer(chat.corpus(Painter(args.emoji), rng), tokenizer_path)
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    stage = Stage(args)
    if not stage.resume():
        labels = torch.load(args.work / "labels.pt", weights_only=False)
        pixels, _ = next(iter(LabelledScenes(args.emoji, stage.model.cfg.image_size, 64, 0, 1)))
        start_from_labels(stage.model, stage.heads, labels, pixels, tokenizer)
    visual = visual_tokens(tokenizer)
    stage.run(
        Conversations(args, stage.model.cfg, stage.first),
        lambda step, batch: answer_loss(
            stage.model, stage.heads, batch, visual, step < FROZEN * args.steps
        ),
        lambda: export(stage.model, tokenizer_path, args.out),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=("labels", "answers"))
    parser.add_argument("--emoji", type=Path, required=True, help="unpacked emoji package")
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--out", type=Path, help="model folder to write (answers)")
    parser.add_argument("--steps", type=int, default=1100)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage == "labels":
        train_labels(args)
    else:
        train_answers(args)


if __name__ == "__main__":
    main()
