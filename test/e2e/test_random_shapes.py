"""Models of shapes that nobody published: the CPU's answers from the emulated CUDA device, with and without a draft."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import pytest
from daemon import BINARY, EMULATED, GOLDEN, ROOT, Daemon, data_url

MODELS = GOLDEN / "hf" / "models"
PICTURE = data_url(MODELS / "images" / "m2.png")
# Head sizes, groups and widths that end inside every tile of the kernels.
SHAPES = {
    "llava15-tiny": {"text": {"num_attention_heads": 7, "num_key_value_heads": 1, "hidden_size": 168,
                              "intermediate_size": 100, "num_hidden_layers": 2},
                     "vision": {"hidden_size": 72, "num_attention_heads": 3, "intermediate_size": 52},
                     "dtype": "float32"},
    "qwen25vl-tiny": {"text": {"num_attention_heads": 6, "num_key_value_heads": 3, "hidden_size": 528,
                               "intermediate_size": 333, "num_hidden_layers": 1},
                      "vision": {"hidden_size": 112, "num_heads": 2, "intermediate_size": 47, "out_hidden_size": 528},
                      "dtype": "bfloat16", "mrope_section": [9, 14, 21]},
    "qwen2-tiny-f32": {"text": {"num_attention_heads": 15, "num_key_value_heads": 3, "hidden_size": 120,
                                "intermediate_size": 41, "num_hidden_layers": 3},
                       "dtype": "float16"},
}
# Their logits lie close together, so 16 bits move them by less than the golden models': 0.012 in the mean at most.
SMALL_MARGIN, MEAN_ERROR = 0.1, 0.03
TREE = ("--draft-depth", "2", "--draft-top-k", "5", "--draft-nodes", "11")


def checkpoint(*arguments):
    subprocess.run([sys.executable, ROOT / "scripts" / "random-checkpoint", *arguments], check=True)


def make(folder: str, into: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """A model of the family of `folder` in another shape, and a draft for it."""
    shape, source = SHAPES[folder], into / "source"
    shutil.copytree(MODELS / folder, source, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((source / "config.json").read_text())
    text = config.get("text_config", config)
    for part in (text, config) if folder.startswith("qwen") else (text,):
        part.update(shape["text"], torch_dtype=shape["dtype"])
        if "mrope_section" in shape:
            part["rope_scaling"] = {"type": "mrope", "mrope_section": shape["mrope_section"]}
    config["torch_dtype"] = shape["dtype"]
    config.get("vision_config", {}).update(shape.get("vision", {}))
    (source / "config.json").write_text(json.dumps(config))
    tokenizer = ("--tokenizer", source / "tokenizer.json")
    checkpoint(*tokenizer, source, into / "model")
    checkpoint("--draft", *tokenizer, source, into / "draft")
    return into / "model", into / "draft"


def answer(d: Daemon, has_picture: bool, **fields) -> dict:
    """Each token's id, log-probability and how far it lies before the second best."""
    parts = [{"type": "text", "text": "Count to ten, then name a colour."}]
    if has_picture:
        parts.insert(0, {"type": "image_url", "image_url": {"url": PICTURE}})
    status, reply = d.chat(messages=[{"role": "user", "content": parts}], temperature=0, max_tokens=10, ignore_eos=True,
                           repetition_penalty=1, logprobs=True, top_logprobs=2, return_token_ids=True, **fields)
    assert status == 200, reply
    choice = reply["choices"][0]
    logprobs = [[t["logprob"] for t in c["top_logprobs"]] for c in choice["logprobs"]["content"]]
    return {"prompt": reply["prompt_token_ids"], "ids": choice["token_ids"], "logprobs": logprobs}


@pytest.mark.parametrize("folder", SHAPES)
def test_any_shape_answers_alike_on_both_devices(folder, tmp_path):
    model, draft = make(folder, tmp_path)
    has_picture = "vision" in SHAPES[folder]
    flags = ("--max-model-len", "512", "--draft", str(draft), *TREE)
    with Daemon("--device", "cpu", *flags, model=model, binary=BINARY) as d:
        want = answer(d, has_picture)
    with Daemon("--device", "cuda", *flags, model=model, binary=EMULATED) as d:
        got = answer(d, has_picture)
        assert got == answer(d, has_picture, speculative=False)
    assert got["prompt"] == want["prompt"]
    errors = []
    for step, (a, b) in enumerate(zip(got["ids"], want["ids"], strict=True)):
        best, second = want["logprobs"][step]
        if a != b:
            assert best - second < SMALL_MARGIN, f"step {step}"
            break
        errors.append(abs(got["logprobs"][step][0] - best))
    assert sum(errors) <= MEAN_ERROR * len(errors)
