"""Names that users give: the nearest one that there is, and what is not ours by dotted path or file.

A method, an encoder, an evaluator, a source, a recipe or an operation of one's own is named in one of four ways::

    ./w_mse.py                    a file, of which what is called as WORDS says is taken: ``make`` of a method
    ./w_mse.py:other              another thing in it
    my_lab.w_mse                  a module, or one thing in a module, my_lab.methods.vicreg
    my_lab.methods:vicreg         a thing in a module

Own code runs from where it lies. A run keeps a copy of its source (``<workdir>/own``) and the sha256 of it, so that a
change is told and what was lost can be put back; the copy itself is never run, since whoever opens a folder that came
from elsewhere would run what lies in it. The sha256 is of that one file, not of what it imports.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

# Where configs/ and experiments/ lie: inside an installed package (setup.py), beside it in a checkout.
HERE = Path(__file__).resolve().parent
HOME = HERE / "shipped" if (HERE / "shipped").is_dir() else HERE.parent

# What is taken of a file or module that is named alone, by the key that names it.
WORDS = {
    "method.name": ("make",),
    "model.name": ("make", "Encoder"),
    "evaluator": ("Evaluator",),
    "data.source": ("load",),
    "data.recipe": ("RECIPE", "make"),
    "operation": ("operation",),  # of images
}
# What keys of configs are called elsewhere, in words without underscores -> the key here, the first that there is.
SYNONYMS = {
    **dict.fromkeys(("lr", "baselr", "learningrate", "rate"), ("optim.learning_rate",)),
    **dict.fromkeys(("wd", "decay", "l2", "weightdecay"), ("optim.weight_decay",)),
    **dict.fromkeys(("opt", "optim", "optimizer", "optimiser"), ("optim.name",)),
    **dict.fromkeys(("scheduler", "lrscheduler", "lrschedule"), ("optim.schedule",)),
    **dict.fromkeys(("warmup", "warmupsteps"), ("optim.warmup_epochs",)),
    **dict.fromkeys(("warmuplr", "startlr"), ("optim.start",)),
    **dict.fromkeys(("minlr", "etamin", "finallr", "endlr"), ("optim.end",)),
    **dict.fromkeys(
        ("clip", "clipgrad", "gradclip", "gradientclip", "maxgradnorm", "gradclipnorm"), ("optim.clip_norm",)
    ),
    **dict.fromkeys(("trustcoefficient", "trustcoef", "trust"), ("optim.eta",)),
    **dict.fromkeys(("cliplr", "clipratio"), ("optim.clip_rate",)),
    **dict.fromkeys(("lrdecay", "layerwisedecay", "llrd", "layerwiselrdecay"), ("optim.layer_decay",)),
    **dict.fromkeys(("patchembedlrmult", "patchlr"), ("optim.patch_rate",)),
    **dict.fromkeys(("beta1", "b1"), ("optim.momentum",)),
    **dict.fromkeys(("beta2", "betas"), ("optim.b2",)),
    **dict.fromkeys(("bs", "batch", "batchsize", "localbatchsize"), ("data.global_batch_size",)),
    **dict.fromkeys(("epoch", "numepochs", "nepochs", "maxepochs"), ("train.epochs",)),
    **dict.fromkeys(("iters", "iterations", "maxsteps", "numsteps", "totalsteps"), ("train.steps",)),
    **dict.fromkeys(("logfreq", "loginterval", "printfreq"), ("train.log_every",)),
    **dict.fromkeys(("saveevery", "savefreq", "ckptevery", "checkpointfreq"), ("train.checkpoint_every",)),
    **dict.fromkeys(("evalfreq", "evalinterval", "valevery"), ("train.eval_every",)),
    **dict.fromkeys(("wandb", "mlflow", "tensorboard", "logger", "tracker", "trackers"), ("train.loggers",)),
    **dict.fromkeys(
        ("arch", "architecture", "backbone", "encoder", "model", "net", "network", "basemodel"), ("model.name",)
    ),
    **dict.fromkeys(("precision", "amp", "fp16", "bf16", "halfprecision"), ("model.dtype",)),
    **dict.fromkeys(("algo", "algorithm", "framework", "method"), ("method.name",)),
    **dict.fromkeys(("dataset", "datasets", "data", "datasetname", "ds", "root", "datapath"), ("data.source",)),
    **dict.fromkeys(("imgsize", "imsize", "imagesize", "inputsize", "resolution", "res"), ("data.image_size",)),
    **dict.fromkeys(("aug", "augs", "augmentation", "augmentations", "transform", "transforms"), ("data.recipe",)),
    **dict.fromkeys(("temp", "t", "tau"), ("method.temperature", "method.tau", "method.momentum")),
    **dict.fromkeys(("m", "ema", "emadecay", "emamomentum"), ("method.tau", "method.momentum", "method.ema")),
    **dict.fromkeys(("queue", "k", "queuelen"), ("method.queue_size", "eval.knn_k")),
    **dict.fromkeys(
        ("projdim", "projoutputdim", "projectiondim", "outdim", "outputdim", "embdim", "embeddim", "zdim"),
        ("method.projector_dim", "method.embed_dim", "method.latent_dim", "method.dim"),
    ),
    **dict.fromkeys(
        ("hiddendim", "projhidden", "projhiddendim", "mlpdim"), ("method.projector_hidden", "method.hidden")
    ),
    # Of the other libraries' methods, in their order: SimSiam and BYOL, VICReg, Barlow Twins, SwAV, DINO, MAE.
    **dict.fromkeys(("predhiddendim", "predhidden"), ("method.predictor_hidden", "method.hidden")),
    **dict.fromkeys(("simlossweight", "simcoeff", "lambdaparam"), ("method.invariance", "method.off_diagonal")),
    **dict.fromkeys(("varlossweight", "stdcoeff", "muparam"), ("method.variance",)),
    **dict.fromkeys(("covlossweight", "covcoeff", "nuparam"), ("method.covariance",)),
    **dict.fromkeys(("lamb", "lambd", "lambda"), ("method.off_diagonal", "method.sigreg_weight")),
    **dict.fromkeys(("numprototypes", "nmbprototypes", "nprototypes"), ("method.prototypes", "method.out_dim")),
    **dict.fromkeys(("teachertemp", "teachertemperature"), ("method.teacher_temperature",)),
    "warmupteachertemp": ("method.warmup_teacher_temperature",),
    **dict.fromkeys(("momentumteacher", "basetaumomentum", "basetau"), ("method.tau", "method.momentum")),
    **dict.fromkeys(("maskpct", "maskingratio"), ("method.mask_ratio",)),
    **dict.fromkeys(("randomseed", "rngseed", "rng"), ("seed",)),
    **dict.fromkeys(("pretrained", "init", "weights", "checkpoint", "ckpt", "resume"), ("init_from",)),
    **dict.fromkeys(("gpus", "numgpus", "ngpus", "ndevices", "numdevices", "worldsize"), ("parallel.devices",)),
}
_FILE = re.compile(r"(.+\.py)(?::([^\W\d]\w*))?")


def nearest(word: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like ``word``, None if none is like it."""
    return next(iter(difflib.get_close_matches(str(word), list(known), 1, cutoff)), None)


