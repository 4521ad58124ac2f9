"""Broken and odd image files by the hundred: is every one of them read right, or named?

    python experiments/faults_images.py --count 1000 --out /tmp/faults_images

A file survives if it is named among the unreadable, or if its pixels in the evaluation batch are those that Pillow,
asked here by itself, reads from the very same bytes. Everything else is lost: a file that is masked during the run, and
one that is named although Pillow reads it, unless it is a JPEG of the kinds in ``REFUSABLE``. Pillow decodes in silence
over much of their damage, and the full check may refuse them. What it does not refuse need not look like the image
before the damage: a JPEG has no checksum to tell. It must look as Pillow sees it.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import numpy as np
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ssl_jax.data import readers
from ssl_jax.data.images import recipes, stream
from ssl_jax.run import command

SIDE = 32
BATCH = 64
TOLERANCE = 3 / 255  # mean absolute difference from Pillow's decoder and resize
CLASSES = ("a", "b", "c")
ORIENTATION = 0x0112
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # EXIF orientation -> Image.Transpose that undoes it
REFUSABLE = ("flipped bytes", "zero bytes", "giant header")
SUFFIX = {"JPEG": ".jpg", "PNG": ".png", "GIF": ".gif", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tiff"}
File = tuple[str, bytes]  # suffix and content
Random = np.random.Generator


def smooth(rng: Random, channels: int = 3, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """A random image without the high frequencies that decoders and resizes differ in."""
    small = rng.integers(0, 256, (5, 5, channels), np.uint8)
    layers = [Image.fromarray(small[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(channels)]
    image = np.stack([np.asarray(layer) for layer in layers], -1)
    return image[..., 0] if channels == 1 else image


def encode(image: Image.Image, form: str, **options: Any) -> File:
    data = io.BytesIO()
    image.save(data, form, **options)
    return SUFFIX[form], data.getvalue()


def png(width: int, height: int, bits: int, colour: int, data: bytes) -> bytes:
    """A PNG file by hand, whose header may promise anything."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def rgb(rng: Random) -> Image.Image:
    return Image.fromarray(smooth(rng))


def grey(rng: Random) -> Image.Image:
    return Image.fromarray(smooth(rng, 1))


def frames(rng: Random) -> dict[str, Any]:
    return {"save_all": True, "append_images": [rgb(rng), rgb(rng)]}


def sixteen_bits_rgb(rng: Random) -> File:
    values = smooth(rng).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return ".png", png(SIDE, SIDE, 16, 2, zlib.compress(rows))


def palette(rng: Random) -> File:
    image = rgb(rng).quantize(8)
    return encode(image, "PNG", transparency=int(rng.integers(8)))


def turned(rng: Random) -> File:
    exif = Image.Exif()
    exif[ORIENTATION] = int(rng.integers(1, 9))
    form = ("JPEG", "PNG", "WEBP", "TIFF")[rng.integers(4)]
    return encode(rgb(rng), form, exif=exif)


def other_size(rng: Random) -> File:
    width, height = (int(n) for n in rng.integers(1, 97, 2))
    form = ("JPEG", "PNG", "BMP")[rng.integers(3)]
    return encode(Image.fromarray(smooth(rng, 3, width, height)), form)


WHOLE: dict[str, Callable[[Random], File]] = {
    "jpeg": lambda rng: encode(rgb(rng), "JPEG", quality=int(rng.integers(60, 96))),
    "grey jpeg": lambda rng: encode(grey(rng), "JPEG"),
    "progressive jpeg": lambda rng: encode(rgb(rng), "JPEG", progressive=True),
    "restart jpeg": lambda rng: encode(rgb(rng), "JPEG", restart_marker_blocks=1, subsampling=0),
    "cmyk jpeg": lambda rng: encode(rgb(rng).convert("CMYK"), "JPEG"),
    "rgb jpeg": lambda rng: encode(rgb(rng), "JPEG", keep_rgb=True),
    "png": lambda rng: encode(rgb(rng), "PNG"),
    "grey png": lambda rng: encode(grey(rng), "PNG"),
    "bilevel png": lambda rng: encode(grey(rng).convert("1"), "PNG"),
    "transparent png": lambda rng: encode(Image.fromarray(smooth(rng, 4)), "PNG"),
    "grey transparent png": lambda rng: encode(Image.fromarray(smooth(rng, 2), "LA"), "PNG"),
    "palette png": palette,
    "16-bit grey png": lambda rng: encode(Image.fromarray(smooth(rng, 1).astype(np.uint16) * 257), "PNG"),
    "16-bit png": sixteen_bits_rgb,
    "gif": lambda rng: encode(rgb(rng), "GIF"),
    "animated gif": lambda rng: encode(rgb(rng), "GIF", **frames(rng)),
    "webp": lambda rng: encode(rgb(rng), "WEBP", quality=90),
    "lossless webp": lambda rng: encode(Image.fromarray(smooth(rng, 4)), "WEBP", lossless=True),
    "animated webp": lambda rng: encode(rgb(rng), "WEBP", **frames(rng)),
    "bmp": lambda rng: encode(rgb(rng), "BMP"),
    "tiff": lambda rng: encode(rgb(rng), "TIFF"),
    "compressed tiff": lambda rng: encode(rgb(rng), "TIFF", compression="tiff_lzw"),
    "turned": turned,
    "another size": other_size,
}


