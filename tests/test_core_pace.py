"""The pace of drafting: the best part of a draft is verified, a losing drafter rests, and none of it touches the text."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.costs import NOMINAL, Costs, Curve
from fewer.guard import DEAR, LONGEST, REST, Account
from fewer.ledger import Ledger
from fewer.pace import Pace
from fewer.seams import Commit, Forward, Propose, Work, knob
from fewer.testing.companions import CYCLE, REPEATS, Guess, Oracle
from fewer.testing.harness import request, run
from fewer.testing.rig import Rig
from fewer.testing.tiny import tiny_model
from fewer.types import EMPTY_TREE, Out, Rng, Told, Tree, chain
from tests.samples import DraftModel, Parrot, Ratio

STEEP = Curve((1, 2, 4, 8, 16), (1.0, 1.3, 2.0, 4.0, 8.0))
ONE = 0.01  # seconds of a forward of one row


def pace(costs: Costs | None = None, **weights: float) -> Pace:
    """A pace whose engine has seen one plain forward."""
    costs = costs or Costs(NOMINAL, timed=True)
    costs.heard(1, ONE)
    return Pace(costs, lambda model: weights[model], Ledger(), "it")


def told(p: Pace, tree: Tree, stood: int, rows: int | None = None, groups: int = 1, curve: Curve = NOMINAL) -> None:
    """A forward over `tree` took what the curve says; `stood` tokens of the draft it was cut from are right."""
    m, k = 1 + len(tree) if rows is None else rows, min(stood, len(tree))
    p.heard(tree, [*range(k), k if stood > k else 99], Out(rows=m, groups=groups, seconds=ONE * curve(m)))


def line(n: int, chance: list[float] | None = None) -> Tree:
    return Tree(np.arange(n), np.arange(-1, n - 1), chance=None if chance is None else np.array(chance))


# ---------------------------------------------------------------------- what is verified
@given(st.data())
def test_the_best_part_of_a_draft(data):
    """Against trying every part that holds each node's parent and, if it is more than a node, costs no more than the stake."""
    n = data.draw(st.integers(1, 8))
    parent = np.array([data.draw(st.integers(-1, i - 1)) for i in range(n)])
    chance = np.zeros(n)
    for i, up in enumerate(parent):
        chance[i] = data.draw(st.floats(0.05, 1.0)) * (chance[up] if up >= 0 else 1.0)
    tree, costs = Tree(np.arange(n), parent, chance=chance), Costs(STEEP, timed=True)
    p = pace(costs)
    p.levels(9)
    value, judged = p._value(), p._acceptance.chances(tree)

    def worth(part: tuple[int, ...]) -> float:
        return value * sum(judged[list(part)]) - (costs(1 + len(part)) - 1.0)

    parts = [c for k in range(n + 1) for c in itertools.combinations(range(n), k)]
    fit = [c for c in parts if len(c) < 2 or costs(1 + len(c)) - 1.0 <= p._guard.stake]
    whole = [c for c in fit if all(parent[i] < 0 or parent[i] in c for i in c)]
    got = tuple(p.cut(tree).tokens.tolist())
    assert got in whole and worth(got) == pytest.approx(max(map(worth, whole)), abs=1e-9)


def test_soft_nodes_go_with_the_node_they_hang_on():
    """Real 0 is likely, real 2 is not; each has a soft node below it, and one hangs on the certain token."""
    tree = Tree(
        np.array([7, -1, 8, -1, -1]),
        np.array([-1, 0, -1, 2, -1]),
        chance=np.array([0.9, 0.0, 0.02, 0.0, 0.0]),
        embeds=torch.arange(3.0)[:, None],
    )
    cut = pace(Costs(Curve((1, 2), (1.0, 1.05)), timed=True)).cut(tree)
    assert cut.tokens.tolist() == [7, -1, -1] and cut.parent.tolist() == [-1, 0, -1]
    assert cut.embeds is not None and cut.embeds[:, 0].tolist() == [0.0, 2.0]


def test_dear_rows_verify_less():
    tree = line(8, [0.7**i for i in range(1, 9)])
    sizes = [len(pace(Costs(c, timed=True)).cut(tree)) for c in (Curve((1, 2), (1, 1.01)), NOMINAL, STEEP)]
    assert sizes[0] == 8 > sizes[1] > sizes[2] >= 1


