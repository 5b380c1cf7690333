"""SpecTr: lines share what they have in common; greedy requests draw one. The rule itself: test_parts_acceptance."""

import numpy as np

from fewer.methods.propose.drawn_lines import DrawnLines
from fewer.parts.draft_model import DraftModel
from fewer.types import Rng, Told
from tests.test_parts_draft_model import TEXT, Played, told

WORDS = [3, 1, 4, 1, 5, 9, 2, 6]


def grown(method: DrawnLines, seed: int, limit: int = 9, **sampling):
    """One draft of a method on a tiny model, and the lane it grew on."""
    t: Told = told(**sampling)
    lane, out = DraftModel(), []

    def work():
        out.append((yield from method.draft(TEXT, limit, t, lane, Rng(seed))))

    played = Played()
    played.run(work())
    return out[0], played


def test_equal_beginnings_are_one_node_and_counted():
    shared = 0
    for seed in range(8):
        tree, played = grown(DrawnLines(lines=4, length=3), seed, temperature=0.7, top_k=2)
        depth = tree.depth()
        for level in range(3):
            assert tree.copies[depth == level].sum() == 4
        for node in range(len(tree)):
            below = tree.children(node)
            assert len({int(tree.tokens[k]) for k in below}) == len(below)
            assert not below or tree.copies[below].sum() == tree.copies[node]
        assert len(played.fed) == 3  # the prompt and one forward a further level
        shared += 12 - len(tree)
    assert shared


def test_lines_end_at_the_limit_and_greedy_draws_one():
    tree, _ = grown(DrawnLines(lines=3, length=5), 0, limit=2, temperature=1.0)
    assert tree.depth().max() == 1
    tree, _ = grown(DrawnLines(lines=3, length=4), 0)
    assert len(tree) == 4 and np.array_equal(tree.parent, np.arange(-1, 3))
