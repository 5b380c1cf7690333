"""Small sound methods, one a seam, on which bugs are planted: they pass every check that their claims choose.

Each has a `bug` knob, "" in the sound version; what a bug does is said where it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from fewer.kv.segment import Encoded
from fewer.kv.view import View
from fewer.seams import (
    Accept,
    Codec,
    Commit,
    Forward,
    Held,
    Propose,
    Retain,
    Rewind,
    Route,
    Select,
    Target,
    Transform,
    Work,
    budget_knob,
    knob,
    resolve_budget,
)
from fewer.types import EMPTY_TREE, Rng, Rows, Told, Tree, chain

LOSSY = ("lossy", "deterministic", "batch-invariant")
EXACT = ("lossless", "deterministic", "batch-invariant")


@dataclass(frozen=True)
class Norms(Retain):
    """When the prompt is complete, every kv-head keeps its own entries: those with the largest keys, and the newest."""

    acts: ClassVar[str] = "prompt"
    lives: ClassVar[list[Told]] = []

    budget: int | float = budget_knob(0.5, "entries kept a kv-head")
    bug: str = knob("", "what is planted")

    def start(self, told: Told) -> int | None:
        if self.bug == "class state":
            self.lives.append(told)
        return resolve_budget(self.budget, told.prompt_len)

    def keep(self, held: Held, told: Told, state: int | None) -> dict[int, list[torch.Tensor]] | None:
        if state is None and self.bug != "full is not full":
            return None
        if self.bug == "keeps all":
            return None
        budget = state or told.prompt_len - 1
        if self.bug == "one too many":
            budget += 1
        if self.bug == "class state" and len(self.lives) % 2:
            budget -= 1
        return {
            layer: [self.choose(held.view(layer), h, budget) for h in range(held.n_heads)]
            for layer in range(held.n_layers)
        }

    def choose(self, view: View, h: int, budget: int) -> torch.Tensor:
        size = view.keys(h).norm(dim=1) + 1e-6 * torch.arange(len(view.keys(h)))
        if len(size) <= budget:
            return torch.arange(len(size))
        size[-1] = float("inf")
        if self.bug == "forgets the newest":
            size[-3:] = -1.0
        best = torch.topk(size, budget).indices
        return best if self.bug == "unsorted" else best.sort().values


@dataclass(frozen=True)
class Remembers(Norms):
    """`Norms` that keeps its budget on the object, in a list, where the next request finds it."""

    seen: list = field(default_factory=list)

    def start(self, told: Told) -> int | None:
        self.seen.append(resolve_budget(self.budget, told.prompt_len))
        return self.seen[0]


@dataclass(frozen=True)
class Hoards(Norms):
    """`Norms` that keeps a copy of all it evicts in its own state."""

    def start(self, told: Told) -> Any:
        return resolve_budget(self.budget, told.prompt_len), []

    def keep(self, held: Held, told: Told, state: Any) -> dict[int, list[torch.Tensor]] | None:
        budget, hoard = state
        for view in map(held.view, range(held.n_layers)):
            hoard += [(view.keys(h).clone(), view.values(h).clone()) for h in range(held.n_heads)]
        return super().keep(held, told, budget)


@dataclass(frozen=True)
class Heaviest(Retain):
    """Evicts, after every token, the entry that has been given least attention so far; the newest stays."""

    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    budget: int | float = budget_knob(0.5, "entries kept a kv-head")

    def start(self, told: Told) -> dict[Any, Any]:
        return {"budget": resolve_budget(self.budget, told.prompt_len), "mass": {}}

    def probe(self, m: int, told: Told, state: dict[Any, Any]) -> np.ndarray | None:
        return None if state["budget"] is None else np.arange(m)

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: dict[Any, Any]) -> None:
        for h, p in enumerate(probs):
            mass = p.sum((0, 1))
            old = state["mass"].get((layer, h), mass[:0])
            mass[: len(old)] += old
            state["mass"][layer, h] = mass

    def keep(self, held: Held, told: Told, state: dict[Any, Any]) -> dict[int, list[torch.Tensor]] | None:
        if state["budget"] is None:
            return None
        return {layer: [self.choose(layer, h, state) for h in range(held.n_heads)] for layer in range(held.n_layers)}

    def choose(self, layer: int, h: int, state: dict[Any, Any]) -> torch.Tensor:
        mass = state["mass"][layer, h].clone()
        mass[-1] = float("inf")
        kept = torch.topk(mass, min(len(mass), state["budget"])).indices.sort().values
        state["mass"][layer, h] = state["mass"][layer, h][kept]
        return kept


@dataclass(frozen=True)
class TopKeys(Select):
    """A row reads, at every kv-head, the entries its queries like best."""

    budget: int | float = budget_knob(0.5, "entries read a kv-head")

    def start(self, told: Told) -> int | None:
        return resolve_budget(self.budget, told.prompt_len)

    def pick(
        self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: int | None
    ) -> list[torch.Tensor] | None:
        if state is None:
            return None
        g = len(q) // view.n_heads
        likes = [(view.keys(h) @ q[h * g : (h + 1) * g].T).amax(1) for h in range(view.n_heads)]
        return [torch.topk(s, min(state, len(s))).indices.sort().values for s in likes]


@dataclass(frozen=True)
class Half(Codec):
    """Entries are packed to float16 when the prompt is complete and then `block` at a time; block = 0 never packs."""

    block: int = knob(6, "decoded tokens packed at a time", low=0)
    bug: str = knob("", "what is planted")

    def due(self, held: Held, told: Told, state: Any) -> bool:
        packed = held.entries(0).max() > held.raw_entries(0)
        return bool(self.block) and told.decoding and (not packed or held.raw_entries(0) >= self.block)

    def encode(self, layer: int, view: View, told: Told, state: Any) -> tuple[Encoded, torch.Tensor, np.ndarray]:
        heads = range(view.n_heads)
        wide = torch.cat([view.keys(h) for h in heads]), torch.cat([view.values(h) for h in heads])
        k, v = (t.half() for t in wide)
        nbytes = k.nbytes + v.nbytes
        if self.bug == "keeps the original":
            decode: Callable[[], Any] = lambda: (k.to(wide[0].dtype), v.to(wide[0].dtype))  # noqa: E731
        else:
            dtype = wide[0].dtype
            decode = lambda: (k.to(dtype), v.to(dtype))  # noqa: E731
        return Encoded(decode, nbytes), torch.cat([view.positions(h) for h in heads]), view.lens()

    def horizon(self, held: Held, told: Told, state: Any) -> int | None:
        if not self.block or self.bug == "no horizon":
            return None
        return max(1, self.block - held.raw_entries(0)) if told.decoding else None


@dataclass(frozen=True)
class Skips(Route):
    """Rows whose first coordinate is above `level` skip the FFN of the middle layer; every third position skips its attention."""

    level: float = knob(0.0, "rows above it skip")
    every: int = knob(3, "one position in so many skips attention; 0 = none", low=0)
    bug: str = knob("", "what is planted")

    def attend(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> np.ndarray | None:
        return None if layer != 1 or not self.every else rows.pos % self.every != self.every - 1

    def ffn(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> np.ndarray | None:
        if layer != 1:
            return None
        level = x[:, 0].mean() if self.bug == "looks at the others" and self.level < 1e9 else self.level
        return (x[:, 0] <= level).numpy()


@dataclass(frozen=True)
class EverySecond(Transform):
    """Keeps the prompt's last tokens and every second one before, `budget` in all at most."""

    budget: int | float = budget_knob(0.5, "prompt tokens kept")
    bug: str = knob("", "what is planted")

    def run(self, tokens: list[int], forced: np.ndarray, told: Told, state: Any) -> Work:
        n = len(tokens)
        budget = resolve_budget(self.budget, n)
        if budget is None:
            return np.arange(n)
        kept = np.arange(n)[::-1][:: 2 if 2 * budget >= n else 1][:budget]
        if self.bug != "ignores the forced":
            kept = np.union1d(kept, np.flatnonzero(forced))
        return kept[::-1] if self.bug == "out of order" else np.sort(kept)
        yield


