"""The whole daemon against transformers: prompt ids, greedy ids and log-probabilities of a published-style folder."""

import json

import pytest
from daemon import GOLDEN, Daemon, data_url

FOLDERS = ["llava15-tiny", "llava15-sharded-midnames", "llavanext-tiny", "qwen25vl-tiny", "llama-tiny",
           "qwen2-tiny-f32"]
# test/golden/hf/README.md: float32 runs differ by up to 1e-3 in log-probabilities at most.
TOLERANCE = 1e-3
SMALL_MARGIN = 2e-3


def cases(folder: str):
    """All but videos, which the API does not take."""
    paths = (GOLDEN / "hf" / "goldens" / folder).glob("c*.json")
    return sorted(path for path in paths if "video" not in path.name)


def messages_of(case: dict) -> list[dict]:
    """The case's messages with picture files in place of their names."""
    messages = json.loads(json.dumps(case["messages"]))
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                path = GOLDEN / "hf" / "models" / "images" / part["image_url"]["url"]
                part["image_url"]["url"] = data_url(path)
    return messages


def check(case: dict, reply: dict):
    choice = reply["choices"][0]
    assert reply["prompt_token_ids"] == case["input_ids"]
    content = choice["logprobs"]["content"]
    for step, (got, want) in enumerate(zip(choice["token_ids"], case["greedy_ids"], strict=True)):
        if got != want:
            assert case["margin_top1_top2"][step] < SMALL_MARGIN, f"step {step}: {got}, not {want}"
            return
        assert content[step]["logprob"] == pytest.approx(case["greedy_logprobs"][step], abs=TOLERANCE)
        top = [t["logprob"] for t in content[step]["top_logprobs"]]
        assert top == pytest.approx(case["top5_logprobs"][step], abs=TOLERANCE)


@pytest.mark.parametrize("folder", FOLDERS)
def test_greedy_answers_are_transformers(folder):
    with Daemon("--model", str(GOLDEN / "hf" / "models" / folder)) as d:
        for path in cases(folder):
            case = json.loads(path.read_text())
            status, reply = d.chat(messages=messages_of(case), temperature=0, max_tokens=48,
                                   ignore_eos=True, logprobs=True, top_logprobs=5,
                                   return_token_ids=True, repetition_penalty=1)
            assert status == 200, f"{path.name}: {reply}"
            check(case, reply)


# Both say repetition_penalty 1.05 and top_k 1 in generation_config.json.
@pytest.mark.parametrize("folder", ["qwen25vl-tiny", "qwen2-tiny-f32"])
def test_a_silent_client_gets_the_folder_s_generation_config(folder):
    with Daemon("--model", str(GOLDEN / "hf" / "models" / folder)) as d:
        shown = json.loads(d.get("/v1/models")[1])["data"][0]["meta"]["defaults"]
        assert shown == {"temperature": 0.1, "top_p": 0.001, "top_k": 1, "min_p": 0, "repetition_penalty": 1.05}
        for path in cases(folder):
            case = json.loads(path.read_text())
            status, reply = d.chat(messages=messages_of(case), max_tokens=48, ignore_eos=True, return_token_ids=True)
            assert status == 200, f"{path.name}: {reply}"
            assert reply["choices"][0]["token_ids"] == case["greedy_ids_repetition_penalty_1.05"], path.name
