"""The folder of a run: one run at a time, what it was asked (``config.json``) and what came of it (``summary.json``).

Checkpoints are :mod:`ssl_jax.run.checkpoint`'s and ``metrics.jsonl`` is :mod:`ssl_jax.run.writer`'s.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from ssl_jax import configs
from ssl_jax.data import recipes
from ssl_jax.data.images.values import differences
from ssl_jax.data.source import same
from ssl_jax.interop.files import advice, write_json, writing
from ssl_jax.names import brief
from ssl_jax.run import checkpoint
from ssl_jax.run.extend import LENGTH, lengths, set_aside
from ssl_jax.run.writer import METRICS

ROOM = 200  # letters that are added to a run's own path, at most: below it lie the parts of unfinished checkpoints


def check(workdir: str | os.PathLike[str], argument: str = "--workdir") -> Path:
    """The folder of a run, with ``~`` expanded, after a look at whether it can be made; nothing is written.

    Raises:
      ValueError: it cannot, or no checkpoint could be written below it.
    """
    try:
        path = Path(configs.path(workdir))
    except ValueError as error:
        raise ValueError(f"{argument}: {error}") from None
    whole = os.path.abspath(path)
    if "\\" in whole or "gs:/" in f"{whole}/":  # TensorStore takes them for another folder, and for a bucket
        raise ValueError(f"{argument} {whole} has a backslash or 'gs:' in it; use another name")
    there = Path(whole)
    while not os.path.lexists(there):
        there = there.parent
    why = None
    longest = max(len(os.fsencode(part)) for part in Path(whole).parts)
    if len(os.fsencode(whole)) + ROOM > os.pathconf("/", "PC_PATH_MAX") or longest > os.pathconf("/", "PC_NAME_MAX"):
        why = errno.ENAMETOOLONG
    elif not there.is_dir():
        if there == Path(whole) and there.is_file():
            raise ValueError(f"{argument} {path} is a file; name a folder")
        why = errno.ENOENT if there.is_symlink() else errno.ENOTDIR
    elif not os.access(there, os.R_OK | os.X_OK if there == Path(whole) else os.W_OK | os.X_OK):
        why = errno.EACCES
    if why is not None:
        shown = whole if len(whole) < 300 else f"{whole[:300]} ..."
        raise ValueError(f"{argument} {shown} cannot be made or written to ({os.strerror(why)}); use another folder")
    checkpoint.steps(whole)
    return path


@contextlib.contextmanager
def lock(workdir: str | os.PathLike[str], what: str = "run", option: str = "workdir") -> Iterator[None]:
    """Hold ``<workdir>/.lock`` (flock, process 0 only) or raise ValueError: one run per folder. A kill releases it.

    Args:
      what: would hold it.
      option: by which another folder is named.
    """
    if jax.process_index() != 0:
        yield
        return
    path = Path(workdir) / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.open("ab+", buffering=0))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            file.truncate(0)
            file.write(f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError:
            who = path.read_text().strip() or "which does not say who it is"
            raise ValueError(
                f"another {what} holds {path} ({who}); wait for it, stop it, or use another {option}"
            ) from None
        except OSError as error:
            text = f"{workdir} cannot be made or written to ({error.strerror})"
            fix = f"{advice(error)}, or " if advice(error) else ""
            raise ValueError(f"{text}; {fix}use another {option}") from None
        yield  # the file stays: removing it would race with the next holder


def read_config(path: Path) -> dict[str, Any]:
    """A run's ``config.json``, with what is asked of it later: "config", "resolved" and its "plan" and "data".

    Raises:
      ValueError: it cannot be read, or is not whole.
    """
    try:
        found = json.loads(path.read_text())
        resolved = found["resolved"]
        parts = (found["config"], resolved["plan"], resolved["data"]["sizes"])
        if not all(isinstance(part, dict) and part for part in parts) or not isinstance(found.get("resumed", []), list):
            raise ValueError("it is not whole")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(
            f"{path} cannot be read ({what}); put a copy of it back, or use the workdir of another run"
        ) from None
    return found


def stored(
    workdir: Path, config: Mapping[str, Any], resolved: Mapping[str, Any], *, extend: bool = False
) -> dict[str, Any] | None:
    """``config.json`` of the run that one with ``config`` continues, or None for a new one.

    ``extend``: its length may be another.

    Raises:
      ValueError: the folder holds a run with another config or on other data, or checkpoints without a config.
    """
    path = workdir / "config.json"
    if not path.is_file():
        if checkpoint.latest(workdir) is not None or (workdir / METRICS).exists():
            raise ValueError(f"{workdir} holds checkpoints or metrics but no config.json; use another --workdir")
        return None
    found = read_config(path)
    refused, _ = configs.differences(found["config"], config)
    if extend:
        refused = {key: values for key, values in refused.items() if key not in LENGTH}
    if refused:
        shown = ", ".join(
            f"{k} ({brief(repr(old))} there, {brief(repr(new))} here)" for k, (old, new) in list(refused.items())[:5]
        )
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise ValueError(
            f"{workdir} holds a run with another config: {shown}{more}; use another --workdir (to train longer: "
            f"--extend, or a new run with --config.init_from={workdir})"
        )
    check_files(workdir, found["resolved"])
    begun = found["resolved"].get("recipe")  # of the runs that are younger than the key
    if begun is not None and recipes.of_plain(begun, own=False) != recipes.of_plain(resolved["recipe"], own=False):
        differs = "; ".join(list(differences(begun, resolved["recipe"]))[:3])
        raise ValueError(
            f"the run in {workdir} began with another recipe of that name ({differs}); use another --workdir"
        )
    then, now = _known_data(found), resolved["data"]
    if not same(then, now) or then.get("files") != now.get("files"):
        sizes = then.get("sizes"), now.get("sizes")
        why = f"{sizes[0]} then, {sizes[1]} now" if sizes[0] != sizes[1] else f"as many, {sizes[0]}, but others"
        if then.get("of") == now.get("of") == "times":
            why += "; sizes and times of files are all that is known of them, which `cp -a` and `rsync -a` keep"
        raise ValueError(
            f"the data at {brief(config['data']['source'])} are not those that the run in {workdir} began with "
            f"({why}); use another --workdir"
        )
    before, classes = (of["plan"].get("num_classes") for of in (found["resolved"], resolved))
    if before != classes:  # of a run from when labels 1, 2, 3 were four classes
        raise ValueError(
            f"the run in {workdir} was made with {before} classes, and the labels at {brief(config['data']['source'])} "
            f"are {classes}, since those count that occur; use another --workdir"
        )
    return found


def check_files(workdir: Path, resolved: Mapping[str, Any]) -> None:
    """Refuse a run whose modality's files (a tokenizer) are not those that it began with.

    Raises:
      ValueError: names the file.
    """
    for name, digest in resolved["data"].get("files", {}).items():
        try:
            same = hashlib.sha256((workdir / name).read_bytes()).hexdigest() == digest
        except OSError as error:
            raise ValueError(f"{workdir / name} cannot be read ({error.strerror}); put a copy of it back") from None
        if not same:
            raise ValueError(f"{workdir / name} is not what the run began with (sha256); put a copy of it back")


def keep_sources(workdir: Path, own: Mapping[str, Mapping[str, Any]]) -> None:
    """Copies of the files that parts of one's own are read from, to be looked at and put back; they are never run."""
    for known in own.values():
        copy = copy_of(workdir, known)
        if copy is not None and not copy.exists():
            with writing(copy):
                copy.parent.mkdir(exist_ok=True)
                aside = copy.with_name(f"{copy.name}.tmp")
                aside.write_bytes(Path(known["path"]).read_bytes())
                aside.replace(copy)


