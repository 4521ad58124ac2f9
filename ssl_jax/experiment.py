"""``build``: from a config to the parts of a run: data, plan, encoder, method, optimizer, probe.

It refuses what cannot run before anything is compiled or written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from ssl_jax import configs, methods, models, parallel
from ssl_jax.configs import Config, to_json
from ssl_jax.data import few_labels, order, recipes, source
from ssl_jax.data.feed import Feed
from ssl_jax.data.from_config import load_splits, with_few_labels
from ssl_jax.data.images import modality as images
from ssl_jax.data.images import values
from ssl_jax.data.images.recipes import Recipe as ImageRecipe
from ssl_jax.data.modality import Modality
from ssl_jax.data.text import recipes as text
from ssl_jax.names import brief, hint, is_imported, own, place, said_of
from ssl_jax.online.average import averaged
from ssl_jax.online.probe import online_probe
from ssl_jax.optim.from_config import check_rates, check_starts, make_schedule, make_tx, rates
from ssl_jax.types import Batch, Method, Plan, Probe, Variables


class Parts(NamedTuple):
    """What a config makes of a plan.

    Attributes:
      notes: what was decided on the way (peak rate, a warmup cut short), one line each, to be printed.
    """

    method: Method
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    warmup_steps: int
    probe: Probe | None
    notes: tuple[str, ...]


class Experiment(NamedTuple):
    """The parts of a run.

    Attributes:
      modality: what kind of data they are.
      recipe: how records become batches; of a run that goes on that with which it began.
      feed: how the training examples reach the step.
      notes: what was decided on the way, what of the data is used first, one line each, to be printed.
    """

    config: Config
    plan: Plan
    splits: source.Splits
    modality: Modality
    recipe: Any
    feed: Feed
    method: Method
    tx: optax.GradientTransformation
    schedule: optax.Schedule
    warmup_steps: int
    probe: Probe | None
    notes: tuple[str, ...]


def build(
    config: Config,
    splits: source.Splits | None = None,
    folder: Path | None = None,
    *,
    asked: Iterable[str] = (),
) -> Experiment:
    """Check a config and make the parts of its run.

    Args:
      splits: data to use instead of ``config.data.source``.
      folder: of the run, where it has begun and its modality keeps files there.
      asked: ``key=value`` that the user gave: what cannot be as it was asked for is refused, a default gives way.

    Raises:
      ValueError: one line naming the value and the fix.
    """
    configs.check(config)
    data, batch_size = config.data, config.data.global_batch_size
    _check_before_data(config, folder)
    recipe, begun = _as_begun(config, recipes.of(data), folder)
    if isinstance(recipe, ImageRecipe):  # wrong hyper-parameters are refused before data are read
        values.check_sizes(recipe, data.image_size)
        make_method(config, _plan_without_data(config), sizes=[view.size or data.image_size for view in recipe.views])
    splits = load_splits(config) if splits is None else with_few_labels(config, splits)
    train = splits.train
    modality = make_modality(config, train=train, folder=folder, recipe=recipe)
    if batch_size > len(train) and not isinstance(recipe, text.OF_CORPORA):
        raise ValueError(
            f"data.global_batch_size={batch_size} is larger than the {len(train)} training examples of "
            f"{brief(data.source)}; use at most {len(train)}"
        )
    lowered = ()
    bank = min(len(train), config.eval.online_bank, config.eval.max_bank or len(train))
    if config.eval.knn and train.num_classes and config.eval.knn_k > bank:
        large = f"eval.knn_k={config.eval.knn_k} is larger than the bank of {bank} examples"
        if any(change.startswith("eval.knn_k=") for change in asked):
            raise ValueError(f"{large}; lower it")
        lowered = (f"{large}, which are all taken as neighbours",)
    among, said = _drawn(config, train)
    feed = modality.feed(train, seed=config.seed, global_batch_size=batch_size, mode=config.parallel.mode, **among)
    plan = Plan(
        total_steps=_total_steps(config, feed.steps_per_epoch),
        steps_per_epoch=feed.steps_per_epoch,
        num_examples=feed.num_examples,
        input_shape=modality.input_shape,
        global_batch_size=batch_size,
        num_classes=train.num_classes,
        vocab=modality.vocab,
    )
    if config.train.get("steps_per_dispatch", 1) > 1 and feed.table is None:
        raise ValueError(
            f"train.steps_per_dispatch={config.train.steps_per_dispatch} needs examples that lie on the device, and "
            f"those of {brief(data.source)} do not (data.table_limit={data.table_limit}; images in memory, or text of "
            "data.recipe=stream, alone); set it to 1"
        )
    parts = make_parts(config, plan)
    _check_given(config, parts.method)
    with _told(config, TypeError, ZeroDivisionError, IndexError):
        seen = _trace(parts.method, config, modality, plan)
    parts = parts._replace(notes=(*begun, *splits.notes, *parts.notes, *seen, *said, *lowered, *feed.notes))
    return Experiment(config, plan, splits, modality, recipe, feed, **parts._asdict())


def _check_before_data(config: Config, folder: Path | None) -> None:
    """Refuse batches that devices cannot share, and what the folder of the run cannot be."""
    devices = parallel.device_count(config.parallel.devices)
    batch_size = config.data.global_batch_size
    if batch_size < 2:
        raise ValueError(f"data.global_batch_size={batch_size} gives BatchNorm and negatives nothing; use 2 or more")
    if batch_size % devices:
        down, up = batch_size // devices * devices, -(-batch_size // devices) * devices
        raise ValueError(
            f"data.global_batch_size={batch_size} is not divisible by {devices} devices; use {down or up} or {up}"
        )
    if config.optim.get("average_after") is not None and not config.train.eval_every:
        raise ValueError(
            f"optim.average_after={config.optim.average_after} counts checks on validation and train.eval_every is 0; "
            "set both or neither"
        )
    parallel.check_groups(devices, config.parallel.get("fsdp", 1))
    scheme, _, at = str(config.data.source).partition(":")
    if folder is not None and scheme == "folder" and os.path.realpath(folder) == os.path.realpath(at):
        raise ValueError(f"--workdir {folder} is the folder of the data, and a run draws pictures; use another")


def make_parts(config: Config, plan: Plan) -> Parts:
    """Method, optimizer and probe of a config."""
    schedule, warmup_steps, notes = make_schedule(config, plan)
    return Parts(
        method=make_method(config, plan),
        tx=make_tx(config, schedule, plan.total_steps, rate_of=rates(config, _encoder(config, plan))),
        schedule=schedule,
        warmup_steps=warmup_steps,
        probe=online_probe(plan.num_classes) if config.eval.probe and plan.num_classes else None,
        notes=notes + methods.doubts(config.method, plan),
    )


def make_modality(
    config: Config,
    *,
    train: source.Source | None = None,
    plan: Plan | None = None,
    folder: Path | None = None,
    recipe: Any = None,
) -> Modality:
    """What the type of the recipe says the data are; arguments as in :class:`ssl_jax.data.modality.Recipe`.

    Args:
      recipe: that of a run, where it has begun; None: what the config names.
    """
    recipe = _parts_of(config, recipes.of(config.data) if recipe is None else recipe)
    if isinstance(recipe, text.Recipe):
        from ssl_jax.data.text import modality  # its library is loaded for text alone

        return modality.make(recipe, config.data, train=train, folder=folder)
    if not isinstance(recipe, ImageRecipe):
        return recipe.modality(config.data, train=train, plan=plan, folder=folder)
    if train is None and plan is None:
        raise ValueError("a modality is of training examples or of a plan; give one of them")
    if train is not None and "text" in train.columns:
        raise ValueError(
            f"data.recipe={recipes.called(config.data)!r} is for images and {brief(config.data.source)} holds text; "
            f"use one of {', '.join(text.RECIPES)}"
        )
    channels = train.channels if train is not None else plan.input_shape[-1]  # pyright: ignore[reportOptionalMemberAccess]
    return images.make(recipe, config.data, channels)


def _as_begun(config: Config, recipe: Any, folder: Path | None) -> tuple[Any, tuple[str, ...]]:
    """(The recipe with which the run in ``folder`` began, where the config names the same; what is said of it)."""
    then, stored = recipes.begun(folder)
    if stored is None:
        return recipe, ()
    refused, _ = configs.differences(then, to_json(config))
    if any(key.startswith(("data.recipe", "data.views")) for key in refused):
        return recipe, ()
    found, now = recipes.of_plain(stored), recipes.plain(recipe)
    if found == recipe or now is None:
        return found, ()
    differs = list(values.differences(recipes.plain(found), now))
    more = f" and {len(differs) - 3} more" if len(differs) > 3 else ""
    return found, (
        f"WARNING: data.recipe={recipes.called(config.data)} is not what it was when the run began "
        f"({'; '.join(differs[:3])}{more}); the run goes on with what it was",
    )


def _parts_of(config: Config, recipe: Any) -> Any:
    """The recipe with the parts of a batch that the method learns from, as large as the config says."""
    ratio = config.data.get("ratio")  # a key younger than some stored configs
    if not getattr(recipe, "unlabelled", ()):
        if ratio is not None:
            raise ValueError(
                f"data.ratio={ratio} is for recipes of two parts, and data.recipe={recipes.called(config.data)!r} has "
                "one; set it to null"
            )
        return recipe
    if config.method.name in methods.FROM_LABELS:
        return recipe._replace(unlabelled=recipe._field_defaults["unlabelled"])
    return recipe if ratio is None else recipe._replace(ratio=ratio)


def _total_steps(config: Config, steps_per_epoch: int) -> int:
    """Length of the run; a part of the network that is to join the training later does so within it."""
    total = config.train.steps or max(1, round(config.train.epochs * steps_per_epoch))
    if total >= 1 << 31:
        raise ValueError(
            f"config.train.epochs={config.train.epochs} of {steps_per_epoch} steps are {total} steps, which must be "
            f"below 2**31; use at most {((1 << 31) - 1) // steps_per_epoch} epochs"
        )
    wait = config.method.get("unfreeze_every") or 0
    if wait and max(1, round(wait * steps_per_epoch)) >= total:  # as methods/supervised.py counts
        raise ValueError(
            f"config.method.unfreeze_every={wait:g} epochs are not shorter than the run of {total} steps, "
            f"{total / steps_per_epoch:.3g} epochs: nothing but the classifier would ever learn; lower it, or say so "
            "with method.frozen=encoder and unfreeze_every=0"
        )
    return total


def _check_given(config: Config, method: Method) -> None:
    """Refuse ``init_from`` of parts that the method does not have, and a lack of those that it needs."""
    given, known = configs.starts(config), ("all", "encoder", *method.parts)
    if "all" in given and len(given) > 1:
        others = ", ".join(f"init_from.{part}" for part in given if part != "all")
        raise ValueError(f"init_from.all gives everything that a method holds; leave {others} out")
    for part in given:
        if part not in known:
            raise ValueError(
                f"init_from.{part} is no part of {config.method.name}; {hint(part, known)}known: {', '.join(known)}"
            )
    for part in (name for name, part in method.parts.items() if part.needed and not {name, "all"} & set(given)):
        raise ValueError(
            f"method.name={config.method.name!r} needs init_from.{part}, the folder of a run; or let it be trained"
        )


def _trace(method: Method, config: Config, modality: Modality, plan: Plan) -> tuple[str, ...]:
    """Run the loss on shapes alone, so that a recipe that does not suit the method is refused before compilation.

    Returns:
      a note where there are views that the loss does not look at.
    """

    def loss(variables, batch, key, step):
        return method.loss(variables, batch, key, step, None)[0]

    batch = modality.spec(plan.global_batch_size)
    variables = jax.eval_shape(method.init, jax.random.key(0), batch)
    check_rates(config, variables.params)
    starts = tuple(config.train.get("grad_norms", ()))
    check_starts(starts, variables.params, f"train.grad_norms={','.join(starts)}")
    check_starts(method.grad_norms, variables.params, f"grad_norms={method.grad_norms} of {config.method.name}")
    key, step = jax.random.key(0), jax.ShapeDtypeStruct((), np.int32)
    looked = _looked_at(loss, variables, batch, key, step)
    if config.parallel.mode == "pmap":
        devices = parallel.device_count(config.parallel.devices)

        def split(a):
            return jax.ShapeDtypeStruct((devices, a.shape[0] // devices, *a.shape[1:]), a.dtype)

        def mapped(variables, batch, key, step):
            return method.loss(variables, batch, key, step, parallel.DATA)[0]

        variables = variables._replace(rows=jax.tree.map(split, variables.rows))
        over_devices = jax.vmap(mapped, (Variables(None, None, None, 0), 0, None, None), axis_name=parallel.DATA)
        jax.eval_shape(over_devices, variables, jax.tree.map(split, batch), key, step)
    if looked == (made := len(batch.get("views", ()))):
        return ()
    return (f"method.name={config.method.name!r} looks at {looked} of the {made} views that the recipe makes",)


def _looked_at(loss: Callable, variables: Variables, batch: Batch, *rest: Any) -> int:
    """How many of a batch's views a loss looks at, by its trace."""
    jaxpr = jax.make_jaxpr(loss)(variables, batch, *rest).jaxpr
    first = len(jax.tree.leaves(variables))
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(batch)]
    used = {id(var) for eqn in jaxpr.eqns for var in eqn.invars}
    arguments = zip(names, jaxpr.invars[first : first + len(names)], strict=True)
    return sum(id(var) in used for name, var in arguments if name.startswith("['views']"))


