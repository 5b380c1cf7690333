"""Seams of drafting: a tree of drafts, and which of them stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from fewer.seams.asks import Work
from fewer.seams.method import Method
from fewer.types import EMPTY_TREE, Rng, Told, Tree, follow

BEST = 12  # likeliest tokens of a row that a drafter may hear of


class Target(Protocol):
    """The main model's verdict on a draft tree. Node -1 is the certain token the tree hangs on.

    logits: (N + 1, V) the model's own, row node + 1 after each node, before penalties and rules.
    seen: N, the nodes that the model has looked at; a tree may have more (Propose.grown).
    """

    seen: int

    @property
    def logits(self) -> torch.Tensor: ...
    @property
    def best(self) -> np.ndarray: ...  # (N + 1, BEST or all) the likeliest tokens of each row, likeliest first
    def hidden(self, tap: str) -> torch.Tensor: ...  # (N + 1, D) of a tap that was declared; rows as in logits
    def draw(self, node: int) -> int: ...  # sample there, after what was pushed, and push the token
    def ends(self, token: int) -> bool: ...  # the text ends with it
    def probs(self, node: int, soft: bool = False) -> torch.Tensor: ...  # (V,) the processed distribution there, after
    # what was pushed; soft: of a greedy request too, at temperature 1, instead of one token for certain
    def push(self, token: int) -> None: ...  # a token stands: penalties and rules advance


@dataclass(frozen=True)
class Propose(Method):
    """Drafts: token trees that hang on the last certain token.

    It may be asked at any step or at none, and of its draft only a part may be verified (pace.py): what is new is told by
    `context`, and what was verified by the tree that feedback() gets. It is told of every token, asked or not.

    A drafter that draws its nodes from `Tree.q` says how, and may name the rule that judges them (`judge`); without one,
    or beside a rule that draws tokens itself, the engine's default acceptance serves, which is exact for any draft.
    """

    seam: ClassVar[str] = "propose"
    taps: ClassVar[frozenset[str]] = frozenset()  # hidden states of the main model that feedback() reads

    def law(self) -> str:
        """How nodes were drawn from q, if they were: "line", one child a node; "independent", siblings drawn alike, equal
        ones merged and counted (Tree.copies); "distinct", siblings drawn in their order without replacement."""
        return ""

    def judge(self) -> Accept | None:
        """The acceptance its drafts are made for, used where the plan names none."""
        return None

    def most(self) -> int:
        """Tokens of its largest draft: a forward must have room for them."""
        return int(getattr(self, "budget", 0))

    def guess(self, context: list[int], limit: int, told: Told, state: Any) -> Tree:
        """A draft no deeper than `limit`, without running a model."""
        return EMPTY_TREE

    def draft(self, context: list[int], limit: int, told: Told, state: Any, rng: Rng) -> Work:
        """The same as a coroutine, for drafters that yield forwards of their own."""
        return self.guess(context, limit, told, state)
        yield

    def ahead(self, context: list[int], tree: Tree, limit: int, told: Told, state: Any, rng: Rng) -> Work | None:
        """What to do on models of its own while the main model looks at `tree` behind `context`; None = nothing. Asked
        before every forward of the main model but those that read a prompt's first pieces."""
        return None

    def grown(self, tree: Tree, told: Told, state: Any) -> Tree:
        """`tree` with what ahead() has drafted behind it. The model has not seen those nodes: an acceptance rule may choose
        the first of them, and the walk ends there."""
        return tree

    def feedback(self, tree: Tree, path: list[int], target: Target, told: Told, state: Any) -> None:
        """With needs = {"best"}, the few likeliest tokens alone, {"logits"}, or taps: what the model said about `tree`, of
        which `path` stands. Called before learn(), and once with the empty tree when the prompt is complete; of the forwards
        of a rest (guard.py) only for the last."""

    def learn(self, context: list[int], new: list[int], told: Told, state: Any) -> None:
        """`new` tokens were appended; they are the end of `context`."""


@dataclass(frozen=True)
class Accept(Method):
    """Which drafted rows stand. Default of the engine: draw from the target at each node, follow the child that matches.

    A rule is a way to choose one token where some were drafted; override `choose`, or `walk` if it is more than that.
    """

    seam: ClassVar[str] = "accept"
    taps: ClassVar[frozenset[str]] = frozenset()  # hidden states of the main model that it reads
    laws: ClassVar[frozenset[str] | None] = None  # of the drafts it can judge (Propose.law); None = any
    exact: ClassVar[bool] = False  # leaves the target's distribution as it is, so a greedy text needs no rule

    def drafter(self) -> Propose | None:
        """Who drafts for it, where the plan names nobody."""
        return None

    def choose(self, node: int, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> int:
        """The token that comes after `node`. It is not pushed here."""
        raise NotImplementedError

    def walk(self, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> tuple[list[int], int]:
        """(accepted node path, one more token).

        Every token that stands is pushed once, in text order: by target.draw(), or by target.push() if it was not drawn.
        """

        def draw(node: int) -> int:
            token = self.choose(node, tree, target, rng, told, state)
            target.push(token)
            return token

        return follow(tree, draw, target.ends, target.seen)