def copy_of(workdir: Path, known: Mapping[str, Any]) -> Path | None:
    """Where :func:`keep_sources` puts the file of a part; None of one without a file."""
    if known["path"] is None:
        return None
    path = Path(known["path"])
    return workdir / "own" / f"{path.stem}_{known['sha256'][:8]}{path.suffix}"


@contextlib.contextmanager
def naming_copies(workdir: Path) -> Iterator[None]:
    """Errors about a part of one's own that cannot be read any more name the copy that the run in a folder keeps."""
    try:
        yield
    except ValueError as error:
        known: Mapping[str, Any] = {}
        with contextlib.suppress(ValueError, OSError, LookupError):  # which is told when the run is gone on with
            known = own_parts(read_config(workdir / "config.json"))
        for key, part in known.items():
            if str(error).startswith(f"{key}=") and not Path(part["path"] or workdir).exists():
                raise ValueError(f"{error}{kept(workdir, part)}") from error
        raise


def kept(workdir: Path, known: Mapping[str, Any]) -> str:
    """What is added to an error about a part: its file, and where the copy of that is; nothing of one without."""
    copy = copy_of(workdir, known)
    return "" if copy is None else f"; the run was made with {known['path']}, of which {copy} is a copy"


def _changed_sources(found: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One line for each part of one's own whose file is another than when the run began or went on."""
    starts = [start["resolved"].get("own", {}) for start in (found, *found.get("resumed", []))]
    for key, known in now.items():
        then = {str(start[key]["sha256"])[:8] for start in starts if start.get(key, known)["sha256"] != known["sha256"]}
        if then:
            digests = f"sha256 {', '.join(sorted(then))} then, {str(known['sha256'])[:8]} now"
            yield (
                f"WARNING: {key}={known['name']}: {known['path']} has changed, and earlier parts of this run were made "
                f"with what it was ({digests}); a copy of each is kept in own/"
            )


def own_parts(found: Mapping[str, Any]) -> Mapping[str, dict[str, Any]]:
    """The parts of one's own as they were when a run was last started; of a run from before they were kept, none."""
    return [found, *found.get("resumed", [])][-1]["resolved"].get("own", {})


def _known_data(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run knew of its data when it was last started; of an older run that is more than at its first start."""
    return [found, *found.get("resumed", [])][-1]["resolved"]["data"]


def resume_notes(
    found: Mapping[str, Any] | None, config: Mapping[str, Any], resolved: Mapping[str, Any], start: int
) -> Iterator[str]:
    """What a run that goes on has to say, where ``found`` is what :func:`stored` gave."""
    if not found:
        return
    yield f"continuing after step {start}" if start else "there is no checkpoint yet: the run begins anew"
    for key, (old, new) in configs.differences(found["config"], config)[1].items():
        yield f"config.{key} was {brief(repr(old))}, is now {brief(repr(new))}"
    if "of" not in _known_data(found) and "before" in resolved["data"]:
        yield (
            "WARNING: when the run began names and sizes were all that was kept of its data, and these are the same; "
            f"from now on their {resolved['data']['of']} count"
        )
    yield from _changed_sources(found, resolved["own"])
    before = found["resolved"]
    for key in ("devices", "processes", "platform", "cores", "cpu", "versions", "commit"):
        if before.get(key) != resolved[key]:
            yield (
                f"WARNING: {key} was {before.get(key)} when the run began and is {resolved[key]} now; "
                "its bits will not be those of an uninterrupted run"
            )


def write_config(
    workdir: Path,
    found: Mapping[str, Any] | None,
    config: Mapping[str, Any],
    resolved: Mapping[str, Any],
    start: int,
    files: Mapping[str, bytes],
) -> None:
    """``config.json`` of a new run and its modality's ``files``, or what a resumption after step ``start`` adds.

    Of a run that was extended the config says the new length, and the resumption the old one.
    """
    if jax.process_index() != 0:
        return
    keep_sources(workdir, resolved["own"])
    if found is None:
        for name, content in files.items():
            with writing(workdir / name):
                (workdir / name).write_bytes(content)
        write_json(workdir / "config.json", {"config": config, "resolved": resolved, "resumed": []})
        return
    longer = lengths(found["config"], config)
    changed = configs.differences(found["config"], config)[1] | longer
    if longer:
        set_aside(workdir, found["resolved"]["plan"]["total_steps"])
        train = found["config"]["train"] | {key.removeprefix("train."): now for key, (_, now) in longer.items()}
        plan = found["resolved"]["plan"] | {"total_steps": resolved["plan"]["total_steps"]}
        found = {
            **found,
            "config": {**found["config"], "train": train},
            "resolved": {**found["resolved"], "plan": plan},
        }
    resumption = {"step": start, "changed": changed, "resolved": resolved}
    write_json(workdir / "config.json", {**found, "resumed": [*found.get("resumed", []), resumption]})


def read_summary(workdir: Path) -> dict[str, Any] | None:
    """``summary.json`` of a finished run; None where there is none, or only a part of one."""
    try:
        found = json.loads((workdir / "summary.json").read_text())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and "params_fingerprint" in found else None
