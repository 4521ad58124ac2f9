"""Images in memory: scikit-learn's digits, and npz files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ssl_jax.data import overlap
from ssl_jax.data.source import Source, as_stored, from_arrays


def digits() -> Source:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ValueError("data.source 'digits' needs scikit-learn; `pip install scikit-learn`") from error
    pixels, labels = load_digits(return_X_y=True)
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255.0 / 16.0)).astype(np.uint8)  # stored as 0..16
    return from_arrays(images, labels.astype(np.int32))


def npz(path: Path) -> tuple[Source, Source | None]:
    known = ("train_images", "train_labels", "test_images", "test_labels")
    if not path.is_file():
        raise ValueError(f"npz file {str(path)!r} is not there; give data.source=npz:<path of a file>")
    try:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except ValueError as error:  # NumPy's advice is to run the code that may be in there
        said = "objects or text, not arrays" if "allow_pickle" in str(error) else error
        raise ValueError(f"{str(path)!r} cannot be read as npz ({said}); write it with np.savez") from error
    except (OSError, EOFError, KeyError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as npz ({error}); write it with np.savez") from error
    except Exception as error:  # zipfile and zlib have errors of their own
        raise ValueError(f"{str(path)!r} is not a whole npz file ({error}); write it again with np.savez") from error
    wrong = sorted(set(arrays) - set(known))
    if wrong or "train_images" not in arrays or ("test_labels" in arrays and "test_images" not in arrays):
        raise ValueError(
            f"{str(path)!r} holds {', '.join(sorted(arrays)) or 'nothing'}; "
            f"it must hold train_images and may hold {', '.join(known[1:])}"
        )
    try:
        train = _stored(arrays, "train", path)
        if "test_images" not in arrays:
            return train, None
        test = _stored(arrays, "test", path, labelled=train.labels is not None and bool((train.labels >= 0).any()))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return train, beside(train, test, str(path), ("train_images", "test_images"))


def beside(train: Source, test: Source, where: str, names: tuple[str, str]) -> Source:
    """The test examples of a dataset in memory, with what they share with train in their notes.

    Raises:
      ValueError: their images are of another shape.
    """
    shapes = [part.columns["image"].shape[1:] for part in (train, test) if "image" in part.columns]
    if len(set(shapes)) > 1:
        raise ValueError(f"{where}: train images are {shapes[0]}, test images {shapes[1]}; make them one shape")
    notes = overlap.check(overlap.digests(train) or (), overlap.digests(test) or (), where, names)
    return dataclasses.replace(test, notes=(*test.notes, *notes))


def _stored(arrays: dict[str, np.ndarray], split: str, path: Path, labelled: bool = False) -> Source:
    found = as_stored(arrays[f"{split}_images"], arrays.get(f"{split}_labels"), labelled=labelled)
    return dataclasses.replace(found, why_unlabelled=f"there is no {split}_labels in {path.name}")
