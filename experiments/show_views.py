"""Draw what a recipe does, operation by operation, before anything is trained.

    ssl-jax views --config byol_cifar10 --config.data.views.jitter.strength=0.5
    ssl-jax views --recipes

A few training images of the config's data, each drawn several times; a row for each operation, applied after those
above it, with its numbers; then the views as a method gets them. Of digits where the data are not there.
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

from ssl_jax import configs
from ssl_jax.data import recipes
from ssl_jax.run import command, processes

IMAGES, DRAWS = 3, 3


def main(arguments: list[str]) -> int:
    parser = command.Parser("Draw what a recipe does, operation by operation.")
    parser.add_path("--config", help="a config file, or one of ours by name; --config.KEY=VALUE changes it")
    parser.add_path("--out", default="views.png", help="the picture; default: views.png")
    parser.add_argument("--recipes", action="store_true", help="show the recipes there are, with their sources")
    try:
        options, changes = parser.parse_changes(arguments)
        if options.recipes:
            print("\n".join(recipes.listed()))
            return 0
        if options.config is None:
            raise ValueError("name a config, --config simclr_digits; see: ssl-jax pretrain --list")
        config = configs.load(options.config, changes)
        configs.check(config)
        processes.configure(1)
        said = draw(config, Path(options.out))
    except ValueError as error:
        return command.refuse(error)
    except OSError as error:
        print(f"{options.out} cannot be written ({error.strerror or error}); name another with --out", file=sys.stderr)
        return 1
    print(said)
    return 0


def draw(config: configs.Config, path: Path) -> str:
    """Draw the recipe of a config; returns what is to be said of it.

    Raises:
      ValueError: the recipe is not for images.
    """
    import jax
    import numpy as np

    from ssl_jax.data import readers
    from ssl_jax.data.from_config import load_splits
    from ssl_jax.data.images import modality, values
    from ssl_jax.data.images.recipes import Recipe, View
    from ssl_jax.evals.shared import operations
    from ssl_jax.evals.shared.operations import Block

    recipe, name = recipes.of(config.data), recipes.called(config.data)
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"data.recipe={name} is for no images; of text every run draws its first batch, figures/batch.html"
        )
    source, note = config.data.source, ""
    try:
        train = load_splits(config).train
        if "text" in train.columns:
            raise ValueError("it holds text")
    except (ValueError, OSError) as error:
        digits = readers.load("digits").train
        train, note = (
            digits if len(config.data.mean) == 1 else digits.in_colour(),
            f"; {source} cannot be read: {error}",
        )
        source = "digits"
    chosen = np.linspace(0, len(train) - 1, IMAGES).astype(int)
    shown, data = train.take(np.repeat(chosen, DRAWS)), config.data.copy_and_resolve_references()
    data.update({"mean": (0.0,), "std": (1.0,)})  # of other data, it may be; no view depends on them

    def made(views: tuple[View, ...]) -> list[np.ndarray]:
        """Views as the run would make them, the draws of an image side by side; the same draws for the same number."""
        kind = modality.make(Recipe(views, recipe.evaluate), data, shown.channels)
        feed = kind.feed(shown, seed=config.seed, global_batch_size=len(shown), mode="pmap")
        batch = next(feed.batches(total_steps=1))
        order = np.argsort(batch["index"], kind="stable")
        if feed.views is not None:
            batch = jax.jit(feed.views, static_argnums=2)(batch, jax.random.key(config.seed), None)
        return [np.asarray(view)[order] for view in batch["views"]]

    parts = {"": recipe.views, "unlabelled ": recipe.unlabelled}
    blocks: list[Block] = []
    for part, views in parts.items():
        finals = made(views) if views else []
        steps: dict[View, list[str]] = {}  # views that are alike are drawn once
        for i, view in enumerate(views):
            steps.setdefault(view, []).append(f"{part}view {i}")
        for view, called in steps.items():
            # The operations are those of the first of these views, so that its last row is the view itself.
            first = views.index(view)
            rows = []
            for count in range(len(view.ops) + 1):
                until = tuple(
                    view._replace(ops=view.ops[:count]) if i == first else View(None) for i in range(first + 1)
                )
                rows.append(made(until)[first])
            title = " and ".join(called) + (", alike" if len(called) > 1 else "")
            blocks.append(Block(title, values.lines(view), rows))
        names = [(f"{part}view {i}", "") for i in range(len(views))]
        blocks += [Block(f"{part}views as the method gets them".capitalize(), names, finals, False)] if views else []
    image = modality.make(recipe, data, shown.channels).inputs(shown, global_batch_size=len(shown))
    originals = next(image)["inputs"]
    name += " with the changes of data.views" if config.data.get("views") else ""
    title = f"{name}: {IMAGES} images of {source}, {DRAWS} draws of each"
    operations.draw(title, originals, blocks, DRAWS, path)
    return f"{path}: {title}{note}"


if __name__ == "__main__":
    command.run(main)
