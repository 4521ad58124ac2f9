"""Write what the encoder of a run makes of a folder of images: one row of numbers for each file.

    ssl-jax embed runs/simclr_digits photos --out photos.npy
    ssl-jax embed --workdir runs/simclr_digits photos --out photos.npy
    ssl-jax embed simclr_digits.safetensors photos --out photos.parquet

``.npy`` holds the rows, float32 [n, d], and ``photos.json`` beside it their paths below the folder, in the same order.
``.parquet`` holds both, the columns "path" and "embedding", and needs pyarrow (the extra "parquet"). Files that
cannot be read have no row: they are counted, and ``photos.npy.unreadable.txt`` holds each with the reason. Exit codes:
0 done, 1 it failed, 2 refused before anything was done, or none of the files can be read.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

import ssl_jax
from ssl_jax import api
from ssl_jax.run import command, embedding

SUFFIXES = (".npy", ".parquet")


def main(arguments: list[str]) -> int:
    parser = command.Parser("Write what the encoder of a run makes of a folder of images.")
    parser.add_run("run", help="folder of a run, or a file of `ssl-jax export`")
    parser.add_path("folder", help="of images of any sizes; those below it count, too")
    parser.add_path("--out", required=True, help="a file that ends in .npy or .parquet")
    parser.add_argument(
        "--layer", default="features", help='a stage, "stage1", or "logits" of a classifier; default: features'
    )
    parser.add_argument("--batch_size", type=int, default=256, help="images that are computed at once; default: 256")
    try:
        given = parser.parse_args(arguments)
        run, folder = given.run, given.folder
        out = check(Path(given.out))
        opened = api.opened(run)
        if not opened.modality.shown:
            raise ValueError(f"{run} is a run on text; embed texts from Python, ssl_jax.embed(run, texts)")
        paths = ssl_jax.images_of(folder)
        found, broken = embedding.embed(opened, paths, layer=given.layer, batch_size=given.batch_size)
    except ValueError as error:
        return command.refuse(error)
    names = [os.fsencode(os.path.relpath(path, folder)).decode("utf-8", "backslashreplace") for path in paths]
    kept = [i for i in range(len(names)) if i not in broken]
    aside = out.with_name(f"{out.name}.unreadable.txt")
    try:
        write(out, found[kept], [names[i] for i in kept])
        aside.unlink(missing_ok=True)
        if broken:
            aside.write_text("".join(f"{names[i]}\t{broken[i]}\n" for i in sorted(broken)))
    except OSError as error:
        print(f"the embeddings could not be written: {error}", file=sys.stderr)
        return 1
    print(f"{out}: {len(kept)} images, {found.shape[1]} numbers each")
    if broken:
        share, said = 100 * len(broken) / len(names), embedding.by_reason(broken, names, 3)
        print(
            f"{len(broken)} of {len(names)} files ({share:.2g} %) cannot be read and are left out: {said}; see {aside}"
        )
    return 0


def check(out: Path) -> Path:
    """The file to be written, after a look at whether it can be.

    Raises:
      ValueError: it cannot.
    """
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out {out} must end in {' or '.join(SUFFIXES)}")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(f"--out {out} needs pyarrow; pip install 'ssl_jax[parquet]', or write .npy")
    if out.is_dir() or not os.access(out.absolute().parent, os.W_OK):
        raise ValueError(f"--out {out} cannot be written; name a file in a folder that is there and yours")
    return out


def write(out: Path, found: np.ndarray, names: Sequence[str]) -> None:
    """The rows and what file each is of; whole or not at all."""
    aside = out.with_name(f"{out.name}.tmp")
    try:
        if out.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet

            rows = pa.FixedSizeListArray.from_arrays(pa.array(found.reshape(-1)), found.shape[1])
            pyarrow.parquet.write_table(pa.table({"path": pa.array(names, pa.string()), "embedding": rows}), aside)
        else:
            with aside.open("wb") as file:
                np.save(file, found)
            out.with_suffix(".json").write_text(json.dumps(names, indent=0, ensure_ascii=False) + "\n")
        aside.replace(out)
    finally:
        aside.unlink(missing_ok=True)


if __name__ == "__main__":
    command.run(main)
