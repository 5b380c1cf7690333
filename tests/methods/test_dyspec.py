"""DySpec: the law of its trees is that of the paper's two algorithms, whatever the width; greedy, the likeliest paths."""

import itertools
from collections import defaultdict
from functools import cache

import pytest
import torch

from fewer.methods.propose.best_first import BestFirst
from fewer.parts.draft_model import DraftModel
from fewer.testing.enumerate import distribution
from fewer.testing.harness import generate
from fewer.testing.rig import Rig
from fewer.types import Rng, Tree
from tests.test_parts_draft_model import TEXT, Played, alone, told

SAMPLING = {"temperature": 0.8, "top_k": 2}


@cache
def odds(path: tuple[int, ...], greedy: bool = False) -> torch.Tensor:
    """What the draft model gives behind `path`, read by itself."""
    return told(**({} if greedy else SAMPLING)).expect(torch.log(alone([*TEXT, *path])), path)


def grown(method: BestFirst, rng: Rng, limit: int = 9, **sampling) -> tuple[Tree, Played]:
    """One draft of a method on a tiny model, and what it read."""
    lane, played, out = DraftModel(), Played(), []

    def work():
        out.append((yield from method.draft(TEXT, limit, told(**sampling), lane, rng)))

    played.run(work())
    return out[0], played


def families(tree: Tree) -> tuple:
    """A tree as (path, its children in order), without the numbers of its nodes."""
    path: list[tuple[int, ...]] = []
    children = defaultdict(list)
    for token, parent in zip(tree.tokens.tolist(), tree.parent.tolist()):
        above = path[parent] if parent >= 0 else ()
        path.append((*above, token))
        children[above].append(token)
    return tuple(sorted((p, tuple(c)) for p, c in children.items()))


def paths(tree: Tree) -> list[tuple[int, ...]]:
    """Each node as its path from the certain token."""
    out: list[tuple[int, ...]] = []
    for token, parent in zip(tree.tokens.tolist(), tree.parent.tolist()):
        out.append((*(out[parent] if parent >= 0 else ()), token))
    return out


def node_by_node(rng: Rng, budget: int, levels: int) -> tuple:
    """The paper's first algorithm: always one draw at the place of the greatest value."""
    children = defaultdict(list)
    places = [(1.0, (), odds(()))]
    for _ in range(budget):
        value, path, left = places.pop(max(range(len(places)), key=lambda i: places[i][0]))
        token = rng.categorical(left)
        share = float(left[token] / left.sum())
        children[path].append(token)
        left = left.clone()
        left[token] = 0
        if left.any():
            places.append((value * (1 - share), path, left))
        if len(path) + 1 < levels:
            places.append((value * share, (*path, token), odds((*path, token))))
        if not places:
            break
    return tuple(sorted((p, tuple(c)) for p, c in children.items()))


def layer_by_layer(rng: Rng, floor: float, levels: int) -> tuple:
    """The paper's second algorithm: in every layer all draws whose value reaches the floor."""
    children = defaultdict(list)
    layer = [(1.0, ())]
    for _ in range(levels):
        below = []
        for reached, path in layer:
            left, value = odds(path).clone(), reached
            while value >= floor and left.any():
                token = rng.categorical(left)
                share = float(left[token] / left.sum())
                children[path].append(token)
                below.append((value * share, (*path, token)))
                left[token] = 0
                value *= 1 - share
        layer = below
    return tuple(sorted((p, tuple(c)) for p, c in children.items()))


@pytest.mark.parametrize("width", [1, 2, 8])
def test_trees_have_the_law_of_the_papers_first_algorithm(width):
    method = BestFirst(budget=4, length=3, width=width, drawn=True)
    got = distribution(lambda rng: families(grown(method, rng, **SAMPLING)[0]))
    assert got == pytest.approx(distribution(lambda rng: node_by_node(rng, 4, 3)), abs=1e-9)


def test_a_floor_is_the_papers_second_algorithm():
    method = BestFirst(budget=99, length=2, floor=0.25, width=99, drawn=True)
    got = distribution(lambda rng: families(grown(method, rng, **SAMPLING)[0]))
    assert got == pytest.approx(distribution(lambda rng: layer_by_layer(rng, 0.25, 2)), abs=1e-9)
    assert len({sum(len(c) for _, c in tree) for tree in got}) > 1  # trees of several sizes


def likeliest_paths(count: int, levels: int, greedy: bool) -> dict[tuple[int, ...], float]:
    """The `count` best of all paths, ranked by the product of their odds; branches below a hundredth are left out."""
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    for n in range(1, levels + 1):
        for path in itertools.product(range(31), repeat=n):
            above = chances.get(path[:-1], 0.0)
            if above > 0.01:
                chances[path] = above * float(odds(path[:-1], greedy)[path[-1]])
    del chances[()]
    best = dict(sorted(chances.items(), key=lambda item: -item[1])[:count])
    assert min(best.values()) > 0.01
    return best


@pytest.mark.parametrize("width", [1, 3, 16])
def test_greedy_takes_the_likeliest_paths(width):
    tree, played = grown(BestFirst(budget=10, length=3, width=width, drawn=True), Rng(0))
    best = likeliest_paths(10, 3, True)
    assert set(paths(tree)) == set(best)
    assert tree.chance.tolist() == pytest.approx([best[p] for p in paths(tree)])
    if width == 16:
        assert len(played.fed) == 3  # the prompt and one forward a further level


def test_one_forward_a_node_or_fewer_wider_ones():
    reads = [len(grown(BestFirst(budget=12, length=6, width=w), Rng(0))[1].fed) for w in (1, 2, 4, 12)]
    assert reads == sorted(reads, reverse=True) and reads[-1] < reads[0]


def test_no_deeper_than_told():
    tree, _ = grown(BestFirst(budget=20, length=5), Rng(0), limit=2)
    assert tree.depth().max() == 1 and len(tree) == 20


def test_its_trees_stand_no_less_often_than_a_line_of_the_same_size():
    """Tokens a forward of the large model, greedy, over a few prompts."""
    models, forwards = Rig().models("cycle"), {}
    for use in ("dyspec:budget=6,length=6", "speculative-sampling:length=6"):
        costs = [generate(models, [3, 1, 4, 1, 5, s], use=[use], max_tokens=24)[1] for s in range(9, 15)]
        forwards[use] = sum(c.models["main"].forwards for c in costs)
    best, line = forwards.values()
    assert best <= line