def hint(word: Any, known: Iterable[str], *, cutoff: float = 0.6, form: str = "{!r}") -> str:
    """``did you mean 'NAME'?`` and a space, or nothing."""
    name = nearest(word, known, cutoff=cutoff)
    return "" if name is None else f"did you mean {form.format(name)}? "


def nearest_key(key: str, known: Iterable[str], *, cutoff: float = 0.4) -> str | None:
    """The key that somebody means: what the field calls so, the same word elsewhere, or what is written most alike."""
    known, (*_, word) = list(known), key.split(".")
    for meant in SYNONYMS.get(word.lower().replace("_", "").replace("-", ""), ()):
        if found := [k for k in known if k == meant or k.endswith(f".{meant}")]:
            return found[0]
    same = [k for k in known if k.split(".")[-1] == word and k.count(".") <= 2]
    return nearest(key, same, cutoff=0) or nearest(key, known, cutoff=cutoff)


def refuse_unknown(value: Any, known: Iterable[str], what: str) -> None:
    """ValueError in one line, with the nearest known name, for a ``value`` that is not among them.

    Args:
      what: the value is of, e.g. "method.name=", or a word with a space.
    """
    known = list(known)
    if value not in known:
        raise ValueError(f"{what}{value!r} is unknown; {hint(value, known)}known: {', '.join(map(str, known))}")


class Own(NamedTuple):
    """What a name outside of this package means.

    Attributes:
      value: the function, class or recipe.
      path: the file it is read from; None of what has none.
      sha256: of that file.
    """

    value: Any
    path: Path | None
    sha256: str | None


def is_file(name: Any) -> bool:
    """Whether a name is that of a Python file: ``PATH.py`` or ``PATH.py:name``."""
    return isinstance(name, str) and _FILE.fullmatch(name) is not None


def is_imported(name: Any) -> bool:
    """Whether a name means something outside of this package: a file, ``package.module`` or ``package.module:name``."""
    if not isinstance(name, str) or is_file(name):
        return is_file(name)
    words = name.replace(":", ".").split(".")
    return name.count(":") <= 1 and len(words) > 1 and all(word.isidentifier() for word in words)


