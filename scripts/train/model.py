"""LLaVA-1.5 in plain PyTorch: CLIP vision tower, two-layer projector, Llama decoder.

Module names are the published tensor names, so a state dict is a checkpoint.  Conventions that an
inference engine must share: quick_gelu in the tower, features from hidden_states[-2] without the
class token, erf-gelu in the projector, rotary embedding by halves, RMSNorm in float32.

Reads Hugging Face folders of model_type "llava" with a CLIP tower and a Llama text model, and
refuses everything else by name (Unsupported).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


class Unsupported(Exception):
    """The folder holds a model that this code does not cover."""


TEXT_DEFAULTS = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "vocab_size": 32064,
    "hidden_act": "silu", "max_position_embeddings": 4096,
}  # fmt: skip
VISION_DEFAULTS = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
    "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}  # fmt: skip


@dataclass
class Shape:
    """Sizes of a stack of transformer layers."""

    hidden: int
    inner: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    eps: float


class Config:
    """config.json of a LLaVA-1.5 checkpoint, checked."""

    def __init__(self, raw: dict):
        self.raw = raw
        if raw.get("model_type") != "llava":
            raise Unsupported(
                f"model_type {raw.get('model_type')!r}: only 'llava' (LLaVA-1.5) is covered"
            )
        text = {**TEXT_DEFAULTS, **raw["text_config"]}
        vision = {**VISION_DEFAULTS, **raw["vision_config"]}
        for what, got, want in (
            ("text_config.model_type", text.get("model_type"), "llama"),
            ("text_config.hidden_act", text["hidden_act"], "silu"),
            ("text_config.rope_scaling", text.get("rope_scaling"), None),
            ("text_config.tie_word_embeddings", text.get("tie_word_embeddings", False), False),
            ("vision_config.model_type", vision.get("model_type"), "clip_vision_model"),
            ("vision_config.hidden_act", vision["hidden_act"], "quick_gelu"),
            ("projector_hidden_act", raw.get("projector_hidden_act", "gelu"), "gelu"),
            (
                "vision_feature_select_strategy",
                raw.get("vision_feature_select_strategy"),
                "default",
            ),
        ):
            if got != want:
                raise Unsupported(f"{what} is {got!r}: only {want!r} is covered")
        heads = text["num_attention_heads"]
        self.text = Shape(
            text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"], heads,
            text.get("num_key_value_heads", heads),
            text.get("head_dim") or text["hidden_size"] // heads, text["rms_norm_eps"],
        )  # fmt: skip
        vision_heads = vision["num_attention_heads"]
        self.vision = Shape(
            vision["hidden_size"], vision["intermediate_size"], vision["num_hidden_layers"],
            vision_heads, vision_heads, vision["hidden_size"] // vision_heads,
            vision["layer_norm_eps"],
        )  # fmt: skip
        self.vocab = text["vocab_size"]
        self.rope_theta = text["rope_theta"]
        self.max_positions = text["max_position_embeddings"]
        self.image_size = vision["image_size"]
        self.patch_size = vision["patch_size"]
        self.feature_layer = raw.get("vision_feature_layer", -2)
        self.image_token = raw["image_token_index"]
        self.n_patches = (self.image_size // self.patch_size) ** 2


class ClipLayer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.n_heads = s.n_heads
        self.self_attn = nn.ModuleDict(
            {n: nn.Linear(s.hidden, s.hidden) for n in ("q_proj", "k_proj", "v_proj", "out_proj")}
        )
        self.layer_norm1 = nn.LayerNorm(s.hidden, eps=s.eps)
        self.mlp = nn.ModuleDict(
            {"fc1": nn.Linear(s.hidden, s.inner), "fc2": nn.Linear(s.inner, s.hidden)}
        )
        self.layer_norm2 = nn.LayerNorm(s.hidden, eps=s.eps)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer_norm1(x)
        q, k, v = (
            self.self_attn[n](y).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for n in ("q_proj", "k_proj", "v_proj")
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.self_attn["out_proj"](y)
        y = self.mlp["fc1"](self.layer_norm2(x))
        return x + self.mlp["fc2"](y * torch.sigmoid(1.702 * y))


class ClipVision(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        s = cfg.vision
        self.n_used = (
            s.n_layers + 1 + cfg.feature_layer if cfg.feature_layer < 0 else cfg.feature_layer
        )
        self.embeddings = nn.Module()
        self.embeddings.class_embedding = nn.Parameter(torch.randn(s.hidden) * 0.02)
        self.embeddings.patch_embedding = nn.Conv2d(
            3, s.hidden, cfg.patch_size, cfg.patch_size, bias=False
        )
        self.embeddings.position_embedding = nn.Embedding(cfg.n_patches + 1, s.hidden)
        self.pre_layrnorm = nn.LayerNorm(s.hidden, eps=s.eps)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(ClipLayer(s) for _ in range(s.n_layers))
        self.post_layernorm = nn.LayerNorm(s.hidden, eps=s.eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, S, S] -> features [B, n_patches, hidden] of the chosen layer."""
        e = self.embeddings
        x = e.patch_embedding(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([e.class_embedding.expand(x.shape[0], 1, -1), x], dim=1)
        x = self.pre_layrnorm(x + e.position_embedding.weight)
        for layer in self.encoder.layers[: self.n_used]:
            x = layer(x)
        return x[:, 1:]


class RMSNorm(nn.Module):
    def __init__(self, hidden: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Rope:
    """cos and sin for position numbers; rotation by halves."""

    def __init__(self, head_dim: int, theta: float):
        self.inverse = theta ** (-torch.arange(0, head_dim, 2).float() / head_dim)

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [B, T] -> cos, sin [B, 1, T, head_dim]"""
        angle = positions[..., None].float() * self.inverse
        angle = torch.cat([angle, angle], dim=-1)[:, None]
        return angle.cos(), angle.sin()


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * rope[0] + torch.cat([-second, first], dim=-1) * rope[1]


class Cache:
    """Keys and values of one layer for rows of different lengths.

    The caller says at which slots the new rows go; what a slot may see is the mask's business.
    """

    def __init__(self, batch: int, s: Shape, n_slots: int):
        self.k = torch.zeros(batch, s.n_kv_heads, n_slots, s.head_dim)
        self.v = torch.zeros_like(self.k)

    def put(self, k: Tensor, v: Tensor, slots: Tensor) -> None:
        """k, v [B, heads, T, D]; slots [B, T]"""
        index = slots[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
        self.k.scatter_(2, index, k)
        self.v.scatter_(2, index, v)


@dataclass
class View:
    """How rows attend through a cache: their slots, and mask [B, 1, T, n_slots] (True: visible)."""

    slots: Tensor
    mask: Tensor


class Attention(nn.Module):
    def __init__(self, s: Shape, bias: bool = False):
        super().__init__()
        self.s = s
        self.q_proj = nn.Linear(s.hidden, s.n_heads * s.head_dim, bias=bias)
        self.k_proj = nn.Linear(s.hidden, s.n_kv_heads * s.head_dim, bias=bias)
        self.v_proj = nn.Linear(s.hidden, s.n_kv_heads * s.head_dim, bias=bias)
        self.o_proj = nn.Linear(s.n_heads * s.head_dim, s.hidden, bias=False)

    def forward(
        self,
        x: Tensor,
        rope: tuple[Tensor, Tensor],
        mask: Tensor | None = None,
        cache: Cache | None = None,
        view: View | None = None,
    ) -> Tensor:
        q, k, v = (
            p(x).unflatten(-1, (-1, self.s.head_dim)).transpose(1, 2)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, rope), rotate(k, rope)
        if cache is not None:
            cache.put(k, v, view.slots)
            k, v, mask = cache.k, cache.v, view.mask
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None,
            enable_gqa=self.s.n_kv_heads != self.s.n_heads,
        )  # fmt: skip
        return self.o_proj(y.transpose(1, 2).flatten(2))


class GatedMlp(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(s.hidden, s.inner, bias=False)
        self.up_proj = nn.Linear(s.hidden, s.inner, bias=False)
        self.down_proj = nn.Linear(s.inner, s.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, s: Shape):
        super().__init__()
        self.self_attn = Attention(s)
        self.mlp = GatedMlp(s)
        self.input_layernorm = RMSNorm(s.hidden, s.eps)
        self.post_attention_layernorm = RMSNorm(s.hidden, s.eps)

    def forward(self, x: Tensor, *attention_args) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), *attention_args)
        return x + self.mlp(self.post_attention_layernorm(x))


class Llama(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        s = cfg.text
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(cfg.vocab, s.hidden)
        self.model.layers = nn.ModuleList(DecoderLayer(s) for _ in range(s.n_layers))
        self.model.norm = RMSNorm(s.hidden, s.eps)
        self.lm_head = nn.Linear(s.hidden, cfg.vocab, bias=False)
        self.rope = Rope(s.head_dim, cfg.rope_theta)

    def forward(
        self,
        x: Tensor,
        positions: Tensor,
        caches: list[Cache] | None = None,
        view: View | None = None,
    ) -> Tensor:
        """Input embeddings [B, T, H] -> hidden states after the final norm."""
        rope = self.rope(positions)
        for i, layer in enumerate(self.model.layers):
            x = layer(x, rope, None, caches[i] if caches else None, view)
        return self.model.norm(x)


class Llava(nn.Module):
    def __init__(self, cfg: Config):
        super().__init__()
        self.cfg = cfg
        self.vision_tower = nn.Module()
        self.vision_tower.vision_model = ClipVision(cfg)
        self.multi_modal_projector = nn.Module()
        self.multi_modal_projector.linear_1 = nn.Linear(cfg.vision.hidden, cfg.text.hidden)
        self.multi_modal_projector.linear_2 = nn.Linear(cfg.text.hidden, cfg.text.hidden)
        self.language_model = Llama(cfg)

    def see(self, pixels: Tensor) -> Tensor:
        """pixels [N, 3, S, S] -> projected features [N, n_patches, H]"""
        x = self.vision_tower.vision_model(pixels)
        p = self.multi_modal_projector
        return p.linear_2(F.gelu(p.linear_1(x)))

    def embed(self, tokens: Tensor, features: Tensor | None) -> Tensor:
        """Input embeddings; features fill the image tokens of all rows in order."""
        x = self.language_model.model.embed_tokens(tokens)
        if features is None or features.shape[0] == 0:
            return x
        return x.masked_scatter((tokens == self.cfg.image_token)[..., None], features.to(x.dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        return self.language_model.lm_head(hidden)

    def save(self, folder: Path, dtype: torch.dtype) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.detach().to(dtype).contiguous() for k, v in self.state_dict().items()}
        weights = folder / "model.safetensors"
        save_file(tensors, weights, metadata={"format": "pt"})
        weights.chmod(0o644)
        (folder / "config.json").write_text(json.dumps(self.cfg.raw, indent=2) + "\n")

    @staticmethod
    def load(folder: Path) -> Llava:
        """Reads a folder; weights become float32."""
        model = Llava(Config(json.loads((folder / "config.json").read_text())))
        tensors: dict[str, Tensor] = {}
        for file in sorted(folder.glob("*.safetensors")):
            tensors.update(load_file(file))
        wanted = model.state_dict()
        missing = sorted(set(wanted) - set(tensors))
        if missing:
            raise Unsupported(f"{folder}: no tensor {missing[0]} ({len(missing)} missing)")
        model.load_state_dict({k: tensors[k].float() for k in wanted})
        return model
