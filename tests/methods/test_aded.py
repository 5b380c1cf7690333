"""ADED: the search against a naive one and against other ways to draft from the same counts; drafts that adapt."""

import math
import random

import pytest

from fewer.errors import BadKnob
from fewer.methods.propose.search import Search, TrigramSearch
from fewer.parts.trigrams import Trigrams
from fewer.plan import plan
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.types import Told


def markov(seed: int, n: int = 4000) -> tuple[list[int], Trigrams]:
    """A text from a random tri-gram source with skewed successors, and its matrix."""
    rng, chosen, text = random.Random(seed), {}, [0, 1]
    for _ in range(n):
        pair = (text[-2], text[-1])
        options = chosen.setdefault(pair, rng.sample(range(12), 4))
        text.append(rng.choices(options, [8, 4, 2, 1])[0])
    matrix = Trigrams(1 << 20)
    matrix.read(text)
    return text, matrix


def shares(matrix: Trigrams, pair):
    known = matrix.after(pair)
    return {t: n / sum(known.values()) for t, n in known.items()}


def accepted(matrix: Trigrams, pair, paths) -> float:
    """Expected tokens that stand if the text follows the matrix: the sum over drafted nodes of their path's chance."""
    total = 0.0
    for path in paths:
        chance, at = 1.0, pair
        for token in path:
            chance *= shares(matrix, at).get(token, 0.0)
            at = (at[1], token)
        total += chance
    return total


def searched(matrix, pair, nodes, visits=32, levels=4, explore=32.0):
    search = Search(matrix, pair, levels, explore)
    for _ in range(visits):
        search.walk()
    out = []
    for spot in search.most_visited(nodes):
        path = []
        while spot.parent is not None:
            path.insert(0, spot.pair[1])
            spot = spot.parent
        out.append(tuple(path))
    return out


def naive_search(matrix, pair, nodes, visits, levels, explore):
    """The same on dicts of paths, from the formula alone."""
    n, w, made = {(): 0}, {(): 0.0}, []

    def at(path):
        return (pair[1], path[0]) if len(path) == 1 else pair if not path else (path[-2], path[-1])

    def children(path):
        known = matrix.after(at(path))
        newest_first = list(known.items())[::-1]
        order = sorted(newest_first, key=lambda item: -item[1])[:12]
        return [((*path, t), c / sum(known.values())) for t, c in order]

    opened = set()
    for _ in range(visits):
        path, score = (), 1.0
        while path in opened and children(path) and len(path) < levels:
            e = (explore + math.log((n[path] + 9) / 8)) * math.sqrt(n[path])
            best = max(
                children(path),
                key=lambda c: (w.get(c[0], 0.0) / n[c[0]] if n.get(c[0]) else 0.0) + e * c[1] / (1 + n.get(c[0], 0)),
            )
            path, score = best[0], score + best[1]
        if path not in opened and len(path) < levels:
            opened.add(path)
            made += [c for c, _ in children(path)]
        further = path
        while len(further) < levels and matrix.after(at(further)):
            known = matrix.after(at(further))
            token = max(known, key=known.__getitem__)
            score += known[token] / sum(known.values())
            further = (*further, token)
        for i in range(len(path) + 1):
            n[path[:i]] = n.get(path[:i], 0) + 1
            w[path[:i]] = w.get(path[:i], 0.0) + score
    return sorted((p for p in made if n.get(p)), key=lambda p: -n[p])[:nodes]


@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_the_formula(seed):
    text, matrix = markov(seed, 300)
    for visits, explore in ((1, 32.0), (7, 0.0), (40, 1.0), (40, 32.0)):
        pair = (text[-2], text[-1])
        assert searched(matrix, pair, 9, visits, 3, explore) == naive_search(matrix, pair, 9, visits, 3, explore)