def is_there(name: str) -> bool:
    """Whether the file of a name, or the package that it begins with, is there."""
    if is_file(name):
        return os.path.isfile(_split(name)[0])
    with _on_path(os.getcwd()):
        return importlib.util.find_spec(re.split(r"[.:]", name)[0]) is not None


def short(name: str) -> str:
    """What a part is called in a table or a folder: ``centroid`` of ``./centroid.py`` and of ``my_lab.centroid``."""
    if is_file(name):
        path, word = _split(name)
        return word or path.stem
    return re.split(r"[.:]", name)[-1]


def brief(text: object) -> str:
    """Text in which examples that were handed over from Python have 8 digits: ``arrays:6ab22a31``, not all 64."""
    return re.sub(r"\b(arrays:[0-9a-f]{8})[0-9a-f]{56}\b", r"\1", str(text))


def at(name: str, path: str | Path) -> str:
    """The name of a file with the file at another place."""
    return ":".join(filter(None, (str(path), _split(name)[1])))


def imported(name: str, key: str) -> Any:
    """The value of :func:`own`."""
    return own(name, key).value


def own(name: str, key: str) -> Own:
    """What a name outside of this package means, see above.

    Args:
      name: one for which :func:`is_imported`.
      key: the key of the config that holds it, for the message and, by :data:`WORDS`, what is taken of a file.

    Raises:
      ValueError: there is no such file or module, it cannot be run, or has nothing of that name.
    """
    said = f"{key}={name!r}"
    if is_file(name):
        path, word = _split(name)
        module, digest, shown = *_run(path, said), str(path)
    else:
        shown, _, word = name.partition(":")
        module = _import(shown, said, missing_is_none=not word)
        if module is None:
            shown, _, word = name.rpartition(".")
            module = _import(shown, said)
        assert module is not None
        file = getattr(module, "__file__", None)
        path = Path(file) if file else None
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path else None
    taken = next((w for w in ([word] if word else WORDS[key]) if hasattr(module, w)), None)
    if taken is None:
        wanted = word or " and no ".join(WORDS[key])
        meant = hint(word, vars(module)) if word else f"name what it holds, {name}:NAME"
        raise ValueError(f"{said}: {shown} has no {wanted}; {meant or 'name what it holds'}")
    return Own(getattr(module, taken), path, digest)


def file_of(name: str, key: str) -> Path | None:
    """The file that :func:`own` reads, which is not run for that."""
    return _split(name)[0] if is_file(name) else own(name, key).path


def place(error: BaseException, path: Path | None) -> str:
    """``, w_mse.py line 31``: where in a file an error came up; nothing where it did not pass there."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if path and f.filename == str(path)]
    return f", {path.name} line {lines[-1]}" if path and lines else ""


def said_of(error: BaseException) -> str:
    """Kind and first line of an error."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}".removesuffix(": ")


def _split(name: str) -> tuple[Path, str | None]:
    found = _FILE.fullmatch(name)
    assert found is not None
    return Path(os.path.abspath(os.path.expanduser(found[1]))), found[2]


@contextlib.contextmanager
def _on_path(*folders: str) -> Iterator[None]:
    added = [folder for folder in folders if folder not in sys.path]
    sys.path.extend(added)
    importlib.invalidate_caches()  # of files that were written a moment ago
    try:
        yield
    finally:
        for folder in added:
            with contextlib.suppress(ValueError):
                sys.path.remove(folder)


def _import(name: str, said: str, missing_is_none: bool = False) -> ModuleType | None:
    """A module, of the folder in which the command was given, too; None where there is none and that may be."""
    try:
        with _on_path(os.getcwd()):
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the file does wrong
        if missing_is_none and isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        raise ValueError(
            f"{said}: {name} cannot be imported ({said_of(error)}); is its folder in PYTHONPATH?"
        ) from error


def _run(path: Path, said: str) -> tuple[ModuleType, str]:
    """(The module that a file is, sha256 of the file), run once for each content; it may import its neighbours."""
    try:
        content = path.read_bytes()
    except OSError as error:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.py")], cutoff=0.75)
        fix = f"did you mean {path.parent / near}?" if near else "put it there, or name another"
        why = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ValueError(f"{said}: {path} {why}; {fix}") from None
    digest = hashlib.sha256(content).hexdigest()
    name = f"{path.stem}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}_{digest[:8]}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        try:
            with _on_path(str(path.parent)):
                exec(compile(content, path, "exec"), vars(module))  # a .pyc could be of an earlier content
        except (Exception, SystemExit) as error:  # whatever the file does wrong
            del sys.modules[name]
            raise ValueError(f"{said}: {path} cannot be run ({said_of(error)}{place(error, path)})") from error
    return sys.modules[name], digest
