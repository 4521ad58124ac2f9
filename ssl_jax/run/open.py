"""A run opened for use: its config, its checkpoint, its encoder; read-only, and without its dataset."""

from __future__ import annotations

import os
import re
import shlex
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ssl_jax import configs, models, names
from ssl_jax.configs import Config, to_json
from ssl_jax.data import recipes
from ssl_jax.data.images.values import with_names
from ssl_jax.data.modality import Modality
from ssl_jax.data.source import Splits
from ssl_jax.experiment import make_method, make_modality
from ssl_jax.interop import vocabulary, weights, word_vectors
from ssl_jax.interop.leaves import by_name
from ssl_jax.names import brief, is_imported
from ssl_jax.run import checkpoint, folder, origins
from ssl_jax.run.processes import without_tpu
from ssl_jax.types import WHOLE, Array, Method, Plan, Tree, Variables, Vocab

# Fields of encoders by which the same arrays compute something else, and which leave no trace in shapes.
UNSEEN = (
    *("padding", "pool_padding", "stem_padding", "stride_first", "shortcut"),
    *("heads", "positions", "positions_rule", "gelu", "eps"),
)
# Fields of encoders that are none of the network: how it begins, what drops out, what computing it costs.
OF_TRAINING = r".*init(_.*)?|.*dropout|drop_path|frozen_stages|remat|dtype|vocab"


def read_run(workdir: str | Path) -> tuple[Config, dict[str, Any]]:
    """(config, resolved) of a run: what was asked for, and what was found and decided (plan, versions, data).

    Raises:
      ValueError: the folder holds no run.
    """
    path = Path(os.path.expanduser(workdir)) / "config.json"
    if not os.path.isfile(path):  # Path's raises where a name is too long
        raise ValueError(f"{workdir} holds no run (there is no config.json); give the --workdir of a pretraining run")
    stored = folder.read_config(path)
    config: Config = ConfigDict(configs.modern(stored["config"]))
    for key, known in folder.own_parts(stored).items():
        part, _, word = key.partition(".")
        # Relative to where the run was started, and maybe read from elsewhere now.
        if key in names.WORDS and names.is_file(known["name"]):
            config[part][word] = names.at(known["name"], known["path"])
    return config, stored["resolved"] | {"own": folder.own_parts(stored)}


def recipe_of(config: Config, resolved: Mapping[str, Any]) -> Any:
    """The recipe of a run as it keeps it, whatever has become of the one that its config names.

    Operations of the user's own are where they were. Of a run from before recipes were kept, what the config names.
    """
    stored = resolved.get("recipe")
    if stored is None:
        return recipes.of(config.data)
    recipe = recipes.of_plain(stored, own=False)
    parts = [part for key, part in resolved["own"].items() if key.startswith("operation.")]
    moved = {p["name"]: names.at(p["name"], p["path"]) for p in parts if names.is_file(p["name"])}
    return with_names(recipe, moved) if moved else recipe


def check_own(workdir: Path, config: Config, own: Mapping[str, Mapping[str, Any]], recipe_kept: bool = False) -> None:
    """Refuse a run whose own method, encoder or recipe is not there any more; a changed one is told of.

    Args:
      recipe_kept: the run keeps its recipe, so that nothing depends on where that was read.

    Raises:
      ValueError: names the file, and the copy of it that the run keeps.
    """
    for key, known in own.items():
        part, _, word = key.partition(".")
        if key == "data.source" or key not in names.WORDS or (key == "data.recipe" and recipe_kept):
            continue  # a run is opened without its dataset and evaluators
        try:
            now = names.own(config[part][word], key)
        except ValueError as error:
            raise ValueError(f"{error}{folder.kept(workdir, known)}") from error
        if now.sha256 != known["sha256"]:
            copy = folder.copy_of(workdir, known)
            warnings.warn(
                f"{key}={known['name']}: {now.path} is not what the run in {workdir} was made with (sha256 "
                f"{(known['sha256'] or 'none')[:8]} then, {(now.sha256 or 'none')[:8]} now); a copy of that is {copy}",
                stacklevel=2,
            )


