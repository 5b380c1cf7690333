"""RASD over Token Recycling: pruning and fusing by hand, at equal size no worse than either of its parts."""

import numpy as np

from fewer.methods.propose.retrieval import RecyclingRetrieval
from fewer.parts.trees import rooted
from fewer.parts.trie import Trie
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.types import EMPTY_TREE, Told, Tree

TEXT = [1, 2, 3, 9, 1, 2, 4, 8, 1, 2, 4, 7, 1, 2]


def paths(tree):
    out = []
    for token, parent in zip(tree.tokens.tolist(), tree.parent.tolist()):
        out.append((*(out[parent] if parent >= 0 else ()), token))
    return out


def test_only_branches_that_begin_as_expected_stay():
    tree = Tree(np.array([3, 4, 9, 8, 5, 7]), np.array([-1, -1, 0, 1, -1, 3]), chance=np.linspace(0.9, 0.1, 6))
    kept = rooted(tree, {4, 5})
    assert paths(kept) == [(4,), (4, 8), (5,), (4, 8, 7)]
    assert not len(rooted(tree, {6})) and not len(rooted(EMPTY_TREE, {1}))


def test_the_worked_example():
    """After 1 2 came 3 9 and twice 4; the drafter expects 4 or 6 and would go on with 6 0 and 4 5: 3 goes, 4 is shared."""
    method = RecyclingRetrieval(budget=5, length=2, sure=2)
    trie = Trie(10, 1000)
    trie.extend(TEXT)
    own = Tree(np.array([6, 4, 0, 5]), np.array([-1, -1, 0, 1]), chance=np.array([0.5, 0.3, 0.2, 0.05]))
    tree = method.fuse(own, [4, 6], TEXT, 2, trie)
    assert set(paths(tree)) == {(6,), (4,), (6, 0), (4, 8), (4, 7)}
    retrieved = dict(zip(paths(trie.branches(TEXT, 1, 8, 16, 2)), trie.branches(TEXT, 1, 8, 16, 2).chance))
    assert tree.chance[paths(tree).index((4,))] == max(0.3, retrieved[(4,)])


def test_a_sure_match_is_not_pruned():
    trie = Trie(10, 1000)
    trie.extend(TEXT)
    expects = RecyclingRetrieval(sure=2).fuse(EMPTY_TREE, [6], TEXT, 2, trie)
    sure = RecyclingRetrieval(sure=1).fuse(EMPTY_TREE, [6], TEXT, 2, trie)
    unknown = RecyclingRetrieval(sure=2).fuse(EMPTY_TREE, [], TEXT, 2, trie)
    assert not len(expects) and (4,) in paths(sure) and paths(sure) == paths(unknown)


def test_at_equal_size_it_is_no_worse_than_its_parts():
    """Forwards over texts that repeat themselves and texts that do not, three drafted tokens each."""
    model, spent = tiny_model(layers=1), {}
    for use in ("rasd-recycling", "token-recycling", "lookahead"):
        spent[use] = 0
        for prompt in ([3, 1, 4, 1, 5, 9, 2, 6] * 4, list(range(20)), [5, 5, 6]):
            text, ledger = generate(model, prompt, use=[f"{use}:budget=3"], max_tokens=60)
            assert text == generate(model, prompt, max_tokens=60)[0]
            spent[use] += ledger.forwards
    assert spent["rasd-recycling"] <= min(spent.values())


def test_it_learns_both_texts_and_logits():
    method, told = RecyclingRetrieval(), Told(2)
    state = method.start(told)
    method.learn(TEXT, TEXT[-1:], told, state)
    assert state.trie.read == len(TEXT) and len(method.guess(TEXT, 3, told, state))
