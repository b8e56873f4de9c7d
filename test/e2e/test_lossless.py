"""The main test: speculation, company and streaming change nothing but speed.

The same requests, drawn with fixed seeds, are asked plainly and alone, then in every other way; text, token
ids, finish reason and usage must be identical, with no exception.
"""

from __future__ import annotations

import concurrent.futures
import random

import pytest
from daemon import PICTURES, Daemon, data_url

N_REQUESTS = 220
QUESTIONS = [
    "Describe the picture in detail.", "What do you see?", "How many things are there?",
    "What is in the top left corner?", "Which colours are there?", "Tell me a long story about it.",
    "What is on the right?", "Compare the two things.", "Who are you?", "List everything.",
]
ANSWERS = ["There is a cat.", "I see three things in it.", "It is red.", "Yes."]
STOPS = ["the", ". ", "is a", " and", "\n", "there", "ee", "picture"]


def pictures() -> list[str]:
    files = sorted(p for p in PICTURES.iterdir() if p.suffix in (".png", ".jpg", ".jpeg"))
    assert len(files) >= 40
    return [data_url(p) for p in files]


def draw_messages(rng: random.Random, urls: list[str]) -> list[dict]:
    """One to three turns; the user's turns carry 0 to 3 pictures in all."""
    n_images, messages = rng.choice([0, 1, 1, 1, 2, 3]), []
    if rng.random() < 0.2:
        messages.append({"role": "system", "content": "Answer in one sentence."})
    n_turns = rng.choice([1, 1, 2, 3])
    for turn in range(n_turns):
        here = n_images if turn == n_turns - 1 else rng.randint(0, n_images)
        n_images -= here
        parts = [{"type": "image_url", "image_url": {"url": rng.choice(urls)}} for _ in range(here)]
        parts.append({"type": "text", "text": rng.choice(QUESTIONS)})
        messages.append({"role": "user", "content": parts})
        if turn < n_turns - 1:
            messages.append({"role": "assistant", "content": rng.choice(ANSWERS)})
    return messages


def draw_request(seed: int, urls: list[str]) -> dict:
    rng = random.Random(seed)
    request = {"messages": draw_messages(rng, urls), "seed": rng.getrandbits(62),
               "max_tokens": rng.choice([1, 2, 3, 5, 17, 40, 63, 64, 65, 101]),
               "return_token_ids": True}
    request["temperature"] = rng.choice([0, 0, 0.5, 1, 1, 1.7])
    if rng.random() < 0.3:
        request["top_k"] = rng.choice([1, 2, 10, 50])
    if rng.random() < 0.3:
        request["top_p"] = rng.choice([0.05, 0.5, 0.9, 0.99])
    if rng.random() < 0.2:
        request["min_p"] = rng.choice([0.01, 0.2])
    if rng.random() < 0.2:
        request["repetition_penalty"] = rng.choice([0.8, 1.05, 1.3])
    if rng.random() < 0.2:
        request["presence_penalty"] = rng.choice([-1, 0.5, 2])
        request["frequency_penalty"] = rng.choice([-0.5, 0.3, 1.5])
    if rng.random() < 0.25:
        request["stop"] = rng.sample(STOPS, rng.randint(1, 3))
    if rng.random() < 0.1:
        request["ignore_eos"] = True
    if rng.random() < 0.1:
        request["min_tokens"] = min(30, request["max_tokens"])
    return request


def ask(daemon: Daemon, request: dict, **extra) -> tuple:
    """Everything of the answer that must not depend on how it was made."""
    status, reply = daemon.chat(**request, **extra)
    assert status == 200, reply
    choice = reply["choices"][0]
    return (choice["message"]["content"], tuple(choice["token_ids"]), choice["finish_reason"],
            str(reply["usage"]))


def ask_stream(daemon: Daemon, request: dict, **extra) -> tuple:
    events = daemon.stream(**request, stream_options={"include_usage": True}, **extra)
    choices = [e["choices"][0] for e in events if e["choices"]]
    text = "".join(c["delta"].get("content") or "" for c in choices)
    ids = tuple(i for c in choices for i in c.get("token_ids") or [])
    return text, ids, choices[-1]["finish_reason"], str(events[-1]["usage"])


