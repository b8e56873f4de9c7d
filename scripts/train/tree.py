"""The draft tree (EAGLE-2's way) and how much of a given continuation it holds.

Verification picks one token per node from the target: the argmax, or a sample that depends on the
context and the seed only.  So the target's own continuation decides alone what is accepted, and a
tree can be judged against an answer that was generated beforehand, without running the target.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from draft import Draft, Sequences, build_rows, first_inputs
from model import Cache, Llava, View
from torch import Tensor


@dataclass
class Tree:
    depth: int = 3
    top_k: int = 8
    n_nodes: int = 30  # the root included


@dataclass
class Round:
    """One verification: tokens [first, first + accepted) of the sequence came from the draft."""

    first: int
    accepted: int
    tried: int  # accepted, plus one if the next token was drafted for but missed


@dataclass
class _Levels:
    """All candidates of a batch of trees."""

    tokens: list[Tensor] = field(default_factory=list)  # [B, n] of each level
    scores: list[Tensor] = field(default_factory=list)
    parents: list[Tensor] = field(default_factory=list)  # candidate index in the level above


class Grower:
    """Draft state of a batch: committed rows and room for one tree."""

    def __init__(self, draft: Draft, target: Llava, seqs: Sequences, tree: Tree):
        self.draft, self.target, self.tree = draft, target, tree
        rows = build_rows(draft, seqs)
        self.x = first_inputs(draft, rows)
        self.rows = rows
        self.batch, self.n_rows, _ = self.x.shape
        n_slots = self.n_rows + tree.depth * tree.top_k
        self.cache = Cache(self.batch, draft.shape, n_slots)
        self.slots = torch.arange(n_slots)
        self.g = rows.g[:, -1]
        last = (rows.token >= 0).sum(1) - 1
        self.g = rows.g[torch.arange(self.batch), last]
        self.done = torch.zeros(self.batch, dtype=torch.long)  # rows in the cache

    def row_of(self, token: Tensor) -> Tensor:
        """Row index of each sequence's token (a text token)."""
        return (self.rows.token == token[:, None]).float().argmax(1)

    def extend(self, roots: Tensor) -> Tensor:
        """Adds the rows up to the roots; returns the roots' outputs [B, H]."""
        last = self.row_of(roots)
        n = int((last - self.done).max()) + 1
        index = torch.minimum(self.done[:, None] + torch.arange(n), last[:, None])
        row = torch.arange(self.batch)[:, None]
        view = View(index, (self.slots <= index[..., None])[:, None])
        out = self.draft.cached(
            self.x[row, index], self.rows.position[row, index], self.cache, view
        )
        self.done = last
        return out[torch.arange(self.batch), (last - (index[:, 0])).clamp(max=n - 1)]

    def grow(self, roots: Tensor) -> _Levels:
        tree, k = self.tree, self.tree.top_k
        out = self.extend(roots)
        embed = self.target.language_model.model.embed_tokens
        scores, tokens = self.target.logits(out).log_softmax(-1).topk(k)
        levels = _Levels([tokens], [scores], [torch.zeros_like(tokens)])
        feature = out[:, None].expand(-1, k, -1)
        committed = self.slots[None, :] <= self.done[:, None]  # [B, n_slots]
        visible = committed[:, None].expand(-1, k, -1).clone()
        g = self.g[:, None].expand(-1, k, -1)
        beam = torch.arange(k).expand(self.batch, -1)  # candidate index of each beam row
        for depth in range(tree.depth):
            slots = self.n_rows + depth * k + torch.arange(k)
            visible = visible.scatter(2, slots[None, :, None].expand(self.batch, -1, -1), True)
            x = self.draft.inputs(embed(tokens), feature, g)
            position = (roots + depth)[:, None].expand(-1, k)
            view = View(slots.expand(self.batch, -1), visible[:, None])
            out = self.draft.cached(x, position, self.cache, view)
            step, children = self.target.logits(out).log_softmax(-1).topk(k)
            total = (scores[..., None] + step).flatten(1)
            levels.tokens.append(children.flatten(1))
            levels.scores.append(total)
            levels.parents.append(beam.repeat_interleave(k, 1))
            scores, beam = total.topk(k)
            tokens = children.flatten(1).gather(1, beam)
            parent = beam // k
            row = torch.arange(self.batch)[:, None]
            feature, visible = out[row, parent], visible[row, parent]
        return levels


def accepted(levels: _Levels, tree: Tree, b: int, continuation: list[int]) -> int:
    """How many tokens of the continuation are a path of tree b's best nodes."""
    flat = torch.cat([s[b] for s in levels.scores])
    kept = set(flat.topk(min(tree.n_nodes - 1, len(flat))).indices.tolist())
    parents = {0}
    offset = n = 0
    for depth, token in enumerate(continuation[: tree.depth + 1]):
        tokens, above = levels.tokens[depth][b], levels.parents[depth][b]
        match = [
            i for i in (tokens == token).nonzero()[:, 0].tolist()
            if (depth == 0 or int(above[i]) in parents) and offset + i in kept
        ]  # fmt: skip
        if not match:
            break
        parents = set(match)
        offset += len(tokens)
        n += 1
    return n


@torch.no_grad()
def replay(
    draft: Draft, target: Llava, seqs: Sequences, starts: Tensor, tree: Tree
) -> list[list[Round]]:
    """Rounds that decode each sequence from its token `start` (known already) to its end."""
    grower = Grower(draft, target, seqs, tree)
    ends = seqs.lengths
    roots = starts.clone()
    rounds: list[list[Round]] = [[] for _ in range(len(ends))]
    while bool((roots < ends - 1).any()):
        levels = grower.grow(roots)
        for b in (roots < ends - 1).nonzero()[:, 0].tolist():
            root, end = int(roots[b]), int(ends[b])
            ahead = seqs.tokens[b, root + 1 : end].tolist()
            n = accepted(levels, tree, b, ahead)
            tried = min(n + 1, len(ahead), tree.depth + 1)
            rounds[b].append(Round(root + 1, n, tried))
            roots[b] = min(root + n + 1, end - 1)
    return rounds
