"""RSD-C: the tree's shape, and siblings that differ (the rule, and that they pay: test_parts_acceptance)."""

import pytest

from fewer.errors import BadKnob
from fewer.methods.propose.distinct_tree import Branches
from fewer.plan import plan
from tests.methods.test_spectr import grown


def test_the_shape_is_the_branching_factors():
    tree, played = grown(Branches(branches="3,2,1"), 0, temperature=1.0)
    assert [int((tree.depth() == level).sum()) for level in range(3)] == [3, 6, 6]
    assert len(tree) == Branches(branches="3,2,1").most() == 15
    assert [len(f) for f in played.fed[1:]] == [3, 9]  # the nodes of a level, with those they hang on
    for node in range(-1, len(tree)):
        tokens = [int(tree.tokens[k]) for k in tree.children(node)]
        assert len(set(tokens)) == len(tokens)


def test_greedy_siblings_are_the_likeliest_in_order():
    tree, _ = grown(Branches(branches="3,1"), 0)
    odds = tree.q[0]
    assert tree.tokens[:3].tolist() == odds.topk(3).indices.tolist()


def test_fewer_children_where_truncation_leaves_fewer():
    tree, _ = grown(Branches(branches="3,1"), 0, temperature=1.0, top_k=2)
    assert [int((tree.depth() == level).sum()) for level in range(2)] == [2, 2]


@pytest.mark.parametrize("bad", ["2,0", "", "a,2", "2;1"])
def test_bad_branches_are_refused(bad):
    with pytest.raises(BadKnob, match="branches="):
        plan([f"rsd-c:branches={bad}"])
