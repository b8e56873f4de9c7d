"""ViSpec's draft: one decoder layer over (embedding, target hidden state), images compressed.

The row that stands for token j embeds token j beside the target's hidden state of token j-1, has
rotary position j-1, and predicts token j+1:

    x_j = fc([embed(j); img_fc([h(j-1); g])])

An image has num_q - 1 rows, made by a cross-attention over its input embeddings, at the last
positions of its run; one more output of it is g, which all later text rows see.  The layer has no
input norm, there is no final norm, and lm_head is the target's.

Besides "vispec" there are two variants for comparison: "eagle" has no adaptor and feeds every image
token like text (g = 0); "text" has no image rows at all (g = 0).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from model import Attention, Cache, Config, GatedMlp, RMSNorm, Rope, Shape, View, rotate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

VARIANTS = ("vispec", "eagle", "text")
NUM_Q = 2


class ImageAdaptor(nn.Module):
    """Learned queries over the features of one image."""

    def __init__(self, s: Shape):
        super().__init__()
        self.q = nn.Parameter(torch.randn(NUM_Q, s.n_heads, s.head_dim) * s.head_dim**-0.5)
        self.k_proj = nn.Linear(s.hidden, s.n_heads * s.head_dim, bias=False)
        self.v_proj = nn.Linear(s.hidden, s.n_heads * s.head_dim, bias=False)
        self.o_proj = nn.Linear(s.n_heads * s.head_dim, s.hidden, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """[N, n_patches, H] -> [N, NUM_Q, H]"""
        heads = self.q.shape[1]
        k = self.k_proj(features).unflatten(-1, (heads, -1)).transpose(1, 2)
        v = self.v_proj(features).unflatten(-1, (heads, -1)).transpose(1, 2)
        q = self.q.transpose(0, 1).expand(features.shape[0], -1, -1, -1)
        return self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DraftLayer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.self_attn = Attention(s)
        self.post_attention_layernorm = RMSNorm(s.hidden, s.eps)
        self.mlp = GatedMlp(s)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + attended
        return x + self.mlp(self.post_attention_layernorm(x))


class Draft(nn.Module):
    def __init__(self, cfg: Config, variant: str = "vispec"):
        super().__init__()
        self.cfg, self.variant = cfg, variant
        s = replace(cfg.text, n_layers=1, n_kv_heads=cfg.text.n_heads)
        self.shape = s
        self.layers = nn.ModuleList([DraftLayer(s)])
        self.fc = nn.Linear(2 * s.hidden, s.hidden)
        self.img_fc = nn.Linear(2 * s.hidden, s.hidden)
        self.imadpt = ImageAdaptor(s)
        self.rope = Rope(s.head_dim, cfg.rope_theta)
        with torch.no_grad():  # the global vector changes nothing at first
            self.img_fc.weight.copy_(
                torch.cat([torch.eye(s.hidden), torch.zeros(s.hidden, s.hidden)], 1)
            )
            self.img_fc.bias.zero_()
            self.fc.bias.zero_()

    def inputs(self, embeds: Tensor, hidden: Tensor, g: Tensor) -> Tensor:
        """Layer inputs of text rows: embed(j), h(j-1) and the global vector in force."""
        return self.fc(torch.cat([embeds, self.img_fc(torch.cat([hidden, g], -1))], -1))

    def cached(self, x: Tensor, positions: Tensor, cache: Cache, view: View) -> Tensor:
        layer = self.layers[0]
        return layer.finish(x, layer.self_attn(x, self.rope(positions), None, cache, view))

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().to(dtype).contiguous() for k, v in self.state_dict().items()}
        weights = folder / "model.safetensors"
        save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod(0o644)
        s = self.shape
        config = {
            "architectures": self.cfg.raw.get("architectures"),
            "model_type": self.cfg.raw["model_type"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": s.hidden,
            "intermediate_size": s.inner,
            "max_position_embeddings": self.cfg.max_positions,
            "num_attention_heads": s.n_heads,
            "num_key_value_heads": s.n_kv_heads,
            "num_hidden_layers": 1,
            "num_q": NUM_Q,
            "rms_norm_eps": s.eps,
            "rope_scaling": None,
            "rope_theta": self.cfg.rope_theta,
            "tie_word_embeddings": False,
            "torch_dtype": str(dtype).removeprefix("torch."),
            "vocab_size": self.cfg.vocab,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")

    @staticmethod
    def load(folder: Path, cfg: Config, variant: str = "vispec") -> Draft:
        draft = Draft(cfg, variant)
        tensors = load_file(folder / "model.safetensors")
        draft.load_state_dict({k: tensors[k].float() for k in draft.state_dict()})
        return draft


@dataclass
class Sequences:
    """A batch of target sequences in the target's own layout, padded on the right."""

    tokens: Tensor  # [B, T]
    hidden: Tensor  # [B, T, H] after the target's final norm
    embeds: Tensor  # [B, T, H] the target's input embeddings, features in place
    lengths: Tensor  # [B]
    asked: Tensor  # [B, T] rows whose next token belongs to an answer