def some(rng: Random) -> File:
    """Any whole file; the JPEG that TensorFlow decodes as often as all others."""
    kinds = list(WHOLE)
    return WHOLE["jpeg" if rng.random() < 0.5 else kinds[rng.integers(len(kinds))]](rng)


def truncated(rng: Random) -> File:
    suffix, data = some(rng)
    return suffix, data[: rng.integers(1, len(data))]


def flipped(rng: Random) -> File:
    suffix, data = some(rng)
    values = np.frombuffer(data, np.uint8).copy()
    at = rng.integers(0, len(values), int(rng.integers(1, 9)))
    values[at] = rng.integers(0, 256, len(at))
    return suffix, values.tobytes()


def zeroed(rng: Random) -> File:
    suffix, data = some(rng)
    start = int(rng.integers(len(data)))
    stop = min(len(data), start + int(rng.integers(1, 64)))
    return suffix, data[:start] + bytes(stop - start) + data[stop:]


def wrong_suffix(rng: Random) -> File:
    _, data = some(rng)
    return (*SUFFIX.values(), ".tga", ".ico", ".jp2")[rng.integers(9)], data


def appended(rng: Random) -> File:
    suffix, data = some(rng)
    return suffix, data + rng.bytes(int(rng.integers(1, 200)))


def giant(rng: Random) -> File:
    """A small file whose header promises another size, mostly one that no memory holds."""
    side = (65_000, 65_000, 20_000, 1_500, SIDE + 8, 0)[rng.integers(6)]
    form = ("PNG", "JPEG", "GIF", "BMP")[rng.integers(4)]
    if form == "PNG":
        return ".png", png(side, side, 8, 2, zlib.compress(bytes(SIDE * (3 * SIDE + 1))))
    suffix, data = encode(rgb(rng), form)
    big, little = struct.pack(">HH", side, side), struct.pack("<HH", side, side)
    at = {"JPEG": data.find(b"\xff\xc0") + 5, "GIF": 6, "BMP": 18}[form]
    size = {"JPEG": big, "GIF": little, "BMP": struct.pack("<ii", side, side)}[form]
    return suffix, data[:at] + size + data[at + len(size) :]


