"""One measured call: an item run under a plan, what it answered and what it spent.

A single prompt is streamed, so that the KV entries read while decoding can be told from those of the prompt; several
prompts run as one batch, whose forwards are shared, so there a request's own clock counts the whole batch's time and
only the wall clock is used; `padded` says how many times more prompt rows there would be if all were padded to the longest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fewer.bench.tasks import Item
from fewer.engine import Engine, Result
from fewer.ledger import Ledger
from fewer.seams import Method


@dataclass(frozen=True)
class Run:
    """texts, tokens: one a prompt, up to the model's own stop token. spent: figure -> number, by name; see methods.py."""

    texts: list[str]
    tokens: list[list[int]]
    every: list[list[int]]
    spent: dict[str, float]


def run(eng: Engine, item: Item, use: Sequence[str | Method], ids: list[int] | None = None) -> Run:
    """Run an item greedily; ids: its only prompt, as tokens. Raises what generating raises."""
    options: dict[str, Any] = {
        "use": list(use),
        "raw": item.raw,
        "max_tokens": item.max_tokens,
        "ignore_eos": not item.ends,
        "share_prefix": False,
    }
    forwards = eng.forwards.total()
    start = time.perf_counter()
    if len(item.prompts) > 1:
        results = eng.generate(list(item.prompts), **options)
        spent = {"decode": sum(len(r.tokens) for r in results) / (time.perf_counter() - start)}
        longest = max(r.ledger.prompt_tokens for r in results)
        spent["padded"] = longest * len(results) / sum(r.ledger.prompt_tokens for r in results)
    else:
        stream = eng.stream(item.prompts[0] if ids is None else ids, **options)
        pieces = iter(stream)
        next(pieces, "")
        read, done = stream.ledger.kv_entries_read, stream.ledger.forwards
        for _ in pieces:
            pass
        results = [stream.result]
        spent = _single(results[0], read, done)
    spent["seconds"] = time.perf_counter() - start
    spent |= _sums([r.ledger for r in results])
    spent["forwards"] = (eng.forwards.total() - forwards) / spent["generated_tokens"]
    assert eng.tokenizer is not None
    answers = [_answer(r.tokens, eng.tokenizer.eos) for r in results]
    texts = [eng.tokenizer.decode(a) for a in answers]
    return Run(texts, answers, [r.tokens for r in results], spent)


def _single(result: Result, read: int, done: int) -> dict[str, float]:
    """What only one request alone can tell. read, done: entries read and forwards done before its first text."""
    led, seconds = result.ledger, result.ledger.seconds
    spent = {"prefill": seconds.get("transform", 0.0) + seconds["prefill"]}
    if led.forwards > done:
        spent["reads"] = (led.kv_entries_read - read) / (led.forwards - done)
    if seconds.get("decode"):
        spent["decode"] = (len(result.tokens) - 1) / (seconds["decode"] + seconds.get("draft", 0.0))
    return spent


def _sums(ledgers: list[Ledger]) -> dict[str, float]:
    def total(name: str) -> float:
        return sum(getattr(led, name) for led in ledgers)

    new = total("generated_tokens")
    return {
        "prompt_tokens": total("prompt_tokens"),
        "kept_tokens": total("kept_tokens"),
        "generated_tokens": new,
        "kv_peak": total("kv_bytes_peak"),
        "kv_end": total("kv_bytes_end"),
        "layers": total("layers_run") / (total("prompt_tokens") + new),
        "drafted": total("drafted_tokens") / new,
        "accepted": total("accepted_tokens") / new,
        "checks": total("constraint_checks") / new,
    }


def _answer(tokens: list[int], stops: frozenset[int]) -> list[int]:
    end = next((i for i, t in enumerate(tokens) if t in stops), len(tokens))
    return tokens[:end]