def test_in_a_batch_rows_cost_what_they_add_to_all():
    """Sixteen rows ride along: where the curve is steep, fewer of one's own are worth it."""
    tree = line(8, [0.8**i for i in range(1, 9)])
    alone, crowded = pace(), pace()
    for p, rows in ((alone, 1), (crowded, 16)):
        told(p, EMPTY_TREE, 0, rows, groups=rows)
    assert len(crowded.cut(tree)) < len(alone.cut(tree))


def test_what_was_not_verified_is_judged_by_the_text():
    """Nothing of an unlikely draft is verified; yet that it was right is seen, and soon it is."""
    p = pace()
    sizes = []
    for _ in range(30):
        p.levels(9)
        tree = p.cut(line(3, [0.02, 0.01, 0.001]))
        sizes.append(len(tree))
        p.heard(tree, [*range(len(tree) + 1)], Out(rows=1 + len(tree), seconds=ONE * NOMINAL(1 + len(tree))))
    assert sizes[0] == 0 and sizes[-1] == 3 and p._ledger.drafts_declined == sizes.count(0) < 10


# ---------------------------------------------------------------------- the guard
@dataclass
class Play:
    """A text of so many tokens, drafted by a line of `size` that costs `drafting` forwards and of which stood(i) are right."""

    size: int = 7
    drafting: float = 0.0
    upkeep: float = 0.0
    curve: Curve = NOMINAL
    chance: float | None = None
    p: Pace = field(default_factory=pace)
    spent: float = 0.0
    emitted: int = 0
    asked: list[int] = field(default_factory=list)  # the token at which the drafter was asked

    def run(self, tokens: int, stood: Any) -> float:
        """How many times as fast as plain decoding it was."""
        begun, spent = self.emitted, self.spent
        chances = None if self.chance is None else [self.chance**i for i in range(1, self.size + 1)]
        while self.emitted < begun + tokens:
            tree, deep = EMPTY_TREE, 0 if self.p.retired else self.p.levels(99)
            if deep:
                self.asked.append(self.emitted)
                self.p.drafted(self.drafting * ONE)
                self.spent += self.drafting
                tree = self.p.cut(line(self.size, chances).trimmed(deep))
            right = stood(self.emitted) if deep else 0
            self.spent += self.curve(1 + len(tree)) + (0 if self.p.retired else self.upkeep)
            if not self.p.retired:
                told(self.p, tree, right, curve=self.curve)
                self.p.kept_informed(self.upkeep * ONE)
            self.emitted += 1 + min(right, len(tree))
        return (self.emitted - begun) / (self.spent - spent)


@pytest.mark.parametrize("drafting", [0.0, 0.02, 0.3, 2.0])
@pytest.mark.parametrize("chance", [None, 0.9])
@pytest.mark.parametrize("curve", [NOMINAL, STEEP])
@pytest.mark.parametrize("size", [1, 7, 40])
def test_a_drafter_that_is_never_right_costs_little(drafting, chance, curve, size):
    """Whatever it says and costs: below three parts in a hundred, its first draft apart."""
    play = Play(size, drafting, curve=curve, chance=chance, p=pace(Costs(curve, timed=True)))
    play.run(2, lambda i: 0)
    assert play.run(250, lambda i: 0) > 0.97


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_a_drafter_that_is_seldom_right_does_not_lose(share):
    right = np.random.default_rng(1).random(4000) < share
    assert Play(drafting=0.02).run(600, lambda i: int(right[i])) > 0.97


def test_rests_grow_and_are_told():
    play = Play(drafting=0.3)
    play.run(3000, lambda i: 0)
    rests = np.diff(play.asked)
    long = rests[rests > 1]
    assert long[0] == REST + 1 and (np.diff(long) >= 0).all() and long[-1] == LONGEST + 1
    led = play.p._ledger
    assert led.guard_rests == len(long) + play.p._guard.resting and "it cost more than they saved" in led.notes[0]
    assert led.guard_tokens + len(play.asked) == 3000


def test_a_good_drafter_is_asked_every_time():
    play = Play(drafting=0.02)
    assert play.run(400, lambda i: 7) > 3.0
    assert play.p._ledger.guard_rests == 0


