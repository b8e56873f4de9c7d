"""What the embedded model is before it learns: sizes, and weights that know what the tower knows.

After the first stage the tower can say what a patch shows.  The language model starts from that:
words for things, colours, numbers and places point in the directions in which the label heads read
them off a patch, two attention heads let a word find the patches of its own kind, and three let the
two words of a place ("top left") find the patches there.  Without this, tying the words of a
question to patches took most of the training.
"""

from __future__ import annotations


import chat
import torch
from labels import LabelHeads
from model import Llava
from objects import COLOUR_NAMES, plural
from scenes import CELLS, NAMES
from tokenizers import Tokenizer
from torch import Tensor
from words import NUMBERS

WORD_NORM = 3.0  # of the part of a word's first embedding that points at patches
HEAD_NORM = 0.3  # of the same part of a word's row of lm_head
MATCH = 2.2  # gain of the kind-matching heads' queries and keys
PLACE_MATCH = 1.2  # of the place-matching heads


def embedded_config(vocab: int = chat.VOCAB) -> dict:
    """config.json of the embedded model."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": chat.IMAGE,
        "ignore_index": -100,
        "pad_token_id": chat.PAD,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "image_seq_length": 81,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 8,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "vocab_size": vocab,
            "tie_word_embeddings": False,
            "bos_token_id": chat.BOS,
            "eos_token_id": chat.EOS,
            "pad_token_id": chat.PAD,
            "torch_dtype": "bfloat16",
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_act": "quick_gelu",
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 6,
            "image_size": 126,
            "patch_size": 14,
            "projection_dim": 192,
            "layer_norm_eps": 1e-5,
        },
        "vocab_size": vocab,
    }


def initialise(model: Llava) -> None:
    """Normal weights of 0.02; matrices that add to the residual stream are scaled down."""
    depth = model.cfg.text.n_layers
    for name, p in model.named_parameters():
        if p.ndim >= 2:
            small = name.endswith(
                ("o_proj.weight", "down_proj.weight", "fc2.weight", "out_proj.weight")
            )
            torch.nn.init.normal_(p, std=0.02 if not small else 0.02 / (2 * depth) ** 0.5)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(p)
    patch = model.vision_tower.vision_model.embeddings.patch_embedding.weight
    torch.nn.init.normal_(patch, std=patch[0].numel() ** -0.5)


def start_from_labels(
    model: Llava, heads: LabelHeads, labels: dict, pixels: Tensor, tokenizer: Tokenizer
) -> None:
    """Takes tower and projector of the first stage's checkpoint, with features of about 1 on pixels.

    Embeddings of names, colours and numbers start as the label heads' weights, so that the word in
    a question points at the patches that show the thing before anything is learned.
    """
    heads.load_state_dict(labels["heads"])
    seen = {k: v for k, v in labels["model"].items() if not k.startswith("language_model.")}
    model.load_state_dict(seen, strict=False)
    projector = model.multi_modal_projector.linear_2
    with torch.no_grad():
        size = model.see(pixels).std()
        projector.weight /= size
        projector.bias /= size
        model.language_model.model.embed_tokens.weight *= 5
        directions = readings(heads)
        text = torch.nn.functional.normalize(torch.randn(model.cfg.text.hidden), dim=0)
        model.language_model.model.embed_tokens.weight += text
        point_words_at_patches(model, directions, text, tokenizer)
        match_words_to_patches(model, directions, text)
        match_places_to_patches(model, directions, text)


def readings(heads: LabelHeads) -> dict[str, Tensor]:
    """The direction in which each label is read off a feature: [n_classes, hidden] of each head."""
    rows = {n: h.weight * heads.norm.weight for n, h in heads.heads.items()}
    return {n: r - r.mean(0) for n, r in rows.items()}


def point_words_at_patches(
    model: Llava, rows: dict[str, Tensor], text: Tensor, tokenizer: Tokenizer
) -> None:
    """Sets a large part of the embeddings of words that say what a patch shows.

    `text` is the direction that all words share and patches lack.
    """
    embeddings = model.language_model.model.embed_tokens.weight
    head = model.language_model.lm_head.weight
    before = len(tokenizer.encode("x").ids)
    pointers = list(zip(NAMES, rows["kind"], strict=False))
    pointers += zip(map(plural, NAMES), rows["kind"], strict=False)
    pointers += zip(COLOUR_NAMES, rows["colour"], strict=True)
    pointers += zip(NUMBERS[1:], rows["count"], strict=False)
    for word in ("top", "middle", "bottom", "left", "center", "right"):
        cells = [i for i, cell in enumerate(CELLS) if word in cell]
        pointers.append((word, rows["cell"][cells].mean(0)))
    done = set()
    for word, direction in pointers:
        token = tokenizer.encode(f"x {word}").ids[before]
        if token in done:
            continue
        done.add(token)
        unit = direction / direction.norm()
        embeddings[token] = embeddings[token] * 0.5 + WORD_NORM * unit + 2 * text
        head[token] += HEAD_NORM * unit


def look_at_patches(attn: torch.nn.Module, head: int, text: Tensor) -> None:
    """Makes words that look from this head pass over words: -20 or so on their scores."""
    half = attn.s.head_dim // 2
    at = [2 * half * head + half - 13, 2 * half * head + 2 * half - 13]
    attn.q_proj.weight[at] = 1.6 * text
    attn.k_proj.weight[at] = -1.6 * text


def match_words_to_patches(model: Llava, rows: dict[str, Tensor], text: Tensor) -> None:
    """One head of layer 1 and one of layer 2 attend to what has the same kind.

    Queries and keys are the kind's 24 strongest directions (the next 24 in layer 2), laid on the
    rotary pairs that turn slowest, so that distance hardly matters.  Values carry place, count,
    colour, size, and the kind itself.
    """
    kinds = basis(rows["kind"][: len(NAMES)])
    others = basis(torch.cat([rows[n] for n in ("cell", "count", "colour", "size")]))[:28]
    half = model.cfg.text.head_dim // 2
    slow = [*range(half - 12, half), *range(2 * half - 12, 2 * half)]
    for layer, head in ((1, 0), (2, 1)):
        attn = model.language_model.model.layers[layer].self_attn
        first = head * 2 * half
        part = kinds[24 * (layer - 1) : 24 * layer]
        at = [first + d for d in slow]
        for projection in (attn.q_proj, attn.k_proj):
            projection.weight[at] = MATCH * part
        look_at_patches(attn, head, text)
        values = torch.cat([others, 0.5 * kinds[:30]])
        attn.v_proj.weight[first : first + len(values)] = values
        attn.o_proj.weight[:, first : first + len(values)] = 0.5 * values.T


def basis(rows: Tensor) -> Tensor:
    """Orthonormal directions of the unit rows around their mean, the strongest first."""
    rows = torch.nn.functional.normalize(rows, dim=1)
    return torch.linalg.svd(rows - rows.mean(0), full_matrices=False)[2]


def match_places_to_patches(model: Llava, rows: dict[str, Tensor], text: Tensor) -> None:
    """A head of layer 0 adds the place in the word before to a word; two of layer 2 attend to the
    patches of that place and bring their kinds.

    The first is a rotary head on the direction of `text`: queries and keys of the fastest
    pairs, a turn of one position apart.
    """
    layers = model.language_model.model.layers
    half = model.cfg.text.head_dim // 2
    cells = basis(rows["cell"])[: len(CELLS) - 1]
    attn = layers[0].self_attn
    pairs = torch.arange(8)
    turn = model.language_model.rope.inverse[pairs]
    attn.q_proj.weight[pairs] = text
    attn.q_proj.weight[pairs + half] = 0
    attn.k_proj.weight[pairs] = turn.cos()[:, None] * text
    attn.k_proj.weight[pairs + half] = turn.sin()[:, None] * text
    attn.v_proj.weight[: len(cells)] = cells
    attn.o_proj.weight[:, : len(cells)] = 0.25 * cells.T
    kinds = basis(rows["kind"][: len(NAMES)])
    for i, head in enumerate((0, 2)):
        attn = layers[2].self_attn
        first = head * 2 * half
        at = [first + 2 * half - 1 - d for d in range(len(cells))]  # the slowest pairs
        for projection in (attn.q_proj, attn.k_proj):
            projection.weight[at] = PLACE_MATCH * cells
        look_at_patches(attn, head, text)
        values = kinds[60 * i : 60 * (i + 1)]
        attn.v_proj.weight[first : first + len(values)] = values
        attn.o_proj.weight[:, first : first + len(values)] = 0.5 * values.T
