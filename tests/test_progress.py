"""Phases that last say what they do and how far they are; the pace of a run, and what is foretold of it."""

from __future__ import annotations

import math
import re
import threading
from types import SimpleNamespace

import jax
import numpy as np
import pictures
import pytest
from tqdm import tqdm

from ssl_jax.data.readers import folder
from ssl_jax.evals import knn, low_label, projection
from ssl_jax.evals.shared import features, score
from ssl_jax.online import progress
from ssl_jax.online.pace import Pace, too_slow


@pytest.fixture
def said(monkeypatch):
    """The lines so far, said after hundredths of seconds; ``said.wait(n)`` waits for n of them."""

    class Said(list):
        def wait(self, n):
            with came:
                assert came.wait_for(lambda: len(self) >= n, timeout=60)

    lines, came = Said(), threading.Condition()

    def say(text):
        with came:
            lines.append(text)
            came.notify_all()

    for name in ("FIRST", "NEXT", "MOST"):
        monkeypatch.setattr(progress, name, 0.01)
    monkeypatch.setattr(progress, "say", say)
    return lines


def watchers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("progress of")]


def test_a_phase_that_lasts_says_how_far_it_is(said):
    with progress.phase("checking the files of PATH", total=2959) as advance:
        advance(1000)
        advance(24)
        said.wait(2)
    assert re.fullmatch(r"checking the files of PATH: 1,024 of 2,959 images \(\d+ s\)", said[-1])
    assert not watchers()
    with progress.phase("compiling the train step"):
        said.wait(len(said) + 1)
    assert re.fullmatch(r"compiling the train step \(\d+ s\)", said[-1])


def test_the_innermost_phase_speaks_and_an_error_ends_it(said):
    with progress.phase("outer"):
        with progress.phase("inner"):
            before = len(said)
            said.wait(before + 3)
            assert all(line.startswith("outer: inner (") for line in said[before + 1 :])
        with progress.phase("another", total=3) as advance:
            advance(2)
            said.wait(len(said) + 2)
            assert said[-1].startswith("outer: another: 2 of 3 images (")
        with progress.phase("counts", unit="batches") as advance:
            advance(7)
            with progress.phase("within"):
                said.wait(len(said) + 3)
                assert said[-1].startswith("outer: counts: 7 batches: within (")
        said.wait(len(said) + 2)
        assert said[-1].startswith("outer (")
    with pytest.raises(KeyError), progress.phase("broken"):
        raise KeyError
    assert not watchers()
    assert not progress._open


def test_what_is_gone_through_is_counted(said):
    seen = []
    for item in progress.counted(range(3), "reading", total=5, unit="files", by=2):
        if item == 2:
            said.wait(len(said) + 2)
        seen.append(item)
    assert seen == [0, 1, 2]
    assert said[-1].startswith("reading: 4 of 5 files")
    assert not watchers()


def test_nothing_for_five_seconds_then_ever_more_seldom(monkeypatch, capsys):
    waits = []

    class Event(threading.Event):
        def wait(self, timeout=None):
            waits.append(timeout)
            return len(waits) > 9

    monkeypatch.setattr(progress, "FIRST", 5.0)
    monkeypatch.setattr(progress.threading, "Thread", Now)
    monkeypatch.setattr(progress.threading, "Event", Event)
    with progress.phase("short"):
        pass
    assert waits == pytest.approx([5, 10, 15, 22.5, 33.75, 50.625, 75.9375, 113.90625, 120, 120])
    assert capsys.readouterr().err.splitlines() == ["short (0 s)"] * 9


class Now:
    """A thread whose work is done when it starts."""

    def __init__(self, target, **_):
        self.start, self.join = target, lambda: None


def test_no_thread_and_no_word_where_it_is_switched_off(monkeypatch):
    monkeypatch.setattr(progress, "FIRST", math.inf)
    with progress.phase("x"):
        assert not watchers()


def test_only_the_first_process_speaks_and_a_bar_stays_whole(monkeypatch, capsys):
    with tqdm(total=3) as bar:
        progress.say("a line")
        bar.update(1)
    assert "\ra line\n" in re.sub(" +\r", "\r", capsys.readouterr().err)
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    progress.say("another")
    assert capsys.readouterr() == ("", "")


