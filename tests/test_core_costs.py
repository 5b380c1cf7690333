"""Costs of rows: straight between what was timed, kept on disk for the same model and machine, corrected by real forwards."""

from __future__ import annotations

import json
import math
from types import ModuleType

import pytest
import torch

from fewer import costs
from fewer.costs import NOMINAL, Costs, Curve, curve, smooth, time_rows
from fewer.testing.tiny import tiny_model

CURVE = Curve((1, 2, 4, 8), (1.0, 1.1, 1.3, 2.1))


@pytest.mark.parametrize(("m", "cost"), [(1, 1.0), (2, 1.1), (3, 1.2), (6, 1.7), (8, 2.1), (10, 2.5), (108, 22.1)])
def test_straight_between_sizes_and_beyond(m, cost):
    assert CURVE(m) == pytest.approx(cost) == Costs(CURVE, timed=False)(m)


def test_a_curve_begins_at_one_and_never_falls():
    got = smooth({1: [3.0, 2.0], 2: [1.9, 5.0], 4: [4.0, 4.4]})
    assert got == Curve((1, 2, 4), (1.0, 1.0, 2.0), True)


def test_timing_leaves_nothing_behind():
    model = tiny_model(dtype=torch.float32)
    seen = time_rows(model, list(range(31)) * 3, 20, rounds=2)
    assert list(seen) == list(costs.ROWS) and all(len(s) == 2 and min(s) > 0 for s in seen.values())
    assert len(time_rows(model, list(range(31)) * 3, 20, rounds=9, patience=0.0)[1]) == 1


@pytest.fixture
def timings(tmp_path, monkeypatch):
    """A cache folder of its own, and a list of how often rows were timed; what they take can be set."""
    monkeypatch.setenv("FEWER_CACHE", str(tmp_path))
    calls, takes = [], {m: [float(m), float(m)] for m in costs.ROWS}

    def timed(decoder, *rest):
        calls.append(decoder)
        return takes

    monkeypatch.setattr(costs, "time_rows", timed)
    return tmp_path, calls, takes


def test_timed_once_a_model(timings):
    folder, calls, _ = timings
    first = curve(tiny_model())
    assert first.times == costs.ROWS and first.measured
    assert curve(tiny_model(seed=1)) == first and len(calls) == 1  # weights of other values cost the same
    assert curve(tiny_model(layers=2)) == first and len(calls) == 2
    assert len(list((folder / "rows").iterdir())) == 2


def test_other_kernels_are_timed_anew(timings, monkeypatch, tmp_path):
    _, calls, _ = timings
    for build in ("one", "two", "one again"):
        library = tmp_path / f"{build}.so"
        library.write_text(build.split()[0])
        module = ModuleType("_native")
        module.__file__ = str(library)
        monkeypatch.setattr(costs, "native", module)
        curve(tiny_model())
    assert len(calls) == 2


def test_what_is_kept_can_be_damaged_or_missing(timings, monkeypatch):
    folder, calls, _ = timings
    first = curve(tiny_model())
    (kept,) = (folder / "rows").iterdir()
    for damage in ("", "[]", "{}", json.dumps({"rows": 3, "times": None})):
        kept.write_text(damage)
        assert curve(tiny_model()) == first
    assert len(calls) == 5
    monkeypatch.setenv("FEWER_CACHE", str(kept))  # a file where a folder should be
    assert curve(tiny_model()) == first


def test_a_busy_machine_is_not_remembered(timings):
    folder, calls, takes = timings
    takes[4] = [4.0, 9.0, 9.0]
    assert curve(tiny_model()).times == costs.ROWS == curve(tiny_model()).times
    assert len(calls) == 2 and not (folder / "rows").exists()


def test_no_room_to_measure(timings):
    model = tiny_model()
    object.__setattr__(model.spec, "max_context", 40)
    assert curve(model) is NOMINAL and not timings[1]


def test_real_forwards_correct_the_curve():
    """Eight rows really cost 4: learnt from a mixture of forwards, in spite of a moment of tenfold slowness."""
    c = Costs(CURVE, timed=True)
    assert c.seconds == math.inf
    for i in range(300):
        m = (1, 8, 2, 8)[i % 4]
        c.heard(m, {1: 0.01, 2: 0.011, 8: 0.04}[m] * (10 if i == 200 else 1))
    assert c.seconds == pytest.approx(0.01, rel=0.1)
    assert c(8) == pytest.approx(4.0, rel=0.1) and c(2) == pytest.approx(1.1, rel=0.1) and c(1) == 1.0


def test_a_batch_tells_once_and_the_untimed_do_not_listen():
    told, untimed = Costs(CURVE, timed=True), Costs(CURVE, timed=False)
    for seconds in (0.01, 0.02):
        for _ in range(50):
            told.heard(8, seconds)
            untimed.heard(8, seconds)
    assert told.seconds < 0.0065 and told(8) < 2.2
    assert untimed(8) == 2.1 and untimed.seconds == math.inf