def _drawn(config: Config, train: source.Source) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(Of the feed's arguments which examples are drawn, where not all are; what is said of it)."""
    if config.data.get("labelled") is None or config.method.name not in methods.FROM_LABELS:
        return {}, ()
    given, rows = few_labels.labelled(train), config.data.global_batch_size
    said = f"method.name={config.method.name!r} draws from the {len(given):,} labelled examples alone"
    often = f"; each is there about {rows / len(given):.2g} times in a batch of {rows}" if rows > len(given) else ""
    return {"among": order.enough(given, rows)}, (said + often,)


def _plan_without_data(config: Config) -> Plan:
    """A stand-in for the plan while the dataset is unknown."""
    return Plan(
        total_steps=(1 << 31) - 1,  # so long that nothing said in epochs is too late
        steps_per_epoch=1,
        num_examples=config.data.num_examples or config.data.global_batch_size,
        input_shape=(config.data.image_size, config.data.image_size, 3),
        global_batch_size=config.data.global_batch_size,
        num_classes=2,
    )


def make_method(config: Config, plan: Plan, *, sizes: Sequence[int] = ()) -> Method:
    """The method of a config around its encoder; ``sizes`` are those of the views of an image, where it has views."""
    arguments = {k: v for k, v in config.method.items() if k != "name"}
    make = methods.get(config.method.name)
    if methods.takes_images(make):
        arguments |= {"mean": tuple(config.data.mean), "std": tuple(config.data.std)}
        if plan.vocab is not None and config.method.name not in methods.OF_TEXT_TOO:
            raise ValueError(
                f"method.name={config.method.name!r} is for images and data.recipe={recipes.called(config.data)!r} "
                "gives text; use another of either"
            )
    of_tokens = "vocab" in models.arguments(config.model.name)
    if of_tokens and plan.vocab is None:
        raise ValueError(
            f"model.name={config.model.name!r} reads tokens and data.recipe={recipes.called(config.data)!r} gives "
            "images; use another of either"
        )
    with _told(config, TypeError):
        encoder = _encoder(config, plan)
        try:
            if is_imported(config.model.name) or models.is_given(config.model.name):
                dtype = np.float32 if plan.vocab is None else np.int32
                inputs = jax.ShapeDtypeStruct((2, *plan.input_shape), dtype)
                models.check_encoder(encoder, config.model.name, inputs)
            models.check_input(encoder, plan.input_shape)
            method = make(encoder, plan=plan, **arguments)  # it may want another encoder, so before the sizes
            models.check_sizes(encoder, plan.input_shape, sizes)
        except TypeError as error:
            if encoder.norm is not None or "'NoneType' object is not callable" not in str(error):
                raise
            raise ValueError(
                f"method.name={config.method.name!r} makes heads with the encoder's norm, and that of "
                f"{config.model.name} is None; give it one, such as ssl_jax.models.BatchNorm"
            ) from None
    if not isinstance(method, Method):
        raise ValueError(
            f"method.name={config.method.name!r} gives a {type(method).__name__} and no Method; called as "
            "make(encoder, plan=, ...) it must give one (ssl_jax/types.py)"
        )
    return method if config.optim.get("average_after") is None else averaged(method)


def _encoder(config: Config, plan: Plan) -> Any:
    """The encoder of a config; one that reads tokens has a row for each word of the plan's."""
    arguments = {k: v for k, v in config.model.items() if k != "name"}
    if "vocab" in models.arguments(config.model.name) and plan.vocab is not None:
        arguments.setdefault("vocab", plan.vocab.size)
    return models.make(config.model.name, **arguments)


@contextlib.contextmanager
def _told(config: Config, *kinds: type[Exception]) -> Iterator[None]:
    """What fails in a method or encoder of the user's own, and arguments that no check of ours foresaw, in one line.

    Args:
      kinds: of errors that arguments of wrong types and sizes are told by.
    """
    try:
        yield
    except Exception as error:
        for key, name in (("method.name", config.method.name), ("model.name", config.model.name)):
            if is_imported(name) and (where := place(error, own(name, key).path)):
                raise ValueError(f"{key}={name!r} fails: {said_of(error)}{where}") from error
        if not isinstance(error, kinds):
            raise
        said = {k: v for k, v in configs.flatten(config).items() if k.startswith(("model.", "method."))}
        numbers = [
            name for name, p in methods.arguments(config.method.name).items() if isinstance(p.default, int | float)
        ]
        words = {f"method.{name}": found for name in numbers if isinstance(found := config.method.get(name), str)}
        said = words or said
        shown = ", ".join(f"{k}={v!r}" for k, v in said.items())
        raise ValueError(f"these do not make a network: {shown} ({str(error).splitlines()[0]})") from None


def zeros(experiment: Experiment, processes: int = 1) -> dict[str, Any]:
    """A training batch of zeros, this process's rows: what a state is initialised with."""
    spec = experiment.modality.spec(experiment.plan.global_batch_size // processes)
    return jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), dict(spec))
