"""Makes the pictures beside this file, and decoded.safetensors: their pixels as Pillow decodes them.

usage: make.py FOLDER      needs pillow (made with 13.0.0) and numpy; writes the files into FOLDER

ycck.jpg, which Pillow cannot write, is libjpeg's and only decoded here.
"""

import io
import json
import pathlib
import struct
import sys
import zlib

import numpy as np
from PIL import Image, ImageOps

HEIGHT, WIDTH = 30, 41
ORIENTATION = 0x0112


def test_pattern() -> np.ndarray:
    """Gradients, a texture and a block of noise, with alpha: none, all and everything between."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    rgba = np.stack([x * 6, y * 8, x * y % 256, np.clip((x - 8) * 12, 0, 255)], -1)
    rgba[8:16, 10:20, :3] = np.random.default_rng(7).integers(0, 256, (8, 10, 3))
    rgba[20:, :, 3] = 0
    rgba[:5, :, 3] = 255
    return rgba.astype(np.uint8)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    """The bytes of an image file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation: int) -> Image.Exif:
    """EXIF data with nothing but an orientation."""
    data = Image.Exif()
    data[ORIENTATION] = orientation
    return data


def webp_files(rgba: np.ndarray):
    """Yields name and bytes."""
    rgb, with_alpha = Image.fromarray(rgba[:, :, :3].copy()), Image.fromarray(rgba)
    upside_down = Image.fromarray(rgba[::-1].copy())
    yield "lossless.webp", saved(rgb, "WebP", lossless=True)
    yield "lossy.webp", saved(rgb, "WebP", quality=80)
    yield "one_pixel.webp", saved(rgb.crop((0, 0, 1, 1)), "WebP", quality=80)
    yield "lossless_alpha.webp", saved(with_alpha, "WebP", lossless=True, exact=True)
    yield "lossy_alpha.webp", saved(with_alpha, "WebP", quality=80, exact=True)
    animation = {"save_all": True, "append_images": [upside_down], "duration": 100}
    yield "animated.webp", saved(rgb, "WebP", lossless=True, **animation)
    yield "animated_alpha.webp", saved(with_alpha, "WebP", quality=70, **animation)

    # A larger canvas than the frame's, the frame inside of it.
    b = bytearray(saved(with_alpha, "WebP", quality=70, **animation))
    b[24:30] = (WIDTH + 9).to_bytes(3, "little") + (HEIGHT + 6).to_bytes(3, "little")
    frame = b.index(b"ANMF")
    b[frame + 8:frame + 14] = (6 // 2).to_bytes(3, "little") + (4 // 2).to_bytes(3, "little")
    yield "part_of_canvas.webp", bytes(b)

    b = bytearray(saved(rgb, "WebP", quality=80, exif=exif(6)))
    yield "exif6.webp", bytes(b)
    # The same EXIF as other writers have it: behind the header of a JPEG's marker.
    chunk = b.index(b"EXIF")
    body = b"Exif\0\0" + bytes(b[chunk + 8:])
    b[chunk + 4:] = len(body).to_bytes(4, "little") + body
    b[4:8] = (len(b) - 8).to_bytes(4, "little")
    yield "exif6_header.webp", bytes(b)


def gif_files(rgba: np.ndarray):
    """Yields name and bytes."""
    rgb = Image.fromarray(rgba[:, :, :3].copy())
    palette = rgb.quantize(60)
    yield "plain.gif", saved(palette, "GIF", interlace=0)
    yield "interlaced.gif", saved(palette, "GIF", interlace=1)
    yield "bilevel.gif", saved(rgb.convert("1"), "GIF")
    yield "grey.gif", saved(rgb.convert("L"), "GIF")
    upside_down = ImageOps.flip(rgb).quantize(60)
    yield "animated.gif", saved(palette, "GIF", save_all=True, append_images=[upside_down])
    transparent = saved(palette, "GIF", transparency=5, interlace=0)
    yield "transparent.gif", transparent

    # A larger canvas than the frame's, the frame inside of it, and its colours in its own table.
    size = transparent[10] & 7
    table_end = 13 + (3 << (size + 1))
    frame = transparent.index(b"," + struct.pack("<4H", 0, 0, WIDTH, HEIGHT), table_end)
    yield "part_of_canvas.gif", b"".join([
        transparent[:6], struct.pack("<2H", WIDTH + 10, HEIGHT + 7), b"\x70\0\0",
        transparent[table_end:frame + 1], struct.pack("<4H", 6, 4, WIDTH, HEIGHT),
        bytes([0x80 | size]), transparent[13:table_end], transparent[frame + 10:]])


def png(colour_type: int, depth: int, rows: list, transparent: bytes = b"", palette: bytes = b"") -> bytes:
    """A PNG file of rows that are packed already."""
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">2I5B", WIDTH, HEIGHT, depth, colour_type, 0, 0, 0)
    return b"".join([
        b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"PLTE", palette) if palette else b"",
        chunk(b"tRNS", transparent) if transparent else b"",
        chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows), 9)), chunk(b"IEND", b"")])


