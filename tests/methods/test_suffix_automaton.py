"""The suffix-automaton drafter: the same drafts as a naive longest match, in bounded memory. Its machine is tested in
tests/test_parts_automaton.py."""

import random
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from fewer.methods.propose.automaton import SuffixAutomaton
from fewer.parts.automaton import Automaton
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.types import Told
from tests.methods.test_prompt_lookup import naive

LOOP = [3, 1, 4, 1, 5, 9, 2, 6] * 4


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 6))
def test_drafts_what_followed_the_longest_match(text, shortest, limit):
    method, told = SuffixAutomaton(budget=4, shortest=shortest), Told(len(text))
    state = method.start(told)
    method.learn(text, text, told, state)
    drafted = method.guess(text, limit, told, state).tokens.tolist()
    match, at = naive(text, len(text))
    want = []
    for i in range(min(4, limit) if match >= shortest else 0):
        want.append(([*text, *want])[at + 1 + i])
    assert drafted == want


def test_a_match_longer_than_any_ngram_picks_the_right_place():
    """Two passages that agree in the last nine tokens: prompt lookup with its eight takes the newer, wrong one."""
    same = list(range(10, 19))
    text = [1, *same, 7, 7, 2, *same, 8, 8, 1, *same]
    told = Told(len(text))
    method = SuffixAutomaton(budget=2)
    state = method.start(told)
    method.learn(text, text, told, state)
    assert method.guess(text, 9, told, state).tokens.tolist() == [7, 7]
    assert text[naive(text, 8)[1] + 1] == 8


def test_memory_is_bounded():
    """Under 1 kB a token held, however long and random the text."""
    rng = random.Random(0)
    text = [rng.randrange(50) for _ in range(6000)]
    tracemalloc.start()
    automaton = Automaton(capacity=2000)
    automaton.extend(text)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert automaton.size == 6000 and automaton.size - automaton.first <= 2000
    assert held < 1000 * 2000


def test_text_is_the_same_in_fewer_forwards():
    model = tiny_model(layers=1)
    for options, share in (({}, 0.7), ({"temperature": 1.0, "seed": 5}, 1.0)):
        plain, cost = generate(model, LOOP, max_tokens=24, **options)
        text, ledger = generate(model, LOOP, use=["suffix-automaton"], max_tokens=24, **options)
        assert text == plain
        assert ledger.forwards <= share * cost.forwards
        assert ledger.accepted_tokens == cost.forwards - ledger.forwards


def test_text_is_the_same_while_it_forgets():
    model = tiny_model(layers=1)
    plain, _ = generate(model, LOOP, max_tokens=60)
    text, ledger = generate(model, LOOP, use=["suffix-automaton:capacity=16"], max_tokens=60)
    assert text == plain and ledger.accepted_tokens > 0
