"""Writes test/pictures: held-out scenes as PNG and JPEG, and what they show (contents.json)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from scenes import Painter, visible_scene

SEED = 20261127
N_PICTURES = 44


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--emoji", type=Path, required=True, help="unpacked emoji package")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    painter = Painter(args.emoji)
    contents = {}
    for i in range(N_PICTURES):
        rng = np.random.default_rng([SEED, i])
        scene = visible_scene(painter, rng, evaluation=True)
        side = int(rng.choice([128, 160, 192])) if i % 6 else 256
        picture, _ = painter.paint(scene, rng, side)
        name = f"scene{i:02d}.{'png' if i % 6 else 'jpg'}"
        if name.endswith("png"):
            picture.save(args.out / name, optimize=True)
        else:
            picture.save(args.out / name, quality=85)
        contents[name] = {"side": side, **scene.describe()}
    (args.out / "contents.json").write_text(json.dumps(contents, indent=1) + "\n")


if __name__ == "__main__":
    main()
