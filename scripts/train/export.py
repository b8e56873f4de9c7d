"""Writes the model as a Hugging Face folder with every file that LLaVA-1.5 checkpoints have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from chat import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD
from labels import MEAN, STD
from model import Llava

SPECIAL = {0: "<unk>", BOS: "<s>", EOS: "</s>", IMAGE: "<image>", PAD: "<pad>"}


def _write(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def export(model: Llava, tokenizer: Path, folder: Path) -> None:
    """Weights in bfloat16, config, tokenizer, picture processor, template."""
    model.save(folder, torch.bfloat16)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    side = model.cfg.image_size
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    _write(folder / "tokenizer_config.json", {
        "add_bos_token": True,
        "add_eos_token": False,
        "added_tokens_decoder": {
            str(i): {"content": t, **flags, "special": True} for i, t in SPECIAL.items()
        },
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": True,
        "model_max_length": model.cfg.max_positions,
        "pad_token": "<pad>",
        "padding_side": "left",
        "processor_class": "LlavaProcessor",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
        "use_default_system_prompt": False,
    })  # fmt: skip
    _write(folder / "special_tokens_map.json", {
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
    })  # fmt: skip
    _write(folder / "added_tokens.json", {"<image>": IMAGE, "<pad>": PAD})
    _write(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    _write(folder / "generation_config.json", {
        "bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD,
        "do_sample": True, "temperature": 0.3,
    })  # fmt: skip
    _write(folder / "preprocessor_config.json", {
        "crop_size": {"height": side, "width": side},
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [float(str(v)) for v in MEAN],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [float(str(v)) for v in STD],
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"shortest_edge": side},
    })  # fmt: skip
    _write(folder / "processor_config.json", {
        "image_token": "<image>",
        "patch_size": model.cfg.patch_size,
        "processor_class": "LlavaProcessor",
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
    })  # fmt: skip
