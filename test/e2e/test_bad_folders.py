"""Model folders that cannot be served, each refused with one line that says what, where and which values."""

import json
import pathlib
import struct
import subprocess

import pytest
from daemon import BINARY, GOLDEN, Daemon

MODELS = GOLDEN / "hf" / "models"
LLAVA = MODELS / "llava15-tiny"
SHARDED = MODELS / "llava15-sharded-midnames"
TARGET = GOLDEN / "vispec" / "llava-next-tiny"
DRAFT = GOLDEN / "vispec" / "llava-next-tiny-vispec"
NORM = "language_model.model.norm.weight"
EMBED = "language_model.model.embed_tokens.weight"


def folder_of(folder: pathlib.Path, model: pathlib.Path = LLAVA) -> pathlib.Path:
    """A folder of links to the model's files."""
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def replace(folder: pathlib.Path, name: str, content: bytes | str | dict):
    """Puts a file in the place of a link."""
    (folder / name).unlink(missing_ok=True)
    if isinstance(content, dict):
        content = json.dumps(content)
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def refusal(*flags) -> str:
    """The one line with which the daemon ends."""
    done = subprocess.run([BINARY, "--port", "0", *flags], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def check_refused(folder: pathlib.Path, *parts: str):
    line = refusal("--model", folder)
    for part in (str(folder), *parts):
        assert part in line


def header_of(data: bytes) -> tuple[dict, bytes]:
    """The header of a safetensors file, and what stands behind it."""
    n = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def with_header(header: dict, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def change(data: bytes, **entries) -> bytes:
    """The file with keys of some tensors' entries changed; None takes a tensor out."""
    header, values = header_of(data)
    for name, keys in entries.items():
        if keys is None:
            del header[name]
        else:
            header[name] |= keys
    return with_header(header, values)


WEIGHTS = (LLAVA / "model.safetensors").read_bytes()
HEADER, VALUES = header_of(WEIGHTS)
AT = HEADER[NORM]["data_offsets"]
NEXT = next(n for n, t in HEADER.items() if "data_offsets" in t and t["data_offsets"][0] == AT[1])


@pytest.mark.parametrize(
    "weights, parts",
    [
        pytest.param(WEIGHTS[:-2], [f"{len(VALUES) - 2} bytes", "is the file complete?"], id="cut"),
        pytest.param(WEIGHTS[:1000], ["in a file of 1000", "is it complete?"], id="cut header"),
        pytest.param(struct.pack("<Q", 1 << 40) + WEIGHTS[8:],
                     ["a header of 1099511627776 bytes", f"in a file of {len(WEIGHTS)}"], id="long header"),
        pytest.param(change(WEIGHTS, **{NORM: {"data_offsets": [AT[0] + 2, AT[1] + 2]}}),
                     [NORM, NEXT, "overlap"], id="overlap"),
        pytest.param(change(WEIGHTS, **{NORM: {"data_offsets": [len(VALUES), len(VALUES) + AT[1] - AT[0]]}}),
                     [NORM, f"[{len(VALUES)}, ", f"{len(VALUES)} bytes of data"], id="out of range"),
        pytest.param(change(WEIGHTS, **{NORM: {"shape": [64, 2]}}), [NORM, "[64, 2], not [128]"], id="shape"),
        pytest.param(change(WEIGHTS, **{NORM: None}), [NORM, "is missing"], id="missing"),
        pytest.param(with_header(HEADER | {"model.extra.weight": HEADER[NORM] | {"data_offsets": [len(VALUES), len(VALUES) + AT[1] - AT[0]]}},
                                 VALUES + VALUES[: AT[1] - AT[0]]),
                     ["model.extra.weight of shape [128]", "has no place"], id="unknown"),
        pytest.param(change(WEIGHTS, **{NORM: {"dtype": "I16"}}),
                     [NORM, "has dtype I16, not F32, F16 or BF16"], id="dtype"),
    ],
)
def test_bad_weights(tmp_path, weights, parts):
    folder = folder_of(tmp_path / "m")
    replace(folder, "model.safetensors", weights)
    check_refused(folder, "/model.safetensors: ", *parts)


CONFIG = json.loads((LLAVA / "config.json").read_text())
TOKENIZER = json.loads((LLAVA / "tokenizer.json").read_text())
IDS = max(token["id"] for token in TOKENIZER["added_tokens"])
INDEX = json.loads((SHARDED / "model.safetensors.index.json").read_text())
PREPROCESSOR = json.loads((LLAVA / "preprocessor_config.json").read_text())
SMALL = CONFIG | {"text_config": CONFIG["text_config"] | {"vocab_size": 606}, "image_token_index": 605}


@pytest.mark.parametrize(
    "file, content, parts",
    [
        ("config.json", CONFIG | {"model_type": "mamba"}, ["model_type", "mamba", "llava"]),
        ("config.json", "{", ["line 1"]),
        ("tokenizer.json", "{", ["line 1"]),
        ("tokenizer.json", TOKENIZER | {"model": TOKENIZER["model"] | {"type": "Unigram"}}, ["Unigram", "BPE"]),
        ("generation_config.json", {"top_p": 7}, ["top_p", "7"]),
        ("preprocessor_config.json", PREPROCESSOR | {"resample": 2}, ["resample", "2", "3 (bicubic)"]),
        ("chat_template.json", {"chat_template": "{{ messages }}"},
         ["not built in", "--chat-template: llava-1.5, ", "qwen2.5-vl", "llama-2"]),
        ("chat_template.json", "{", ["line 1"]),
    ],
)
def test_bad_file(tmp_path, file, content, parts):
    folder = folder_of(tmp_path / "m")
    replace(folder, file, content)
    check_refused(folder, f"/{file}: ", *parts)


def test_vocabulary_smaller_than_the_tokenizer_s(tmp_path):
    folder = folder_of(tmp_path / "m")
    replace(folder, "config.json", SMALL)
    check_refused(folder, "/tokenizer.json: ", f"largest id is {IDS}", "a vocabulary of 606")


@pytest.mark.parametrize("key", ["hidden_size", "vocab_size"])
def test_draft_of_another_target(tmp_path, key):
    draft = folder_of(tmp_path / "d", DRAFT)
    replace(draft, "config.json", json.loads((DRAFT / "config.json").read_text()) | {key: 96})
    model = {"hidden_size": 128, "vocab_size": 640}[key]
    line = refusal("--model", LLAVA, "--draft", draft)
    assert f"{draft}/config.json: {key} is 96, but the model's is {model}" in line


def test_draft_vocabulary_with_a_token_that_the_model_lacks(tmp_path):
    (tmp_path / "ids").write_text("0\n1\n640\n")
    line = refusal("--model", LLAVA, "--draft-vocab", tmp_path / "ids")
    assert f"{tmp_path}/ids: line 3: 640 is not below the vocabulary's 640" in line


def test_draft_that_is_cut(tmp_path):
    draft = folder_of(tmp_path / "d", DRAFT)
    replace(draft, "model.safetensors", (DRAFT / "model.safetensors").read_bytes()[:-2])
    line = refusal("--model", LLAVA, "--draft", draft)
    assert f"{draft}/model.safetensors: tensor " in line
    assert "is the file complete?" in line


def test_draft_with_a_tensor_that_would_be_left_out(tmp_path):
    draft = folder_of(tmp_path / "d", DRAFT)
    header, values = header_of((DRAFT / "model.safetensors").read_bytes())
    norm = header["layers.0.post_attention_layernorm.weight"]
    n = norm["data_offsets"][1] - norm["data_offsets"][0]
    more = {"layers.0.input_layernorm.weight": norm | {"data_offsets": [len(values), len(values) + n]}}
    replace(draft, "model.safetensors", with_header(header | more, values + values[:n]))
    line = refusal("--model", LLAVA, "--draft", draft)
    assert f"{draft}/model.safetensors: tensor layers.0.input_layernorm.weight of shape [128] has no place" in line


def test_index_that_names_a_missing_shard(tmp_path):
    folder = folder_of(tmp_path / "m", SHARDED)
    (folder / "model-00002-of-00002.safetensors").unlink()
    check_refused(folder, "/model-00002-of-00002.safetensors: No such file")


@pytest.mark.parametrize("index", ["{", {}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../a.safetensors"}}])
def test_bad_index(tmp_path, index):
    folder = folder_of(tmp_path / "m", SHARDED)
    replace(folder, "model.safetensors.index.json", index)
    check_refused(folder, "/model.safetensors.index.json: ")


def test_index_that_names_a_tensor_its_file_has_not(tmp_path):
    folder = folder_of(tmp_path / "m", SHARDED)
    more = {"more.weight": "model-00001-of-00002.safetensors"}
    replace(folder, "model.safetensors.index.json", {"weight_map": INDEX["weight_map"] | more})
    check_refused(folder, "more.weight", "model-00001-of-00002.safetensors")


def test_pickled_weights_are_refused_with_the_script_that_converts_them(tmp_path):
    folder = folder_of(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    check_refused(folder, "pytorch_model", "scripts/to-safetensors")


@pytest.mark.parametrize("device,dtype", [("cpu", "float16"), ("cuda", "float32"), ("auto", "int8"), ("tpu", "auto")])
def test_a_type_that_the_device_has_not(device, dtype):
    line = refusal("--model", LLAVA, "--device", device, "--dtype", dtype)
    assert f"--device {device} --dtype {dtype}: not in this build or machine" in line


def test_unknown_template_name():
    line = refusal("--model", LLAVA, "--chat-template", "nonsense")
    assert "nonsense: there is no built-in chat template" in line
    assert "--chat-template: llava-1.5, " in line


def test_a_template_chosen_by_name_replaces_an_unknown_one(tmp_path):
    folder = folder_of(tmp_path / "m")
    replace(folder, "chat_template.json", {"chat_template": "{{ messages }}"})
    with Daemon("--model", str(folder), "--chat-template", "llava-1.5") as d, Daemon("--model", str(LLAVA)) as other:
        asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "return_token_ids": True}
        prompts = [one.chat(**asked)[1]["prompt_token_ids"] for one in (d, other)]
    assert prompts[0] == prompts[1]


def test_a_folder_of_links_into_a_store_of_blobs_is_served(tmp_path):
    """As the Hub's client keeps its downloads: snapshots/REVISION/NAME -> ../../blobs/HASH."""
    blobs, snapshot = tmp_path / "m" / "blobs", tmp_path / "m" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(SHARDED.iterdir())):
        (blobs / f"{i:040x}").write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{i:040x}")
    asked = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
    answers = []
    for folder in snapshot, SHARDED:
        with Daemon("--model", str(folder)) as d:
            answers.append(d.chat(**asked)[1]["choices"])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "flags, parts",
    [
        (("--max-num-seqs", "1281"), ["--max-num-seqs 1281 is more than the 639"]),
        (("--max-num-batched-tokens", "1273"), ["--max-num-batched-tokens 1273 must be from 9 to 1272", "8 sequences"]),
        (("--max-num-batched-tokens", "8"), ["--max-num-batched-tokens 8 must be from 9 to 1272"]),
        (("--draft-max-seqs", "161", "--max-num-seqs", "161", "--draft-top-k", "8"),
         ["--draft-max-seqs 161 times --draft-top-k 8 is 1288", "1280 rows"]),
    ],
)
def test_more_rows_than_a_step_takes(flags, parts):
    line = refusal("--model", TARGET, "--draft", DRAFT, "--kv-cache-tokens", "4096", *flags)
    for part in parts:
        assert part in line