def test_comes_back_when_the_text_changes():
    """Wrong for 300 tokens, right from then on: soon it is asked all the time again."""
    play = Play(drafting=0.1)
    play.run(300, lambda i: 0)
    play.run(700, lambda i: 7)
    assert play.run(300, lambda i: 7) > 2.0


def test_what_costs_to_draft_is_not_drafted_deep():
    """Two of seven levels stand, each costs a fifth of a forward: three, not seven, are soon asked for."""
    p = pace()
    for _ in range(60):
        deep = p.levels(7)
        for _ in range(deep):
            p.forward("draft", 1, 1.0)
        p.drafted(0.2 * deep * ONE)
        told(p, p.cut(line(deep)), min(2, deep))
    assert 2 <= deep <= 3


def test_what_is_dear_to_keep_informed_is_given_up():
    """Its upkeep alone is above the bound; a cheaper one is only left alone."""
    dear, cheap = Play(drafting=0.1, upkeep=3 * DEAR), Play(drafting=0.1, upkeep=DEAR / 3)
    for play in (dear, cheap):
        play.run(600, lambda i: 0)
    assert dear.p.retired and not cheap.p.retired and "not asked any more" in dear.p._ledger.notes[-1]


@pytest.mark.parametrize("upkeep", [0.02, 0.06, 0.2])
def test_what_is_very_dear_to_keep_informed_is_given_up_soon(upkeep):
    """A drafter that is never right: what telling it costs is part of the loss that is bounded."""
    play = Play(upkeep=upkeep)
    assert play.run(600, lambda i: 0) > 0.97
    assert play.p.retired or upkeep < DEAR


def test_a_drafter_whose_first_drafts_are_dear_must_earn_them():
    """Twelve forwards for a prompt: one that is right goes on, one that is wrong rests until less than BOUND is lost."""
    for right, rested in ((7, False), (0, True)):
        account, notes = Account(), list[str]()
        for _ in range(4):
            costs = Costs(NOMINAL, timed=True)
            costs.heard(1, ONE)
            p = Pace(costs, lambda model: 0.3, Ledger(), "it", account)
            Play(drafting=12.0, p=p).run(1, lambda i, n=right: n)
            Play(drafting=0.1, p=p).run(60, lambda i, n=right: n)
            notes += p._ledger.notes
        assert (account.gained > 0) is not rested
        assert sum("it has cost earlier requests" in n for n in notes) == (3 if rested else 0)
    account.emitted = 100_000
    assert not account.overdrawn


def test_a_drafter_that_never_pays_costs_a_hundredth_of_many_requests():
    """Cheap to begin with and always wrong: each request alone may lose two forwards, all together one in a hundred tokens."""
    account, rested = Account(), 0
    for _ in range(40):
        costs = Costs(NOMINAL, timed=True)
        costs.heard(1, ONE)
        p = Pace(costs, lambda model: 0.9, Ledger(), "it", account)
        Play(drafting=0.2, p=p).run(100, lambda i: 0)
        rested += any("it has cost earlier requests" in n for n in p._ledger.notes)
    assert -account.gained < 0.01 * account.emitted + 6
    assert 5 < rested < 35  # it is tried again, but not in every request


def test_what_works_beside_a_forward_pays_for_what_it_slows():
    """Nothing it drafts is right, and forwards beside which it works take half as long again: it rests."""
    p = pace()
    for _ in range(100):
        if p.levels(9):
            p.ran_ahead()
        p.heard(EMPTY_TREE, [99], Out(rows=1, seconds=ONE * (1.5 if p.asked else 1.0), lanes=p.asked))
    assert p._ledger.guard_rests >= 2 and p._ledger.guard_tokens > 80
    assert p.costs.seconds == pytest.approx(ONE)


def test_nothing_is_drafted_before_a_plain_forward_was_timed():
    p = Pace(Costs(NOMINAL, timed=True), lambda model: 1.0, Ledger(), "it")
    assert p.levels(9) == 0
    told(p, EMPTY_TREE, 0)
    assert p.levels(9) == 9


# ---------------------------------------------------------------------- the text
class Moody(Costs):
    """A clock that says anything."""

    def heard(self, m: int, seconds: float) -> None:
        super().heard(m, float(np.random.default_rng().uniform(0.001, 1.0)))


