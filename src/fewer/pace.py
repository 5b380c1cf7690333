"""How much of a draft is verified, decided for every draft; and the guard that lets a losing drafter rest.

Costs are counted in forwards of one row, C(m) being that of m rows. A node that stands saves one forward; so of a draft
those nodes are verified, likeliest first, that make the most of

    worth = value * sum of P(node) - (C(1 + nodes) - C(1))            value = 1 / tokens got lately per C(1) spent

P comes from parts/chances.py, C from costs.py. Dividing by the rate that is reached anyway makes the sum of many drafts,
not each one alone, as fast as can be. How deep a drafter may go is decided likewise before it drafts, if it runs a forward
a level. In a batch C is that of all rows together.

The guard keeps the account: tokens gained, less rows and drafting at their price. When it has fallen SLACK below its
best, the drafter rests for a number of tokens that doubles every time; then one small draft after the other is tried
until RETRY is lost or it pays again. If the whole request has lost more than a forward and BOUND of its tokens, the rest
lasts until that is made good. So what is lost is a forward or two, not a share of the time. A drafter that goes on failing
and is dear to keep informed is not asked again. Its first draft is not charged for drafting: reading the prompt is the
price of having it. What a drafter does beside a forward is charged with what that forward takes longer. So is what it takes
to keep it informed. While it rests it is told of new tokens, but not what the model said about them, except in the last
forward of a rest. If being told alone is dear, a rest makes nothing good, and a drafter that has lost more than ALLOWED and
BOUND is given up.

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
from fewer.ledger import Ledger
from fewer.parts.chances import Acceptance, Reach
from fewer.types import EMPTY_TREE, Out, Tree

SLACK, RETRY = 0.75, 0.25  # forwards that may be lost before the drafter rests: at first, and at every later try
SHARE = 0.1  # of what was gained that may be lost besides
BOUND = 0.01  # of all tokens: net loss of the whole request, in forwards, beyond which it rests as long as it takes
REST, LONGEST = 8, 512  # tokens of the first rest, and of any
DEAR = 0.01  # upkeep, in forwards a token, that a drafter which fails again and again may cost
ALLOWED = 2.0  # forwards that a drafter which is dear to inform may lose
DEEPEST = 32  # levels considered for drafters whose drafting costs
MEMORY = 0.97  # of the rate, a forward
RARE = 0.01  # a node that stands less often is worth no row


class Pace:
    """One request's. `levels` before a draft, `cut` after it, `heard` after its forward; `retired` = do not ask again."""

    def __init__(self, costs: Costs, weigh: Callable[[str], float], ledger: Ledger, name: str) -> None:
        """costs: timed, unless the clock may have no say. weigh(model) = its multiply-adds a row over the main model's."""
        self.costs, self._timed, self._weigh = costs, costs.timed, weigh
        self._ledger, self._name = ledger, name
        self._acceptance, self._reach = Acceptance(), Reach()
        self._others, self._groups = 0, 1  # rows and requests beside this one in the last forward
        self._tokens = self._spent = 1.0  # lately, fading
        self._gained = self._best = 0.0  # the account since the drafter was last asked afresh
        self._total, self._emitted = 0.0, 0  # the account of the whole request; tokens
        self._rest, self._pause, self._slack = 0, REST, SLACK
        self.asked = self._resting = self._set_up = self._ahead = False
        self._drafting, self._forwards = 0.0, 0  # what the draft under way has cost, and its forwards
        self._drafted = 0, 0  # its nodes and levels
        self._a_draft, self._a_level = 0.0, 0.0  # what drafting one level costs, and what any other adds
        self._width = 1.0  # nodes a level
        self._upkeep = self._informing = 0.0  # in forwards a token; in forwards since the last one
        self.retired = False

    # ------------------------------------------------------------------ before and after a draft
    def levels(self, limit: int) -> int:
        """How deep the next draft may be; 0 = the drafter is not asked now."""
        self._resting, self.asked = self._rest > 0, False
        if self._resting or limit <= 0 or (self._timed and not self.costs.known):
            return 0
        deep = limit
        if self._a_level > 0.005:
            n = min(limit, DEEPEST)
            worth = [0.0] + [
                self._value() * total - self._rows(math.ceil(self._width * d)) - self._a_draft - self._a_level * (d - 1)
                for d, total in enumerate(np.cumsum(self._reach.levels(n)).tolist(), 1)
            ]
            deep = max(range(n + 1), key=worth.__getitem__)
            if deep == 0 and self._trying:
                deep = max(range(1, n + 1), key=worth.__getitem__)
            elif deep == 0:
                self._let_rest()
                return 0
        self.asked = True
        return deep

    @property
    def listening(self) -> bool:
        """Is the drafter told about the forward under way? Of a rest only about the last one."""
        return self._rest <= 1

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
        best, taken = 0.0, 0
        base = self.costs(self._others + 1)
        for k, i in enumerate(order, 1):
            if p[i] < RARE:
                break
            total += p[i]
            rows += 1 if soft is None else 1 + soft[0][i]
            worth = value * total - (self.costs(self._others + 1 + rows) - base)
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
        stood, rows = len(new) - 1, len(tree)
        self._emitted += len(new)
        informing, self._informing = self._informing if self._set_up else 0.0, 0.0
        if self._set_up:
            self._upkeep += 0.1 * (informing / len(new) - self._upkeep)
            if self._upkeep > DEAR and self._total + ALLOWED < -BOUND * self._emitted:
                self._give_up()
        if self._timed:
            self._others, self._groups = out.rows - 1 - rows, out.groups
            if self._ahead:  # the drafter's share of the time is what the forward took beyond its price
                self._drafting += max(0.0, out.seconds / self.costs.seconds - self.costs(out.rows))
            elif not out.lanes:
                self.costs.heard(out.rows, out.seconds)
        worth, cost = self._one(), self._rows(rows) + (self._drafting if self._set_up else 0.0)
        self._tokens = MEMORY * self._tokens + 1 + stood
        self._spent = MEMORY * self._spent + 1 + cost / worth
        self._reach.heard(*self._acceptance.heard(new))
        nodes, deep = self._drafted
        if deep and self._set_up:
            level = self._drafting / self._forwards if self._forwards > 1 else 0.0
            self._a_level += 0.3 * (level - self._a_level)
            self._a_draft += 0.3 * (self._drafting - level * (deep - 1) - self._a_draft)
            self._width += 0.3 * (nodes / deep - self._width)
        if self.asked:
            self._set_up = True
            self._watch(worth * stood - cost - informing)
        else:
            self._total -= informing
        if self._resting:
            self._rest -= 1
            self._ledger.guard_tokens += 1
        self._drafting, self._forwards, self._drafted, self._ahead = 0.0, 0, (0, 0), False

    def kept_informed(self, seconds: float) -> None:
        """What it took to tell the drafter about the last tokens."""
        if self._timed and self.costs.known:
            self._informing += seconds / self.costs.seconds

    # ------------------------------------------------------------------ inside
    @property
    def _trying(self) -> bool:
        """Is the drafter on trial after a rest?"""
        return self._slack == RETRY

    def _one(self) -> float:
        """What a token costs without drafts: this request's share of a forward."""
        return self.costs(self._groups) / self._groups if self._groups > 1 else 1.0

    def _rows(self, more: int) -> float:
        """What `more` rows beside the certain one cost."""
        return self.costs(self._others + 1 + more) - self.costs(self._others + 1)

    def _value(self) -> float:
        """Of one token, in forwards, at the rate reached lately, which is never below plain decoding's."""
        return self._one() * min(1.0, self._spent / self._tokens)

    def _watch(self, gain: float) -> None:
        self._total += gain
        self._gained += gain
        self._best = max(self._best, self._gained)
        if self._best - self._gained > self._slack + SHARE * self._best:
            self._let_rest()
        elif self._trying and self._gained > 2 * RETRY:
            self._pause, self._slack = REST, SLACK

    def _let_rest(self) -> None:
        overdue = math.ceil(-(self._total + 1) / BOUND) - self._emitted
        self._rest, self._pause, self._slack = max(self._pause, overdue), min(2 * self._pause, LONGEST), RETRY
        self._gained = self._best = 0.0
        if not self._ledger.guard_rests:
            self._ledger.notes.append(
                f"guard: drafts of {self._name} cost more than they saved; it rests and is tried again ever less often"
            )
        self._ledger.guard_rests += 1
        if self._pause > 8 * REST and self._upkeep > DEAR:
            self._give_up()

    def _give_up(self) -> None:
        if self.retired:
            return
        self.retired = True
        self._ledger.notes.append(f"guard: {self._name} failed again and again and is not asked any more")


def _soft(tree: Tree) -> tuple[dict[int, int], list[int]]:
    """Soft nodes below each real node or -1, as a default 0; and for each node the nearest real one at or above it."""
    extra, owner = dict.fromkeys(range(-1, len(tree)), 0), list[int]()
    for i, (parent, token) in enumerate(zip(tree.parent.tolist(), tree.tokens.tolist())):
        owner.append(i if token >= 0 else owner[parent] if parent >= 0 else -1)
        if token < 0:
            extra[owner[i]] += 1
    return extra, owner
