"""How much of a draft is verified, decided for every draft.

Costs are counted in forwards of one row, C(m) being that of m rows. A node that stands saves one forward; so of a draft
those nodes are verified, likeliest first, that make the most of

    worth = value * sum of P(node) - (C(1 + nodes) - C(1))            value = 1 / tokens got lately per C(1) spent

P comes from parts/chances.py, C from costs.py. What a draft costs if none of it stands is at most what the guard may still
lose, but for its first node. Dividing by the rate that is reached anyway makes the sum of many drafts,
not each one alone, as fast as can be. How deep a drafter may go is decided likewise before it drafts, if it runs a forward
a level. In a batch C is that of all rows together.

What a drafter does beside a forward is charged with what that forward takes longer. Whether it is asked at all is the
guard's business (guard.py).

**Nothing of this may touch the text.** The engine's own acceptance draws one token from the model at each place,
whatever was drafted, so there everything goes. An Accept method may let the text depend on the draft: then no clock and
no neighbour has a say (costs are NOMINAL, forwards of other models weigh by their multiply-adds), and what is decided is
decided before the draft is drawn, from the text so far: a draft is never cut, because to verify a node or not by what was
drawn there would bias it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from fewer.costs import Costs
from fewer.guard import Account, Guard
from fewer.ledger import Ledger
from fewer.parts.chances import Acceptance, Reach
from fewer.types import EMPTY_TREE, Out, Tree

DEEPEST = 32  # levels considered for drafters whose drafting costs
MEMORY = 0.97  # of the rate, a forward
RARE = 0.01  # a node that stands less often is worth no row


class Pace:
    """One request's. `levels` before a draft, `cut` after it, `heard` after its forward."""

    def __init__(
        self, costs: Costs, weigh: Callable[[str], float], ledger: Ledger, name: str, account: Account | None = None
    ) -> None:
        """costs: timed, unless the clock may have no say. weigh(model) = its multiply-adds a row over the main model's.
        account: of the same drafter in earlier requests, where they may have a say."""
        self.costs, self._timed, self._weigh = costs, costs.timed, weigh
        self._ledger = ledger
        self._acceptance, self._reach = Acceptance(), Reach()
        self._others, self._groups = 0, 1  # rows and requests beside this one in the last forward
        self._tokens = self._spent = 1.0  # lately, fading
        self._guard = Guard(ledger, name, Account() if account is None else account)
        self.asked = self._rested = self._ahead = False
        self._drafting, self._forwards = 0.0, 0  # what the draft under way has cost, and its forwards
        self._drafted = 0, 0  # its nodes and levels
        self._a_draft, self._a_level = 0.0, 0.0  # what drafting one level costs, and what any other adds
        self._width = 1.0  # nodes a level
        self._informing = 0.0  # in forwards since the last one

    # ------------------------------------------------------------------ before and after a draft
    def levels(self, limit: int) -> int:
        """How deep the next draft may be; 0 = the drafter is not asked now."""
        self.asked, self._rested = False, self._guard.resting
        if self._rested or limit <= 0 or (self._timed and not self.costs.known):
            return 0
        deep = limit
        if self._a_level > 0.005:
            n = min(limit, DEEPEST)
            worth = [0.0] + [
                self._value() * total - self._rows(math.ceil(self._width * d)) - self._a_draft - self._a_level * (d - 1)
                for d, total in enumerate(np.cumsum(self._reach.levels(n)).tolist(), 1)
            ]
            deep = max(range(n + 1), key=worth.__getitem__)
            if deep == 0 and self._guard.trying:
                deep = max(range(1, n + 1), key=worth.__getitem__)
            elif deep == 0:
                self._guard.let_rest()
                return 0
        self.asked = True
        return deep

    @property
    def listening(self) -> bool:
        """Is the drafter told what the model says in the forward under way?"""
        return self._guard.listening

    @property
    def retired(self) -> bool:
        """Is the drafter never asked again?"""
        return self._guard.retired

    def forward(self, model: str, rows: int, share: float) -> None:
        """The drafter ran so many rows through a share of a model's layers."""
        self._forwards += 1
        if not self._timed:
            self._drafting += self._weigh(model) * share * self.costs(rows)

    def ran_ahead(self) -> None:
        """The drafter works while the main model looks at the draft."""
        self._ahead = True

    def drafted(self, seconds: float) -> None:
        """The draft took so long, its forwards included."""
        if self._timed:
            self._drafting = seconds / self.costs.seconds

    def cut(self, tree: Tree) -> Tree:
        """The nodes of a draft that are worth a row."""
        p = self._acceptance.chances(tree).tolist()
        self._drafted = len(tree), int(tree.depth().max(initial=-1)) + 1
        if not self._timed:
            return tree
        order = sorted(np.flatnonzero(tree.tokens >= 0).tolist(), key=lambda i: -p[i])
        if not order:
            return tree
        soft = None if tree.embeds is None else _soft(tree)
        value, total, rows = self._value(), 0.0, 0 if soft is None else soft[0][-1]
        best, taken, stake = 0.0, 0, self._guard.stake
        base = self.costs(self._others + 1)
        for k, i in enumerate(order, 1):
            if p[i] < RARE:
                break
            total += p[i]
            rows += 1 if soft is None else 1 + soft[0][i]
            cost = self.costs(self._others + 1 + rows) - base
            if taken and cost > stake:
                break
            worth = value * total - cost
            if worth > best:
                best, taken = worth, k
        if not taken:
            self._ledger.drafts_declined += 1
            return EMPTY_TREE
        kept = {-1, *order[:taken]}
        return tree.only(
            np.array(sorted(order[:taken]) if soft is None else [i for i, o in enumerate(soft[1]) if o in kept])
        )

    def heard(self, tree: Tree, new: list[int], out: Out) -> None:
        """The forward over `tree` is done and the text goes on with `new`, one token more than what stands."""
        if self._rested:  # in hardly any time: this is what a drafter that does not pay goes on costing
            self._guard.rested(len(new), self._informing)
            self._informing = 0.0
            return
        stood, rows = len(new) - 1, len(tree)
        if self._timed:
            self._others, self._groups = out.rows - 1 - rows, out.groups
            if self._ahead:  # the drafter's share of the time is what the forward took beyond its price
                self._drafting += max(0.0, out.seconds / self.costs.seconds - self.costs(out.rows))
            elif not out.lanes:
                self.costs.heard(out.rows, out.seconds)
        worth, cost, drafting = self._one(), self._rows(rows), self._drafting
        charged = drafting if self._guard.begun else 0.0
        self._tokens = MEMORY * self._tokens + 1 + stood
        self._spent = MEMORY * self._spent + 1 + (cost + charged) / worth
        self._reach.heard(*self._acceptance.heard(new))
        nodes, deep = self._drafted
        if deep and self._guard.begun:
            level = drafting / self._forwards if self._forwards > 1 else 0.0
            self._a_level += 0.3 * (level - self._a_level)
            self._a_draft += 0.3 * (drafting - level * (deep - 1) - self._a_draft)
            self._width += 0.3 * (nodes / deep - self._width)
        self._guard.heard(len(new), worth * stood - cost, drafting, self._informing, self.asked)
        self._drafting = self._informing = 0.0
        self._forwards, self._drafted, self._ahead = 0, (0, 0), False

    def kept_informed(self, seconds: float) -> None:
        """What it took to tell the drafter about the last tokens."""
        if self._timed and self.costs.known:
            self._informing += seconds / self.costs.seconds

    # ------------------------------------------------------------------ inside
    def _one(self) -> float:
        """What a token costs without drafts: this request's share of a forward."""
        return self.costs(self._groups) / self._groups if self._groups > 1 else 1.0

    def _rows(self, more: int) -> float:
        """What `more` rows beside the certain one cost."""
        return self.costs(self._others + 1 + more) - self.costs(self._others + 1)

    def _value(self) -> float:
        """Of one token, in forwards, at the rate reached lately, which is never below plain decoding's."""
        return self._one() * min(1.0, self._spent / self._tokens)


def _soft(tree: Tree) -> tuple[dict[int, int], list[int]]:
    """Soft nodes below each real node or -1, as a default 0; and for each node the nearest real one at or above it."""
    extra, owner = dict.fromkeys(range(-1, len(tree)), 0), list[int]()
    for i, (parent, token) in enumerate(zip(tree.parent.tolist(), tree.tokens.tolist())):
        owner.append(i if token >= 0 else owner[parent] if parent >= 0 else -1)
        if token < 0:
            extra[owner[i]] += 1
    return extra, owner
