"""The encoder of a run in files: ours, or a folder in another library's form, with a card."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from ssl_jax import models
from ssl_jax.configs import to_json
from ssl_jax.evals.shared import results
from ssl_jax.evals.shared.encode import LOGITS, with_logits
from ssl_jax.experiment import make_method
from ssl_jax.interop import card, flax, hub, licences, onnx, peers, stablehlo, transformers, weights
from ssl_jax.interop.leaves import by_name
from ssl_jax.methods import normalize
from ssl_jax.run import checkpoint, origins, provenance
from ssl_jax.run.open import Run, open_run
from ssl_jax.types import Tree

OURS = "ssl_jax"
FORMATS = (OURS, "timm", "torchvision", "transformers", "flax", "stablehlo", "onnx")
PROGRAMS = ("stablehlo", "onnx")  # which hold any classifier; the others one linear layer
SAME = 1e-5  # of the largest feature: what the network alone may differ from ``encode`` by


def export(
    run: Any,
    path: str | os.PathLike[str],
    *,
    format: str = OURS,
    licence: str | None = None,
    swapped_stem: bool = False,
    push_to: str | None = None,
    private: bool = False,
) -> dict[str, Any]:
    """Write the trunk of a run, ``method.trunk`` of its newest checkpoint.

    Args:
      run: its workdir, or what :func:`open_run` gave.
      path: with ``format="ssl_jax"`` a ``.safetensors`` file, which :func:`ssl_jax.run.open.open_weights` and
        ``init_from`` read and which replaces one of that name; else a folder that is not there yet. Both are there
        whole or not at all. A folder that this same export made is sent by ``push_to`` as it is.
      format: "ssl_jax"; "timm", which torchvision, the Hub and transformers beside timm load, too; "torchvision", its
        names alone; "transformers", its own ViTs and ResNets; "flax"; "stablehlo"; "onnx".
      licence: of the weights; must repeat a restricted one that they came with.
      swapped_stem: with "torchvision", of a network with the cifar stem: whoever loads it swaps conv1.
      push_to: OWNER/NAME of a repository of the Hub that the folder is sent to, made if there is none (``private``).

    Returns:
      {"version", "commit", "step", "config", "fingerprint"}, the last one ``checkpoint.fingerprint`` of {"params",
      "model_state"}; "files" of a modality that has some, name -> text; "licence" and "origins" of a file; "notes" of a
      folder, lines that its card has; "url" of what was sent.

    Raises:
      ValueError: one line: no such run, or what the format cannot hold; nothing is left on disk.
      OSError: the folder is written and could not be sent.
    """
    if format not in FORMATS:
        raise ValueError(f"--format {format} is unknown; known: {', '.join(FORMATS)}")
    if format != "torchvision" and swapped_stem:
        raise ValueError("--swapped-stem is for --format torchvision; leave it out")
    if push_to is not None:
        if format == OURS:
            raise ValueError("--push-to sends a folder; say its --format, timm for most uses")
        hub.check(push_to)
    elif private:
        raise ValueError("--private is of a repository that --push-to OWNER/NAME makes; add that, or leave it out")
    if format == OURS:
        weights.check_name(path)
    {"stablehlo": stablehlo.check, "onnx": onnx.check}.get(format, lambda: None)()
    run = run if isinstance(run, Run) else open_run(run)
    params, model_state = run.method.trunk(run.variables)
    about = {"version": provenance.version("ssl_jax"), "commit": run.resolved.get("commit"), "step": run.step}
    if files := {name: content.decode() for name, content in run.modality.files.items()}:
        about["files"] = files
    about["config"] = to_json(run.config)
    came = origins.of_run(about["config"], run.resolved, run.workdir)
    licence = licences.chosen(licence, origins.published(came))
    if format == OURS:  # the trunk, which init_from takes
        about |= {"licence": licence, "origins": [{k: v for k, v in o.items() if k != "where"} for o in came]}
        return weights.write(path, params, model_state, about)
    about["fingerprint"] = checkpoint.fingerprint({"params": params, "model_state": model_state})
    place = Path(os.path.expanduser(path))
    again = push_to is not None and place.is_dir() and any(place.iterdir())
    with _new_folder(path, again=again) as folder:
        words, notes = WRITERS[format](folder, run, licence=licence, swapped_stem=swapped_stem)
        facts = _facts(run, format, Path(path).resolve().name, licence, about, words, [*notes, *_began(came)])
        (folder / "README.md").write_text(card.text(facts))
        for name, content in run.modality.files.items():
            (folder / name).write_bytes(content)
    about["notes"] = [*notes, *([f"{place} was there already, with the same bytes."] if again else [])]
    if push_to is not None:
        message = f"{run.config.method.name}, step {run.step}"
        about["url"] = hub.push(place, push_to, private=private, message=message)
    return about


@contextlib.contextmanager
def _new_folder(path: str | os.PathLike[str], *, again: bool = False) -> Iterator[Path]:
    """A folder beside ``path`` to write into, which takes its place at the end; an error leaves nothing.

    Args:
      again: the folder is there, and has to hold the same bytes.
    """
    path = Path(os.path.expanduser(path))
    if path.is_file() or (not again and path.is_dir() and any(path.iterdir())):
        raise ValueError(f"--out {path} is there already; name a folder that is not")
    temporary = path.absolute().with_name(f"{path.name}.tmp{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if not again:
            temporary.replace(path)
        elif _digests(temporary) != _digests(path):
            raise ValueError(f"--out {path} is there already and holds another export; name a folder that is not")
    except OSError as error:
        raise ValueError(f"--out {path} cannot be written ({error.strerror or error}); name another folder") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of every file of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _takes_images(run: Run) -> bool:
    return run.modality.vocab is None and len(run.modality.input_shape) == 3


def _of_images(run: Run) -> None:
    if not _takes_images(run):
        what = "data that are no images" if run.modality.vocab is None else "text"
        raise ValueError(
            f"this run's encoder takes {what}, and the format is for images; --format flax holds it, and so does "
            f"--format {OURS}, one file"
        )


def _statistics(run: Run) -> tuple[tuple[float, ...], tuple[float, ...]]:
    data = run.config.data
    return tuple(data.mean), tuple(data.std)


def _to_peers(folder: Path, run: Run, theirs: str, *, licence: str, swapped_stem: bool):
    network = _network(run)
    try:
        name, arguments = peers.architecture(network, theirs, swapped_stem=swapped_stem)
    except ValueError as error:
        raise error if swapped_stem else _with_others(error, network, theirs) from None
    _compare(run)
    peers.write(folder, network, theirs, licence=_stated(licence), swapped_stem=swapped_stem)
    classifier, notes = network.classifier, _of_classifier(run, network)
    if swapped_stem:
        stem = peers.stem_of(network.model, network.shape[2])
        notes.append(f"Before it is loaded, its stem is swapped: {stem}.")
    strict = "" if classifier is not None else ", strict=False"
    arguments = arguments if theirs == "torchvision" else {}
    arguments = arguments | ({} if classifier is None else {"num_classes": np.shape(classifier["bias"])[-1]})
    said = ", ".join(f"{k}={v}" for k, v in arguments.items())
    if theirs == "timm" and classifier is not None:
        notes.append(card.UNEXPECTED.format(classifier=peers.ends(name)[1]))
    return {"architecture": name, "arguments": said, "strict": strict}, notes


def _to_transformers(folder: Path, run: Run, *, licence: str, swapped_stem: bool):
    network = _network(run)
    try:
        form = transformers.form(network)
    except ValueError as error:
        raise _with_others(error, network, "transformers") from None
    _compare(run)
    transformers.write(folder, network, form, licence=_stated(licence))
    notes, of_vit = _of_classifier(run, network), form.config["model_type"] == "vit"
    if network.classifier is not None:
        notes.append(card.UNEXPECTED.format(classifier="classifier"))
    elif of_vit:
        notes.append("The layer that ViTModel has behind the class token (pooler) is the identity.")
    bare = of_vit and network.classifier is not None
    name = f"{transformers.CLASSES[form.config['model_type']]}Model"
    return {
        "architecture": name,
        "labels": "model.config.id2label names its columns" if network.class_names else "one column of each class",
        "arguments": ", add_pooling_layer=False" if bare else "",
        "features": form.features,
    }, notes


def _with_others(error: ValueError, network: peers.Network, asked: str) -> ValueError:
    """A format's refusal, whose advice is what holds the run: of the three libraries those that do, or none of them."""
    hold = []
    for name in sorted({"timm", "torchvision", "transformers"} - {asked}):
        with contextlib.suppress(ValueError):
            transformers.form(network) if name == "transformers" else peers.architecture(network, name)
            hold.append(name)
    what, _, fix = str(error).partition("; use ")
    if hold:
        fix = f"--format {' or '.join(hold)}, which hold{'s' * (len(hold) == 1)} this run"
    elif "--format timm" in fix:
        fix = "--format stablehlo, onnx or flax"
    return ValueError(f"{what}; use {fix}") if fix else error


