"""The pictures that an evaluation has drawn, as its report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssl_jax.evals.shared.report import Figure
from ssl_jax.evals.shared.results import Found

CAPTIONS = {
    "curves": ("Training curves", "As the run logged them; val_ metrics are of examples held out of train."),
    "views": ("Views", "Images, and the random views of them that the method was trained on."),
    "task": ("Task", "What the method is asked, and what it answers."),
    "reconstructions": ("Reconstructions", "Test images and what the decoder makes of their features."),
    "low_label": ("Few labels", "Linear accuracy on test by labels per class; the band is one deviation over draws."),
    "energy": ("Energy of pairs", "Negative cosine of two views of an image, and of two images; no gap is collapse."),
    "spectrum": ("Spectrum", "Eigenvalues of the features' covariance, and the power law fitted to them."),
    "projection": (
        "Projections",
        "Test features in the plane, by class; trustworthiness 1 invents no neighbour.",
    ),
    "neighbours": ("Nearest neighbours", "Test examples and the training examples nearest to them by cosine."),
}
OF_TRAINING = ("curves", "views")  # the same whatever data the run is evaluated on


def pictures(found: Found) -> list[Figure]:
    """Those of the evaluators, then those of the run itself."""
    drawn = []
    for name, entry in found.result["evaluators"].items():
        drawn += of_evaluator(found.home, name, entry["figures"])
    # Of text the neighbours are no picture but what was found, which the report puts into words.
    of_run = [found.home / "pictures" / f"{name}{kind}" for name in CAPTIONS for kind in (".png", ".json")]
    return drawn + [
        Figure(path, *CAPTIONS[path.stem], "pictures", path.stem not in OF_TRAINING)
        for path in of_run
        if path.is_file()
    ]


def of_evaluator(home: Path, name: str, files: Sequence[str]) -> list[Figure]:
    """An evaluator's pictures, with what there is to say of them; files of an earlier evaluation could lie anywhere."""
    inside = [home / file for file in files if (home / file).resolve().is_relative_to(home.resolve())]
    paths = [path for path in inside if path.is_file()]
    plain = {path: (path.stem.replace("_", " "), "") for path in paths}
    return [Figure(path, *CAPTIONS.get(path.stem, plain[path]), section=name.replace("_", " ")) for path in paths]
