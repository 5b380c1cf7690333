"""Engine parts with one bug each: what `Rig.wrap` and `Rig.runner` put in the place of the product's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from fewer.decode import draft, transform
from fewer.kv.store import Store
from fewer.methods.propose.distinct_tree import Branches
from fewer.methods.propose.drawn_lines import DrawnLines
from fewer.models.decoder import Decoder
from fewer.parts.acceptance import KSequential, RecursiveRejection, coin
from fewer.parts.draft_model import DraftModel
from fewer.request import Request
from fewer.runner import Live, Runner
from fewer.seams import Accept, Commit, Forward, Work, knob
from fewer.testing.rig import Rig
from fewer.types import EMPTY_TREE, Group, Rows, Step, Told, chain_then_tree, follow


def on_store(store: type[Store]) -> Rig:
    """A rig whose decoders make stores of this class."""

    class Other(Decoder):
        def new_store(self) -> Store:
            return store(self.spec, self.kv_dtype, self.device)

    return Rig(wrap=lambda d: Other(d.spec, d.blocks, d.head, d.dtype))


def on_decoder(decoder: type[Decoder]) -> Rig:
    return Rig(wrap=lambda d: decoder(d.spec, d.blocks, d.head, d.dtype))


# ---------------------------------------------------------------------------------------------------- stores
class CommitsAll(Store):
    """Rejected rows stay."""

    def commit(self, seq: int, rows: Rows, accepted: np.ndarray) -> None:
        super().commit(seq, rows, np.arange(len(rows)))


class OnlyMasks(Store):
    """What is evicted is no longer read but never given back."""

    def keep(self, seq: int, layer: int, idx: list[torch.Tensor]) -> None:
        hoard = self.__dict__.setdefault("hoard", {})
        hoard.setdefault(seq, []).append((self.view(seq, layer), self.sequence(seq).buffer))
        super().keep(seq, layer, idx)

    def drop(self, seq: int) -> None:
        self.__dict__.get("hoard", {}).pop(seq, None)
        super().drop(seq)


class EditsInPlace(Store):
    """Eviction moves kept entries to the front of the memory they lie in, whoever shares it."""

    @torch.inference_mode()
    def keep(self, seq: int, layer: int, idx: list[torch.Tensor]) -> None:
        self._freeze(self.sequence(seq))
        (segment,) = self.sequence(seq).segments[layer]
        for t in (segment.k, segment.v, segment.pos):
            for h, i in enumerate(idx):
                here = t[segment.head(h)]
                here[: len(i)] = here[i].clone()
        self.sequence(seq).segments[layer] = [segment.cut(np.array([len(i) for i in idx]))]


class WrongHead(Store):
    """A head's entries are kept by its neighbour's indices."""

    def keep(self, seq: int, layer: int, idx: list[torch.Tensor]) -> None:
        super().keep(seq, layer, idx[::-1])


class ForgetsTheTail(Store):
    """Eviction looks at the segments and loses what is still in the growing tail."""

    def keep(self, seq: int, layer: int, idx: list[torch.Tensor]) -> None:
        super().keep(seq, layer, [i[: len(i) // 2] for i in idx])


class LeavesGhosts(Store):
    """A row that did not attend is committed all the same."""

    def commit(self, seq: int, rows: Rows, accepted: np.ndarray) -> None:
        self.sequence(seq).staged = [None] * self.spec.n_layers
        super().commit(seq, rows, accepted)


class Undercharges(Store):
    """Kept segments are charged for their keys only."""

    def keep(self, seq: int, layer: int, idx: list[torch.Tensor]) -> None:
        super().keep(seq, layer, idx)
        (segment,) = self.sequence(seq).segments[layer]
        half = segment.buffer.nbytes // 2
        segment.buffer.nbytes -= half
        self.meter.bytes -= half


class ShiftsWhenCut(Store):
    """Cutting a sequence back leaves one entry too many."""

    def truncate(self, seq: int, next_pos: int) -> None:
        super().truncate(seq, next_pos + 1 if next_pos else 0)


# ---------------------------------------------------------------------------------------------------- decoders
def altered(step: Step, change: Callable[[Group], Rows]) -> Step:
    """The step with other rows."""
    groups = [Group(g.seq, change(g), g.seams, g.told, g.want, g.watch) for g in step.groups]
    return Step(groups, step.stop, step.start, step.taps, step.best)


class SiblingsSeeEachOther(Decoder):
    """A tree is run as if it were a chain."""

    def forward(self, step: Step, store: Store) -> Any:
        return super().forward(altered(step, lambda g: replace(g.rows, is_chain=True)), store)


class OffByOne(Decoder):
    """After the prompt every token stands one position too far."""

    def forward(self, step: Step, store: Store) -> Any:
        def change(g: Group) -> Rows:
            return replace(g.rows, pos=g.rows.pos + 1) if g.told.decoding else g.rows

        return super().forward(altered(step, change), store)


class NotByPlace(Decoder):
    """Keys that should turn with their place in the cache stay at their position in the text."""

    def forward(self, step: Step, store: Store) -> Any:
        groups = []
        for g in step.groups:
            retain = g.seams.retain
            if retain is not None and retain.positions == "place":
                cls = type(retain.__class__.__name__, (type(retain),), {"positions": "true"})
                retain = cls(**{f.name: getattr(retain, f.name) for f in fields(retain)})
            groups.append(Group(g.seq, g.rows, replace(g.seams, retain=retain), g.told, g.want, g.watch))
        return super().forward(Step(groups, step.stop, step.start, step.taps, step.best), store)


class Undercounts(Decoder):
    """Reports half the layers as skipped although all were run."""

    def forward(self, step: Step, store: Store) -> Any:
        outs, spent = super().forward(step, store)
        for s in spent:
            s.layers_skipped += s.layers_run / 2
            s.layers_run /= 2
        return outs, spent


class HidesRows(Decoder):
    """Reports one row where there were more; the ledger still adds up."""

    def forward(self, step: Step, store: Store) -> Any:
        outs, spent = super().forward(step, store)
        for s in spent:
            s.layers_run, s.layers_skipped, s.rows = s.layers_run / s.rows, s.layers_skipped / s.rows, 1
        return outs, spent


class HidesReads(Decoder):
    """Reports no entries read."""

    def forward(self, step: Step, store: Store) -> Any:
        outs, spent = super().forward(step, store)
        for s in spent:
            s.entries_read = 0
        return outs, spent


class MixesRequests(Decoder):
    """In a batch, a request's first row is fed the token of the one before it."""

    def forward(self, step: Step, store: Store) -> Any:
        first = step.groups[0].rows.tokens[:1]

        def change(g: Group) -> Rows:
            return g.rows if g is step.groups[0] else replace(g.rows, tokens=np.concatenate([first, g.rows.tokens[1:]]))

        return super().forward(altered(step, change), store)