def _network(run: Run) -> peers.Network:
    _of_images(run)
    params, model_state = run.method.trunk(run.variables)
    model, shape = to_json(run.config)["model"], tuple(run.modality.input_shape)
    names = (run.resolved.get("imported") or {}).get("class_names", ())
    view, classifier = run.recipe.evaluate, _classifier(run)
    return peers.Network(model, params, model_state, classifier, shape, *_statistics(run), view, names)


def _stated(licence: str) -> str | None:
    return None if licence == licences.NOT_STATED else licences.key(licence)


def _of_classifier(run: Run, network: peers.Network) -> list[str]:
    if network.classifier is not None:
        return ["The classifier came with it."]
    return ["Its classifier was left out; --format stablehlo holds it."] if "classify" in run.method.hooks else []


def _classifier(run: Run) -> Tree | None:
    """{"kernel", "bias"} of one linear layer on the features, where the run's product has such."""
    part = run.variables.params.get("classifier") if "classify" in run.method.hooks else None
    layers = list(part.values()) if isinstance(part, Mapping) else []
    if len(layers) == 1 and isinstance(layers[0], Mapping) and set(layers[0]) == {"kernel", "bias"}:
        return layers[0]
    return None


def _compare(run: Run) -> None:
    """Refuse where the features of a run are not its network's on normalised images (colours of its own, parts)."""
    params, model_state = run.method.trunk(run.variables)
    model = to_json(run.config)["model"]
    mean, std = _statistics(run)
    encoder = models.make(model["name"], **{k: v for k, v in model.items() if k != "name"})
    images = jnp.asarray(np.random.default_rng(0).random((2, *run.modality.input_shape), np.float32))
    try:
        alone, _ = jax.jit(partial(models.forward, encoder, train=False))(
            params, model_state, normalize(images, mean, std)
        )
    except Exception:  # other arrays than the config's network has, as with norms that the method gave it
        alone = None
    want = jax.jit(run.method.encode)(run.variables, images)["features"]
    got = None if alone is None else alone["features"]
    scale = max(1.0, float(jnp.abs(want).max()))
    if got is None or got.shape != want.shape or not float(jnp.abs(got - want).max()) <= SAME * scale:
        raise ValueError(
            f"the features of method.name={run.config.method.name!r} are not those of its {model['name']} on images "
            "with data.mean and data.std taken off; use --format stablehlo, which holds all that it computes"
        )