def bomb(rng: Random) -> File:
    """A PNG of some kilobytes that holds more pixels than ``Decoding.max_pixels``, every one of them."""
    side = int(rng.integers(9_500, 9_600))
    return ".png", png(side, side, 1, 0, zlib.compress(bytes(side * (1 + -(-side // 8)))))


DAMAGED: dict[str, Callable[[Random], File]] = {
    "truncated": truncated,
    "flipped bytes": flipped,
    "zero bytes": zeroed,
    "wrong suffix": wrong_suffix,
    "appended bytes": appended,
    "giant header": giant,
    "empty": lambda rng: (list(SUFFIX.values())[rng.integers(6)], b""),
    "text": lambda rng: (list(SUFFIX.values())[rng.integers(6)], b"this is no image\n" * int(rng.integers(1, 99))),
    "noise": lambda rng: (list(SUFFIX.values())[rng.integers(6)], rng.bytes(int(rng.integers(1, 2000)))),
}


def kind_of(i: int) -> tuple[str, Callable[[Random], File]]:
    """What file ``i`` is: a third whole, two thirds damaged, one in a hundred a bomb."""
    if i % 100 == 99:
        return "bomb", bomb
    kinds = list((WHOLE if i % 3 == 0 else DAMAGED).items())
    return kinds[(i // 3 if i % 3 == 0 else i) % len(kinds)]


def by_pillow(path: Path) -> np.ndarray | None:
    """The image at ``SIDE``, float in [0, 1], as Pillow alone sees it; None where it cannot decode the whole file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(path.read_bytes()))  # Pillow leaves paths open where a plugin fails
            image.load()
            try:
                turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
            except Exception:  # broken EXIF says nothing of the pixels
                turn = None
            image = image if turn is None else image.transpose(Image.Transpose(turn))
            if image.mode == "F":
                return None  # no known range: refused by the data pipeline, and named
            if image.mode.startswith("I"):
                image = Image.fromarray(np.rint(np.clip(np.asarray(image, np.float64) / 257, 0, 255)).astype(np.uint8))
            if image.has_transparency_data:
                colours = np.asarray(image.convert("RGBA"), np.float64)
                alpha = colours[..., 3:] / 255
                image = Image.fromarray(np.rint(colours[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))
            image = image.convert("RGB")
            if image.size != (SIDE, SIDE):
                image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
            return np.asarray(image, np.float32) / np.float32(255)
        except Exception:  # as many kinds as there are plugins
            return None


def read(root: Path, cache: Path) -> tuple[dict[str, np.ndarray], set[str], int]:
    """Every file through the data pipeline: pixels by relative path, the unreadable, how many came twice."""
    splits = readers.load(f"folder:{root}", max_unreadable=1.0, cache_dir=str(cache))
    recipe = recipes.Eval(kind="resize")
    images: dict[str, np.ndarray] = {}
    twice = 0
    for part in splits:
        batches = stream.eval_batches(part, image_size=SIDE, recipe_eval=recipe, global_batch_size=BATCH)
        for batch in batches:
            for row in np.flatnonzero(batch["mask"]):
                name = os.path.relpath(str(part.columns["path"][batch["index"][row]]), root)
                twice += name in images
                images[name] = batch["image"][row]
    return images, set(splits.train.unreadable), twice


def jpeg(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\xff\xd8"


def verdict(expected: np.ndarray | None, image: np.ndarray | None, unreadable: bool, refusable: bool) -> str | None:
    """What is wrong with what became of a file, None if nothing. ``refusable``: may be named though Pillow reads it."""
    if unreadable and image is not None:
        return "named as unreadable and read"
    if unreadable:
        return None if expected is None or refusable else "named as unreadable, and Pillow reads it"
    if image is None:
        return "neither read nor named when the index was built"
    if expected is None:
        return "read, and Pillow cannot decode it"
    apart = float(np.abs(image - expected).mean())
    return None if apart <= TOLERANCE else f"{255 * apart:.1f} of 255 from Pillow's pixels"


def tried(count: int, out: Path, seed: int = 0) -> dict[str, Any]:
    """Make ``count`` files under ``out/images`` and read them all.

    Returns:
      ``{"tried": int, "survived": int, "lost": int, "unreadable": int, "examples": up to 20 lines on the lost}``.
    """
    root = out / "images"
    kinds: dict[str, str] = {}
    for i in range(count):
        kind, make = kind_of(i)
        suffix, data = make(np.random.default_rng([seed, i]))
        name = f"{CLASSES[i % len(CLASSES)]}/{i:06d}{suffix}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        kinds[name] = kind
    images, unreadable, twice = read(root, out / "cache")
    lost = [f"{twice} examples came twice"] if twice else []
    for name, kind in kinds.items():
        refusable = kind in REFUSABLE and jpeg(root / name)
        wrong = verdict(by_pillow(root / name), images.get(name), name in unreadable, refusable)
        if wrong:
            lost.append(f"{name} ({kind}): {wrong}")
    return {
        "tried": count,
        "survived": count - len(lost),
        "lost": len(lost),
        "unreadable": len(unreadable),
        "examples": lost[:20],
    }


def main(arguments: list[str]) -> int:
    parser = command.Parser("Broken and odd image files through the data pipeline.")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_path("--out", required=True, help="an empty folder, for the files and their index")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    found = tried(options.count, Path(options.out), options.seed)
    print(json.dumps(found, indent=2))
    return 1 if found["lost"] else 0


if __name__ == "__main__":
    command.run(main)
