"""Trees of several drafters become one: against a naive union of paths; each drafter hears its own part of the verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.costs import NOMINAL, Costs
from fewer.pace import Pace
from fewer.parts.merged import Merged, find, merge
from fewer.plan import plan
from fewer.seams import Propose, Target, knob
from fewer.testing.checks import check_method
from fewer.testing.companions import CYCLE, REPEATS, Oracle
from fewer.testing.harness import Naive, generate, request, run
from fewer.testing.rig import Rig
from fewer.types import EMPTY_TREE, Told, Tree
from tests.samples import EXACT, DraftModel, Parrot

Path = tuple[int, ...]


@st.composite
def trees(draw) -> Tree:
    """Up to six nodes, siblings different, some of them soft."""
    tokens, parent, below = [], [], {}
    for i in range(draw(st.integers(0, 6))):
        up = draw(st.integers(-1, i - 1))
        token = draw(st.sampled_from([-1, 1, 2, 3]))
        if token in below.setdefault(up, set()):
            continue
        if token >= 0:
            below[up].add(token)
        tokens.append(token)
        parent.append(up)
    here = {old: new for new, old in enumerate(sorted({*range(len(tokens))}))}
    parent = [p if p < 0 else here.get(min(p, k - 1), -1) for k, p in enumerate(parent)]
    soft = tokens.count(-1)
    embeds = torch.randn(soft, 2) if soft else None
    return Tree(np.array(tokens, np.int64), np.array(parent, np.int64), embeds=embeds)


def names(tree: Tree, which: int = 0) -> list[tuple[Any, ...]]:
    """Each node as the tokens on its way from the certain token; a soft node by its vector."""
    out, soft = [], 0
    for token, up in zip(tree.tokens.tolist(), tree.parent.tolist()):
        if token < 0:
            assert tree.embeds is not None
            own: Any = tuple(tree.embeds[soft].tolist())
            soft += 1
        else:
            own = token
        out.append((*(out[up] if up >= 0 else ()), own))
    return out


def sound(tree: Tree) -> bool:
    """No two siblings hold the same token."""
    pairs = [(p, t) for p, t in zip(tree.parent.tolist(), tree.tokens.tolist()) if t >= 0]
    return len(pairs) == len(set(pairs))


@given(st.lists(trees().filter(sound), min_size=1, max_size=3), st.data())
def test_the_union_of_paths(several, data):
    chances = [np.array([data.draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])) for _ in t.tokens]) for t in several]
    whole, places = merge(several, chances)
    wanted: dict[tuple, float] = {}
    for tree, chance in zip(several, chances):
        for name, p in zip(names(tree), chance):
            wanted[name] = wanted.get(name, 1.0) * (1 - p)
    got = names(whole)
    assert len(set(got)) == len(got) and set(got) == set(wanted)
    assert all(up < i for i, up in enumerate(whole.parent))
    if got:
        assert whole.chance.tolist() == pytest.approx([1 - wanted[n] for n in got])
    for tree, at in zip(several, places):
        assert [got[i] for i in at] == names(tree)


@given(st.lists(trees().filter(sound), min_size=1, max_size=3), st.data())
def test_what_was_cut_is_found_again(several, data):
    """Any part that is closed upwards and takes soft siblings together."""
    whole, _ = merge(several, [np.ones(len(t)) for t in several])
    kept: list[int] = []
    soft: dict[int, bool] = {}
    for i, (token, up) in enumerate(zip(whole.tokens.tolist(), whole.parent.tolist())):
        if up < 0 or up in kept:
            keep = soft.setdefault(up, data.draw(st.booleans())) if token < 0 else data.draw(st.booleans())
            kept += [i] * keep
    assert find(whole.only(np.array(kept, np.int64)), whole) == kept


@dataclass(frozen=True)
class Listens(Propose):
    """Drafts a line that grows by `step` from the last token, and writes down all it is told."""

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})

    step: int = knob(1, "from token to token")
    deep: int = knob(3, "tokens")
    log: list = field(default_factory=list)

    def guess(self, context: list[int], limit: int, told: Told, state: Any) -> Tree:
        n = min(self.deep, limit)
        return Tree((context[-1] + self.step * np.arange(1, n + 1)) % 31, np.arange(-1, n - 1))

    def feedback(self, tree: Tree, path: list[int], target: Target, told: Told, state: Any) -> None:
        self.log.append((tree, path, target.logits.clone(), [target.probs(i) for i in range(-1, len(tree))]))

    def learn(self, context: list[int], new: list[int], told: Told, state: Any) -> None:
        self.log.append((list(context), list(new)))


def test_each_hears_its_own_part():
    """One counts up, which is right, one counts by twos; the verdict on each node is what a naive decoder says there."""
    models = Rig().models("cycle")
    right, wrong = Listens(step=1), Listens(step=2, deep=2)
    text, ledger = generate(models, CYCLE, use=[right, wrong, Oracle()], max_tokens=12)
    assert text == generate(models, CYCLE, max_tokens=12)[0] and ledger.accepted_tokens
    met = set()
    for drafter in (right, wrong):
        assert len(drafter.log) % 2 == 0
        for (tree, path, logits, probs), (context, new) in zip(drafter.log[::2], drafter.log[1::2]):
            before = context[: -len(new)]
            assert [int(tree.tokens[i]) for i in path] == new[:-1]
            assert len(logits) == len(tree) + 1 == len(probs)
            for node, way in enumerate([(), *names(tree)]):
                naive = Naive(models["main"])
                for token in (*before, *way):
                    last = naive.feed(token)
                assert torch.allclose(logits[node], last, atol=1e-9)
                if way:
                    own = tuple((before[-1] + drafter.step * k) % 31 for k in range(1, len(way) + 1))
                    stands = tuple(new[: len(way)]) == way and len(way) < len(new)
                    assert (len(way) <= drafter.deep and way == own) or stands
                    met.add((drafter is right, way == own, stands))
    assert met == {(True, True, True), (True, True, False), (False, True, False), (False, False, True)}


def test_each_hears_its_part_of_what_the_pace_left():
    """Only some of the nodes are verified: nobody is told about others."""
    models, drafter, other = Rig().models("cycle"), Listens(deep=5), Listens(step=7, deep=5)
    req = request(CYCLE, [drafter, other], max_tokens=24)
    req.pace = Pace(Costs(NOMINAL, timed=True), lambda model: 1.0, req.ledger, "both")
    run(models, [req])
    sizes = [len(d.log[i][0]) for d in (drafter, other) for i in range(0, len(d.log), 2)]
    assert req.ledger.accepted_tokens and min(sizes) < 5
    assert req.tokens == generate(models, CYCLE, max_tokens=24)[0]


@dataclass(frozen=True)
class Elsewhere(Propose):
    """Says that it runs a second model."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})


