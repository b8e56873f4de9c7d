"""The whole daemon on the emulated CUDA device, where activations have 16 bits."""

import json

import pytest
from daemon import EMULATED, GOLDEN, Daemon
from test_golden import cases, messages_of
from test_lossless import ask, ask_all, check_same, draw_request, pictures

N_TOKENS = 16
# test/golden/hf/README.md: no step of a larger margin flips in bfloat16, whose logits are off by 0.15 in the mean.
SMALL_MARGIN = 0.6
MEAN_ERROR = 0.15


@pytest.mark.parametrize("folder,device", [("llava15-tiny", "cuda-bf16"), ("llavanext-tiny", "cuda-bf16"),
                                           ("qwen25vl-tiny", "cuda-bf16"), ("llama-tiny-f16", "cuda-f16")])
def test_greedy_answers_are_transformers_within_16_bits(folder, device):
    model = GOLDEN / "hf" / "models" / folder
    with Daemon("--device", "cuda", "--max-model-len", "1024", model=model, binary=EMULATED) as d:
        assert f" on {device}," in d.greeting[0]
        for path in cases(folder)[:3]:
            case = json.loads(path.read_text())
            status, reply = d.chat(messages=messages_of(case), temperature=0, max_tokens=N_TOKENS, ignore_eos=True,
                                   logprobs=True, return_token_ids=True, repetition_penalty=1)
            assert status == 200, f"{path.name}: {reply}"
            assert reply["prompt_token_ids"] == case["input_ids"]
            choice, errors = reply["choices"][0], []
            for step, got in enumerate(choice["token_ids"]):
                if got != case["greedy_ids"][step]:
                    assert case["margin_top1_top2"][step] < SMALL_MARGIN, f"{path.name}, step {step}"
                    break
                logprob = choice["logprobs"]["content"][step]["logprob"]
                errors.append(abs(logprob - case["greedy_logprobs"][step]))
            assert sum(errors) <= MEAN_ERROR * len(errors), path.name


def test_dtype_overrides_the_checkpoint_s():
    model = GOLDEN / "hf" / "models" / "llama-tiny-f16"
    with Daemon("--device", "cuda", "--dtype", "bfloat16", model=model, binary=EMULATED) as d:
        assert " on cuda-bf16," in d.greeting[0]


def test_speculation_changes_no_answer():
    urls = pictures()
    requests = [draw_request(seed, urls) | {"max_tokens": N_TOKENS} for seed in (0, 2)]
    tree = ["--draft-depth", "3", "--draft-top-k", "8", "--draft-nodes", "30", "--draft-max-seqs", "8"]
    with Daemon("--device", "cuda", *tree, binary=EMULATED) as d:
        plain = ask_all(ask, d, requests, 1, speculative=False)
        check_same(ask_all(ask, d, requests, 1, speculative=True), plain, requests)
