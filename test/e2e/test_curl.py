"""What people type: the line that the daemon prints, and curl's usual mistakes."""

import json
import shlex
import subprocess


def curl(*arguments):
    done = subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout


def test_the_printed_line_works(daemon):
    assert "ready in" in daemon.greeting[0]
    done = subprocess.run(shlex.split(daemon.greeting[-1]), capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_a_picture_from_a_file(daemon, red_square, tmp_path):
    body = tmp_path / "body.json"
    message = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": red_square}}]}
    body.write_text(json.dumps({"model": daemon.model_name(), "messages": [message], "max_tokens": 8}))
    out = curl(
        daemon.root + "/v1/chat/completions", "-H", "Content-Type: application/json", "--data-binary", f"@{body}"
    )
    assert json.loads(out)["usage"]["completion_tokens"] <= 8


def test_a_stream(daemon):
    body = daemon.body(stream=True, max_tokens=5)
    out = curl("-N", daemon.root + "/v1/chat/completions", "-H", "Content-Type: application/json", "-d", body)
    assert out.endswith("data: [DONE]\n\n")


def test_the_forgotten_header_is_explained(daemon):
    out = json.loads(curl(daemon.root + "/v1/chat/completions", "-d", daemon.body()))
    assert "-H 'Content-Type: application/json'" in out["error"]["message"]


def test_a_large_body_with_expect_is_refused_before_it_is_sent(daemon, tmp_path):
    body = tmp_path / "large"
    with body.open("wb") as f:
        f.truncate(200 << 20)
    out = curl(
        "-w", "\n%{http_code} %{size_upload}", daemon.root + "/v1/chat/completions",
        "-H", "Content-Type: application/json", "-H", "Expect: 100-continue", "--data-binary", f"@{body}",
    )  # fmt: skip
    status, n_sent = out.splitlines()[-1].split()
    assert status == "413"
    assert int(n_sent) == 0
