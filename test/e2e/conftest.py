"""Daemons to test against: real processes of the built program, on free ports, serving the embedded model."""

import base64
import http.client
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import time
import urllib.parse

import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = ROOT / os.environ.get("VISPECD_BUILD", "build") / "vispecd"


class Daemon:
    """A running vispecd.  Its log is in self.log_path; stop() returns its exit status."""

    def __init__(self, folder, *flags):
        self.log_path = folder / "log"
        with self.log_path.open("w") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "--port", "0", *flags], stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.greeting = []
        while not (self.greeting and self.greeting[-1].startswith("curl ")):
            line = self.process.stdout.readline()
            if not line:
                self.process.wait()
                raise RuntimeError(f"vispecd did not start: {self.log_path.read_text()}")
            self.greeting.append(line.rstrip("\n"))
        self.url = self.greeting[1]
        parts = urllib.parse.urlsplit(self.url)
        self.host, self.port = parts.hostname, parts.port
        self.model = self.get("/v1/models")[2]["data"][0]["id"] if "--api-key-file" not in flags else None

    def request(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, parsed body) of one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        is_json = response.headers.get("Content-Type", "").startswith("application/json")
        return response.status, response.headers, json.loads(data) if is_json and data else data

    def get(self, path, headers=None):
        return self.request("GET", path, headers=headers)

    def body(self, **fields):
        return {"model": self.model, "messages": [{"role": "user", "content": "What is this?"}], **fields}

    def chat(self, headers=None, **fields):
        """Posts a chat request whose body is the usual one with fields changed."""
        body = json.dumps(self.body(**fields))
        return self.request(
            "POST", "/v1/chat/completions", body, {"Content-Type": "application/json", **(headers or {})}
        )

    def open_stream(self, **fields):
        """(connection, response) of a stream whose first event has come; the caller closes both."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        body = json.dumps(self.body(stream=True, **fields))
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.readline().startswith(b'data: {"id"')
        assert response.readline() == b"\n"
        return connection, response

    def metric(self, name, **labels):
        """The value of a metric whose labels contain the given ones."""
        for line in self.get("/metrics")[2].decode().splitlines():
            match = re.fullmatch(r"([^{ ]+)\{(.*)\} (\S+)", line)
            if match and match[1] == name and all(f'{k}="{v}"' in match[2] for k, v in labels.items()):
                return float(match[3])
        raise KeyError(name)

    def wait_for_metric(self, value, name, seconds=5.0, **labels):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.metric(name, **labels) == value:
                return
            time.sleep(0.01)
        assert self.metric(name, **labels) == value

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


# A long answer, whatever the model would like to say.
LONG = {"ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    """The daemon that most tests share."""
    d = Daemon(tmp_path_factory.mktemp("vispecd"))
    yield d
    d.kill()


@pytest.fixture
def start(tmp_path):
    """start(*flags) gives a daemon of the test's own."""
    daemons = []

    def start_one(*flags):
        folder = tmp_path / str(len(daemons))
        folder.mkdir()
        daemons.append(Daemon(folder, *flags))
        return daemons[-1]

    yield start_one
    for d in daemons:
        d.kill()


def data_url(image, file_format="PNG"):
    out = io.BytesIO()
    image.save(out, file_format)
    return f"data:image/{file_format.lower()};base64," + base64.b64encode(out.getvalue()).decode()


def picture_messages(url, text="What is this?"):
    return [
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}],
        }
    ]


@pytest.fixture(scope="session")
def red_square():
    """A small picture as a data: URL."""
    picture = Image.new("RGB", (96, 96), "white")
    picture.paste((220, 20, 20), (24, 24, 72, 72))
    return data_url(picture)
