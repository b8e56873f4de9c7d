"""Batched decoding with the target: greedy or sampled, for data and for evaluation."""

from __future__ import annotations

import torch
from model import Cache, Llava, View
from torch import Tensor


@torch.no_grad()
def generate(
    model: Llava,
    prompts: list[list[int]],
    features: Tensor | None,
    eos: int,
    max_new: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[list[int]]:
    """Answers (without </s>) to prompts of different lengths; image tokens are already repeated.

    features [n_images, n_patches, H] fill the image tokens of all prompts in order.
    """
    batch = len(prompts)
    lengths = torch.tensor([len(p) for p in prompts])
    width = int(lengths.max())
    tokens = torch.zeros(batch, width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt)
    caches = [Cache(batch, model.cfg.text, width + max_new) for _ in range(model.cfg.text.n_layers)]
    slots = torch.arange(width).expand(batch, -1)
    everything = torch.arange(width + max_new)
    flat = None if features is None else features.flatten(0, 1)
    view = View(slots, (everything <= slots[..., None])[:, None])
    hidden = model.language_model(model.embed(tokens, flat), slots, caches, view)
    hidden = hidden[torch.arange(batch), lengths - 1]
    answers: list[list[int]] = [[] for _ in prompts]
    running = torch.ones(batch, dtype=torch.bool)
    for step in range(max_new):
        logits = model.logits(hidden)
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            p = torch.softmax(logits / temperature, -1)
            chosen = torch.multinomial(p, 1, generator=generator)[:, 0]
        running &= chosen != eos
        if not running.any():
            break
        for row in running.nonzero()[:, 0].tolist():
            answers[row].append(int(chosen[row]))
        at = (lengths + step)[:, None]
        view = View(at, (everything <= at[..., None])[:, None])
        x = model.embed(chosen[:, None], None)
        hidden = model.language_model(x, at, caches, view)[:, 0]
    return answers