def load(workdir: str | Path, *, encoder: Any = None):
    """A run, ready to use.

    Args:
      workdir: its folder, or what ``ssl_jax.pretrain`` gave; only ``config.json`` and ``checkpoints/`` are read, no
        dataset.
      encoder: the module of a run that was given one from Python.

    Returns:
      (variables, encode, config): ``encode(variables, inputs)`` takes what the modality prepares, images
      ``[b, h, w, c]`` in uint8 or float in [0, 1], of any size, which it resizes as evaluation does, and returns
      ``{"features": [b, d], stage: [b, c], ...}``.

    Example:
      >>> variables, encode, config = ssl_jax.load("runs/simclr_digits")    # doctest: +SKIP
      >>> features = encode(variables, images)["features"]                  # doctest: +SKIP

    Raises:
      ValueError: the folder holds no run, or none of its checkpoints can be read.
    """
    run = open_run(workdir.workdir if isinstance(workdir, Run) else workdir, encoder=encoder)
    compiled = jax.jit(run.method.encode)

    def encode(variables: Variables, inputs: np.ndarray | Array) -> Mapping[str, Array]:
        return compiled(variables, jnp.asarray(run.modality.prepare(inputs)))

    return run.variables, encode, run.config


class Run(NamedTuple):
    """A run as it lies in its folder: what it was asked (config), what that became (resolved), and a checkpoint.

    ``progress`` is what the run knew of itself when it wrote that: "collapsed", "loss_spikes", "nonfinite", ...
    ``splits`` are its data where they were handed over from Python and are still here.
    ``chosen``: the checkpoint was asked for by its step, so that newer ones say nothing.
    """

    workdir: Path
    config: Config
    resolved: dict[str, Any]
    plan: Plan
    recipe: Any
    modality: Modality
    method: Method
    variables: Variables
    step: int
    progress: Mapping[str, Any]
    splits: Splits | None = None
    chosen: bool = False

    def __repr__(self) -> str:
        method, model, data = self.config.method.name, self.config.model.name, self.config.data.source
        return f"Run({str(self.workdir)!r}, method={method!r}, model={model!r}, data={brief(data)!r}, step={self.step})"


def open_run(workdir: str | Path, step: int | None = None, *, encoder: Any = None) -> Run:
    """Open a run for reading; nothing is written, no dataset is read.

    Args:
      step: of the checkpoint, instead of the newest.
      encoder: the module of a run that was given one from Python.

    Raises:
      ValueError: the folder holds no run, or a checkpoint of another architecture than its config's; or the run was
        made with another encoder.
    """
    without_tpu()
    workdir = Path(os.path.expanduser(workdir))
    config, resolved = read_run(workdir)
    if encoder is not None:
        models.hand_back(encoder, config.model.name, workdir)
    folder.check_files(workdir, resolved)
    check_own(workdir, config, resolved["own"], recipe_kept=resolved.get("recipe") is not None)
    plan = stored_plan(resolved)
    recipe = recipe_of(config, resolved)
    modality = make_modality(config, plan=plan, folder=workdir, recipe=recipe)
    method = make_method(config, plan)
    tree, record = checkpoint.restore_variables(workdir, step)
    variables = _fit_into(variables_spec(method, modality, plan), tree, workdir)
    found = record["step"], record["metadata"]
    return Run(workdir, config, resolved, plan, recipe, modality, method, variables, *found, chosen=step is not None)


def open_weights(path: str | Path, *, encoder: Any = None) -> Run:
    """A file that ``ssl_jax.run.export`` wrote, opened as the run that it is of, of which it holds the trunk alone.

    Args:
      encoder: the module of a run that was given one from Python.

    Raises:
      ValueError: no such file, one without the config of its run, or one of a run on text.
    """
    without_tpu()
    trunk, about = weights.read(path), weights.about(path)
    if "config" not in about:
        raise ValueError(f"{path} does not say how its encoder is made; give a file of `ssl-jax export`, or a workdir")
    if "files" in about:
        raise ValueError(f"{path} is of a run on text; give its workdir")
    config: Config = ConfigDict(configs.modern(about["config"]))
    if encoder is not None:
        models.hand_back(encoder, config.model.name, path)
    refused = ValueError(f"{path}: no encoder of its config has these arrays")
    for channels in (3, 1):  # which the config does not say
        size = config.data.image_size
        plan = Plan(1, 1, config.data.global_batch_size, (size, size, channels), config.data.global_batch_size, 2)
        try:
            recipe = recipe_of(config, {})
            modality = make_modality(config, plan=plan, recipe=recipe)
            method = make_method(config, plan)
            spec = variables_spec(method, modality, plan)
            given = {"encoder": _fitted(trunk, method.trunk(spec), str(path), "write it anew")}
        except ValueError as error:
            refused = error
            continue
        batch = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), modality.spec(2))
        variables = jax.jit(method.init)(jax.random.key(0), batch, given)
        came = [{"where": f"the weights in {path}"} | origin for origin in origins.of_file(about)]
        resolved, step = {"origins": came}, about.get("step", 0)
        return Run(Path(path), config, resolved, plan, recipe, modality, method, variables, step, {})
    raise refused


