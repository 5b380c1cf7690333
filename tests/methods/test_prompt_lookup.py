"""Prompt lookup: its matches against a naive search, copies that run into themselves, chances that follow what happens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.errors import BadKnob
from fewer.methods.propose.lookup import Lookup, PromptLookup
from fewer.plan import plan
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.types import Told

TEXTS = st.lists(st.integers(0, 3), min_size=1, max_size=40)
LOOP = [3, 1, 4, 1, 5, 9, 2, 6] * 4


def naive(text: list[int], longest: int) -> tuple[int, int]:
    """The longest suffix that stands earlier, longest first, and its newest place."""
    for n in range(min(longest, len(text) - 1), 0, -1):
        for end in range(len(text) - 2, n - 2, -1):
            if text[end - n + 1 : end + 1] == text[-n:]:
                return n, end
    return 0, -1


def started(text: list[int], **knobs):
    method = PromptLookup(**knobs)
    state = method.start(Told(len(text)))
    method.learn(text, text[-1:], Told(len(text)), state)
    return method, state


@given(TEXTS, st.integers(1, 6))
def test_finds_what_a_naive_search_finds(text, longest):
    state = Lookup()
    state.extend(text)
    assert state.find(longest, 1 << 16) == naive(text, longest)


@given(TEXTS, st.integers(16, 30))
def test_looks_no_further_back_than_its_window(text, window):
    state = Lookup()
    state.extend(text)
    match, at = naive(text[-window:], 4)
    assert state.find(4, window) == (match, at + max(0, len(text) - window) if match else -1)


def test_grows_beyond_its_first_array():
    text = [*range(3000), 7]
    state = Lookup()
    for end in (1, 1000, 1025, len(text)):
        state.extend(text[:end])
    assert state.tokens[:3001].tolist() == text and state.find(4, 1 << 16) == (1, 7)


def test_the_worked_example():
    """After `1 2` came `3 4`; the newer `2` alone was followed by 9, but the longer match counts."""
    method, state = started([1, 2, 3, 4, 2, 9, 1, 2], budget=2, shortest=1)
    assert method.guess([1, 2, 3, 4, 2, 9, 1, 2], 10, Told(8), state).tokens.tolist() == [3, 4]


def test_a_copy_that_reaches_the_end_goes_on_with_itself():
    text = [5, 1, 2, 3, 1, 2, 3]
    method, state = started(text, budget=8)
    tree = method.guess(text, 10, Told(7), state)
    assert tree.tokens.tolist() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert method.guess(text, 3, Told(7), state).tokens.tolist() == [1, 2, 3]


def test_chances_follow_how_copying_went():
    """They fall along the chain; matches that hold raise them, matches that fail lower them, of their own length only."""
    text = [1, 2, 8, 1, 2]
    method, state = started(text)
    told = Told(5)
    first = method.guess(text, 4, told, state).chance
    assert first is not None and (np.diff(first) < 0).all()
    for _ in range(30):
        method.guess(text, 4, told, state)
        state.copying.learn([*text, 8], [8])
    better = method.guess(text, 4, told, state).chance
    assert better[0] > 0.8 > first[0] and better[1] / better[0] == pytest.approx(first[1] / first[0])
    for _ in range(30):
        method.guess(text, 4, told, state)
        state.copying.learn([*text, 8, 9], [8, 9])
    worse = method.guess(text, 4, told, state).chance
    assert worse[1] / worse[0] < 0.3 < first[1] / first[0]


def test_a_draft_nobody_asked_for_teaches_nothing():
    text = [1, 2, 8, 1, 2]
    method, state = started(text)
    method.guess(text, 4, Told(5), state)
    before = list(state.copying.rates.chain(0, 9))
    state.copying.learn([*text, 8, 1, 4], [4])
    assert state.copying.rates.chain(0, 9) == before


def test_text_is_the_same_in_fewer_forwards():
    model = tiny_model(layers=1)
    for options, share in (({}, 0.7), ({"temperature": 1.0, "seed": 5}, 1.0)):
        plain, cost = generate(model, LOOP, max_tokens=24, **options)
        text, ledger = generate(model, LOOP, use=["prompt-lookup"], max_tokens=24, **options)
        assert text == plain
        assert ledger.forwards <= share * cost.forwards
        assert ledger.accepted_tokens == cost.forwards - ledger.forwards


def test_nothing_known_costs_nothing():
    model, prompt = tiny_model(), [1, 2, 3]
    plain, cost = generate(model, prompt, max_tokens=4)
    text, ledger = generate(model, prompt, use=["prompt-lookup:shortest=4"], max_tokens=4)
    assert text == plain and (ledger.forwards, ledger.rows, ledger.drafted_tokens) == (cost.forwards, cost.rows, 0)


def test_impossible_lengths_are_refused():
    with pytest.raises(BadKnob, match="shortest=9 is more than longest=8"):
        plan(["prompt-lookup:shortest=9"])