def test_at_equal_size_it_beats_a_greedy_chain_and_random_drafts():
    """Expected tokens that stand, over the pairs of a text, seven drafted nodes each."""
    rng = random.Random(1)
    mine = chain = drawn = best = 0.0
    text, matrix = markov(0)
    for i in range(2, 400):
        pair = (text[i - 2], text[i - 1])
        mine += accepted(matrix, pair, searched(matrix, pair, 7))
        at, path = pair, []
        for _ in range(7):
            known = matrix.after(at)
            path.append(max(known, key=known.__getitem__))
            at = (at[1], path[-1])
        chain += accepted(matrix, pair, [tuple(path[: n + 1]) for n in range(7)])
        nodes: set[tuple[int, ...]] = set()
        while len(nodes) < 7:
            at, path = pair, []
            for _ in range(4):
                known = shares(matrix, at)
                path.append(rng.choices(list(known), list(known.values()))[0])
                at = (at[1], path[-1])
                if len(nodes) < 7:
                    nodes.add(tuple(path))
        drawn += accepted(matrix, pair, nodes)
        best += accepted(matrix, pair, naive_best(matrix, pair, 7))
    assert mine > 1.1 * chain and mine > 1.1 * drawn
    assert mine > 0.95 * best


def naive_best(matrix, pair, nodes, levels=4):
    """The `nodes` likeliest paths."""
    every, todo = {}, [((), pair, 1.0)]
    while todo:
        path, at, chance = todo.pop()
        for token, share in shares(matrix, at).items():
            if len(path) < levels:
                every[(*path, token)] = chance * share
                todo.append(((*path, token), (at[1], token), chance * share))
    return sorted(every, key=every.__getitem__, reverse=True)[:nodes]


class Frozen(TrigramSearch):
    """Knows its corpus and learns nothing."""

    def learn(self, context, new, told, state):
        pass


def test_learning_as_it_goes_beats_a_frozen_matrix(tmp_path):
    """Later in a text more stands a forward than at its beginning, and more than without learning."""
    model, corpus = tiny_model(layers=1), tmp_path / "corpus.txt"
    corpus.write_text("".join(map(chr, [3, 1, 4, 1, 5] * 3)))
    prompt = [3, 1, 4]
    plain, _ = generate(model, prompt, max_tokens=90)
    _, early = generate(model, prompt, use=[TrigramSearch(text=str(corpus))], max_tokens=30)
    text, all_of_it = generate(model, prompt, use=[TrigramSearch(text=str(corpus))], max_tokens=90)
    frozen_text, frozen = generate(model, prompt, use=[Frozen(text=str(corpus))], max_tokens=90)
    assert text == frozen_text == plain
    assert all_of_it.forwards < frozen.forwards
    assert 60 / (all_of_it.forwards - early.forwards) > 30 / early.forwards


def test_a_corpus_is_known_from_the_first_token_on(tmp_path):
    (tmp_path / "a.txt").write_text("abcabc")
    method, told = TrigramSearch(text=str(tmp_path / "a.txt")), Told(2)
    tree = method.guess([ord("a"), ord("b")], 3, told, method.start(told))
    assert "".join(map(chr, tree.tokens)) == "cab" and tree.chance[0] > tree.chance[1] > tree.chance[2]


def test_chances_are_shares_of_what_is_known():
    method, told = TrigramSearch(), Told(9)
    state = method.start(told)
    text = [1, 2, 3, 1, 2, 3, 1, 2, 4, 1, 2]
    state.learn(text, [])
    tree = method.guess(text, 1, told, state)
    known = state.rate(3)
    assert dict(zip(tree.tokens.tolist(), tree.chance.tolist())) == pytest.approx({3: known * 2 / 3, 4: known / 3})


def test_the_matrix_outlives_requests():
    told = Told(1)
    method = TrigramSearch()
    first = method.start(told)
    first.learn([1, 2, 3], [3])
    assert method.start(told).matrix.after((1, 2)) == {3: 1}


def test_a_missing_corpus_is_refused():
    with pytest.raises(BadKnob, match=r"no text file 'nowhere\.txt'"):
        plan(["aded:text=nowhere.txt"])