def stored_plan(resolved: Mapping[str, Any]) -> Plan:
    """The plan of a run as its ``config.json`` tells it."""
    plan = dict(resolved["plan"])
    vocab = plan.get("vocab")
    plan |= {"input_shape": tuple(plan["input_shape"]), "vocab": None if vocab is None else Vocab(*vocab)}
    return Plan(**plan)


def variables_spec(method: Method, modality: Modality, plan: Plan) -> Variables:
    """Shapes of a method's variables, without computing them."""
    return jax.eval_shape(method.init, jax.random.key(0), modality.spec(plan.global_batch_size))


def load_given(
    init_from: Mapping[str, str], method: Method, modality: Modality, config: Config, plan: Plan
) -> tuple[dict[str, tuple[Tree, ...]], tuple[str, ...]]:
    """What ``init_from`` gives a method at its start, checked leaf by leaf against its own variables.

    Args:
      init_from: part -> the workdir of another run, or a file of weights (:mod:`ssl_jax.interop.weights`) or of word
        vectors (:mod:`ssl_jax.interop.word_vectors`). "encoder" takes the trunk of that run, "embedding" its table of
        words, "all" everything that a run of the same method holds (heads, target, queue), another part all of it.

    Returns:
      (part -> (params, model_state), what is to be said of it). An encoder of tokens from a run with another vocabulary
      has its rows put where their words are here, and the mean of all rows for words that it does not know.

    Raises:
      ValueError: no such run or file; another architecture, naming the first parameter that differs.
    """
    spec = variables_spec(method, modality, plan)
    given, notes = {}, []
    for part, source in init_from.items():
        if part == "all":
            given[part] = _everything(source, spec, modality, config)
            continue
        key = "init_from" if part == "encoder" else f"init_from.{part}"
        want = method.trunk(spec) if part == "encoder" else method.parts[part].read(spec)
        fix, made = f"use weights of this model ({config.model.name})", None
        if word_vectors.is_vectors(source):
            theirs, vectors = word_vectors.read(source)
            found = {"stem_embedding": vectors}, {}
            fix = f"vectors are for init_from.embedding, as wide as the model's (model.width={vectors.shape[1]})"
        elif weights.is_weights(source):
            found, theirs = weights.read(source), vocabulary.of_files(weights.files(source))
            made = ConfigDict(weights.about(source).get("config", {}))
        else:
            try:
                other = open_run(source)
                theirs = other.modality.words
                if part in ("encoder", "embedding"):
                    found, made = other.method.trunk(other.variables), other.config
                else:
                    method.parts[part].check(to_json(other.config))
                    found = other.variables.params, other.variables.model_state
            except ValueError as error:
                raise ValueError(f"{key}: {error}") from None
            if part == "encoder":
                inputs = "its vocabulary" if modality.words is not None else "as many image channels as it has"
                fix = f"the fields of its model are alike; use {inputs}"
                if other.config.method.name != "imported":
                    fix += f", and a method with such a trunk (there: {other.config.method.name})"
            else:
                fix = f"use its model ({other.config.model.name}) and the arguments of its method"
        if part == "encoder" and made and (differ := _other_fields(made, config)):
            fix = f"use its model: {differ}"
        if part == "embedding":
            found = {name: a for name, a in found[0].items() if name == "stem_embedding"}, {}
        if part in ("encoder", "embedding") and modality.words is not None:
            found, said = vocabulary.by_word(found, _by_token(config), theirs, modality.words)
            notes += [f"{key}={source}: {said}"] if said else []
        if part == "encoder" and made:
            found, said = _last_norm(found, made, config)
            notes += [f"{key}={source}: {said}"] if said else []
        given[part] = _fitted(found, want, f"{key}={source}", fix)
        if part == "encoder" and made:
            notes += _as_they_compute(made, config, f"{key}={source}")
    return given, tuple(notes)


def _last_norm(found: tuple[Tree, ...], theirs: Config, config: Config) -> tuple[tuple[Tree, ...], str]:
    """A ViT's last norm begins anew where it is behind the pooling and was not, or the reverse."""
    there, here = (bool(of.model.get("norm_after_pool")) for of in (theirs, config))
    if there == here:
        return found, ""
    params, *rest = found
    start = {"scale": np.ones_like, "bias": np.zeros_like}
    last = {name: part for name, part in params.items() if re.fullmatch(r"stage\d+_norm", name)}
    anew = {name: {key: start[key](a) for key, a in part.items()} for name, part in last.items()}
    return (params | anew, *rest), f"model.norm_after_pool={here} is other than there: the last norm begins anew"


