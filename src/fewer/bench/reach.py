"""`fewer bench reach`: perplexity of one long text by position, as the model's file rotates positions and in other ways.

    perplexity of a band = exp(mean(-log p(x_i | x_<i))) over the positions i of that band

Every way reads the same tokens from position 0, so a band shows what a way costs inside the trained length and what it
gives beyond it. As its file says, the model is read past its limit too.
Does not: show that far text is used; a low perplexity needs little more than the last few hundred tokens.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fewer
from fewer.bench.record import head, save
from fewer.bench.tasks import prose
from fewer.errors import BadRequest
from fewer.models.tokenizer import Tokenizer

AS_IT_IS = "as it is"
WAYS = (
    "linear:factor=2",
    "ntk:factor=2",
    "yarn:factor=2",
    "power:factor=2",
    "truncated:factor=2",
    "random:factor=2",
    "ssmax",
    "yarn:factor=2+ssmax",
)
Say = Callable[[str], None]


def measure(
    model: str = "smollm2-135m",
    ways: Sequence[str] | None = None,
    tokens: int = 12288,
    band: int = 2048,
    seed: int = 0,
    say: Say = lambda s: None,
    threads: int | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Perplexity a band for each way: a rope, "ssmax", or both joined by "+". keep: file for the result, written after
    every way. Raises BadRequest and what opening raises."""
    if band < 2 or tokens < band:
        raise BadRequest(f"tokens={tokens} must be at least one band, band={band} at least 2")
    chosen = [AS_IT_IS, *(WAYS if ways is None else ways)]
    ids: list[int] = []
    given = "".join(f" --way {w}" for w in ways or ())
    command = f"fewer bench reach -m {model} --tokens {tokens} --band {band} --seed {seed}{given}"
    found: dict[str, list[float]] = {}
    out = {**head("reach", command, seed), "model": model, "band": band, "perplexity": found}
    for way in chosen:
        say(f"reading {tokens} tokens, {way}")
        parts = [] if way == AS_IT_IS else way.split("+")
        rope = next((p for p in parts if not p.startswith("ssmax")), None)
        eng = fewer.open(
            model, threads=threads, rope=rope, scores=next((p for p in parts if p.startswith("ssmax")), None)
        )
        trained = eng.model.spec.max_context if rope is None else eng.model.spec.ropes[-1].original_context
        assert eng.tokenizer is not None
        ids = ids or _text(eng.tokenizer, tokens, seed)
        if len(ids) >= eng.model.spec.max_context:
            eng.model.spec = replace(eng.model.spec, max_context=len(ids) + 1)
        lps = eng.score(ids).logprobs
        found[way] = [
            round(math.exp(-statistics.fmean(lps[at : at + band])), 3) for at in range(0, len(lps) - band // 2, band)
        ]
        out["context"] = trained
        if keep is not None:
            save(keep, out)
    return out


def _text(tokenizer: Tokenizer, tokens: int, seed: int) -> list[int]:
    text = prose(random.Random(f"reach {seed}"), tokens + 64, lambda t: len(tokenizer.encode(t, bos=False)))
    return tokenizer.encode("\n\n".join(text))[:tokens]
