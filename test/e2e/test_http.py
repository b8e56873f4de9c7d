"""The daemon as an HTTP server: every kind of bad request, clients that leave, full queues, shutting down."""

import json
import signal
import socket
import subprocess
import threading
import time

import pytest
from conftest import LONG, image_url, picture_messages
from daemon import BINARY, JSON
from PIL import Image


def check_error(answer, status, code, param=None):
    got, headers, body = answer
    assert got == status, body
    assert headers["Content-Type"] == "application/json"
    assert headers["x-request-id"]
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["code"] == code
    assert body["error"]["message"]
    if param is not None:
        assert body["error"]["param"] == param
    return body["error"]["message"]


def check_alive(daemon):
    status, _, body = daemon.ask(max_tokens=2)
    assert status == 200, body


def raw(daemon, data, seconds=5.0):
    """All bytes that come back until the server closes or is silent for a while."""
    with socket.create_connection((daemon.host, daemon.port), timeout=seconds) as s:
        s.sendall(data)
        out = b""
        s.settimeout(0.5)
        try:
            while piece := s.recv(65536):
                out += piece
        except TimeoutError:
            return out, False
        except ConnectionResetError:
            pass
        return out, True


# ---- what is there -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/health", "/v1/health", "/health/live", "/health/ready"])
def test_health(daemon, path):
    assert daemon.fetch(path)[::2] == (200, {"status": "ok"})


def test_head_has_no_body(daemon):
    status, headers, body = daemon.exchange("HEAD", "/health")
    assert (status, body) == (200, b"")
    assert headers["Content-Type"] == "application/json"


def test_version(daemon):
    program = subprocess.run([BINARY, "--version"], capture_output=True, text=True, check=True)
    assert program.stdout.split()[1] == daemon.fetch("/version")[2]["version"]


def test_models(daemon):
    models = daemon.fetch("/v1/models")[2]
    assert models["object"] == "list"
    model = models["data"][0]
    assert model["object"] == "model"
    assert isinstance(model["created"], int)
    assert model["max_model_len"] > 0
    assert daemon.fetch("/v1/models/" + model["id"])[2] == model
    check_error(daemon.fetch("/v1/models/nobody"), 404, "model_not_found")


def test_served_names(start):
    daemon = start("--served-model-name", "org/first,second")
    assert [m["id"] for m in daemon.fetch("/v1/models")[2]["data"]] == ["org/first", "second"]
    assert daemon.fetch("/v1/models/org%2Ffirst")[0] == 200
    assert daemon.ask(max_tokens=1)[2]["model"] == "org/first"
    assert daemon.ask(model="second", max_tokens=1)[2]["model"] == "second"
    check_error(daemon.ask(model="third"), 404, "model_not_found", "model")


def test_metrics(daemon):
    tokens = daemon.metric("vllm:generation_tokens_total")
    done = daemon.metric("vllm:request_success_total", finished_reason="length")
    daemon.ask(max_tokens=5, **LONG)
    assert daemon.metric("vllm:generation_tokens_total") == tokens + 5
    assert daemon.metric("vllm:request_success_total", finished_reason="length") == done + 1
    assert daemon.metric("vllm:num_requests_running") == 0
    text = daemon.fetch("/metrics")[2].decode()
    for name in (
        "vllm:num_requests_waiting",
        "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total",
        "vllm:spec_decode_num_drafts_total",
        "vllm:spec_decode_num_draft_tokens_total",
        "vllm:spec_decode_num_accepted_tokens_total",
        "vllm:time_to_first_token_seconds_bucket",
        "vllm:inter_token_latency_seconds_sum",
        "vllm:e2e_request_latency_seconds_count",
    ):
        assert f"\n{name}{{" in text


def test_request_id_is_kept_if_it_is_harmless(daemon):
    assert daemon.fetch("/health", {"x-request-id": "abc-1.2_3"})[1]["x-request-id"] == "abc-1.2_3"
    assert daemon.fetch("/health", {"x-request-id": "a b"})[1]["x-request-id"] != "a b"


