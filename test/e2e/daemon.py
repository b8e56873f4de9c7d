"""A real vispecd process for tests, and the shortest ways to talk to it."""

from __future__ import annotations

import base64
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("VISPECD_BUILD", "build"))
BINARY = (BUILD if BUILD.is_absolute() else ROOT / BUILD) / "vispecd"
EMULATED = BINARY.parent / "emu" / "vispecd"  # the same with the CUDA device on the emulator
PICTURES = ROOT / "test" / "pictures"
GOLDEN = ROOT / "test" / "golden"
START_S = 60
CHAT = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def data_url(path: pathlib.Path) -> str:
    kind = "jpeg" if path.suffix in (".jpg", ".jpeg") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


class Daemon:
    """Starts the daemon on a free port and waits until it is ready; a context manager.

    Without a model folder the embedded model is served.  What it printed is in .greeting,
    its log in .log.
    """

    def __init__(self, *flags: str, model: pathlib.Path | None = None, binary: pathlib.Path = BINARY):
        self.host, self.port = "127.0.0.1", free_port()
        command = [str(binary), "--port", str(self.port), *flags]
        if model:
            command += ["--model", str(model)]
        self.files = [tempfile.TemporaryFile("w+") for _ in range(2)]
        self.process = subprocess.Popen(command, stdout=self.files[0], stderr=self.files[1], cwd=ROOT)
        self.wait_ready()

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def root(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return self.root + "/v1"

    def printed(self, file) -> str:
        return os.pread(file.fileno(), 1 << 24, 0).decode()

    @property
    def greeting(self) -> list[str]:
        return self.printed(self.files[0]).splitlines()

    @property
    def log(self) -> str:
        return self.printed(self.files[1])

    def wait_ready(self):
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended: {self.log}")
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
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        return self.process.returncode

    # ---- (status, headers, body), the body parsed if it is JSON -----------------------------------

    def exchange(self, method: str, path: str, body=None, headers=None) -> tuple:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        is_json = data and response.headers.get("Content-Type") == "application/json"
        return response.status, response.headers, json.loads(data) if is_json else data

    def fetch(self, path: str, headers=None) -> tuple:
        return self.exchange("GET", path, headers=headers)

    def body(self, **fields) -> str:
        """A chat request with fields changed."""
        messages = [{"role": "user", "content": "What is this?"}]
        return json.dumps({"model": self.model_name(), "messages": messages, **fields})

    def ask(self, headers=None, **fields) -> tuple:
        return self.exchange("POST", CHAT, self.body(**fields), {**JSON, **(headers or {})})

    # ---- shorter ones -----------------------------------------------------------------------------

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def chat(self, **fields) -> tuple[int, dict]:
        """POST /v1/chat/completions without streaming."""
        status, _, reply = self.ask(**fields)
        return status, reply

    def stream(self, **fields) -> list[dict]:
        """The same as a stream: its events, without [DONE], which must be the last."""
        status, _, reply = self.ask(stream=True, **fields)
        assert status == 200, reply
        events = [e for e in reply.decode().split("\n\n") if e.startswith("data: ")]
        assert events[-1] == "data: [DONE]", events[-1]
        return [json.loads(e[len("data: ") :]) for e in events[:-1]]

    def open_stream(self, **fields) -> tuple:
        """(connection, response) of a stream whose first event has come; the caller closes both."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        connection.request("POST", CHAT, self.body(stream=True, **fields), JSON)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.readline().startswith(b'data: {"id"')
        assert response.readline() == b"\n"
        return connection, response

    def model_name(self) -> str:
        if not hasattr(self, "_model_name"):
            self._model_name = json.loads(self.get("/v1/models")[1])["data"][0]["id"]
        return self._model_name

    def metric(self, name: str, **labels) -> float:
        """The value of a metric whose labels contain the given ones."""
        for line in self.get("/metrics")[1].decode().splitlines():
            match = re.fullmatch(r"([^{ ]+)\{(.*)\} (\S+)", line)
            if match and match[1] == name and all(f'{k}="{v}"' in match[2] for k, v in labels.items()):
                return float(match[3])
        raise KeyError(name)

    def wait_for_metric(self, value: float, name: str, seconds: float = 5, **labels):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.metric(name, **labels) != value:
            time.sleep(0.01)
        assert self.metric(name, **labels) == value
