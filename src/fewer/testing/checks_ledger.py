"""Checks on the account: it is counted a second time from outside, and what a claim says it saves is really less."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fewer.models.decoder import Decoder
from fewer.runner import Runner
from fewer.seams import Method
from fewer.testing.checks_text import alone, plain
from fewer.testing.companions import CYCLE, LONG, REPEATS, SHORT, WORDS
from fewer.testing.counted import Watched
from fewer.testing.harness import request
from fewer.testing.held import entries, memory, require
from fewer.testing.rig import Played
from fewer.testing.subject import Knobs, Subject

LONG_OPTIONS: dict[str, Any] = {"max_tokens": 8, "chunk": 64}
READS_ALL = ("retain", "codec", "transform", "pack", "rule")  # seams whose decoding steps are chains that read all


def ledger(subject: Subject) -> None:
    """Rows, layers, forwards and entries read, counted where they happen, are what the ledger says, model by model."""
    for knobs in subject.settings:
        models = {name: Watched(d) for name, d in subject.rig.models("qwen3").items()}
        (got,) = subject.rig.play(dict(models), [request(LONG[:50], subject.use(knobs), max_tokens=10, chunk=16)])
        for name, watched in models.items():
            said, work, where = got.ledger.models.get(name), watched.work, f"{dict(knobs)}, model {name!r}"
            if said is None:
                require(work.forwards == 0, f"{where}: {work.forwards} forwards are not in the ledger")
                continue
            run = (work.attention + work.ffn) / 2
            for what, a, b in (
                ("forwards", said.forwards, work.forwards),
                ("rows", said.rows, work.embedded),
                ("layers_run", said.layers_run, run),
            ):
                require(a == b, f"{where}: the ledger says {what} = {a}, counted {b}")
        if subject.seam in READS_ALL:
            said_reads, reads = got.ledger.kv_entries_read, sum(w.work.reads for w in models.values())
            require(said_reads == reads, f"{dict(knobs)}: the ledger says {said_reads} entries read, counted {reads}")
        n = len(got.tokens)
        require(
            got.ledger.generated_tokens == n,
            f"{dict(knobs)}: {n} tokens, the ledger says {got.ledger.generated_tokens}",
        )
        require(
            got.ledger.kv_bytes_end == got.bytes_end,
            f"{dict(knobs)}: {got.bytes_end} bytes, the ledger says {got.ledger.kv_bytes_end}",
        )


def _less(
    subject: Subject, what: str, figure: Callable[[Played], float], prompts: Sequence[Sequence[int]], **o: Any
) -> None:
    """At every setting the figure, summed over prompts, is below plain's."""
    for knobs in subject.settings:
        got = [alone(subject, subject.use(knobs), p, **o) for p in prompts]
        a, b = sum(map(figure, got)), sum(figure(plain(subject, p, **o)) for p in prompts)
        require(a < b, f"{dict(knobs)}: {what} {a:g}, plain has {b:g}: nothing is saved")


def saves_bytes(subject: Subject) -> None:
    """Allocated KV bytes at the end, with what the method keeps in its own state, are fewer than plain's, and real."""
    _less(subject, "KV bytes at the end", _bytes_with_state, [LONG], **LONG_OPTIONS)
    for knobs in subject.settings:
        _meter_is_right(subject, knobs)


def _bytes_with_state(played: Played) -> float:
    req = played.req
    own = memory([req.told.of(m) for m in req.seams.methods()])
    return played.ledger.kv_bytes_end + own


def _meter_is_right(subject: Subject, knobs: Knobs) -> None:
    """After every turn: the meter = what the sequence holds = the ledger's last figure; at the end = tensors in memory."""
    req = request(LONG, subject.use(knobs), **LONG_OPTIONS)

    def look(runner: Runner) -> None:
        if entries(runner, req) is None or not runner.live:
            return
        meter = sum(s.bytes() for s in runner.stores.values())
        held = sum(runner.stores[model].bytes(seqs) for model, seqs in req.held().items())
        said = req.ledger.timeline[-1][1]
        require(
            meter == held == said, f"{dict(knobs)}: the meter has {meter} bytes, the sequence {held}, the ledger {said}"
        )

    (got,) = subject.rig.play(subject.rig.models(), [req], each_turn=look)
    require(
        got.bytes_real <= got.bytes_end,
        f"{dict(knobs)}: the store charges {got.bytes_end} bytes, but tensors of {got.bytes_real} bytes are held",
    )


def saves_rows(subject: Subject) -> None:
    """Rows x layers computed are fewer than plain's for the same number of tokens."""
    _less(subject, "rows x layers", lambda p: p.ledger.layers_run, [LONG, WORDS], max_tokens=16, chunk=64)


def saves_reads(subject: Subject) -> None:
    """KV entries read are fewer than plain's."""
    _less(subject, "KV entries read", lambda p: p.ledger.kv_entries_read, [LONG], **LONG_OPTIONS)


def saves_forwards(subject: Subject) -> None:
    """Forwards for the same tokens are fewer than plain's: on a text that can be foreseen, or merged if the method packs."""
    if subject.seam != "pack":
        _less(subject, "forwards", lambda p: p.ledger.forwards, [CYCLE], variant="cycle", max_tokens=32)
        return
    prompts = (SHORT, LONG[:60], WORDS, LONG[:40], REPEATS, LONG[:9])
    for knobs in subject.settings:
        a, b = (_merged(subject, use, prompts) for use in (subject.use(knobs), []))
        require(
            a < b,
            f"{dict(knobs)}: {a} forwards for {len(prompts)} prompts, the default policy has {b}: nothing is saved",
        )


def _merged(subject: Subject, use: Sequence[Method], prompts: Sequence[Sequence[int]]) -> int:
    models: dict[str, Decoder] = {"main": Watched(subject.rig.models()["main"])}
    subject.rig.play(models, [request(p, use, max_tokens=4) for p in prompts], max_rows=64)
    watched = models["main"]
    assert isinstance(watched, Watched)
    return watched.work.forwards