# ---- bad requests ------------------------------------------------------------------------------------


def test_unknown_paths(daemon):
    for path in ("/", "/v1", "/v1/responses", "/V1/models", "/v1/models/../models/", "/healthz"):
        check_error(daemon.fetch(path), 404, "unknown_url" if "models/.." not in path else "model_not_found")


def test_wrong_methods(daemon):
    answer = daemon.fetch("/v1/chat/completions")
    check_error(answer, 405, "method_not_allowed")
    assert answer[1]["Allow"] == "POST"
    answer = daemon.exchange("POST", "/v1/models", "{}", JSON)
    check_error(answer, 405, "method_not_allowed")
    assert answer[1]["Allow"] == "GET, HEAD"
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "BREW"):
        check_error(daemon.exchange(method, "/v1/chat/completions"), 405, "method_not_allowed")


def test_content_type(daemon):
    body = daemon.body(max_tokens=1)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
        answer = daemon.exchange("POST", "/v1/chat/completions", body, {"Content-Type": kind})
        assert "-H 'Content-Type: application/json'" in check_error(answer, 415, "unsupported_media_type")
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert daemon.exchange("POST", "/v1/chat/completions", body, {"Content-Type": kind})[0] == 200


@pytest.mark.parametrize("body", ["", "x", "[]", "{", '{"model":1,"model":2}', '{"a":"\\ud800"}'])
def test_bad_json(daemon, body):
    check_error(daemon.exchange("POST", "/v1/chat/completions", body, JSON), 400, "invalid_json")
    check_alive(daemon)


@pytest.mark.parametrize(
    "fields, status, code, param",
    [
        ({"model": "gpt"}, 404, "model_not_found", "model"),
        ({"model": None}, 400, "missing_required_parameter", "model"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": "hi"}, 400, "invalid_type", "messages"),
        ({"temperature": 3}, 400, "invalid_value", "temperature"),
        ({"temperature": "hot"}, 400, "invalid_type", "temperature"),
        ({"n": 2}, 400, "unsupported_value", "n"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_value", "response_format.type"),
        ({"stream": True, "top_p": 2}, 400, "invalid_value", "top_p"),
    ],
)
def test_bad_fields(daemon, fields, status, code, param):
    check_error(daemon.ask(**fields), status, code, param)


def test_prompt_too_long(daemon):
    message = {"role": "user", "content": "a dog and a cat " * 20000}
    text = check_error(daemon.ask(messages=[message]), 400, "context_length_exceeded")
    assert "maximum context length" in text
    check_alive(daemon)


PIXEL = image_url(Image.new("RGB", (8, 8)))
WEBP = image_url(Image.new("RGB", (8, 8)), "WebP")
GIF = image_url(Image.new("P", (8, 8)), "GIF")
BMP = image_url(Image.new("RGB", (8, 8)), "BMP")


@pytest.mark.parametrize(
    "url, code",
    [
        ("https://example.org/cat.png", "invalid_image_url"),
        ("file:///etc/passwd", "invalid_image_url"),
        ("data:image/png;base64,????", "invalid_base64_image"),
        ("data:image/png;base64," + PIXEL[22:][:-1] + "*", "invalid_base64_image"),
        ("data:text/plain;base64,aGVsbG8gd29ybGQ=", "unsupported_image_media_type"),
        (BMP, "unsupported_image_media_type"),
        ("data:image/png;base64," + PIXEL[22:62], "image_parse_error"),
        (WEBP[:63], "image_parse_error"),
        (GIF[:62], "image_parse_error"),
        ("data:image/png;base64,", "empty_image_file"),
    ],
)
def test_bad_pictures(daemon, url, code):
    check_error(daemon.ask(messages=picture_messages(url)), 400, code)
    check_alive(daemon)


def test_a_picture_gets_the_same_answer_in_every_lossless_format(daemon):
    picture = Image.new("RGB", (96, 64), "white")
    picture.paste((220, 20, 20), (24, 8, 72, 56))
    other = Image.new("RGB", (96, 64), "blue")
    urls = [image_url(picture), image_url(picture, "WebP", lossless=True), image_url(picture, "GIF"),
            image_url(picture, "WebP", lossless=True, save_all=True, append_images=[other]),
            image_url(picture, "GIF", save_all=True, append_images=[other])]
    asked = {"temperature": 0, "max_tokens": 8, "logprobs": True}
    answers = [daemon.ask(messages=picture_messages(url), **asked) for url in urls]
    assert [status for status, _, _ in answers] == [200] * 5
    assert all(body["choices"] == answers[0][2]["choices"] for _, _, body in answers)


def test_picture_with_too_many_pixels(daemon):
    url = image_url(Image.new("1", (16000, 16000)))
    check_error(daemon.ask(messages=picture_messages(url)), 400, "image_too_large")
    check_alive(daemon)


def test_body_too_large(daemon):
    answer = daemon.exchange("POST", "/v1/chat/completions", b" " * (60 << 20), JSON)
    check_error(answer, 413, "request_too_large")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    out, is_closed = raw(daemon, head + b"Content-Length: 1099511627776\r\n\r\n")
    assert out.startswith(b"HTTP/1.1 413 ")
    assert is_closed
    check_alive(daemon)


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://evil/health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health%00x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health%0d%0a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 36\r\n\r\n"
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /version HTTP/1.1\r\nHost: a\r\nContent-Length : 36\r\n\r\nGET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ],
)
def test_ambiguous_heads_get_one_400_and_the_end(daemon, head):
    out, is_closed = raw(daemon, head)
    assert out.startswith(b"HTTP/1.1 400 "), out
    assert out.count(b"HTTP/1.1 ") == 1, out
    assert is_closed
    check_alive(daemon)


