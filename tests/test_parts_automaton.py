"""The suffix automaton against counting substrings by hand."""

from hypothesis import given
from hypothesis import strategies as st

from fewer.parts.automaton import REACH, Automaton

TEXTS = st.lists(st.integers(0, 2), min_size=1, max_size=30)


def automaton(text, capacity=1 << 62):
    a = Automaton(capacity)
    a.extend(text)
    return a


def substrings(text):
    return {tuple(text[i:j]) for i in range(len(text)) for j in range(i + 1, len(text) + 1)}


def accepted(a):
    """All strings the machine reads."""
    out, todo = set(), [(0, ())]
    while todo:
        state, word = todo.pop()
        for token, after in a.next[state].items():
            out.add((*word, token))
            todo.append((after, (*word, token)))
    return out


def naive_match(text):
    for n in range(len(text) - 1, 0, -1):
        for end in range(len(text) - 2, n - 2, -1):
            if text[end - n + 1 : end + 1] == text[-n:]:
                return n, end
    return 0, -1


@given(TEXTS)
def test_reads_the_substrings_and_nothing_else(text):
    a = automaton(text)
    assert accepted(a) == substrings(text)
    assert len(a.link) <= max(2, 2 * len(text)) and sum(map(len, a.next)) <= 3 * len(text)


@given(TEXTS)
def test_the_longest_match_and_its_newest_place(text):
    assert automaton(text).match() == naive_match(text)


def test_a_text_that_repeats_itself_at_once():
    """Every place would have to be renewed for every suffix: only the longest ones are, and the match stays exact."""
    text = [7] * (4 * REACH)
    match, at = automaton(text).match()
    assert (match, at) == (len(text) - 1, len(text) - 2)
    a = automaton([*text, 1, 7])
    assert a.match()[0] == 1 and text[a.match()[1]] == 7


@given(TEXTS, st.integers(1, 6))
def test_grown_piece_by_piece_is_the_same(text, step):
    a, whole = Automaton(), automaton(text)
    for end in range(step, len(text) + step, step):
        a.extend(text[:end])
    assert (a.next, a.link, a.length, a.newest) == (whole.next, whole.link, whole.length, whole.newest)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=80), st.integers(4, 12))
def test_forgets_the_older_half_at_capacity(text, capacity):
    """Never more than `capacity` tokens, of which it knows the same as an automaton of those alone."""
    a = Automaton(capacity)
    for end in range(1, len(text) + 1):
        a.extend(text[:end])
        held = a.size - a.first
        assert a.size == end and min(end, capacity // 2) <= held <= capacity
        assert len(a.link) <= max(2, 2 * held)
        match, at = naive_match(text[a.first : end])
        assert a.match() == (match, at + a.first if match else -1)