@dataclass(frozen=True)
class Parrot(Propose):
    """Drafts what followed the last token's two latest earlier appearances, as two branches."""

    depth: int = knob(3, "tokens a branch", low=0)

    def guess(self, context: list[int], limit: int, told: Told, state: Any) -> Tree:
        tokens, parent = list[int](), list[int]()
        earlier = [i for i in range(len(context) - 1) if context[i] == context[-1]][-2:]
        for i in earlier[::-1]:
            branch = context[i + 1 : i + 1 + min(self.depth, limit)]
            if tokens and branch and branch[0] == tokens[0]:
                continue
            parent += [-1 if j == 0 else len(tokens) + j - 1 for j in range(len(branch))]
            tokens += branch
        return Tree(np.array(tokens, dtype=np.int64), np.array(parent, dtype=np.int64)) if tokens else EMPTY_TREE


@dataclass(frozen=True)
class DraftModel(Propose):
    """Drafts a greedy chain with the second model, whose cache is cut back to the certain text afterwards."""

    depth: int = knob(3, "tokens a draft", low=1)
    bug: str = knob("", "what is planted")

    def start(self, told: Told) -> list[int]:
        return [0]  # tokens of the context that the draft model has seen

    def draft(self, context: list[int], limit: int, told: Told, state: list[int], rng: Rng) -> Work:
        tokens: list[int] = []
        pending = context[state[0] :]
        for _ in range(min(limit, self.depth)):
            rows = chain(pending, state[0])
            out = yield Forward(rows, np.array([len(rows) - 1]), model="draft", best=1)
            yield Commit(np.arange(len(rows)), model="draft")
            state[0] += len(rows)
            pending = [int(out.best[0, 0])]
            tokens += pending
        if self.bug != "no rewind":
            yield Rewind(len(context), model="draft")
        state[0] = min(state[0], len(context))
        return Tree(np.array(tokens, dtype=np.int64), np.arange(-1, len(tokens) - 1))


@dataclass(frozen=True)
class Ratio(Accept):
    """Speculative sampling: token x stands with probability min(1, p(x) / q(x)), else one is drawn from max(p - q, 0)."""

    bug: str = knob("", "what is planted")

    def walk(self, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> tuple[list[int], int]:
        probs, push = target.probs, target.push
        stale = [probs(i - 1) for i in range(len(tree) + 1)] if self.bug == "stale" else None
        for i, token in enumerate(tree.tokens.tolist()):
            p, q = probs(i - 1) if stale is None else stale[i], tree.q[i]
            ratio = q[token] / p[token] if self.bug == "inverse" else p[token] / q[token]
            stands = min(1.0, float(ratio))
            if self.bug == "its own dice":
                stands = float(np.random.default_rng().random() < stands)
            if rng.categorical(np.array([1 - stands, stands])):
                push(token)
                continue
            rest = (p - q).clamp_min(0)
            final = rng.categorical(p if self.bug == "no residual" else rest)
            push(final)
            return list(range(i)), final
        if self.bug == "bonus from the draft" and len(tree):
            final = rng.categorical(tree.q[-1])
            push(final)
            return list(range(len(tree))), final
        return list(range(len(tree))), target.draw(len(tree) - 1)
