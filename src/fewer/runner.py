"""The runner: advances the coroutines, merges what is pending per model into one forward, commits, maintains caches.

One turn: every live request is advanced to its next Forward; forwards of the same model and depth are packed up to
`max_rows` rows and run together; each request gets its own slice back and answers with a Commit. Whatever rides along,
a request's rows see only its own sequence, so merging changes cost, not results.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fewer.costs import NOMINAL
from fewer.decode import decode
from fewer.errors import BadRequest
from fewer.kernels.topk import likeliest
from fewer.kv.store import Store
from fewer.kv.view import View
from fewer.lanes import Lanes, Timed, timed
from fewer.models.decoder import Decoder, Spent
from fewer.models.size import row_macs
from fewer.plan import PLAIN, label
from fewer.request import Request
from fewer.seams import Commit, Forward, Given, Retain, Rewind, Splice, Work
from fewer.state_bytes import state_bytes
from fewer.types import Group, Memory, Out, Step, Told

Run = tuple[list[Out], list[Spent]]


class HeldBy:
    """A sequence as Retain and Codec see it."""

    def __init__(self, model: Decoder, store: Store, seq: int) -> None:
        self._store, self._seq, self.angles = store, seq, model.angles
        self.n_layers, self.n_heads, self.scale = store.spec.n_layers, store.spec.n_kv_heads, store.spec.scale

    def entries(self, layer: int) -> np.ndarray:
        return self._store.entries(self._seq, layer)

    def raw_entries(self, layer: int) -> int:
        return self._store.raw_entries(self._seq, layer)

    def view(self, layer: int) -> View:
        return self._store.view(self._seq, layer)


@dataclass
class Live:
    """A request, its coroutine, and the forward it waits for. aside: what a Retain method runs before it evicts.

    lane: it is no request of its own but runs beside a forward of one, on other models; over: such a one has ended."""

    req: Request
    work: Work
    ask: Forward | None = None
    reply: Out | None = None
    aside: Work | None = None
    lane: bool = False
    over: bool = False

    @property
    def current(self) -> Work:
        return self.work if self.aside is None else self.aside


class Runner:
    """Runs requests over named models, each with its own store. max_rows bounds a forward, max_live those in flight.

    forwards counts merged forwards a model; a request's ledger counts those it took part in. memory: what methods keep
    over requests.
    """

    def __init__(
        self,
        models: dict[str, Decoder],
        stores: dict[str, Store] | None = None,
        max_rows: int = 1024,
        max_live: int = 64,
        forwards: Counter[str] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.models = models
        self.stores = stores or {n: m.new_store() for n, m in models.items()}
        self.max_rows, self.max_live = max_rows, max_live
        self.forwards: Counter[str] = Counter() if forwards is None else forwards
        self.memory = memory or Memory()
        self.waiting: deque[Request] = deque()
        self.live: list[Live] = []
        self._lanes: Lanes | None = None

    def add(self, req: Request) -> None:
        """Queue a request. Raises BadRequest if a method uses a model that is not there or drafts more than a forward
        holds, and what its brings() raises."""
        for method in req.seams.methods():
            for name in method.uses - self.models.keys():
                raise BadRequest(
                    f"{label(method)} needs a {name} model: give one with fewer.open(..., {name}=...) or --{name}."
                )
            for name, model in method.brings(self.models["main"]).items():
                if name not in self.models:
                    self.models[name], self.stores[name] = model, model.new_store()
        propose = req.seams.propose
        if propose is not None and propose.most() >= self.max_rows:
            raise BadRequest(
                f"{label(propose)} drafts up to {propose.most()} tokens, and a forward of this engine has {self.max_rows} rows, "
                "one of them for the certain token: make the draft smaller."
            )
        self.waiting.append(req)

    def run(self) -> None:
        """Until everything has ended."""
        while self.turn():
            pass

    def turn(self) -> bool:
        """One merged forward a model; False when nothing is left."""
        while self.waiting and len(self.live) < self.max_live:
            req = self.waiting.popleft()
            self._tell(req)
            run = decode if req.seams.strategy is None else req.seams.strategy.run
            self.live.append(Live(req, run(req, partial(self.horizon, req))))
        for one in list(self.live):
            if one.ask is None:
                self._advance(one)
        for model in self.models:
            batch = self._batch([one for one in self.live if one.ask is not None and one.ask.model == model])
            if batch:
                self._forward(model, batch)
        return bool(self.live or self.waiting)

    def _tell(self, req: Request) -> None:
        """The facts about this engine's models that methods may ask for."""
        told, main = req.told, self.models["main"]
        told.n_layers, told.windows, told.vocab = main.spec.n_layers, main.spec.windows, main.spec.vocab
        told.heads = main.spec.n_heads, main.spec.n_kv_heads
        told.near, told.embed, told.memory = main.neighbours, main.head.embed, self.memory
        told.cost = NOMINAL if req.pace is None else req.pace.costs
        told.weights = {name: row_macs(m.spec) / row_macs(main.spec) for name, m in self.models.items()}

    def cancel(self, req: Request) -> None:
        """Stop a request now; what it has stays in its ledger."""
        for one in list(self.live):
            if one.req is req:
                req.finish_reason = req.finish_reason or "cancelled"
                self._end(one)
        if req in self.waiting:
            self.waiting.remove(req)
            req.finish_reason = "cancelled"
            self._drop(req)

    def horizon(self, req: Request) -> int | None:
        """Tokens that may be committed before this request's Retain or Codec acts."""
        if req.seams.retain is None and req.seams.codec is None:
            return None
        held = self._held(req)
        limits = [
            m.horizon(held, req.told, req.told.of(m)) for m in (req.seams.retain, req.seams.codec) if m is not None
        ]
        return min((n for n in limits if n is not None), default=None)

    # ------------------------------------------------------------------ inside
    def _advance(self, one: Live) -> None:
        """Run a coroutine up to its next Forward; cache edits it asks for on the way are done."""
        try:
            while one.ask is None:
                self._resume(one)
        except StopIteration:
            self._end(one)
        except Exception as e:
            one.req.error, one.req.finish_reason = e, "error"
            self._end(one)

    def _resume(self, one: Live) -> None:
        """One step of whichever coroutine is running. A study that has ended is followed by the eviction it was for."""
        try:
            ask = one.current.send(one.reply)  # type: ignore[arg-type]
        except StopIteration:
            if one.aside is None:
                raise
            one.aside = one.reply = None
            self._edit(one.req, one.req.seams.retain)
            return
        one.reply = None
        if isinstance(ask, Forward):
            one.ask = ask
        elif isinstance(ask, Commit):
            raise RuntimeError("Commit without a Forward before it")
        elif isinstance(ask, Given):
            self._give(one.req, ask)
        elif isinstance(ask, Splice):
            self._splice(one.req, ask)
        else:
            self._rewind(one.req, ask)

    def _end(self, one: Live) -> None:
        one.current.close()
        one.work.close()
        if one.lane:
            one.over = True
            return
        req = one.req
        req.ledger.generated_tokens = len(req.tokens)
        self._remembered(req)
        if req.seqs:
            req.ledger.kv(req.told.seen, self._bytes(req))
        if req.on_end is not None:
            req.on_end(req)
        self._drop(req)
        self.live.remove(one)

    def _remembered(self, req: Request) -> None:
        """Tell the ledger what the methods hold beside the KV now."""
        req.ledger.remembered(state_bytes(req.told.states(), req.told.memory.all()))

    def _drop(self, req: Request) -> None:
        for model, seqs in req.held().items():
            for seq in seqs:
                self.stores[model].drop(seq)

    def _batch(self, ready: list[Live]) -> list[Live]:
        """Which of the waiting forwards of one model run now: one depth, small ones first, at most max_rows rows."""
        if len(ready) < 2:
            return ready
        first = ready[0].ask
        assert first is not None
        same = [o for o in ready if o.ask is not None and _way(o.ask) == _way(first)]
        sizes = [len(o.ask.rows) for o in same if o.ask is not None]
        pack = next((o.req.seams.pack for o in same if o.req.seams.pack is not None), None)
        if pack is not None:
            return [same[i] for i in pack.bins(sizes, self.max_rows)[0]]
        chosen: list[Live] = []
        total = 0
        for i in np.argsort(sizes, kind="stable"):
            if chosen and total + sizes[i] > self.max_rows:
                break
            chosen.append(same[i])
            total += sizes[i]
        return chosen

    def _forward(self, model: str, batch: list[Live]) -> None:
        decoder, store = self.models[model], self.stores[model]
        groups, asks = [], []
        for one in batch:
            ask, req = one.ask, one.req
            assert ask is not None
            asks.append(ask)
            told = self._told(req, model)
            seams = req.seams if model == "main" and req.kept is not None and not ask.on else PLAIN
            groups.append(Group(self._sequence(req, model, ask.on), ask.rows, seams, told, ask.want, ask.watch))
        asked = [a.best for a in asks if a.want is not None]
        best = max(asked, default=0) if all(asked) else 0
        forward = partial(decoder.forward, Step(groups, asks[0].stop, asks[0].start, asks[0].taps, best), store)
        began = time.perf_counter()
        try:
            (outs, spent), start, end = self._beside(model, forward, batch)
        except (
            Exception
        ) as e:  # whose it was cannot be told, and the methods' states are half a step on: all of them end
            for one in batch:
                one.req.error, one.req.finish_reason = e, "error"
                self._end(one)
            return
        self.forwards[model] += 1
        total, lanes = sum(len(a.rows) for a in asks), any(a.beside is not None for a in asks)
        seconds = time.perf_counter() - began if lanes else end - start
        for one, ask, out, cost in zip(batch, asks, outs, spent):
            out.rows, out.groups, out.seconds, out.lanes = total, len(batch), seconds, lanes
            led = one.req.ledger
            led.forward(
                model,
                decoder.spec.n_layers,
                cost.rows,
                cost.layers_run,
                cost.layers_skipped,
                cost.entries_read,
                cost.bytes_scanned,
            )
            if model == "main":
                led.computed_tokens += cost.rows
            led.spend(ask.stage, end - start)
            if one.lane or ask.beside is not None:
                led.lane(model, start, end)
            if out.logits is not None and ask.best:
                out.best, out.logits = likeliest(out.logits, ask.best).cpu().numpy(), None
            one.ask, one.reply = None, out
            if one.req.error is not None:  # of what ran beside it
                self._end(one)
            else:
                self._settle(one, model, ask)

    def _beside(self, model: str, forward: Callable[[], Run], batch: list[Live]) -> Timed[Run]:
        """A forward, and what its requests do on other models meanwhile."""
        lanes = [Live(o.req, o.ask.beside, lane=True) for o in batch if o.ask is not None and o.ask.beside is not None]
        if not lanes:
            return timed(forward)
        if self._lanes is None:
            self._lanes = Lanes(self.models.values())
        rows = sum(len(o.ask.rows) for o in batch if o.ask is not None)
        return self._lanes.run(forward, rows, partial(self._drive, lanes, model))

    def _drive(self, lanes: list[Live], busy: str) -> None:
        """Run lanes to their ends, together. Raises RuntimeError if one asks for the model that is busy."""
        while lanes:
            for one in lanes:
                if one.ask is None:
                    self._advance(one)
            lanes = [one for one in lanes if not one.over]
            for model in {one.ask.model for one in lanes if one.ask is not None}:
                if model == busy:
                    raise RuntimeError(f"what runs beside a forward of {busy!r} may not ask for another")
                self._forward(model, self._batch([o for o in lanes if o.ask is not None and o.ask.model == model]))

    def _settle(self, one: Live, model: str, ask: Forward) -> None:
        """The coroutine answers a forward with its Commit; then the caches are maintained."""
        req = one.req
        try:
            commit = one.current.send(one.reply)  # type: ignore[arg-type]
            one.reply = None
            if not isinstance(commit, Commit):
                raise RuntimeError("a Forward must be followed by its Commit")
            if one.aside is not None and model == "main" and len(commit.accepted) and not ask.on:
                raise RuntimeError("a study may not leave entries in the cache it looks at")
            start = time.perf_counter()
            self.stores[model].commit(self._sequence(req, model, ask.on), ask.rows, commit.accepted)
            req.ledger.spend("cache", time.perf_counter() - start)
            told = self._told(req, model)
            before = told.seen
            told.seen += 0 if ask.start or ask.on else len(commit.accepted)
            if model == "main" and req.kept is not None and one.aside is None and not ask.on:
                self._maintain(one, before)
            elif not one.lane:  # beside a forward the main model's memory is in motion
                req.ledger.kv(told.seen, self._bytes(req))
        except Exception as e:
            one.req.error, one.req.finish_reason = e, "error"
            self._end(one)

    def _maintain(self, one: Live, before: int) -> None:
        """Let Retain and Codec act on what is committed, now or when a study has ended. before: tokens seen until now."""
        req, told, retain = one.req, one.req.told, one.req.seams.retain
        if told.seen >= told.prompt_len and not told.decoding:
            self._remembered(req)
            if req.on_prefilled is not None:
                req.on_prefilled(req)
        if retain is not None and retain.acts == "prompt":
            if before < retain.moment(told) <= told.seen:
                req.ledger.kv(told.seen, self._bytes(req))
                one.aside = retain.study(req.kept_prompt[: told.seen], told, told.of(retain))
                self._resume(one)
                return
            retain = None
        self._edit(req, retain)

    def _edit(self, req: Request, retain: Retain | None) -> None:
        """Carry out what Retain (None = it is not its turn) and Codec decide. The ledger's peak counts old and new memory."""
        told, seq, store, start = req.told, req.seqs["main"], self.stores["main"], time.perf_counter()
        told.decoding = told.seen >= told.prompt_len
        held, codec, own = self._held(req), req.seams.codec, self._bytes(req)
        if retain is None and codec is None:
            req.ledger.kv(told.seen, own)
            return
        store.meter.peak = others = store.meter.bytes
        with torch.inference_mode():
            if retain is not None:
                kept = retain.keep(held, told, told.of(retain))
                for layer, idx in (kept or {}).items():
                    store.keep(seq, layer, idx)
            if codec is not None and codec.due(held, told, told.of(codec)):
                for layer in range(store.spec.n_layers):
                    if store.raw_entries(seq, layer):
                        store.encode(seq, layer, partial(codec.encode, layer, told=told, state=told.of(codec)))
        req.ledger.kv_peak(own + store.meter.peak - others)
        req.ledger.kv(told.seen, self._bytes(req))
        req.ledger.spend("cache", time.perf_counter() - start)

    def _held(self, req: Request) -> HeldBy:
        return HeldBy(self.models["main"], self.stores["main"], req.seqs["main"])

    def _rewind(self, req: Request, ask: Rewind) -> None:
        if ask.model in req.seqs:
            self.stores[ask.model].truncate(req.seqs[ask.model], ask.next_pos)
            self._told(req, ask.model).seen = ask.next_pos

    def _give(self, req: Request, ask: Given) -> None:
        """Entries that no forward made, their keys rotated to where they now stand."""
        store, seq = self.stores[ask.model], self._sequence(req, ask.model, "")
        store.give(seq, self.models[ask.model].turned(ask.keys, store.next_pos(seq)), ask.values)
        self._told(req, ask.model).seen += ask.keys.shape[2]
        req.ledger.kv(req.told.seen, self._bytes(req))

    def _sequence(self, req: Request, model: str, name: str) -> int:
        """A request's sequence on a model, made when it is first named: the model's own (""), or one beside it."""
        seq = req.aside.get((model, name)) if name else req.seqs.get(model)
        if seq is None:
            seq = self.stores[model].new()
            if name:
                req.aside[model, name] = seq
            else:
                req.seqs[model] = seq
        return seq

    def _splice(self, req: Request, ask: Splice) -> None:
        """Entries move between a request's sequences. The ledger's peak counts old and new memory."""
        store, own, start = self.stores[ask.model], self._bytes(req), time.perf_counter()
        into = self._sequence(req, ask.model, ask.into)
        parts = [
            [(self._sequence(req, ask.model, name), torch.from_numpy(at)) for name, at in p.sources] for p in ask.parts
        ]
        store.meter.peak = others = store.meter.bytes
        with torch.inference_mode():
            store.splice(into, ask.layers, parts)
        for name in ask.ends:
            store.drop(req.aside.pop((ask.model, name)))
        req.ledger.kv_peak(own + store.meter.peak - others)
        req.ledger.kv(req.told.seen, self._bytes(req))
        req.ledger.spend("cache", time.perf_counter() - start)

    def _told(self, req: Request, model: str) -> Told:
        """What methods are told about a model's sequence; side models have their own."""
        return req.told if model == "main" else req.tolds.setdefault(model, Told(0))

    def _bytes(self, req: Request) -> int:
        return sum(self.stores[m].bytes(seqs) for m, seqs in req.held().items())


def _way(ask: Forward) -> tuple[int | None, int, frozenset[str]]:
    """What forwards must have in common to be merged."""
    return ask.stop, ask.start, ask.taps