class RemembersTheLast(Decoder):
    """The last hidden thing of one request is added to the next: a counter that shifts positions."""

    def forward(self, step: Step, store: Store) -> Any:
        calls = self.__dict__["calls"] = self.__dict__.get("calls", 0) + 1
        return super().forward(
            altered(step, lambda g: replace(g.rows, tokens=(g.rows.tokens + calls // 30) % 31)), store
        )


# ---------------------------------------------------------------------------------------------------- runners
class KeepsTheDead(Runner):
    """A request that ends in an error never gives its cache back."""

    def _end(self, one: Live) -> None:
        if one.req.finish_reason == "error":
            one.req.seqs.clear()
        super()._end(one)


def other_strategy(strategy: Callable[[Request, Callable[[], int | None]], Work]) -> type[Runner]:
    """A runner whose requests follow another coroutine."""

    class Other(Runner):
        def turn(self) -> bool:
            while self.waiting:
                req = self.waiting.popleft()
                self.live.append(Live(req, strategy(req, lambda r=req: self.horizon(r))))
            return super().turn()

    return Other


def sloppy(bug: str) -> Callable[[Request, Callable[[], int | None]], Work]:
    """A short strategy (whole prompt at once, the engine's own drafts) with one of the classical mistakes."""

    def decode(req: Request, horizon: Callable[[], int | None]) -> Work:
        yield from transform(req)
        context, pending, at = list(req.kept_prompt), list(req.kept_prompt), 0
        while True:
            tree = EMPTY_TREE
            if req.told.decoding:
                room = req.max_tokens
                if bug == "length ignored":
                    req.max_tokens += 5
                tree = yield from draft(req, context, horizon())
                req.max_tokens = room
            n, rows = len(pending), chain_then_tree(pending, tree, at)
            out = yield Forward(rows, np.arange(n - 1, len(rows)))

            def draw(node: int, out: Any = out) -> int:
                token = req.sampler.draw(out.logits[1 + node], req.told)
                return token

            path, bonus = follow(tree, draw, lambda token: False)
            new = [int(tree.tokens[i]) for i in path] + [bonus]
            if bug == "bonus dropped" and len(path) > 1:
                new = new[:-1]
                path = path[:-1]
            if bug in ("stop ignored", "length ignored"):
                req.tokens += new[:-1]
                req.accept(new[-1])
                if len(req.tokens) >= req.max_tokens:
                    req.finish_reason = req.finish_reason or "length"
            else:
                new = next((new[: i + 1] for i, t in enumerate(new) if req.accept(t)), new)
            stand = len(new) - 1
            req.ledger.draft(tree.depth().tolist(), stand)
            yield Commit(np.concatenate([np.arange(n), n + np.asarray(path[:stand], dtype=np.int64)]))
            context += new
            at += n + stand
            if req.seams.propose is not None:
                req.seams.propose.learn(context, new, req.told, req.told.of(req.seams.propose))
            if req.finish_reason is not None:
                return
            pending = new[-1:]

    return decode


# ---------------------------------------------------------------------------------------------------- drafts
@dataclass(frozen=True)
class Sloppy(RecursiveRejection):
    """Recursive rejection with one of the classical slips."""

    slip: str = ""

    def choose(self, node, tree, target, rng, told, state):
        if self.slip == "the last sibling first":
            kids = tree.children(node)
            tokens = tree.tokens.copy()
            tokens[kids] = tokens[kids[::-1]]
            tree = replace(tree, tokens=tokens)
        if self.slip == "the residual is forgotten":
            p = target.probs(node)
            for kid in tree.children(node):
                token = int(tree.tokens[kid])
                if coin(p[token] / tree.q[kid][token], rng):
                    return token
            return rng.categorical(p)
        if self.slip == "the bonus is the draft's" and not tree.children(node):
            return rng.categorical(tree.q[node])
        return super().choose(node, tree, target, rng, told, state)


@dataclass(frozen=True)
class Loose(KSequential):
    """Every draft tried at the full ratio, as if it were the only one."""

    def choose(self, node, tree, target, rng, told, state):
        p, q = target.probs(node), tree.q[0]
        for kid in tree.children(node):
            for _ in range(int(tree.copies[kid])):
                if coin(p[tree.tokens[kid]] / q[tree.tokens[kid]], rng):
                    return int(tree.tokens[kid])
        rest = (p - q).clamp_min(0)
        return rng.categorical(rest if rest.any() else p)


class NeverRolledBack(DraftModel):
    """A draft model whose cache keeps what was rejected."""

    def _cut(self, length: int) -> Work:
        del self._read[length:]
        return
        yield


@dataclass(frozen=True)
class Siblings(Branches):
    """The product's tree of siblings, judged with a slip."""

    branches: str = knob("2,1", "children of every node")
    bug: str = knob("", "what is planted")

    def judge(self) -> Accept:
        return Sloppy(slip=self.bug)


@dataclass(frozen=True)
class Forgetful(DrawnLines):
    """The product's line on a draft model that is never rolled back."""

    def start(self, told: Told) -> DraftModel:
        return NeverRolledBack()


@dataclass(frozen=True)
class Alike(DrawnLines):
    """The product's lines drawn alike, judged at the full ratio."""

    lines: int = knob(2, "lines")
    length: int = knob(1, "tokens")

    def judge(self) -> Accept:
        return Loose()