def png_files(rgba: np.ndarray):
    """Yields name and bytes: the kinds that are not among the golden pictures of hf/."""
    def packed(row: np.ndarray, depth: int) -> bytes:
        return np.packbits((row[:, None] >> np.arange(depth - 1, -1, -1)) & 1).tobytes()

    grey = rgba[:, :, 0]
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    wide = (rgba.astype(np.uint16) * 257 - (rgba > 3) * 100).astype(">u2")
    wide_grey = (x * 1500 + y * 37).astype(">u2")
    yield "grey2.png", png(0, 2, [packed(row >> 6, 2) for row in grey])
    yield "grey4.png", png(0, 4, [packed(row >> 4, 4) for row in grey])
    yield "grey_trns.png", png(0, 8, [row.tobytes() for row in grey], struct.pack(">H", grey[0, 7]))
    colours = bytes([200, 10, 30, 0, 255, 90, 17, 34, 240, 255, 255, 1])
    yield "palette1.png", png(3, 1, [packed(row >> 7, 1) for row in grey], palette=colours[:6])
    yield "palette2_trns.png", png(3, 2, [packed(row >> 6, 2) for row in grey], bytes([255, 0, 99]), colours)
    yield "rgb_trns.png", png(2, 8, [row[:, :3].tobytes() for row in rgba],
                              struct.pack(">3H", *rgba[12, 12, :3].tolist()))
    yield "grey_alpha16.png", png(4, 16, [row.tobytes() for row in
                                          np.dstack([wide_grey, wide[:, :, 3]])])
    yield "rgba16.png", png(6, 16, [row.tobytes() for row in wide])


def jpeg_files(rgba: np.ndarray):
    """Yields name and bytes: the kinds that are not among the golden pictures of hf/."""
    rgb = Image.fromarray(rgba[:, :, :3].copy())
    yield "sampling422.jpg", saved(rgb, "JPEG", quality=85, subsampling=1)
    yield "sampling420.jpg", saved(rgb, "JPEG", quality=85, subsampling=2)
    yield "rgb.jpg", saved(rgb, "JPEG", quality=85, keep_rgb=True)
    for orientation in (2, 4, 5, 7):
        yield f"exif{orientation}.jpg", saved(rgb, "JPEG", quality=30, exif=exif(orientation))


def as_decoded(path: pathlib.Path) -> np.ndarray:
    """The upright first frame on white."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            white.paste(image, mask=image.getchannel("A"))
            image = white
        return np.asarray(image.convert("RGB"))


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    rgba = test_pattern()
    for files in webp_files, gif_files, png_files, jpeg_files:
        for name, content in files(rgba):
            (folder / name).write_bytes(content)

    header, data = {}, b""
    for path in sorted(folder.iterdir()):
        if path.suffix not in {".gif", ".jpg", ".png", ".webp"}:
            continue
        pixels = as_decoded(path)
        header[path.name] = {"dtype": "U8", "shape": pixels.shape,
                             "data_offsets": [len(data), len(data) + pixels.size]}
        data += pixels.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (folder / "decoded.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)


if __name__ == "__main__":
    main()
