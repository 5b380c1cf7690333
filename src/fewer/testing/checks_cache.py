"""Checks on what is held: budgets read from the store, positions, shared memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from fewer.engine import Engine
from fewer.request import Request
from fewer.runner import Runner
from fewer.seams import Method, Retain, Select, Transform, resolve_budget
from fewer.testing.checks_text import alone
from fewer.testing.companions import LONG
from fewer.testing.harness import request
from fewer.testing.held import Cache, copy_cache, differ, entries, fresh, next_logits, require
from fewer.testing.replay import Decisions, recorded
from fewer.testing.subject import Knobs, Subject

PROMPT, CHUNK = LONG[:64], 16


def has_budget(subject: Subject) -> bool:
    """Does it limit entries held, entries read or prompt tokens by a budget knob?"""
    return subject.seam in BUDGETS and _budget_knob(subject) is not None


def _budget_knob(subject: Subject) -> str | None:
    knobs = type(subject.make(**subject.settings[0])).knobs()
    return next((name for name, about in knobs.items() if about.get("budget")), None)


def _budgets(subject: Subject) -> Iterator[tuple[Knobs, int]]:
    """Knobs and the count that they resolve to: the settings as they are, half the prompt, and a plain number."""
    name = _budget_knob(subject)
    assert name is not None
    for knobs in (*subject.settings, {**subject.settings[0], name: 0.5}, {**subject.settings[0], name: 24}):
        limit = resolve_budget(getattr(subject.make(**knobs), name), len(PROMPT))
        if limit is not None:
            yield knobs, limit


def budget(subject: Subject) -> None:
    """The budget holds: in the store after every step, in every selection, in the prompt that is left."""
    for knobs, limit in _budgets(subject):
        BUDGETS[subject.seam](subject, subject.make(**knobs), limit, f"{dict(knobs)}: budget {limit}")


def _held(subject: Subject, method: Any, limit: int, where: str) -> None:
    """Entries, on average over layers and heads (a method may share them out): <= limit, plus what came after the prompt
    for a method that acts once; while the prompt is fed, <= limit + one chunk for a method that always acts."""
    models = subject.rig.models()
    req = request(PROMPT, [method], max_tokens=8, chunk=CHUNK)

    def look(runner: Runner) -> None:
        held = entries(runner, req)
        if held is None or not runner.live:
            return
        room = 0
        if method.acts == "prompt":
            room = len(req.tokens) - 1 if req.told.decoding else len(PROMPT)
        elif not req.told.decoding:
            room = CHUNK
        mean = float(held.mean())
        require(
            mean <= limit + room,
            f"{where} + {room}, but {mean:g} entries a head after {req.told.seen} tokens: {held.tolist()}",
        )

    (played,) = subject.rig.play(models, [req], each_turn=look)
    last = np.mean([len(p) for layer in played.cache["main"].positions for p in layer])
    room = 7 if method.acts == "prompt" else 0
    require(last <= limit + room, f"{where} + {room}, but {last:g} entries a head at the end")


def _read(subject: Subject, method: Method, limit: int, where: str) -> None:
    """Committed entries read by one row at one layer and head: <= limit wherever a selection is made."""
    log = Decisions()
    alone(subject, [recorded(method, log)], PROMPT, max_tokens=8, chunk=CHUNK)
    require(log.pick, f"{where}, but nothing was ever selected")
    for (layer, seen), idx in log.pick.items():
        most = max(len(i) for i in idx)
        require(most <= limit, f"{where}, but {most} entries were read at layer {layer} after {seen} tokens")


def _left(subject: Subject, method: Method, limit: int, where: str) -> None:
    """Prompt tokens that a transform lets into the model: <= limit."""
    kept = alone(subject, [method], PROMPT, max_tokens=2, chunk=CHUNK).req.kept_prompt
    require(len(kept) <= limit, f"{where}, but {len(kept)} prompt tokens are left")


BUDGETS = {Retain.seam: _held, Select.seam: _read, Transform.seam: _left}


def positions(subject: Subject) -> None:
    """Entries stand in ascending order at their tokens' positions, the next token at the text's length; a first-layer
    entry (it depends on its token and position alone) is the plain one. A codec's entries are compared by place only."""
    for knobs in subject.settings:
        for variant in ("qwen3", "mistral"):
            where = f"{dict(knobs)}, {variant}"
            log = Decisions()
            use = [recorded(m, log) if m.seam == Transform.seam else m for m in subject.use(knobs)]
            got = alone(subject, use, LONG[:50], variant, max_tokens=9, chunk=CHUNK)
            front = [t for given in log.given if isinstance(given, list) for t in given]
            text, cache = [*front, *got.req.kept_prompt, *got.tokens], got.cache["main"]
            kept = got.req.kept
            require(
                kept is not None and (np.diff(kept) > 0).all(),
                f"{where}: prompt tokens are not kept in their order: {kept}",
            )
            require(
                cache.next_pos == len(text) - 1, f"{where}: next position {cache.next_pos}, expected {len(text) - 1}"
            )
            for layer, heads in enumerate(cache.positions):
                for h, p in enumerate(heads):
                    inside = not len(p) or (int(p[0]) >= 0 and int(p[-1]) < cache.next_pos)
                    ok = inside and bool((p[1:] > p[:-1]).all())
                    require(ok, f"{where}, layer {layer}, kv-head {h}: positions {p.tolist()} before {cache.next_pos}")
            if subject.seam == "codec":
                continue
            want = fresh(subject.rig.models(variant)["main"], text[:-1])
            for h, p in enumerate(cache.positions[0]):
                at = p.long()
                for what, a, b in (("key", cache.keys, want.keys), ("value", cache.values, want.values)):
                    gap = float((a[0][h] - b[0][h][at]).abs().max()) if len(p) else 0.0
                    require(
                        gap <= got.tolerance,
                        f"{where}, kv-head {h}: a first-layer {what} is {gap:.3g} off its position's",
                    )