def ask_all(how, daemon: Daemon, requests: list[dict], n_users: int, **extra) -> list[tuple]:
    with concurrent.futures.ThreadPoolExecutor(n_users) as pool:
        return list(pool.map(lambda r: how(daemon, r, **extra), requests))


def check_same(got: list[tuple], want: list[tuple], requests: list[dict]):
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        if g != w:
            shown = {k: v for k, v in requests[i].items() if k != "messages"}
            raise AssertionError(f"request {i} {shown}\n got {g}\nwant {w}")


@pytest.fixture(scope="module")
def requests() -> list[dict]:
    urls = pictures()
    return [draw_request(seed, urls) for seed in range(N_REQUESTS)]


@pytest.fixture(scope="module")
def daemon():
    with Daemon("--draft-max-seqs", "8") as d:
        yield d


@pytest.fixture(scope="module")
def plain(daemon, requests) -> list[tuple]:
    return ask_all(ask, daemon, requests, 1, speculative=False)


def test_the_requests_are_different_and_the_answers_not_all_trivial(plain):
    assert len({ids for _, ids, _, _ in plain}) > N_REQUESTS // 2
    assert {finish for _, _, finish, _ in plain} == {"stop", "length"}


def test_speculation_alone(daemon, requests, plain):
    check_same(ask_all(ask, daemon, requests, 1, speculative=True), plain, requests)


def test_speculation_eight_at_a_time_streamed(daemon, requests, plain):
    check_same(ask_all(ask_stream, daemon, requests, 8, speculative=True), plain, requests)


def test_plain_eight_at_a_time(daemon, requests, plain):
    check_same(ask_all(ask, daemon, requests, 8, speculative=False), plain, requests)


def test_speculating_and_plain_requests_side_by_side(daemon, requests, plain):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda i: ask(daemon, requests[i], speculative=i % 2 == 0),
                            range(len(requests))))
    check_same(got, plain, requests)


@pytest.mark.parametrize("chunk", [1, 63, 64, 65])
def test_prompt_chunks(chunk, requests, plain):
    some = requests[chunk % 4 :: 4]
    with Daemon("--prefill-chunk", str(chunk)) as d:
        check_same(ask_all(ask, d, some, 4, speculative=True), plain[chunk % 4 :: 4], some)


def test_another_tree_gives_the_same_answers(requests, plain):
    flags = ("--draft-depth", "5", "--draft-top-k", "10", "--draft-nodes", "60", "--draft-max-seqs", "3")
    with Daemon(*flags, "--max-num-seqs", "3", "--kv-cache-tokens", "6000") as d:
        check_same(ask_all(ask, d, requests[::3], 5, speculative=True), plain[::3], requests[::3])


def test_a_draft_that_may_propose_a_third_of_the_tokens_gives_the_same_answers(tmp_path, requests, plain):
    ids = tmp_path / "ids"
    ids.write_text("".join(f"{i}\n" for i in range(1663, -1, -3)))
    with Daemon("--draft-vocab", str(ids), "--draft-max-seqs", "8") as d:
        check_same(ask_all(ask, d, requests[::3], 8, speculative=True), plain[::3], requests[::3])
        assert d.metric("vllm:spec_decode_num_accepted_tokens_total") > 0


def test_speculation_needs_fewer_rounds(daemon, requests):
    request = {**requests[0], "max_tokens": 100, "temperature": 0, "stop": None}
    _, fast = daemon.chat(**request, speculative=True)
    _, slow = daemon.chat(**request, speculative=False)
    assert slow["timings"]["rounds"] == slow["timings"]["predicted_n"] - 1
    assert fast["timings"]["rounds"] < slow["timings"]["rounds"]
    assert fast["timings"]["draft_n_accepted"] > 0


def test_trees_that_do_not_fit_a_step_are_cut(requests, plain):
    flags = ("--draft-depth", "3", "--draft-top-k", "4", "--draft-nodes", "8", "--draft-max-seqs", "8")
    with Daemon(*flags, "--max-num-batched-tokens", "20") as d:
        check_same(ask_all(ask, d, requests[1::5], 8, speculative=True), plain[1::5], requests[1::5])
