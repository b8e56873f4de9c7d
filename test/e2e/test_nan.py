"""A model that computes a NaN loses the sequences that it touches, and no other."""

from __future__ import annotations

import concurrent.futures

import pytest
from daemon import BINARY, EMULATED, GOLDEN, Daemon
from test_bad_folders import folder_of, header_of, replace

MODEL = GOLDEN / "vispec" / "llava-next-tiny"
DRAFT = GOLDEN / "vispec" / "llava-next-tiny-vispec"
EMBED = "embed_tokens.weight"
GOOD = ["Count to ten.", "Name a colour.", "What is this?"]
BAD = "Zebras queue quietly."


def asked(text: str) -> dict:
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 12, "ignore_eos": True,
            "return_token_ids": True, "logprobs": True}


def ids(reply: dict) -> list[int]:
    return reply["choices"][0]["token_ids"]


def with_nan(folder, token: int):
    """The model with NaNs in the token's embedding, so that whatever sees the token is NaN."""
    folder_of(folder, MODEL)
    data = bytearray((MODEL / "model.safetensors").read_bytes())
    header, values = header_of(bytes(data))
    entry = next(e for name, e in header.items() if name.endswith(EMBED))
    size = {"F32": 4, "F16": 2, "BF16": 2}[entry["dtype"]]
    row = size * entry["shape"][1]
    at = len(data) - len(values) + entry["data_offsets"][0] + token * row
    data[at : at + row] = b"\xff" * row
    replace(folder, "model.safetensors", bytes(data))
    return folder


@pytest.mark.parametrize("binary,device", [(BINARY, "cpu"), (EMULATED, "cuda")])
def test_a_nan_ends_the_sequences_that_see_it_and_no_other(tmp_path, binary, device):
    flags = ("--device", device, "--draft", str(DRAFT), "--draft-max-seqs", "8", "--max-model-len", "512")
    with Daemon(*flags, model=MODEL, binary=binary) as d:
        good = [d.chat(**asked(text))[1] for text in GOOD]
        bad = d.chat(**asked(BAD))[1]
    seen = {i for reply in good for i in reply["prompt_token_ids"] + ids(reply)}
    token = next(i for i in bad["prompt_token_ids"] if i not in seen)
    with Daemon(*flags, model=with_nan(tmp_path / "m", token), binary=binary) as d:
        texts = [BAD, GOOD[0], BAD, GOOD[1], BAD, GOOD[2]]
        with concurrent.futures.ThreadPoolExecutor(len(texts)) as pool:
            answers = list(pool.map(lambda text: d.chat(**asked(text)), texts))
        for status, reply in answers[0::2]:
            assert status == 500, reply
            assert reply["error"]["type"] == "server_error"
        for (status, reply), want in zip(answers[1::2], good, strict=True):
            assert status == 200 and reply["choices"] == want["choices"]
