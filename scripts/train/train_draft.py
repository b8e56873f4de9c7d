"""Trains a ViSpec draft for a LLaVA-1.5 folder: --model DIR holds the target.

1. data   The target answers, sampled at temperature 1, mostly long descriptions.  Greedy
          answers would let the draft read the next token off the hidden state.
2. text   Layer and fc learn from rows of text only: smooth L1 on features, soft cross-entropy.
3. images The adaptor joins.  L1 between distributions and ListMLE on the target's ten best, over
          pass 0 and `--ahead` passes on the draft's own outputs.

Step 3 also trains the two variants of draft.VARIANTS that vispec is compared with.  Covered: what
model.Config accepts (model_type llava, CLIP tower, Llama text model); other folders are refused.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from chat import pictures, render
from draft import VARIANTS, Draft, Rows, Sequences, build_rows, passes
from generate import generate
from model import Llava, Unsupported
from optim import Optimizer, schedule
from scenes import Painter, visible_scene
from talk import DETAILED, Turn, ask
from tokenizers import Tokenizer
from torch import Tensor
from words import pick

SEED = 20261125
NOISE = 0.02  # width of the uniform noise on hidden states in pass 0, times their spread


def prompt_ids(tokenizer: Tokenizer, text: str, image_token: int, n_patches: int) -> list[int]:
    """Token ids with <image> repeated as often as the target sees patches."""
    ids = tokenizer.encode(text).ids
    return [i for t in ids for i in ([t] * n_patches if t == image_token else [t])]


def question_texts(rng: np.random.Generator, painter: Painter, n: int, evaluation: bool) -> list:
    """(prompt text, scene): three of four ask for a long description."""
    found = []
    for _ in range(n):
        scene = visible_scene(painter, rng, evaluation)
        turn = Turn(pick(rng, DETAILED), "") if rng.random() < 0.75 else ask(scene, rng)
        found.append((render([turn], 1)[0][0], scene))
    return found


def answer(
    target: Llava,
    tokenizer: Tokenizer,
    painter: Painter,
    asked: list,
    rng: np.random.Generator,
    temperature: float,
    max_new: int,
) -> tuple[list[dict], list[np.ndarray]]:
    """Generated sequences {tokens, start, feature index} and the features of their pictures."""
    cfg, eos = target.cfg, tokenizer.token_to_id("</s>")
    sampler = torch.Generator().manual_seed(int(rng.integers(2**31)))
    sequences, features = [], []
    for first in range(0, len(asked), 192):
        part = asked[first : first + 192]
        scenes = [scene for _, scene in part]
        pixels = [p for p, _ in pictures(painter, scenes, rng, cfg.image_size)]
        with torch.no_grad():
            seen = target.see(torch.from_numpy(np.stack(pixels)))
        prompts = [prompt_ids(tokenizer, t, cfg.image_token, cfg.n_patches) for t, _ in part]
        answers = generate(target, prompts, seen, eos, max_new, temperature, sampler)
        for prompt, words in zip(prompts, answers, strict=True):
            end = [eos] if len(words) < max_new else []
            sequences.append({"tokens": prompt + words + end, "start": len(prompt)})
        features += list(seen.half().numpy())
    return sequences, features


def batch_of(target: Llava, sequences: list[dict], features: list[np.ndarray]) -> Sequences:
    """Runs the target over finished sequences."""
    lengths = torch.tensor([len(s["tokens"]) for s in sequences])
    width = int(lengths.max())
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    asked = torch.zeros(len(sequences), width, dtype=torch.bool)
    for row, s in enumerate(sequences):
        tokens[row, : len(s["tokens"])] = torch.tensor(s["tokens"])
        asked[row, s["start"] - 1 : len(s["tokens"]) - 1] = True
    with torch.no_grad():
        seen = torch.from_numpy(np.stack(features)).float()
        embeds = target.embed(tokens, seen.flatten(0, 1))
        hidden = target.language_model(embeds, torch.arange(width)[None])
    return Sequences(tokens, hidden, embeds, lengths, asked)


def list_mle(scores: Tensor, wanted: Tensor, n: int = 10) -> Tensor:
    """Likelihood of ranking the target's n best as the target does."""
    best = wanted.topk(n, -1).indices
    s = scores.gather(-1, best)
    behind = torch.logcumsumexp(s.flip(-1), -1).flip(-1)
    return (behind - s).sum(-1).mean()


def text_loss(draft: Draft, target: Llava, rows: Rows, seqs: Sequences, _ahead: int) -> Tensor:
    row, r, j = _asked_rows(rows, seqs)
    out = passes(draft, rows, 0, NOISE)[0][row, r]
    wanted = seqs.hidden[row, j]
    p = target.logits(wanted).float().softmax(-1)
    feature = F.smooth_l1_loss(out.float(), wanted)
    return feature - (p * target.logits(out).float().log_softmax(-1)).sum(-1).mean()


