"""fewer's own figures beside what the machine allows: each case's ceilings, and the curve of rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fewer
from fewer.bench import limits
from fewer.bench.cases import Case
from fewer.bench.rows import CHUNK, curve
from fewer.models.decoder import Decoder

ROUNDS = 5  # of the ceilings before the curve of rows, and after it


def examine(
    path: Path,
    threads: int,
    ids: list[int],
    rates: list[tuple[Case, float, limits.Ceilings]],
    rows: bool,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """{"ceilings": medians, "weight_bytes", "limits": {case: beside()}, and "rows": _rows() if asked for}.

    rates: cases, fewer's tokens a second, and what the machine allowed meanwhile. The model is opened here, when no other
    engine is running.
    """
    decoder = fewer.open(path, threads=threads).model
    out: dict[str, Any] = {
        "weight_bytes": limits.weight_bytes(decoder),
        "limits": {case.name: beside(case, rate, decoder, top) for case, rate, top in rates},
    }
    seen = [top for _, _, top in rates]
    if rows:
        say("cost of rows")
        out["rows"], top = _rows(decoder, ids)
        seen.append(top)
    return out | {"ceilings": asdict(limits.median(seen))} if seen else out


def beside(case: Case, rate: float, decoder: Decoder, top: limits.Ceilings) -> dict[str, Any]:
    """A figure of fewer's and the two ceilings: tokens a second each allows, the shares reached, and which one limits. A
    batch counts as a whole, its prompts too."""
    prompts, rows = case.batch * case.prompt, min(CHUNK, case.batch * case.prompt)
    reading = limits.Pass(rows, case.prompt // 2, max(1, rows // case.prompt), False, prompts / rows)
    writing = limits.Pass(case.batch, case.prompt + case.new // 2, case.batch, times=case.new)
    if case.what == "prefill":
        tokens, passes = prompts, [reading]
    else:
        tokens, passes = case.batch * case.new, [writing] if case.batch == 1 else [reading, writing]
    got = limits.shares(decoder, top, tokens / rate, *passes)
    return {
        "tokens_per_second": rate,
        "memory_limit": round(tokens / got.memory_seconds, 1),
        "of_memory": round(got.of_memory, 3),
        "compute_limit": round(tokens / got.compute_seconds, 1),
        "of_compute": round(got.of_compute, 3),
        "limited_by": got.limited_by,
    }


def _rows(decoder: Decoder, ids: list[int]) -> tuple[dict[str, Any], limits.Ceilings]:
    """curve(), with "limits": {M: the shares of either ceiling and which one limits}; and the ceilings around it."""
    meter = limits.Meter()
    seen = [meter.once() for _ in range(ROUNDS)]
    out = curve(decoder, ids)
    top = limits.median(seen + [meter.once() for _ in range(ROUNDS)])
    got = {m: limits.shares(decoder, top, s, limits.Pass(int(m), out["context"])) for m, s in out["seconds"].items()}
    shown = {
        m: {"of_memory": round(x.of_memory, 3), "of_compute": round(x.of_compute, 3), "limited_by": x.limited_by}
        for m, x in got.items()
    }
    return out | {"limits": shown}, top
