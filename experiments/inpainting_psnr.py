"""How well finished in-painting runs paint: PSNR of the hidden pixels of test images, beside fillings without learning.

    python experiments/inpainting_psnr.py --workdir runs/inpainting_cpu --images 1000

"mean" fills with the mean colour of the dataset, "visible" with that of the image's visible pixels, "biharmonic"
smoothly from the border of the hole; the last needs scikit-image and is left out where that is not installed.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # imports take seconds, in which Ctrl-C should not end in a traceback
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax.data.from_config import load_splits
from ssl_jax.data.images import stream
from ssl_jax.run import command
from ssl_jax.run.open import open_run


def main(arguments: list[str]) -> int:
    parser = command.Parser("PSNR of hidden pixels.")
    parser.add_path("--workdir", nargs="+", required=True, help="folders of finished in-painting runs")
    parser.add_argument("--images", type=int, default=1000, help="test images to paint in")
    given = parser.parse_args(arguments)
    for workdir in command.folders(given.workdir):
        for name, value in fillings(workdir, given.images).items():
            print(f"{workdir}  {name:10s} {value:6.2f} dB")
    return 0


def fillings(workdir: str, count: int) -> dict[str, float]:
    """PSNR in dB by filling; the squared error is averaged over the hidden pixels of all images."""
    run = open_run(workdir)
    if run.config.method.name != "inpainting":
        raise SystemExit(f"{workdir} holds a run of {run.config.method.name}; name one of inpainting")
    test = load_splits(run.config).test
    test = test.take(np.arange(min(count, len(test))))
    view = run.recipe.evaluate
    batches = stream.eval_batches(
        test, image_size=run.config.data.image_size, recipe_eval=view, global_batch_size=min(256, len(test))
    )

    @jax.jit
    def show(images, key):
        paint = run.method.hooks["show"]
        # Values that no filling has tell what is hidden.
        hidden = (paint(run.variables, jnp.full_like(images, 2), key)["input"] != 2).any(-1, keepdims=True)
        return paint(run.variables, images, key) | {"hidden": hidden}

    rows: dict[str, list[np.ndarray]] = {"image": [], "input": [], "painting": [], "hidden": []}
    for i, batch in enumerate(batches):
        for name, row in show(batch["image"], jax.random.key(i)).items():
            rows[name].append(np.asarray(row)[batch["mask"]])
    image, context, painting, hidden = (np.concatenate(row) for row in rows.values())
    seen = np.where(hidden, 0, image).sum((1, 2), keepdims=True) / (~hidden).sum((1, 2), keepdims=True)
    filled = {"painting": painting, "mean": context, "visible": np.where(hidden, seen, image)}
    try:
        from skimage.restoration import inpaint_biharmonic  # pyright: ignore[reportMissingImports]: an extra
    except ImportError:
        print("scikit-image is not installed: no biharmonic filling", file=sys.stderr)
    else:
        pairs = zip(context, hidden[..., 0], strict=True)
        filled["biharmonic"] = np.stack([inpaint_biharmonic(a, m, channel_axis=-1) for a, m in pairs])
    share = hidden.mean()
    return {k: float(-10 * np.log10(np.square(a - image).mean() / share)) for k, a in filled.items()}


if __name__ == "__main__":
    command.run(main)