def image_loss(draft: Draft, target: Llava, rows: Rows, seqs: Sequences, ahead: int) -> Tensor:
    row, r, j = _asked_rows(rows, seqs)
    with torch.no_grad():
        logits = target.logits(seqs.hidden[row, j]).float()
        p = logits.softmax(-1)
    loss = p.new_zeros(())
    for out in passes(draft, rows, ahead, NOISE):
        scores = target.logits(out[row, r]).float()
        distance = (scores.softmax(-1) - p).abs().sum(-1).mean()
        loss = loss + distance + 0.1 * list_mle(scores.log_softmax(-1), logits)
    return loss / (ahead + 1)


def _asked_rows(rows: Rows, seqs: Sequences) -> tuple[Tensor, Tensor, Tensor]:
    """(sequence, row, token) of the rows that predict a token of the answer."""
    batch = torch.arange(rows.token.shape[0])[:, None]
    here = seqs.asked[batch, rows.token.clamp(min=0)] & (rows.token >= 0) & ~rows.is_fixed
    row, r = here.nonzero(as_tuple=True)
    return row, r, rows.token[row, r]


@torch.no_grad()
def agreement(draft: Draft, target: Llava, seqs: Sequences) -> float:
    """Share of answer tokens at which draft and target have the same best token (pass 0)."""
    rows = build_rows(draft, seqs)
    row, r, j = _asked_rows(rows, seqs)
    out = passes(draft, rows, 0)[0][row, r]
    same = target.logits(out).argmax(-1) == target.logits(seqs.hidden[row, j]).argmax(-1)
    return same.float().mean().item()


def fit(
    draft: Draft, target: Llava, data: tuple[list, list], held: Sequences, loss_of, steps: int,
    args: argparse.Namespace,
) -> None:  # fmt: skip
    sequences, features = data
    optimizer = Optimizer(draft)
    rng = np.random.default_rng([SEED, steps])
    began = time.time()
    for step in range(steps):
        chosen = rng.integers(len(sequences), size=args.batch)
        seqs = batch_of(target, [sequences[i] for i in chosen], [features[i] for i in chosen])
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(draft, target, build_rows(draft, seqs), seqs, args.ahead)
        loss.backward()
        optimizer.step(schedule(step / steps, args.lr))
        if step % 20 == 0 or step + 1 == steps:
            same = agreement(draft, target, held)
            passed = time.time() - began
            print(
                f"{draft.variant} {step} {passed:.0f}s loss {loss.item():.4f} same {same:.4f}",
                flush=True,
            )


def load_data(
    target: Llava, tokenizer: Tokenizer, args: argparse.Namespace
) -> tuple[tuple[list, list], Sequences]:
    """Training sequences (kept in the work folder) and a held-out batch."""
    path = args.work / "draft_data.pt"
    painter = Painter(args.emoji)
    if not path.exists():
        rng = np.random.default_rng([SEED, 1])
        texts = question_texts(rng, painter, args.sequences, evaluation=False)
        data = answer(target, tokenizer, painter, texts, rng, 1.0, args.max_new)
        torch.save(data, path)
    data = torch.load(path, weights_only=False)
    rng = np.random.default_rng([SEED, 2])
    texts = question_texts(rng, painter, 48, evaluation=True)
    held = answer(target, tokenizer, painter, texts, rng, 1.0, args.max_new)
    return data, batch_of(target, *held)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="target folder")
    parser.add_argument("--emoji", type=Path, required=True, help="unpacked emoji package")
    parser.add_argument("--work", type=Path, required=True, help="folder for data and drafts")
    parser.add_argument("--variant", choices=VARIANTS, nargs="+", default=list(VARIANTS))
    parser.add_argument("--sequences", type=int, default=2500)
    parser.add_argument("--max-new", type=int, default=160)
    parser.add_argument("--text-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument(
        "--ahead", type=int, default=2, help="extra passes on the draft's own outputs"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(SEED)
    args.work.mkdir(parents=True, exist_ok=True)
    try:
        target = Llava.load(args.model)
    except Unsupported as reason:
        sys.exit(f"train_draft: {reason}")
    target.requires_grad_(False)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    data, held = load_data(target, tokenizer, args)
    lengths = [len(s["tokens"]) - s["start"] for s in data[0]]
    print(f"{len(lengths)} sequences, {np.mean(lengths):.1f} answer tokens on average", flush=True)
    text_path = args.work / "draft_text.pt"
    if not text_path.exists():
        draft = Draft(target.cfg, "text")
        fit(draft, target, data, held, text_loss, args.text_steps, args)
        torch.save(draft.state_dict(), text_path)
    for variant in args.variant:
        draft = Draft(target.cfg, variant)
        draft.load_state_dict(torch.load(text_path))
        fit(draft, target, data, held, image_loss, args.steps, args)
        draft.save(args.work / f"draft-{variant}", torch.bfloat16)


if __name__ == "__main__":
    main()
