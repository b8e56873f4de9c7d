"""Published-style folders with the ViSpec drafts of their authors' layout, through HTTP."""

from __future__ import annotations

import json
import pathlib
import subprocess

import pytest
from daemon import BINARY, GOLDEN, Daemon, data_url
from test_lossless import ask, ask_all, ask_stream, check_same, draw_request, pictures

VISPEC = GOLDEN / "vispec"
FAMILIES = {"llava": "llava-next-tiny", "qwen": "qwen2_5_vl-tiny"}
PAPERS_TREE = ("--draft-depth", "3", "--draft-top-k", "8", "--draft-nodes", "30")
N_REQUESTS = 40


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """(name, daemon that serves its target with its draft)"""
    folder = VISPEC / FAMILIES[request.param]
    draft = folder.with_name(folder.name + "-vispec")
    with Daemon("--draft", str(draft), "--draft-max-seqs", "8", *PAPERS_TREE, model=folder) as d:
        yield request.param, d


def messages_of(case: dict) -> list[dict]:
    """The case's messages, its pictures as data: URLs."""
    urls = iter([data_url(VISPEC / p) for p in case.get("images") or [case["image"]] if p])
    messages = json.loads(json.dumps(case["messages"]))
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image":
                part.update(type="image_url", image_url={"url": next(urls)})
    return messages


def greedy(d: Daemon, case: dict, **extra) -> dict:
    status, reply = d.chat(messages=messages_of(case), temperature=0, top_k=0, repetition_penalty=1,
                           return_token_ids=True, **extra)
    assert status == 200, reply
    return reply


def test_answers_and_rounds_are_the_authors(family):
    name, d = family
    for path in sorted((VISPEC / f"cases_{name}").glob("case_*.json")):
        case = json.loads(path.read_text())
        reply = greedy(d, case, max_tokens=case["max_new_tokens"])
        assert reply["choices"][0]["token_ids"] == case["output_tokens"], path.name
        # Their loop runs one round more where the end token was a bonus, or at exactly max_new_tokens.
        assert case["num_rounds"] - reply["timings"]["rounds"] in (0, 1), path.name


def test_two_pictures_speculate_and_give_the_target_s_own_tokens(family):
    name, d = family
    case = json.loads((VISPEC / f"cases_{name}" / "two_images.json").read_text())
    want = case["greedy_tokens"]
    for speculative in (True, False):
        reply = greedy(d, case, max_tokens=len(want), speculative=speculative)
        assert reply["choices"][0]["token_ids"] == want
        assert (reply["timings"]["rounds"] < len(want) - 1) == speculative


@pytest.fixture(scope="module")
def requests() -> list[dict]:
    """Up to three turns with up to three pictures (of several shapes) in all."""
    urls = pictures() + [data_url(p) for p in sorted((GOLDEN / "hf" / "models" / "images").glob("m*"))]
    return [draw_request(1000 + seed, urls) for seed in range(N_REQUESTS)]


def test_speculation_and_company_change_nothing(family, requests):
    _, d = family
    plain = ask_all(ask, d, requests, 1, speculative=False)
    assert len({ids for _, ids, _, _ in plain}) > N_REQUESTS // 2
    check_same(ask_all(ask, d, requests, 1, speculative=True), plain, requests)
    check_same(ask_all(ask_stream, d, requests, 8, speculative=True), plain, requests)


def test_max_pixels_makes_pictures_smaller_and_what_does_not_fit_is_refused():
    model = GOLDEN / "hf" / "models" / "qwen25vl-tiny"
    case = json.loads((GOLDEN / "hf" / "goldens" / "qwen25vl-tiny" / "c3_one_image.json").read_text())
    image = data_url(model.parent / "images" / case["images"][0])
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": image}}]}]
    n_text = case["prompt_tokens"] - case["num_image_tokens"][0]
    with Daemon("--max-pixels", "6272", "--max-model-len", "64", model=model) as d:
        status, reply = d.chat(messages=messages, max_tokens=1)
        assert status == 200 and reply["usage"]["prompt_tokens"] < n_text + 8
    with Daemon("--max-model-len", "32", model=model) as d:
        status, reply = d.chat(messages=messages, max_tokens=1)
        assert (status, reply["error"]["code"]) == (400, "context_length_exceeded")


def refusal(*flags: str) -> str:
    """The one line with which the daemon ends at start."""
    done = subprocess.run([BINARY, "--port", "0", *flags], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stdout == "" and done.stderr.count("\n") == 1, done
    return done.stderr


def test_folders_that_do_not_fit_are_refused_with_both_values(tmp_path: pathlib.Path):
    llava, qwen = (str(VISPEC / folder) for folder in FAMILIES.values())
    line = refusal("--model", llava, "--draft", qwen + "-vispec")
    assert "qwen2_5_vl-tiny-vispec/config.json: vocab_size is 720, but the model's is 640" in line
    line = refusal("--model", llava, "--max-pixels", "10000")
    assert "--max-pixels: this model's pictures have a fixed size" in line
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    assert 'model_type is "mamba", not llava or llava_next or qwen2_5_vl or llama or qwen2' in refusal(
        "--model", str(tmp_path))


def test_golden_pictures_have_the_published_settings_number_of_tokens(tmp_path: pathlib.Path):
    """A folder of symbolic links, as the Hub's cache makes them, with Qwen2.5-VL's own limits on pixels."""
    model = GOLDEN / "hf" / "models" / "qwen25vl-tiny"
    for path in model.iterdir():
        if path.name != "preprocessor_config.json":
            (tmp_path / path.name).symlink_to(path)
    config = json.loads((model / "preprocessor_config.json").read_text())
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({**config, "max_pixels": 12845056}))
    counts = []
    with Daemon(model=tmp_path) as d:
        for case in json.loads((GOLDEN / "hf" / "preprocess" / "preprocess.json").read_text()):
            n = case["qwen2.5-vl"]["num_image_tokens"]
            # Attention over all patches of the largest picture, 5429 tokens, takes a CPU too long for a test.
            if case["variant"].startswith("default") and n < 1000:
                part = {"type": "image_url", "image_url": {"url": data_url(GOLDEN / "hf" / "images" / case["file"])}}
                status, reply = d.chat(messages=[{"role": "user", "content": [part]}], max_tokens=1)
                assert status == 200, reply
                counts.append(reply["usage"]["prompt_tokens"] - n)
    assert len(counts) == 21 and len(set(counts)) == 1, counts