def sharing(subject: Subject) -> None:
    """A fork made when the prompt is complete keeps every entry and says the same next, whatever the method does then."""
    for knobs in subject.settings:
        req = request(LONG[:50], subject.use(knobs), max_tokens=12, chunk=64)
        runner = subject.rig.runner(subject.rig.models())
        store = runner.stores["main"]
        found: list[tuple[int, Cache, torch.Tensor]] = []

        def fork(r: Request, runner: Runner = runner, found: list = found) -> None:
            seq = runner.stores["main"].fork(r.seqs["main"])
            found.append((seq, copy_cache(runner.stores["main"], runner.models["main"], seq), _said_next(runner, seq)))

        req.on_prefilled = fork
        runner.add(req)
        runner.run()
        require(found and req.error is None, f"{dict(knobs)}: with a sibling it fails: {req.error!r}")
        seq, held, said = found[0]
        gap = differ(copy_cache(runner.stores["main"], runner.models["main"], seq), held, 0.0)
        require(gap is None, f"{dict(knobs)}: the sibling of a request changed: {gap}")
        off = float((said - _said_next(runner, seq)).abs().max())
        require(off == 0, f"{dict(knobs)}: the sibling of a request says something else: logits differ by {off:.3g}")
        store.drop(seq)
        require(store.bytes() == 0, f"{dict(knobs)}: {store.bytes()} bytes are left after both are gone")


def _said_next(runner: Runner, seq: int) -> torch.Tensor:
    store = runner.stores["main"]
    fork = store.fork(seq)
    logits = next_logits(runner.models["main"], store, fork, 3)
    store.drop(fork)
    return logits


def shared_prefix(subject: Subject) -> None:
    """On an engine that shares prefixes: with the method, then plain on the conversation so far, then with it again.

    The plain turn may not find anything the method changed; the second run is the first.
    """
    for knobs in subject.settings:
        models = subject.rig.models()
        main, drafts = models["main"], {"draft": models["draft"]}
        eng, prompt = Engine(main, None, drafts=drafts, chunk=CHUNK), [*LONG[:50]]
        own: dict[str, Any] = {"use": subject.use(knobs), "max_tokens": 8, "seed": 0}
        first = eng.generate(prompt, **own)
        turn = [*prompt, *first.tokens, 4, 2]
        plain = eng.generate(turn, max_tokens=6)
        again = eng.generate(prompt, **own)
        want = Engine(main, None, drafts=drafts, chunk=CHUNK, prefix_bytes=0).generate(turn, max_tokens=6)
        where = f"{dict(knobs)}, on an engine that shares prefixes"
        require(plain.tokens == want.tokens, f"{where}: a plain turn later says {plain.tokens}, expected {want.tokens}")
        require(
            again.tokens == first.tokens, f"{where}: the same request later says {again.tokens}, before {first.tokens}"
        )


def forced(subject: Subject) -> None:
    """Prompt tokens that are forced to stay do stay, however small the budget."""
    for knobs in subject.settings:
        req = request(PROMPT, subject.use(knobs), max_tokens=2, chunk=CHUNK)
        req.forced = np.arange(len(PROMPT)) % 7 == 3
        (got,) = subject.rig.play(subject.rig.models(), [req])
        gone = np.setdiff1d(np.flatnonzero(req.forced), np.asarray(got.req.kept))
        require(not len(gone), f"{dict(knobs)}: forced tokens are gone: {gone.tolist()}")