def test_one_connection_serves_many_requests(daemon):
    out, _ = raw(daemon, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"GET /nope HTTP/1.1\r\nHost: a\r\n\r\n")
    assert out.count(b"HTTP/1.1 200 ") == 3
    assert out.count(b"HTTP/1.1 404 ") == 1


def test_a_slow_head_is_cut_off(daemon):
    begin = time.monotonic()
    with socket.create_connection((daemon.host, daemon.port), timeout=20) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nX: ")
        assert s.recv(100) == b""
    assert 9 < time.monotonic() - begin < 13


# ---- answers -----------------------------------------------------------------------------------------


def test_defaults_and_usage(daemon):
    status, headers, body = daemon.ask(max_tokens=3, **LONG)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    choice = body["choices"][0]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["refusal"] is None
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] is None
    usage = body["usage"]
    assert usage["completion_tokens"] == 3
    assert usage["total_tokens"] == usage["prompt_tokens"] + 3
    assert body["timings"]["predicted_n"] == 3
    assert body["timings"]["rounds"] >= 1


def test_no_tokens_wanted(daemon):
    status, _, body = daemon.ask(max_tokens=0)
    assert status == 200, body
    assert body["usage"]["completion_tokens"] == 0
    assert body["choices"][0]["message"]["content"] == ""
    assert body["choices"][0]["finish_reason"] == "length"


def test_max_tokens_is_clamped_to_the_context(start):
    daemon = start("--max-model-len", "128")
    status, _, body = daemon.ask(max_tokens=1000000, **LONG)
    assert status == 200, body
    assert body["usage"]["total_tokens"] <= 128
    assert body["choices"][0]["finish_reason"] == "length"


def test_token_ids(daemon):
    _, _, body = daemon.ask(max_tokens=4, return_token_ids=True, **LONG)
    assert len(body["choices"][0]["token_ids"]) == 4
    assert len(body["prompt_token_ids"]) == body["usage"]["prompt_tokens"]


def events_of(response):
    """The parsed events of a stream; checks its form."""
    events, is_done = [], False
    for block in response.read().split(b"\n\n"):
        if not block or block.startswith(b":"):
            continue
        assert block.startswith(b"data: ")
        assert b"\n" not in block
        assert not is_done
        if block == b"data: [DONE]":
            is_done = True
        else:
            events.append(json.loads(block[6:]))
    assert is_done
    return events


