"""The catalogue keeps its word: every row passes the checks that its claims choose, every pair is refused or sound.

Pairs grow with the square of the rows, and many rows are one class with other settings: here one row of each class stands
for its pairs. Drafters are the most and meet the rest of a plan in one way, so each meets every third of the others, and
two drafters, whose trees are merged by one part, only the next in line. `fewer verify` runs the pairs of all rows.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from fewer.card import cards, find
from fewer.errors import UnknownMethod
from fewer.testing import checks_for, from_card, run_check
from fewer.testing.checks_pairs import combination, neighbours
from fewer.testing.rig import one_thread
from fewer.testing.verify import _jobs, _timed, verify

SUBJECTS = {name: from_card(card) for name, card in cards().items()}
ROWS = [(name, check) for name, subject in SUBJECTS.items() for check in checks_for(subject)]
CLASSES = list({card.cls: name for name, card in reversed(cards().items())}.values())


def tried(a: str, b: str) -> bool:
    """Is this pair of classes run here?"""
    drafters = [find(name).seam for name in (a, b)].count("propose")
    i, j = CLASSES.index(a), CLASSES.index(b)
    return (True, (i + j) % 3 == 0, abs(i - j) == 1)[drafters]


PAIRS = [pair for pair in itertools.combinations(CLASSES, 2) if tried(*pair)]


@pytest.fixture(autouse=True)
def alone_on_a_core():
    with one_thread():
        yield


@pytest.mark.parametrize(("name", "check"), ROWS)
def test_row(name, check):
    subject = SUBJECTS[name]
    if run_check(subject, check):
        pytest.xfail(subject.exceptions[check])


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_pair(a, b):
    combination(SUBJECTS[a], SUBJECTS[b])


def test_all_methods_are_good_neighbours():
    """One batch of every class: each says what it says alone. `fewer verify` does it pair by pair."""
    neighbours(*(SUBJECTS[name] for name in CLASSES))


@pytest.mark.parametrize("name", cards())
def test_a_row_has_its_room_and_its_test(name):
    card = find(name)
    assert card.cls.startswith(f"fewer.methods.{card.seam}.")
    assert (Path(__file__).parent / "methods" / f"test_{name.replace('-', '_')}.py").exists()


def test_verify_tells_every_outcome():
    told = []
    out = verify(["streaming-llm"], pairs=False, progress=told.append)
    assert out == told and all(o.ok for o in out)
    assert [o.check for o in out] == checks_for(SUBJECTS["streaming-llm"])
    assert [o.check for o in out if o.excepted] == ["chunking"]
    assert all(o.seconds > 0 for o in out)
    with pytest.raises(UnknownMethod, match="did you mean streaming-llm"):
        verify(["streamingllm"])


def test_verify_goes_on_after_a_failure():
    """A broken method outside the catalogue's own: its failure is an outcome with the reason, not an exception."""
    (job,) = _jobs(replace(SUBJECTS["streaming-llm"], exceptions={"no such check": "why"}))
    out = _timed(*job)
    assert not out.ok and "do not exist" in out.message and out.check == "card"