def _to_flax(folder: Path, run: Run, *, licence: str, swapped_stem: bool):
    params, model_state = run.method.trunk(run.variables)
    model = to_json(run.config)["model"]
    about: dict[str, Any] = {"make": model, "call": "ssl_jax.models.make(**make).apply(variables, x, train=False)"}
    about |= {"input_shape": list(run.modality.input_shape), "features": "outputs['features']"}
    if _takes_images(run):
        mean, std = _statistics(run)
        about |= {"mean": mean, "std": std, "range": [0, 1]}
    notes = []
    if (classifier := _classifier(run)) is not None:
        of_map = bool(run.config.method.get("of_map"))
        about["classifier"] = flax.OF_MAP if of_map else flax.OF_FEATURES
        notes.append(f"Its classifier came with it: {about['classifier']}.")
    elif "classify" in run.method.hooks:
        notes.append(
            "Its classifier, which is no linear layer on the features, was left out; --format stablehlo holds it."
        )
    flax.write(folder, params, model_state, about, classifier)
    inputs = "images" if _takes_images(run) else "inputs"
    return {"make": ", ".join(f"{k}={v!r}" for k, v in model.items()), "inputs": inputs}, notes


def _to_stablehlo(folder: Path, run: Run, *, licence: str, swapped_stem: bool):
    _of_images(run)
    named = by_name(run.variables)
    structure = jax.tree.structure(run.variables)

    def encode(given: Mapping[str, Any], images: Any) -> dict[str, Any]:
        leaves = [given[name] if name in given else jnp.zeros_like(leaf) for name, leaf in named.items()]  # unread ones
        variables = jax.tree.unflatten(structure, leaves)
        return {k: a for k, a in with_logits(run.method)(variables, images).items() if k != "projections"}

    host = {
        name: np.asarray(leaf) for name, leaf in named.items() if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    }
    try:
        stablehlo.write(folder, encode, host, tuple(run.modality.input_shape))
    except Exception as error:  # what tracing makes of a network that counts its images
        said = (str(error).splitlines() or [""])[0][:200]
        name = run.config.method.name
        raise ValueError(f"{name}'s encode cannot be written as StableHLO ({type(error).__name__}: {said})") from error
    notes = [f'Its classifier came with it, the output "{LOGITS}".'] if "classify" in run.method.hooks else []
    return {"shape": f"[b, {', '.join(map(str, run.modality.input_shape))}]"}, notes


