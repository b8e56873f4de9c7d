"""A real vispecd process for tests, and the shortest way to talk to it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("VISPECD_BUILD", "build"))
BINARY = (BUILD if BUILD.is_absolute() else ROOT / BUILD) / "vispecd"
PICTURES = ROOT / "test" / "pictures"
GOLDEN = ROOT / "test" / "golden"
START_S = 60


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def data_url(path: pathlib.Path) -> str:
    kind = "jpeg" if path.suffix in (".jpg", ".jpeg") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


class Daemon:
    """Starts the daemon on a free port and waits until it is ready; a context manager.

    Without a model folder the embedded model is served.  The log is kept in .log after stop().
    """

    def __init__(self, *flags: str, model: pathlib.Path | None = None):
        self.port = free_port()
        command = [str(BINARY), "--port", str(self.port), *flags]
        if model:
            command += ["--model", str(model)]
        self.log = ""
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        self.wait_ready()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def wait_ready(self):
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended: {self.process.stderr.read()}")
            try:
                if self.get("/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError("the daemon was not ready in time")

    def stop(self, with_signal: int = signal.SIGTERM) -> int:
        """Ends the process and returns its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        try:
            self.log += self.process.communicate(timeout=60)[1] or ""
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.log += self.process.communicate()[1] or ""
        return self.process.returncode

    def request(self, method: str, path: str, body=None, headers=None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> tuple[int, bytes]:
        return self.request("GET", path)

    def chat(self, **fields) -> tuple[int, dict]:
        """POST /v1/chat/completions without streaming."""
        body = json.dumps({"model": self.model_name(), **fields})
        status, reply = self.request("POST", "/v1/chat/completions", body,
                                     {"Content-Type": "application/json"})
        return status, json.loads(reply)

    def stream(self, **fields) -> list[dict]:
        """The same as a stream: its events, without [DONE], which must be the last."""
        body = json.dumps({"model": self.model_name(), "stream": True, **fields})
        status, reply = self.request("POST", "/v1/chat/completions", body,
                                     {"Content-Type": "application/json"})
        assert status == 200, reply
        events = [e for e in reply.decode().split("\n\n") if e.startswith("data: ")]
        assert events[-1] == "data: [DONE]", events[-1]
        return [json.loads(e[len("data: "):]) for e in events[:-1]]

    def model_name(self) -> str:
        if not hasattr(self, "_model_name"):
            self._model_name = json.loads(self.get("/v1/models")[1])["data"][0]["id"]
        return self._model_name
