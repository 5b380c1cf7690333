"""Plans: what is parsed, what is refused, and that a refusal says why and what to do."""

from __future__ import annotations

import pytest

from fewer.card import CLAIMS, cards, find
from fewer.errors import BadKnob, CannotCombine, UnknownMethod
from fewer.plan import PLAIN, make, parse_use, plan
from fewer.seams import SEAMS, Rule, resolve_budget
from tests import samples


def test_text_to_knobs():
    assert parse_use("streaming-llm") == ("streaming-llm", {})
    assert parse_use("streaming-llm:budget=0.5, sinks=2") == ("streaming-llm", {"budget": "0.5", "sinks": "2"})
    with pytest.raises(BadKnob, match="key=value"):
        parse_use("streaming-llm:budget")


def test_knobs_have_types_and_ranges():
    m = make("streaming-llm", {"budget": "0.5", "sinks": "2"})
    assert (m.budget, m.sinks, m.name) == (0.5, 2, "streaming-llm")
    assert make("streaming-llm", {"budget": "64"}).budget == 64


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"budge": "4"}, "did you mean budget"),
        ({"budget": "many"}, "not of type"),
        ({"budget": "0"}, "minimum is 5"),
        ({"budget": "1.5"}, "integer >= 1 or a fraction"),
        ({"budget": "-3"}, "minimum is 5"),
        ({"budget": "0.0"}, "integer >= 1 or a fraction"),
        ({"budget": "4"}, r"minimum is 5 .sinks . 1."),
        ({"budget": "nan"}, "not of type"),
        ({"sinks": "-1"}, "outside"),
        ({"sinks": "1.5"}, "not of type"),
    ],
)
def test_wrong_knobs_are_refused(knobs, says):
    with pytest.raises(BadKnob, match=says):
        make("streaming-llm", knobs)


def test_unknown_methods_get_a_hint():
    with pytest.raises(UnknownMethod, match="did you mean streaming-llm"):
        plan(["streaming-lm"])
    with pytest.raises(UnknownMethod, match="fewer methods"):
        plan(["zzz"])


def test_budgets():
    assert resolve_budget(1.0, 100) is None
    assert resolve_budget(0.25, 100) == 25
    assert resolve_budget(0.001, 100) == 1
    assert resolve_budget(7, 100) == 7
    assert resolve_budget(1, 100) == 1


def test_nothing_is_plain():
    assert plan([]) == PLAIN and PLAIN.methods() == [] and PLAIN.pure_prefix and PLAIN.native_read and not PLAIN.place


def test_bundle():
    s = plan(["streaming-llm:budget=0.5", samples.Parrot()])
    assert s.place and not s.pure_prefix and [type(m).__name__ for m in s.methods()] == ["SinkWindow", "Parrot"]


class Draws(Rule):
    """Judges tokens one by one."""

    black_box = True


class Mixes(samples.Skips):
    """A route whose decisions depend on the other rows."""

    row_local = False


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("streaming-llm", samples.Norms()),
        ("streaming-llm", samples.TopKeys()),
        ("streaming-llm", samples.Half()),
        ("streaming-llm", samples.Skips()),
        (Mixes(), samples.Parrot()),
        (Draws(), Draws()),
        (samples.Ratio(), Draws()),
    ],
)
def test_what_excludes_each_other_is_refused_by_name(a, b):
    names = ["streaming-llm" if isinstance(m, str) else type(m).__name__ for m in (a, b)]
    for use in ([a, b], [b, a]):
        with pytest.raises(CannotCombine) as e:
            plan(use)
        assert all(n in str(e.value) for n in names)


def test_catalogue_rows_load():
    for name, card in cards().items():
        assert find(name) is card and card.load().seam == card.seam in SEAMS and set(card.claims) <= set(CLAIMS)
        assert set(card.to_dict()["knobs"]) >= set(card.full)
