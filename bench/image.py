"""A 12-megapixel JPEG to the values of LLaVA-1.5's tower: ours against stock Pillow and NumPy.

usage: image.py      needs pillow and numpy, and build/bench/image (make bench)

The picture is a photo of the golden data, enlarged, with noise on it, as a camera held upright stores it.
"""

import io
import json
import pathlib
import tempfile

import numpy as np
from PIL import Image, ImageOps
from turns import ROOT, Program, compare, print_header

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SIZE = 336
ORIENTATION = 0x0112


def make_photo(**options) -> bytes:
    small = Image.open(ROOT / "test" / "golden" / "hf" / "images" / "01_baseline.jpg").convert("RGB")
    pixels = np.asarray(small.resize((4000, 3000), Image.Resampling.BICUBIC)).astype(np.float32)
    pixels += np.random.default_rng(1).normal(0, 3, pixels.shape).astype(np.float32)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90, exif=exif, **options)
    return out.getvalue()


def values_of(data: bytes) -> float:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    width, height = image.size
    if width <= height:
        width, height = SIZE, SIZE * height // width
    else:
        width, height = SIZE * width // height, SIZE
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    image = image.crop((left, top, left + SIZE, top + SIZE))
    values = np.asarray(image, dtype=np.float32) * np.float32(1 / 255)
    values = np.ascontiguousarray(((values - np.float32(MEAN)) / np.float32(STD)).transpose(2, 0, 1))
    return float(values.mean(dtype=np.float64))


def main():
    config = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIZE},
              "crop_size": SIZE, "image_mean": MEAN, "image_std": STD}
    with tempfile.TemporaryDirectory() as folder:
        config_path = pathlib.Path(folder) / "preprocessor_config.json"
        config_path.write_text(json.dumps(config))
        print_header()
        for case, options in {"baseline": {}, "progressive": {"progressive": True}}.items():
            path = pathlib.Path(folder) / f"{case}.jpg"
            data = make_photo(**options)
            path.write_bytes(data)
            compare(f"jpeg_12mp_{case}", Program("image", path, config_path), lambda data=data: values_of(data))


main()