@dataclass(frozen=True)
class Dice(Propose):
    """Draws a line of `depth` tokens from the request's own dice."""

    depth: int = knob(3, "tokens", low=1)

    def draft(self, context: list[int], limit: int, told: Told, state: Any, rng: Rng) -> Work:
        tokens = [rng.categorical(np.ones(31)) for _ in range(min(self.depth, limit))]
        return Tree(np.array(tokens), np.arange(-1, len(tokens) - 1))
        yield


@pytest.mark.parametrize("drafter", [Parrot(), Dice(), DraftModel()])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "seed": 3}, {"temperature": 0.8, "top_k": 9, "seed": 4}])
def test_no_clock_moves_the_text(drafter, options):
    models = Rig().models("llama")
    plain = request(REPEATS, max_tokens=24, **options)
    run(models, [plain])
    for _ in range(3):
        req = request(REPEATS, [drafter], max_tokens=24, **options)
        req.pace = Pace(Moody(STEEP, timed=True), lambda model: 0.5, req.ledger, "it")
        run(models, [req])
        assert req.tokens == plain.tokens


@pytest.mark.parametrize("beside", [0, 2])
def test_with_an_accept_method_only_the_text_decides(beside):
    """Ratio acceptance: the text depends on the draft, so neither clock nor neighbours may decide how much is drafted."""
    texts, asked = set(), set()
    for _ in range(4):
        req = request(REPEATS, [Ratio(), Guess()], max_tokens=40, temperature=1.0, seed=1)
        req.pace = Pace(Costs(NOMINAL, timed=False), lambda model: 0.5, req.ledger, "it")
        others = [request(CYCLE[:9], max_tokens=9 * i + 1) for i in range(beside)]
        run(tiny_model(), [req, *others])
        texts.add(tuple(req.tokens))
        asked.add((req.ledger.drafts, *req.ledger.drafted_by_depth))
    assert len(texts) == len(asked) == 1


def test_with_an_accept_method_a_draft_is_never_cut():
    p = pace(Costs(STEEP, timed=False))
    tree = line(9, [0.01] * 9)
    assert p.cut(tree) is tree


def test_without_a_clock_forwards_of_other_models_weigh_their_size():
    """A draft model a third of the main one's size, never right: it soon rests."""
    play = Play(p=pace(Costs(NOMINAL, timed=False), draft=1 / 3))
    for _ in range(600):
        deep = play.p.levels(7)
        for _ in range(deep):
            play.p.forward("draft", 1, 1.0)
        told(play.p, play.p.cut(line(deep)), 0)
    assert play.p._ledger.guard_rests >= 2


# ---------------------------------------------------------------------- in the engine's loop
@dataclass(frozen=True)
class Early(Propose):
    """Runs the main model's first layers for its draft, and throws the result away."""

    def draft(self, context: list[int], limit: int, told: Told, state: Any, rng: Rng) -> Work:
        yield Forward(chain([context[-1]], len(context) - 1), stop=1, stage="decode")
        yield Commit(np.zeros(0, np.int64))
        return EMPTY_TREE


def test_what_a_drafter_does_is_the_stage_draft():
    model = tiny_model()
    req, plain = request(REPEATS, [Early()], max_tokens=6), request(REPEATS, max_tokens=6)
    run(model, [req, plain])
    assert req.tokens == plain.tokens and req.ledger.seconds["draft"] > 0 and "draft" not in plain.ledger.seconds
    assert req.ledger.models["main"].forwards == plain.ledger.models["main"].forwards + 4


def test_drafts_are_counted_level_by_level():
    plain = request(CYCLE, max_tokens=20)
    models = Rig().models("cycle")
    run(models, [plain])
    req = request(CYCLE, [Oracle(script=(*CYCLE, *plain.tokens))], max_tokens=20)
    run(models, [req])
    led = req.ledger
    assert sum(led.drafted_by_depth) == led.drafted_tokens and sum(led.accepted_by_depth) == led.accepted_tokens > 0
    assert (
        led.accepted_by_depth == sorted(led.accepted_by_depth, reverse=True) and led.drafts >= led.accepted_by_depth[0]
    )
    assert all(a <= d for a, d in zip(led.accepted_by_depth, led.drafted_by_depth))