def test_stream(daemon):
    fields = {"max_tokens": 9, "return_token_ids": True, "stream_options": {"include_usage": True}, **LONG}
    status, headers, _ = daemon.ask(stream=True, **fields)
    assert status == 200
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache"

    connection, response = daemon.open_stream(**fields)
    events = events_of(response)
    connection.close()
    assert len({e["id"] for e in events}) == 1
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 9
    assert all(e["usage"] is None for e in events[:-1])
    finish = events[-2]
    assert finish["choices"][0]["delta"] == {}
    assert finish["choices"][0]["finish_reason"] == "length"
    assert finish["timings"]["predicted_n"] == 9

    whole = daemon.ask(**fields)[2]
    deltas = [e["choices"][0] for e in events[:-2]]
    assert "".join(d["delta"].get("content", "") for d in deltas) == whole["choices"][0]["message"]["content"]
    assert sum((d.get("token_ids", []) for d in deltas), []) == whole["choices"][0]["token_ids"]


def test_logprobs(daemon):
    _, _, body = daemon.ask(max_tokens=4, logprobs=True, top_logprobs=3, **LONG)
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == 4
    for entry in content:
        assert entry["logprob"] <= 0
        assert len(entry["top_logprobs"]) == 3
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
        ordered = [t["logprob"] for t in entry["top_logprobs"]]
        assert ordered == sorted(ordered, reverse=True)


# ---- clients that leave, and full queues ---------------------------------------------------------------


def aborted(daemon):
    return daemon.metric("vllm:request_success_total", finished_reason="abort")


def test_a_stream_whose_client_leaves_frees_its_seat(daemon):
    before = aborted(daemon)
    connection, response = daemon.open_stream(**LONG)
    response.close()
    connection.close()
    daemon.wait_for_metric(before + 1, "vllm:request_success_total", 2, finished_reason="abort")
    daemon.wait_for_metric(0, "vllm:num_requests_running", 2)


def test_a_waiting_client_that_leaves_frees_its_seat(daemon):
    before = aborted(daemon)
    body = daemon.body(**LONG).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    for _ in range(3):
        with socket.create_connection((daemon.host, daemon.port)) as s:
            s.sendall(head.encode() + b"\r\n\r\n" + body)
            time.sleep(0.1)
            # A reset, not an orderly end.
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    daemon.wait_for_metric(before + 3, "vllm:request_success_total", 2, finished_reason="abort")
    check_alive(daemon)


def test_a_full_queue_answers_503(start):
    daemon = start("--max-num-seqs", "1", "--max-queue", "1")
    running = daemon.open_stream(**LONG)
    waiting = threading.Thread(target=daemon.ask, kwargs={"max_tokens": 1})
    waiting.start()
    daemon.wait_for_metric(1, "vllm:num_requests_waiting")
    answer = daemon.ask(max_tokens=1)
    check_error(answer, 503, "server_overloaded")
    assert answer[1]["Retry-After"] == "1"
    running[1].close()
    running[0].close()
    waiting.join()
    check_alive(daemon)


def test_many_clients_of_which_some_leave(daemon):
    failures = []

    def one(i):
        try:
            if i % 3 == 0:
                connection, response = daemon.open_stream(**LONG)
                response.close()
                connection.close()
            elif i % 3 == 1:
                connection, response = daemon.open_stream(max_tokens=20, **LONG)
                assert events_of(response)[-1]["choices"][0]["finish_reason"] == "length"
                connection.close()
            else:
                assert daemon.ask(max_tokens=10, **LONG)[2]["usage"]["completion_tokens"] == 10
        except Exception as e:  # noqa: BLE001 (whatever it is, it belongs to this test)
            failures.append(repr(e))

    threads = [threading.Thread(target=one, args=(i,)) for i in range(24)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures
    daemon.wait_for_metric(0, "vllm:num_requests_running")


# ---- keys ----------------------------------------------------------------------------------------------


def test_keys(start, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\nfirst\n\nwith spaces in it\n")
    keys.chmod(0o600)
    daemon = start("--api-key-file", str(keys))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "first"}, {"x-api-key": ""}):
        for path in ("/v1/models", "/metrics", "/version", "/nope"):
            answer = daemon.fetch(path, headers)
            check_error(answer, 401, "invalid_api_key")
            assert answer[1]["WWW-Authenticate"] == "Bearer"
    assert daemon.fetch("/health")[0] == 200
    for headers in (
        {"Authorization": "Bearer first"},
        {"Authorization": "bearer with spaces in it"},
        {"x-api-key": "first"},
    ):
        assert daemon.fetch("/v1/models", headers)[0] == 200
    assert "first" not in daemon.log