def _to_onnx(folder: Path, run: Run, *, licence: str, swapped_stem: bool):
    _of_images(run)
    config, notes = run.config.copy_and_resolve_references(), []
    outputs = ["features"]
    if "classify" in run.method.hooks:
        outputs.append(LOGITS)
        notes.append(f'Its classifier came with it, the output "{LOGITS}".')
    if config.model.get("dtype"):
        notes.append(f"It computes in float32; the run did in {config.model.dtype}.")
        config.model.dtype = None
    encode = partial(with_logits(make_method(config, run.plan)), run.variables)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(run.variables) if hasattr(leaf, "nbytes"))
    worst = onnx.write(folder, encode, tuple(run.modality.input_shape), outputs, size=size)
    if (folder / onnx.DATA).exists():
        notes.append(f"Its weights lie in {onnx.DATA}, which belongs beside {onnx.FILE}.")
    what = " and ".join(outputs).capitalize()
    notes.append(f"{what} of onnxruntime differ from the run's own by {worst:.1g} at most, on random images.")
    shape = f"[B, {', '.join(map(str, run.modality.input_shape))}]"
    return {"shape": shape, "outputs": "".join(f"{name}, " for name in outputs), "names": json.dumps(outputs)}, notes


WRITERS = {
    "timm": partial(_to_peers, theirs="timm"),
    "torchvision": partial(_to_peers, theirs="torchvision"),
    "transformers": _to_transformers,
    "flax": _to_flax,
    "stablehlo": _to_stablehlo,
    "onnx": _to_onnx,
}


def _facts(run: Run, format: str, name: str, licence: str, about: Mapping[str, Any], words, notes) -> card.Facts:
    resolved = run.resolved
    images = _takes_images(run)
    mean, std = _statistics(run) if images else ((), ())
    evaluation, said = _evaluation(run)
    return card.Facts(
        format=format,
        name=name,
        config=about["config"],
        shape=tuple(run.modality.input_shape),
        mean=mean,
        std=std,
        view=run.recipe.evaluate if images else None,
        licence=licence,
        commit=about["commit"],
        version=about["version"],
        step=run.step,
        data=resolved.get("data", {}),
        evaluation=evaluation,
        imported=resolved.get("imported"),
        notes=[*notes, *said],
        classifier="classify" in run.method.hooks if format in PROGRAMS else _classifier(run) is not None,
        words=words,
    )


def _began(came: list[origins.Origin]) -> Iterator[str]:
    """What a card says of the weights that a run began with."""
    for origin in came:
        if origin["where"].endswith("began with,"):
            source, licence = origin.get("source") or "elsewhere", origin.get("licence") or "not known"
            yield f"The run began with weights of {source}; their licence: {licence}."


def _evaluation(run: Run) -> tuple[list[dict[str, Any]], list[str]]:
    """The results on this checkpoint in the run's folder, and what is to be said of others."""
    place = Path(run.workdir) / "evaluation"
    if not (place / results.FILE).is_file():
        return [], []
    said: list[str] = []
    found = results.earlier(place, checkpoint.fingerprint(run.variables), said.append)
    left = ["An evaluation of another checkpoint lies beside the run and is left out."] if said and not found else []
    return [one.result for one in found.values()], left
