"""The ledger: what one run spent. The engine writes it; methods never do. `check()` asserts that it adds up.

prompt = kept + dropped          (transforms drop)        kept = cached + computed prompt rows, or more when recomputed
drafted = accepted + rejected    (nodes verified, also level by level)
rows x layers = layers_run + layers_skipped               (a row's attention and FFN are half a layer each)
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fewer.errors import InvariantBroken

TIMELINE_MAX = 2048


@dataclass
class ModelLedger:
    """One model's share."""

    n_layers: int
    forwards: int = 0
    rows: int = 0
    layers_run: float = 0
    layers_skipped: float = 0


@dataclass
class Ledger:
    """One request's account. Tokens, rows and forwards are counts; bytes are allocated bytes; seconds are wall clock."""

    prompt_tokens: int = 0
    kept_tokens: int = 0
    dropped_tokens: int = 0
    cached_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0
    drafts: int = 0  # verified
    drafts_declined: int = 0  # made, but not worth a row
    guard_rests: int = 0  # how often a losing drafter was left alone for a while
    guard_tokens: int = 0  # tokens emitted meanwhile
    drafted_by_depth: list[int] = field(default_factory=list)
    accepted_by_depth: list[int] = field(default_factory=list)
    constraint_checks: int = 0
    kv_bytes_peak: int = 0
    kv_bytes_end: int = 0
    kv_entries_read: int = 0
    method_bytes: int = 0  # beside the KV: what methods remembered of the request, at its prompt's end or its own
    kv_bytes_scanned: int = 0  # keys and summaries that a selection looked at to choose the entries it read
    models: dict[str, ModelLedger] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    timeline: list[tuple[int, int]] = field(default_factory=list)  # (tokens seen, KV bytes) after each step
    notes: list[str] = field(default_factory=list)
    lanes: list[tuple[str, float, float]] = field(default_factory=list)  # (model, start, end) of overlapping forwards

    @property
    def forwards(self) -> int:
        return sum(m.forwards for m in self.models.values())

    @property
    def rows(self) -> int:
        return sum(m.rows for m in self.models.values())

    @property
    def layers_run(self) -> float:
        return sum(m.layers_run for m in self.models.values())

    @property
    def layers_skipped(self) -> float:
        return sum(m.layers_skipped for m in self.models.values())

    # ------------------------------------------------------------------ written by the engine
    def forward(
        self, model: str, n_layers: int, rows: int, run: float, skipped: float, entries_read: int, scanned: int = 0
    ) -> None:
        """One forward in which this request had `rows` rows."""
        m = self.models.setdefault(model, ModelLedger(n_layers))
        m.forwards += 1
        m.rows += rows
        m.layers_run += run
        m.layers_skipped += skipped
        self.kv_entries_read += entries_read
        self.kv_bytes_scanned += scanned

    def kv_peak(self, nbytes: int) -> None:
        """KV bytes held inside a step, before the cache is cut or packed."""
        self.kv_bytes_peak = max(self.kv_bytes_peak, nbytes)

    def remembered(self, nbytes: int) -> None:
        """Bytes that the methods remember of this request now."""
        self.method_bytes = max(self.method_bytes, nbytes)

    def draft(self, depths: Sequence[int], stood: int) -> None:
        """One draft was verified: the depth of each of its nodes that is a token, and how many stand."""
        self.drafts += bool(depths)
        self.drafted_tokens += len(depths)
        self.accepted_tokens += stood
        self.rejected_tokens += len(depths) - stood
        more = max(depths, default=-1) + 1 - len(self.drafted_by_depth)
        self.drafted_by_depth += [0] * more
        self.accepted_by_depth += [0] * more
        for d in depths:
            self.drafted_by_depth[d] += 1
        for d in range(stood):
            self.accepted_by_depth[d] += 1

    def kv(self, tokens: int, nbytes: int) -> None:
        """KV bytes held after a step. The timeline is thinned by half whenever it is full."""
        self.kv_peak(nbytes)
        self.kv_bytes_end = nbytes
        self.timeline.append((tokens, nbytes))
        if len(self.timeline) > TIMELINE_MAX:
            self.timeline = self.timeline[::2]

    def spend(self, stage: str, seconds: float) -> None:
        """Wall-clock seconds of one stage."""
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def lane(self, model: str, start: float, end: float) -> None:
        """A forward of a request whose models run beside each other; seconds by any one clock."""
        if len(self.lanes) < TIMELINE_MAX:
            self.lanes.append((model, start, end))

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        """Times a block under `stage`."""
        t = time.perf_counter()
        try:
            yield
        finally:
            self.spend(stage, time.perf_counter() - t)

    # ------------------------------------------------------------------ read by everyone
    def check(self) -> None:
        """Raise InvariantBroken unless the account adds up."""
        bad = []
        if self.prompt_tokens != self.kept_tokens + self.dropped_tokens:
            bad.append(f"prompt {self.prompt_tokens} != kept {self.kept_tokens} + dropped {self.dropped_tokens}")
        if self.drafted_tokens != self.accepted_tokens + self.rejected_tokens:
            bad.append(
                f"drafted {self.drafted_tokens} != accepted {self.accepted_tokens} + rejected {self.rejected_tokens}"
            )
        for what in ("drafted", "accepted"):
            total, levels = getattr(self, f"{what}_tokens"), getattr(self, f"{what}_by_depth")
            if total != sum(levels):
                bad.append(f"{what} {total} != {' + '.join(map(str, levels)) or 0} by depth")
        for name, m in self.models.items():
            if m.rows * m.n_layers != m.layers_run + m.layers_skipped:
                bad.append(
                    f"{name}: rows {m.rows} x layers {m.n_layers} != run {m.layers_run} + skipped {m.layers_skipped}"
                )
        if self.kv_bytes_end > self.kv_bytes_peak:
            bad.append(f"KV end {self.kv_bytes_end} > peak {self.kv_bytes_peak}")
        main = self.models.get("main")
        if main is not None and self.computed_tokens > main.rows:
            bad.append(f"computed {self.computed_tokens} > rows {main.rows}")
        if bad:
            raise InvariantBroken("the ledger does not add up: " + "; ".join(bad))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for --json and reports."""

        def tidy(x: float) -> float | int:
            return int(x) if float(x).is_integer() else x

        apart = ("models", "timeline", "seconds", "notes", "lanes")
        own = {k: v for k, v in self.__dict__.items() if k not in apart}
        zero = min((start for _, start, _ in self.lanes), default=0.0)
        return {
            **own,
            "forwards": self.forwards,
            "rows": self.rows,
            "layers_run": tidy(self.layers_run),
            "layers_skipped": tidy(self.layers_skipped),
            "models": {
                n: {**m.__dict__, "layers_run": tidy(m.layers_run), "layers_skipped": tidy(m.layers_skipped)}
                for n, m in self.models.items()
            },
            "seconds": {k: round(v, 6) for k, v in self.seconds.items()},
            "timeline": [list(t) for t in self.timeline],
            "notes": list(self.notes),
            "lanes": [[model, round(a - zero, 6), round(b - zero, 6)] for model, a, b in self.lanes],
        }