def test_a_plan_makes_them_one():
    seams = plan(["lookahead", "lookahead:shortest=1,length=2"])
    assert isinstance(seams.propose, Merged) and seams.propose.name == "lookahead + lookahead"
    assert plan([Elsewhere(), Parrot()]).propose.uses == {"draft"}
    assert plan([Listens(), Parrot()]).propose.needs == {"logits"}
    assert plan([Parrot()]).propose == Parrot()


def test_more_drafters_are_right_more_often():
    """Two that know different halves of the text; neither alone saves as many forwards as both."""
    models = Rig().models("cycle")
    text, _ = generate(models, CYCLE, max_tokens=30)
    script = (*CYCLE, *text)
    half = len(CYCLE) + 15
    a, b = Oracle(script=script[:half]), Oracle(script=(*[0] * half, *script[half:]))
    forwards = []
    for use in ([a], [b], [a, b]):
        same, ledger = generate(models, CYCLE, use=use, max_tokens=30)
        assert same == text
        forwards.append(ledger.forwards)
    assert forwards[2] < min(forwards[:2])


@dataclass(frozen=True)
class Both(Merged):
    """Parrot and a draft model together, as one method of its own."""

    parts: tuple[Propose, ...] = knob((Parrot(), DraftModel()), "the drafters")


def test_together_they_pass_every_check():
    assert "lossless-sampled" in check_method(Both, EXACT)


def test_nothing_drafted_is_nothing():
    whole, places = merge([EMPTY_TREE, EMPTY_TREE], [np.zeros(0), np.zeros(0)])
    assert whole is EMPTY_TREE and [len(p) for p in places] == [0, 0]
    assert generate(Rig().models(), REPEATS, use=[Parrot(depth=0), Parrot(depth=0)], max_tokens=3)[1].drafts == 0
