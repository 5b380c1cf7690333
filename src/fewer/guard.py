"""The guard: speculation is never slower than plain decoding by more than a few parts in a hundred. One request's.

It keeps the account of drafting: tokens gained, less rows, drafting and keeping the drafter informed at their price, in
forwards of one row. When it has fallen SLACK below its best, the drafter rests for a number of tokens that doubles every
time; then one small draft after the other is tried until RETRY is lost or it pays again. If the whole request has lost more
than a forward and BOUND of its tokens, the rest lasts until that is made good. So what is lost is a forward or two, not a
share of the time. While it rests it is told of new tokens, but not what the model said about them, except in the last
forward of a rest. Where being told of tokens alone is dear, a rest makes nothing good: a drafter that goes on failing, or
has lost more than ALLOWED and BOUND, is given up.

Its first draft is not charged to the request: reading the prompt is the price of having it. All is charged to the Account
of an engine's requests: a drafter that has lost more than ALLOWED there rests in the next requests until that is below
BOUND of their tokens. So one that never pays costs a hundredth in the long run, however often it is asked for.
Does not: read a clock, or say how much of a draft is verified; pace.py does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from fewer.ledger import Ledger

SLACK, RETRY = 0.75, 0.25  # forwards that may be lost before the drafter rests: at first, and at every later try
SHARE = 0.1  # of what was gained that may be lost besides
BOUND = 0.01  # of all tokens: net loss, in forwards, beyond which it rests as long as it takes
REST, LONGEST = 16, 512  # tokens of the first rest, and of any
ENDLESS = 1 << 40  # tokens
DEAR = 0.01  # upkeep, in forwards a token, that a drafter which fails again and again may cost
ALLOWED = 2.0  # forwards that a drafter which is dear to inform may lose, and any in all requests


@dataclass(slots=True)
class Account:
    """What one drafter has gained over the requests of an engine, in forwards, first drafts included."""

    gained: float = 0.0
    emitted: int = 0

    @property
    def overdrawn(self) -> bool:
        """Has it cost more than it brought?"""
        return self.gained + ALLOWED < -BOUND * self.emitted


class Guard:
    """`resting` = the drafter is not asked now; `retired` = never again in this request."""

    def __init__(self, ledger: Ledger, name: str, account: Account) -> None:
        self._ledger, self._name, self._account = ledger, name, account
        self._gained = self._best = 0.0  # since the drafter was last asked afresh
        self._total, self._emitted = 0.0, 0  # of the whole request; tokens
        self._rest, self._pause, self._slack = 0, REST, SLACK
        self._upkeep = 0.0  # in forwards a token
        self.begun = self.retired = False  # begun: it has drafted, so that what it costs from now on counts
        if account.overdrawn:
            self._rest = ENDLESS
            ledger.guard_rests += 1
            ledger.notes.append(f"guard: {name} has cost earlier requests more than it saved; it rests in this one")

    @property
    def resting(self) -> bool:
        return self._rest > 0

    @property
    def listening(self) -> bool:
        """Is the drafter told what the model says in the forward under way?"""
        return self._rest <= 1

    @property
    def trying(self) -> bool:
        """Is the drafter on trial after a rest?"""
        return self._slack == RETRY

    @property
    def stake(self) -> float:
        """Forwards that a draft may lose before it is sent to rest."""
        return self._slack + SHARE * self._best - (self._best - self._gained)

    def rested(self, tokens: int, informing: float) -> None:
        """So many tokens more while it rested."""
        self._rest -= 1
        self._ledger.guard_tokens += 1
        self.heard(tokens, 0.0, 0.0, informing, False)

    def heard(self, tokens: int, gain: float, drafting: float, informing: float, asked: bool) -> None:
        """So many tokens more. gain: what drafts saved less what their rows cost; drafting, informing: what else it cost.
        asked: was the drafter asked for this forward?"""
        self._emitted += tokens
        self._account.emitted += tokens
        if not self.begun:
            if asked:
                self.begun = True
                self._account.gained -= drafting
            drafting = informing = 0.0
        self._upkeep += 0.1 * (informing / tokens - self._upkeep)
        gain -= drafting + informing
        self._total += gain
        self._account.gained += gain
        if self._upkeep > DEAR and self._total + ALLOWED < -BOUND * self._emitted:
            self._give_up()
        if asked:
            self._watch(gain)

    def let_rest(self) -> None:
        """Send it to rest, longer than the last time."""
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

    def _watch(self, gain: float) -> None:
        self._gained += gain
        self._best = max(self._best, self._gained)
        if self.stake < 0:
            self.let_rest()
        elif self.trying and self._gained > 2 * RETRY:
            self._pause, self._slack = REST, SLACK

    def _give_up(self) -> None:
        if not self.retired:
            self.retired = True
            self._ledger.notes.append(f"guard: {self._name} failed again and again and is not asked any more")
