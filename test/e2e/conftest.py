"""Fixtures: daemons to test against, which serve the embedded model."""

import base64
import io

import pytest
from daemon import Daemon
from PIL import Image

# A long answer, whatever the model would like to say.
LONG = {"ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="session")
def daemon():
    """The daemon that most tests share."""
    with Daemon() as d:
        yield d


@pytest.fixture
def start():
    """start(*flags) gives a daemon of the test's own."""
    daemons = []

    def start_one(*flags):
        daemons.append(Daemon(*flags))
        return daemons[-1]

    yield start_one
    for d in daemons:
        d.process.kill()
        d.process.wait()


def image_url(image, file_format="PNG", **options):
    """A Pillow image as a data: URL."""
    out = io.BytesIO()
    image.save(out, file_format, **options)
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
    return image_url(picture)