# ---- starting and stopping -------------------------------------------------------------------------------


def run_program(*flags):
    return subprocess.run([BINARY, *flags], capture_output=True, text=True, timeout=60, check=False)


def test_help_lists_the_flags():
    done = run_program("--help")
    assert done.returncode == 0
    for flag in ("--model", "--draft", "--port", "--max-queue", "--drain-timeout", "--api-key-file"):
        assert flag in done.stdout


@pytest.mark.parametrize("flags", [["--bad"], ["--port", "x"], ["--port"], ["stray"], ["--api-key", "sk-1"]])
def test_bad_flags_exit_64_with_a_hint(flags):
    done = run_program(*flags)
    assert done.returncode == 64
    assert done.stderr.startswith("vispecd: ")
    assert "--help" in done.stderr
    assert "sk-1" not in done.stderr


def test_what_cannot_start_says_so_in_one_line(daemon, tmp_path):
    done = run_program("--port", "0", "--model", "/nonexistent")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "/nonexistent" in done.stderr
    done = run_program("--port", str(daemon.port))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert str(daemon.port) in done.stderr
    keys = tmp_path / "keys"
    keys.write_text("k\n")
    keys.chmod(0o644)
    done = run_program("--port", "0", "--api-key-file", keys)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_answers_finish(start, how):
    daemon = start()
    connection, response = daemon.open_stream(max_tokens=300, **LONG)
    daemon.process.send_signal(how)
    while daemon.fetch("/health/ready")[0] != 503:
        time.sleep(0.01)
    answer = daemon.ask(max_tokens=1)
    check_error(answer, 503, "shutting_down")
    assert answer[1]["Retry-After"] == "1"
    assert daemon.fetch("/health/live")[0] == 200
    assert events_of(response)[-1]["choices"][0]["finish_reason"] == "length"
    connection.close()
    assert daemon.process.wait(timeout=30) == 0


def test_after_the_drain_timeout_answers_are_cut_off_with_an_error(start):
    daemon = start("--drain-timeout", "0")
    connection, response = daemon.open_stream(**LONG)
    daemon.process.send_signal(signal.SIGTERM)
    assert events_of(response)[-1]["error"]["code"] == "shutting_down"
    connection.close()
    assert daemon.process.wait(timeout=30) == 0


def test_a_second_signal_does_not_wait(start):
    daemon = start("--max-num-seqs", "1")
    streams = [daemon.open_stream(**LONG) for _ in range(1)]
    daemon.process.send_signal(signal.SIGTERM)
    while daemon.fetch("/health/ready")[0] != 503:
        time.sleep(0.01)
    daemon.process.send_signal(signal.SIGTERM)
    assert "error" in events_of(streams[0][1])[-1]
    assert daemon.process.wait(timeout=10) == 0


def test_idle_clients_do_not_hold_up_the_end(start):
    daemon = start()
    with socket.create_connection((daemon.host, daemon.port)) as s:
        s.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
        s.recv(1000)
        assert daemon.stop() == 0


def test_the_log_has_one_line_a_request_and_no_prompts(start):
    daemon = start()
    secret = "ostrich-in-the-kitchen"
    daemon.ask(messages=[{"role": "user", "content": secret}], max_tokens=2, headers={"x-request-id": "mine"})
    daemon.ask(model=secret)
    assert daemon.stop() == 0
    log = daemon.log
    assert secret not in log
    assert log.count("request=mine ") == 1
    assert "status=404 code=model_not_found" in log
