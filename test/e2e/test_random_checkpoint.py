"""scripts/random-checkpoint: what it writes has the names and shapes of real checkpoints, and is served."""

import json
import struct
import subprocess
import sys

import pytest
from daemon import GOLDEN, ROOT, Daemon

SCRIPT = ROOT / "scripts" / "random-checkpoint"
LLAVA = GOLDEN / "hf" / "models" / "llava15-tiny"


def make(config, out, *flags):
    subprocess.run([sys.executable, SCRIPT, *flags, config, out], check=True, timeout=60)
    return out


def tensors_of(folder) -> dict:
    """Names and shapes."""
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}


@pytest.mark.parametrize("model", ["hf/models/llava15-tiny", "hf/models/llama-tiny", "vispec/llava-next-tiny",
                                   "vispec/qwen2_5_vl-tiny"])
def test_tensors_are_those_of_a_published_checkpoint(tmp_path, model):
    assert tensors_of(make(GOLDEN / model, tmp_path / "m")) == tensors_of(GOLDEN / model)


@pytest.mark.parametrize("draft", ["llava-next-tiny-vispec", "qwen2_5_vl-tiny-vispec"])
def test_tensors_are_those_of_a_published_draft(tmp_path, draft):
    draft = GOLDEN / "vispec" / draft
    assert tensors_of(make(draft, tmp_path / "d", "--draft")) == tensors_of(draft)


def test_a_random_llava_and_its_draft_answer(tmp_path):
    model, draft = make(LLAVA, tmp_path / "m"), make(LLAVA, tmp_path / "d", "--draft")
    with Daemon("--model", str(model), "--draft", str(draft)) as d:
        status, reply = d.chat(messages=[{"role": "user", "content": "Hi"}], max_tokens=8, ignore_eos=True)
    assert (status, reply["usage"]["completion_tokens"]) == (200, 8)
    assert reply["timings"]["draft_n"] > 0