def test_readers_count_what_they_check(load, monkeypatch, tmp_path):
    pictures.folder(tmp_path / "mine", n=6)
    seen = []

    def counted(items, *said, **_):
        seen.append(said)
        return items

    monkeypatch.setattr(folder, "counted", counted)
    load(f"folder:{tmp_path / 'mine'}")
    load(f"folder:{tmp_path / 'mine'}")  # known from before
    assert seen == [("checking", 12, "files")]


def test_what_is_measured_says_how_far_it_is(monkeypatch):
    class Open(list):
        def append(self, phase):
            phases.append(phase)
            super().append(phase)

    phases = []
    monkeypatch.setattr(progress, "_open", Open())

    def said():
        found = {each(): None for each in phases}  # at their ends
        phases.clear()
        return list(found)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(np.float32), np.arange(40) % 2
    low_label.label_efficiency({"a": (x, x), "b": (x, x)}, y, y, per_class=(1, "all"), draws=3)
    assert said() == ["few labels: 8 of 8 fits", "logistic regression: 1 of 1 fits"]
    projection.project(x, methods=("pca", "tsne"))
    assert said() == ["PCA, method 1 of 2", "t-SNE, method 2 of 2"]
    knn.nearest(x, x, k=3)
    assert said() == ["comparing with the bank: 1 of 1 chunks"]
    batches = [{"inputs": x, "label": y, "index": np.arange(40), "mask": np.ones(40, bool)}]
    features.extract(lambda _, inputs: {"features": inputs}, None, batches, place=lambda batch: batch)
    assert said() == ["compiling the encoder"]
    method = SimpleNamespace(hooks={"score": lambda variables, batch, key, rows: ({"loss": (batch.sum(), 1)}, rows)})
    score.score(method, None, [x, x], key=jax.random.key(0), place=lambda batch: batch)
    assert said() == ["scoring held-out batches: 2 batches"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.7, "1 min 0 s"), (125.4, "2 min 5 s"), (7800, "2 h 10 min"), (9.2 * 86400, "9.2 days")],
)
def test_durations(seconds, text):
    assert progress.spoken(seconds) == text


def test_what_is_left_of_a_run():
    """Steps at the speed of those after the first, and the measurements on the way at that of the fastest."""
    assert Pace().left(1, 100) is None
    assert Pace().measured(3.0).left(1, 100, 10) is None
    pace = Pace().trained(4, 2.0).trained(6, 3.0)
    assert pace.left(10, 110) == 50
    pace = pace.measured(20.0).measured(2.0).measured(4.0)
    assert pace.left(10, 110) == 50
    assert pace.left(10, 110, eval_every=50) == 50 + 3 * 2  # at 50, 100 and 110
    assert pace.left(60, 110, eval_every=50) == 25 + 2 * 2


def test_a_run_of_days_is_told_with_what_to_do():
    slow = Pace(steps=2, seconds=51.2)  # 5 images/s at batch 128
    on_cpu = {"network": "resnet18", "cpu": True}
    assert too_slow(slow, 31_000, 128, **on_cpu) == (
        "at this rate, 5 images/s, the run takes 9.19 days; faster: fewer train.epochs, a network for CPUs "
        "(model.name=convnet, as in configs/simclr_folder_cpu.py), a smaller data.image_size, an accelerator"
    )
    assert "simclr_folder_cpu" not in too_slow(slow, 31_000, 128, network="convnet", cpu=True)
    assert "more devices" in too_slow(slow, 31_000, 128, network="resnet18", cpu=False)
    assert "image" not in too_slow(slow, 31_000, 128, network="lstm", unit="sequences", cpu=True)
    assert too_slow(slow, 3_374, 128, **on_cpu) is None  # less than a day
    assert too_slow(slow, 3_376, 128, **on_cpu)
    assert too_slow(Pace(steps=1, seconds=4.9), 10**6, 128, **on_cpu) is None  # too early to say
    assert too_slow(Pace(), 10**6, 128, **on_cpu) is None
