"""What is shown of a run's ledger, in words and units: one list for the terminal's table and the HTML report.

A figure is a label, how to read it from a run, and how to write it. Figures that are zero in every run are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

# The ledger's clock, in the order things happen.
STAGES = ("tokenize", "transform", "prefill", "draft", "decode", "cache")


@dataclass(frozen=True)
class NamedRun:
    """One finished run. result: `Result.to_dict()`; seconds: wall clock of the whole request; first: until the first
    text; use: the plan as given."""

    name: str
    result: dict[str, Any]
    seconds: float
    first: float
    use: tuple[str, ...] = ()

    @property
    def ledger(self) -> dict[str, Any]:
        return self.result["ledger"]

    @property
    def cancelled(self) -> bool:
        """Was it ended by Ctrl-C?"""
        return self.result["finish_reason"] == "cancelled"

    def to_dict(self) -> dict[str, Any]:
        """The result as --json prints it."""
        return self.result


@dataclass(frozen=True)
class Figure:
    """`read` gives a number, `write` turns it into text. group: the heading it stands under."""

    group: str
    label: str
    read: Callable[[NamedRun], float]
    write: Callable[[float], str]


def count(x: float) -> str:
    """12,345 (halves shown)."""
    return f"{x:,.0f}" if float(x).is_integer() else f"{x:,.1f}"


def brief(x: float) -> str:
    """As count, but 2.9 M from a million on: for places with little room."""
    return f"{x / 1e6:,.{0 if x >= 1e8 else 1}f} M" if x >= 1e6 else count(x)


def size(x: float) -> str:
    """Bytes in decimal units: 41.9 MB."""
    for unit in ("B", "kB", "MB"):
        if abs(x) < 1000:
            return f"{x:.0f} {unit}" if unit == "B" else f"{x:.1f} {unit}"
        x /= 1000
    return f"{x:.2f} GB"


def duration(x: float) -> str:
    """Seconds: 850 ms, 2.31 s, 74.2 s."""
    if not x:
        return "0"
    if x < 0.0995:
        return f"{x * 1000:.1f} ms"
    if x < 0.9995:
        return f"{x * 1000:.0f} ms"
    return f"{x:.2f} s" if x < 10 else f"{x:.1f} s"


def percent(x: float) -> str:
    """A share: 37%."""
    return f"{x:.0%}"


def rate(x: float) -> str:
    """Tokens a second."""
    return f"{x:.1f}/s"


def _ledger(group: str, label: str, key: str, write: Callable[[float], str] = count) -> Figure:
    return Figure(group, label, lambda r: r.ledger.get(key, 0), write)


def _stage(name: str) -> Figure:
    return Figure("time", name, lambda r: r.ledger["seconds"].get(name, 0.0), duration)


def decode_rate(run: NamedRun) -> float:
    """Tokens a second after the first one, drafting included; 0 if there was no second."""
    spent = sum(run.ledger["seconds"].get(stage, 0.0) for stage in ("decode", "draft"))
    return (run.ledger["generated_tokens"] - 1) / spent if spent else 0.0


TOTAL = Figure("time", "total", lambda r: r.seconds, duration)
KV_PEAK = _ledger("KV cache", "peak", "kv_bytes_peak", size)
FIGURES = (
    _ledger("tokens", "prompt", "prompt_tokens"),
    _ledger("tokens", "kept", "kept_tokens"),
    _ledger("tokens", "cached", "cached_tokens"),
    _ledger("tokens", "computed", "computed_tokens"),
    _ledger("tokens", "generated", "generated_tokens"),
    _ledger("tokens", "constraint checks", "constraint_checks"),
    _ledger("drafts", "verified", "drafts"),
    _ledger("drafts", "found not worth a row", "drafts_declined"),
    _ledger("drafts", "tokens drafted", "drafted_tokens"),
    _ledger("drafts", "tokens accepted", "accepted_tokens"),
    _ledger("drafts", "rests (guard)", "guard_rests"),
    _ledger("drafts", "tokens meanwhile", "guard_tokens"),
    _ledger("work", "forwards", "forwards"),
    _ledger("work", "rows", "rows"),
    _ledger("work", "layers run", "layers_run"),
    _ledger("work", "layers skipped", "layers_skipped"),
    _ledger("work", "KV entries read", "kv_entries_read"),
    KV_PEAK,
    _ledger("KV cache", "end", "kv_bytes_end", size),
    _ledger("KV cache", "beside it, by methods", "method_bytes", size),
)
CLOCK = (
    Figure("time", "to the first text", lambda r: r.first, duration),
    TOTAL,
    Figure("time", "decoding speed", decode_rate, rate),
)


def depths(runs: Sequence[NamedRun], most: int = 8) -> list[Figure]:
    """For each level, the share of all drafts that were right down to it."""
    deep = max((len(r.ledger.get("drafted_by_depth", ())) for r in runs), default=0)
    return [Figure("drafts", f"right at depth {d + 1}", partial(_right, d), percent) for d in range(min(deep, most))]


def _right(d: int, run: NamedRun) -> float:
    """Share of drafts whose level d stands, of all drafts."""
    stood = run.ledger.get("accepted_by_depth", ())
    return stood[d] / run.ledger["drafts"] if d < len(stood) else 0.0


def stages(runs: Sequence[NamedRun]) -> list[str]:
    """The stages any run spent time in, in the order things happen; unknown ones last."""
    seen = {s for r in runs for s in r.ledger["seconds"]}
    return [*(s for s in STAGES if s in seen), *sorted(seen.difference(STAGES))]


def compare(base: float, other: float) -> str:
    """How `other` stands to `base`: "3.7x less", "1.2x more", "same"; "" where a ratio says nothing."""
    if base == other:
        return "same"
    if not base or not other:
        return ""
    ratio = other / base
    factor, word = (ratio, "more") if ratio > 1 else (1 / ratio, "less")
    if factor < 1.005:
        return "same"
    return f"{factor:.1f}x {word}" if factor >= 2 else f"{factor:.2f}x {word}"


def rows(runs: Sequence[NamedRun]) -> list[tuple[str, str, list[str], str]]:
    """(group, label, a value a run, last run compared with the first) for every figure with something to say."""
    out = []
    last = next(i for i, f in enumerate(FIGURES) if f.group == "work")
    for figure in (*FIGURES[:last], *depths(runs), *FIGURES[last:], *map(_stage, stages(runs)), *CLOCK):
        values = [figure.read(r) for r in runs]
        if any(values):
            versus = compare(values[0], values[-1]) if len(runs) > 1 else ""
            out.append((figure.group, figure.label, [figure.write(v) for v in values], versus))
    return out