@dataclass
class Rows:
    """The draft's rows for Sequences; R <= T columns, padded on the right."""

    x_embed: Tensor  # [B, R, H] embed(j)
    feature: Tensor  # [B, R, H] h(j-1)
    g: Tensor  # [B, R, H]
    fixed: Tensor  # [B, R, H] layer inputs of compressed rows, 0 elsewhere
    is_fixed: Tensor  # [B, R]
    position: Tensor  # [B, R] j-1
    token: Tensor  # [B, R] j, index into the sequence; -1 for padding


def build_rows(draft: Draft, seqs: Sequences) -> Rows:
    """Lays out the rows; differentiable through the adaptor."""
    image = seqs.tokens == draft.cfg.image_token
    n_patches, n_compressed = draft.cfg.n_patches, NUM_Q - 1
    batch, _, width = *seqs.tokens.shape, draft.shape.hidden
    vispec = draft.variant == "vispec"
    features = seqs.embeds[image].reshape(-1, n_patches, width)
    summary = (
        draft.imadpt(features) if vispec and len(features) else features.new_zeros(0, NUM_Q, width)
    )
    table = torch.cat([summary.new_zeros(1, NUM_Q, width), summary])
    plans: list[list[tuple[int, int, int]]] = []  # of each row: token, image in force, fixed?
    seen = 0
    for b in range(batch):
        plan, g, j, length = [], 0, 1, int(seqs.lengths[b])
        while j < length:
            if not image[b, j] or draft.variant == "eagle":
                plan.append((j, g, 0))
                j += 1
                continue
            seen += 1
            j += n_patches
            if vispec:
                g = seen
                plan += [(j - n_compressed + c, g, c + 1) for c in range(n_compressed)]
        plans.append(plan)
    longest = max(map(len, plans))
    padded = [p + [(-1, 0, 0)] * (longest - len(p)) for p in plans]
    token, which, fixed = torch.tensor(padded).unbind(-1)
    row = torch.arange(batch)[:, None]
    at = token.clamp(min=1)
    return Rows(
        x_embed=seqs.embeds[row, at],
        feature=seqs.hidden[row, at - 1],
        g=table[which, NUM_Q - 1],
        fixed=table[which, (fixed - 1).clamp(min=0)] * (fixed > 0)[..., None],
        is_fixed=fixed > 0,
        position=at - 1,
        token=token,
    )


def first_inputs(draft: Draft, rows: Rows) -> Tensor:
    x = draft.inputs(rows.x_embed, rows.feature, rows.g)
    return torch.where(rows.is_fixed[..., None], rows.fixed, x)


def _shift(x: Tensor, by: int) -> Tensor:
    """Row r of the result is row r - by of x (along dim -2); the first rows repeat row 0."""
    return (
        x
        if by == 0
        else torch.cat([x[..., :1, :].expand(*x.shape[:-2], by, -1), x[..., :-by, :]], -2)
    )


def passes(draft: Draft, rows: Rows, n_ahead: int, noise: float = 0.0) -> list[Tensor]:
    """Outputs of pass 0 .. n_ahead, [B, R, H] each.

    Pass 0 sees the target's hidden states.  Pass s is what the tree does at depth s: the row's
    feature is pass s-1's output of the row before, and it attends to pass 0 up to s rows back and
    to its own drafted ancestors, one of each pass.
    """
    layer, heads = draft.layers[0], draft.shape.n_heads
    attn = layer.self_attn
    rope = draft.rope(rows.position)
    n = rows.token.shape[1]
    index = torch.arange(n)
    keys: list[Tensor] = []
    values: list[Tensor] = []
    outputs: list[Tensor] = []
    for s in range(n_ahead + 1):
        if s == 0:
            feature = rows.feature
            if noise:
                feature = feature + (torch.rand_like(feature) - 0.5) * noise
        else:
            text_before = ~_shift(rows.is_fixed[..., None], 1) & (index > 0)[:, None]
            feature = torch.where(text_before, _shift(outputs[-1], 1), rows.feature)
        x = draft.inputs(rows.x_embed, feature, rows.g)
        x = torch.where(rows.is_fixed[..., None], rows.fixed, x)
        q, k, v = (
            p(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for p in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        q, k = rotate(q, rope), rotate(k, rope)
        keys.append(k)
        values.append(v)
        scale = draft.shape.head_dim**-0.5
        scores = q @ keys[0].transpose(-1, -2) * scale
        scores = scores.masked_fill(index[None, :] > (index[:, None] - s).clamp(min=0), -torch.inf)
        near = [(q * _shift(keys[t], s - t)).sum(-1, keepdim=True) * scale for t in range(1, s + 1)]
        weights = torch.softmax(torch.cat([scores, *near], -1), -1)
        y = weights[..., :n] @ values[0]
        for t in range(1, s + 1):
            y = y + weights[..., n + t - 1, None] * _shift(values[t], s - t)
        outputs.append(layer.finish(x, attn.o_proj(y.transpose(1, 2).flatten(2))))
    return outputs