def _other_fields(theirs: Config, config: Config) -> str:
    """What of another run's encoder is otherwise here, as overrides for a command line."""
    name, mine = theirs.model.name, dict(config.model)
    if name not in models.ENCODERS or mine["name"] not in models.ENCODERS:
        return ""
    there, here = (configs.flatten({**models.defaults(name), **fields}) for fields in (theirs.model, mine))
    fields = (key for key in there if not re.fullmatch(OF_TRAINING, key) and there[key] != here.get(key))
    return " ".join(shlex.quote(f"--config.model.{key}={there[key]}") for key in sorted(fields, key="name".__ne__))


def _as_they_compute(theirs: Config, config: Config, source: str) -> list[str]:
    """Refuse an encoder with the same arrays and other sums: padding, heads and the like leave no trace in shapes.

    Returns:
      What is to be said: images were normalised otherwise there.
    """
    if theirs.model.name == config.model.name and not is_imported(config.model.name):
        defaults = models.defaults(config.model.name)
        for field in filter(defaults.__contains__, UNSEEN):
            there, here = (of.model.get(field, defaults[field]) for of in (theirs, config))
            if there != here:
                raise ValueError(
                    f"{source} computes otherwise: its model.{field} is {there!r} and {here!r} here; use its model: "
                    f"{_other_fields(theirs, config)}"
                )
    there, here = ([of.get("data", {}).get(key) for key in ("mean", "std")] for of in (theirs, config))
    if there == [None, None] or list(map(tuple, there)) == list(map(tuple, here)):
        return []
    mean, std = map(tuple, there)
    return [f"{source} was trained on images with data.mean={mean} data.std={std}, and this run has others"]


def _everything(source: str, spec: Variables, modality: Modality, config: Config) -> tuple[Tree, ...]:
    """What another run of the same method holds."""
    try:
        other = open_run(source)
    except ValueError as error:
        raise ValueError(f"init_from.all: {error}; it takes the folder of a run") from None
    if other.config.method.name != config.method.name:
        names = f"{other.config.method.name!r}, not {config.method.name!r}"
        raise ValueError(f"init_from.all={source} is a run of {names}; use init_from={source}, its encoder")
    if modality.words is not None and other.modality.words != modality.words:
        file = f"{source}/tokenizer.json"
        raise ValueError(f"init_from.all={source} has another vocabulary; set data.tokenizer.file={file}")
    found, want = ([getattr(v, part) for part in WHOLE] for v in (other.variables, spec))
    fix = "use its model, data and arguments of the method, or its encoder alone (init_from)"
    return _fitted(tuple(found), tuple(want), f"init_from.all={source}", fix)


def _by_token(config: Config) -> tuple[str, ...]:
    given = {k: v for k, v in config.model.items() if k != "name"}
    return getattr(models.make(config.model.name, **given), "by_token", ())


def _fitted(found: tuple[Tree, ...], want: tuple[Tree, ...], said: str, fix: str) -> tuple[Tree, ...]:
    """Trees of arrays in the structure that is wanted, where names, shapes and dtypes are alike."""
    there, here = (by_name(dict(zip(WHOLE, trees, strict=False))) for trees in (found, want))
    for name in sorted(there.keys() | here.keys(), key=lambda name: (name.startswith("model_state/"), name)):
        have, need = (f"{n[name].dtype}{list(n[name].shape)}" if name in n else "nothing" for n in (there, here))
        if have != need:
            raise ValueError(f"{said} holds another architecture: {name} is {have} there and {need} here; {fix}")
    # In this run's own structure: a module without variables leaves no trace in a file.
    structure = jax.tree.structure(dict(zip(WHOLE, want, strict=False)))
    trees = jax.tree.unflatten(structure, [jnp.asarray(there[name]) for name in here])
    return tuple(trees[name] for name in WHOLE[: len(want)])


def _fit_into(spec: Variables, tree: Mapping[str, Any], workdir: str | Path) -> Variables:
    """Checkpointed arrays in the structure that the method gives its variables."""
    arrays = by_name(dict(tree))
    leaves = []
    for name, leaf in by_name(spec).items():
        have = np.shape(arrays[name]) if name in arrays else "missing"
        if have != leaf.shape:
            raise ValueError(f"checkpoint in {workdir}: {name} is {have}, this config's is {leaf.shape}")
        leaves.append(jnp.asarray(arrays[name]))
    return jax.tree.unflatten(jax.tree.structure(spec), leaves)
