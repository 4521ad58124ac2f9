"""What the log says of a run's health, and what the run remembers of it."""

from __future__ import annotations

import pytest

from ssl_jax.online import alarms, spikes

HEALTHY = {"proj_std": 0.08, "proj_std_ratio": 0.9, "effective_rank": 40.0, "dim": 128}
COLLAPSED = {"proj_std": 0.001, "proj_std_ratio": 0.01, "effective_rank": 1.0, "dim": 128}


def said(progress, loss, report, step, *, rows=64, own=lambda metrics: None, **more):
    line = {"train_loss": loss, "train_own": 3.0} | more
    return list(alarms.judge(progress, line, report, step=step, warmup_steps=0, rows=rows, own=own))


def test_a_collapse_that_ends_is_no_collapse():
    progress = dict(alarms.NEW)
    found = [said(progress, 1.0, report, step) for step, report in enumerate([HEALTHY, COLLAPSED, COLLAPSED], 1)]
    assert found[:2] == [[], []]
    assert found[2][0].startswith("WARNING: step 3: the representation looks collapsed")
    assert (progress["collapsed"], progress["suspicious"]) == (True, 2)
    for step in (4, 6):  # one sound report is no end, and what comes after it no new beginning
        assert said(progress, 1.0, HEALTHY, step) == said(progress, 1.0, COLLAPSED, step + 1) == []
        assert progress["collapsed"]
    assert said(progress, 1.0, HEALTHY, 8) == []
    assert said(progress, 1.0, HEALTHY, 9) == ["step 9: the representation looks collapsed no more"]
    assert (progress["collapsed"], progress["suspicious"]) == (False, 0)
    assert said(progress, 1.0, HEALTHY, 10) == []


def test_what_is_left_out_is_said_once_and_nobody_knows():
    progress, report = dict(alarms.NEW), HEALTHY | {"dim": 4}
    assert ["no collapse alarm" in line for line in said(progress, 1.0, report, 1, rows=2)] == [True]
    assert said(progress, 1.0, report, 2, rows=2) == []
    assert progress["collapsed"] is None


def test_a_run_without_projections_knows_its_loss_alone():
    progress = dict(alarms.NEW)
    assert not any(said(progress, 1.0, {}, step) for step in range(1, 30))
    assert len(progress["losses"]) == spikes.SPIKE_MEMORY
    (jump,) = said(progress, 9.0, {}, 30)
    assert jump.startswith("WARNING: step 30: the loss jumped to 9")
    assert said(progress, 9.5, {}, 31) == []  # it has not come back
    assert said(progress, 1.0, {}, 32) == []
    assert len(said(progress, 9.0, {}, 33)) == 1
    assert progress["loss_spikes"] == [30, 33]
    assert said(progress, None, {}, 34) == said(progress, float("nan"), {}, 35) == []
    assert progress["losses"][-1] == 9.0
    assert (progress["suspicious"], progress["collapsed"]) == (None, False)
    assert alarms.NEW["losses"] == [] == alarms.NEW["loss_spikes"]


def test_a_loss_of_another_stage_is_no_jump():
    progress = dict(alarms.NEW)
    losses = [0.01] * 15 + [6.0] * 15 + [60.0]
    found = [said(progress, loss, {}, k, train_stage=float(loss > 1)) for k, loss in enumerate(losses, 1)]
    assert not any(found[:-1])
    assert len(found[-1]) == 1
    assert progress["loss_spikes"] == [31]


def test_the_methods_own_sign_is_said_once_where_another_spoke_before():
    progress = dict(alarms.NEW)
    signs = [None, None, None, "dead", "dead", "dead"]
    found = [said(progress, 1.0, COLLAPSED, k, own=lambda _, sign=sign: sign) for k, sign in enumerate(signs, 1)]
    assert [len(lines) for lines in found] == [0, 1, 0, 1, 0, 0]
    assert found[3] == ["WARNING: step 4: the representation looks collapsed: dead"]


def test_where_the_methods_own_numbers_are_sound_no_other_sign_counts():
    progress = dict(alarms.NEW)
    assert not any(said(progress, 1.0, COLLAPSED, step, own=lambda _: "") for step in range(1, 9))
    assert progress["collapsed"] is False


@pytest.mark.parametrize("value", [3.0, 4.0])
def test_the_methods_own_sign_reads_the_line(value):
    progress = dict(alarms.NEW)
    found = [
        said(progress, 1.0, HEALTHY, step, own=lambda m: f"own is {m['own']:g}" * (m["own"] == value))
        for step in (1, 2)
    ]
    assert found[0] == []
    assert found[1] == (["WARNING: step 2: the representation looks collapsed: own is 3"] if value == 3.0 else [])
