"""Seams of the text: which tokens may come, what enters of a prompt, who shares a forward, how a request is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from fewer.seams.asks import Work
from fewer.seams.method import Method
from fewer.types import Rng, Told

if TYPE_CHECKING:
    from fewer.request import Request


@dataclass(frozen=True)
class Rule(Method):
    """Constraints and logit shaping along one path. State advances token by token."""

    seam: ClassVar[str] = "rule"
    black_box: ClassVar[bool] = False  # allows() judges single tokens and draw() uses it: only one such rule a plan

    def mask(self, logits: torch.Tensor, told: Told, state: Any) -> torch.Tensor:
        """logits (V,) -> logits (V,); -inf forbids."""
        return logits

    def allows(self, token: int, told: Told, state: Any) -> bool:
        """With black_box: may `token` come next? Only draw() causes it to be called, and every call is counted."""
        raise NotImplementedError

    def draw(
        self, p: torch.Tensor, allows: Callable[[int], bool], rng: Rng | None, told: Told, state: Any
    ) -> int | None:
        """With black_box: draw one token from weights p (V,), testing tokens with `allows`, which asks the method of
        that name, or may_stop() for a token that ends the text. rng None = greedy, the heaviest allowed token.
        None = no token of positive weight is allowed."""
        raise NotImplementedError

    def advance(self, token: int, told: Told, state: Any) -> None:
        """`token` was emitted."""

    def may_stop(self, told: Told, state: Any) -> bool:
        """May the text end here?"""
        return True


@dataclass(frozen=True)
class Transform(Method):
    """Prompt -> shorter prompt. A coroutine: it may run forwards of its own. Forced spans survive.

    What it leaves in the main model's sequence stands in front of the prompt; one that means to says so by `gives`."""

    seam: ClassVar[str] = "transform"
    gives: ClassVar[bool] = False  # it puts entries in front of the prompt; it acts after those that do not

    def run(self, tokens: list[int], forced: np.ndarray, told: Told, state: Any) -> Work:
        """tokens (n,), forced (n,) bool: must stay. Returns ascending indices of the tokens kept."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pack(Method):
    """Which waiting prompts go into one forward."""

    seam: ClassVar[str] = "pack"

    def bins(self, sizes: list[int], capacity: int) -> list[list[int]]:
        """Row counts of the waiting pieces -> groups of their indices; a group's rows run in one forward."""
        raise NotImplementedError


@dataclass(frozen=True)
class Strategy(Method):
    """How a request is run from prompt to end, in place of the standard one (decode.decode): cascades, second passes.

    Beside its text it may leave others in `req.drafts`, best first.
    """

    seam: ClassVar[str] = "strategy"
    excludes: ClassVar[Mapping[str, str]] = MappingProxyType({})  # seam -> why its methods cannot share a plan with it
    plain_cache: ClassVar[bool] = True  # the cache behind the prompt is what plain reading leaves: others may share it
    makes_room: ClassVar[bool] = False  # takes() may be less than the prompt has tokens

    def takes(self, prompt_len: int) -> int:
        """How many positions a prompt of so many tokens takes. Raises BadRequest if the knobs do not suit it."""
        return prompt_len

    def run(self, req: Request, horizon: Callable[[], int | None]) -> Work:
        """A coroutine over ONE request, on any of the engine's models by name. It yields Forward (each followed by its
        Commit) and Rewind, and emits tokens through req.accept() until that says the text has ended."""
        raise NotImplementedError
