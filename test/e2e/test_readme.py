"""README's code blocks, executed as printed: the sh blocks by a shell, the python blocks by Python.

The first block starts the daemon on its default port and goes on running; the others talk to it.
"""

import os
import re
import signal
import socket
import subprocess
import sys

from daemon import ROOT

PORT = 8000
TIMEOUT_S = 120


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)


def run_block(language: str, code: str) -> str:
    command = ["bash", "-euo", "pipefail", "-c", code]
    if language == "python":
        command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
    return done.stdout


def read_curl_line(daemon: subprocess.Popen) -> str:
    """The line that the daemon prints when it is ready."""
    for line in daemon.stdout:
        if line.startswith("curl "):
            return line
    raise AssertionError("the daemon ended without a curl line")


def test_every_code_block_of_the_readme_works():
    (language, start), *others = blocks()
    assert language == "sh" and start.strip() == "make run"
    assert len(others) >= 3 and {language for language, _ in others} == {"sh", "python"}
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", PORT)) != 0, f"port {PORT} is taken"
    env = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    daemon = subprocess.Popen(["bash", "-c", start], cwd=ROOT, env=env, start_new_session=True,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        curl_line = read_curl_line(daemon)
        outputs = [run_block(language, code) for language, code in others]
        assert '"content"' in run_block("sh", curl_line)
    finally:
        os.killpg(daemon.pid, signal.SIGINT)
        daemon.communicate(timeout=60)
    assert '"finish_reason":"stop"' in outputs[0]
    assert "data: [DONE]" in outputs[1]
    assert "rounds" in outputs[2]
