"""`fewer bench speed`: prefill, decode and batch side by side with the engines that are installed.

Every engine runs in its own process on the same GGUF with the same threads; rounds alternate between engines, each with a
fresh prompt, and what is reported is the median over rounds and its ratio to fewer's. Prompts are token ids of a real text
(the running Python's pydoc topics), a different stretch each time. Absolute figures of a shared machine mean little, so
what the machine allows is measured in the same run and each of fewer's figures is set beside it (limits.py).
"start" times `fewer run` in a fresh process, "rows" what M rows cost beside one; both when the other engines are gone.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewer.bench import limits
from fewer.bench.cases import CASES, Case
from fewer.bench.drive import Peer, launch
from fewer.bench.own import examine
from fewer.bench.record import head
from fewer.bench.start import first_text
from fewer.errors import BadRequest
from fewer.kernels.cpu import set_threads
from fewer.models.resolve import resolve
from fewer.models.source import open_source
from fewer.models.tokenizer import from_source

NEEDS = {"llama.cpp": "xllamacpp", "openvino": "openvino_genai", "transformers": "transformers"}
EXTRAS = ("start", "rows")
OWN = "fewer"
STEP = 977  # tokens between the beginnings of two prompts
Say = Callable[[str], None]


def measure(
    model: str,
    peers: list[str] | None = None,
    cases: list[str] | None = None,
    rounds: int = 3,
    threads: int = 2,
    say: Say = lambda s: None,
) -> dict[str, Any]:
    """Run cases (None = all of CASES and EXTRAS) on fewer and beside it on `peers` (None = those installed).

    Returns the head of record.py with "peers", "failed", "cases": {case: {peer: {"tokens_per_second",
    "fewer_is_times", "all"}}}, "ceilings", "limits": {case: ...}, and "start" and "rows" if chosen. Raises BadRequest,
    ModelError.
    """
    chosen = [*CASES, *EXTRAS] if cases is None else cases
    for name in chosen:
        if name not in CASES and name not in EXTRAS:
            raise BadRequest(f"no case {name!r}: there are {', '.join([*CASES, *EXTRAS])}")
    if rounds < 1 or threads < 1:
        raise BadRequest(f"rounds={rounds} and threads={threads} must be at least 1")
    path = resolve(model)
    ids = text_ids(path)
    failed: dict[str, str] = {}
    others = peers or [p for p, module in NEEDS.items() if importlib.util.find_spec(module)]
    wanted = [OWN, *[p for p in others if p != OWN]]
    timed = [CASES[c] for c in chosen if c in CASES]
    contest = Contest(timed, ids, rounds, say, failed)
    running = contest.run(path, wanted, threads) if timed else []
    given = [f"--peer {p}" for p in peers or []] + [f"--case '{c}'" for c in cases or []]
    command = " ".join([f"fewer bench speed -m {model} --rounds {rounds} -t {threads}", *given])
    result = {
        **head("speed", command, 0),
        "model": str(path),
        "threads": threads,
        "rounds": rounds,
        "peers": {
            p.name: {"version": p.version, "load_seconds": round(p.load, 3), "peak_mb": round(p.peak_mb, 1)}
            for p in running
        },
        "failed": failed,
        "cases": {c.name: _table(c.name, running) for c in timed},
    }
    if "start" in chosen:
        say("start of fewer run")
        result["start"] = first_text(path, threads)
    own = [(c, result["cases"][c.name].get(OWN)) for c in timed]
    rates = [(c, found["tokens_per_second"], limits.median(contest.tops[c.name])) for c, found in own if found]
    return result | examine(path, threads, ids, rates, "rows" in chosen, say)


def text_ids(path: Path) -> list[int]:
    """Token ids of a real English text, long enough for every case."""
    from pydoc_data import topics

    return from_source(open_source(path)).encode("\n\n".join(topics.topics.values()), bos=False)


class Contest:
    """Engines that take turns at the same cases, and the machine's ceilings with them (`tops`, by case).

    `failed` collects why an engine left.
    """

    def __init__(self, cases: list[Case], ids: list[int], rounds: int, say: Say, failed: dict[str, str]) -> None:
        self.cases, self.ids, self.rounds, self.say, self.failed = cases, ids, rounds, say, failed
        self.tops: dict[str, list[limits.Ceilings]] = {}
        self._at = 0

    def run(self, path: Path, names: list[str], threads: int) -> list[Peer]:
        """Every engine that came through, with what it was seen to do; all processes have ended."""
        running: list[Peer] = []
        set_threads(threads)
        meter = limits.Meter()
        try:
            for name in names:
                self.say(f"loading {name}")
                try:
                    running.append(launch(name, path, threads))
                except RuntimeError as e:
                    self.failed[name] = str(e)
            for case in self.cases:
                for r in range(self.rounds + 1):
                    for peer in [p for p in running if p.name not in self.failed]:
                        self.say(f"{case.name}: round {r}/{self.rounds} {peer.name}")
                        self._turn(case, peer, counts=r > 0)
                    self.tops.setdefault(case.name, []).append(meter.once())
        finally:
            for peer in running:
                peer.close()
        return running

    def _turn(self, case: Case, peer: Peer, counts: bool) -> None:
        prompts = [self._prompt(case.prompt) for _ in range(case.batch)]
        try:
            out = peer.ask(prompts, case.new)
        except RuntimeError as e:
            self.failed[peer.name] = f"{case.name}: {e}"
            return
        if counts:
            peer.seen.setdefault(case.name, []).append(case.rate(out))
        time.sleep(0.2)

    def _prompt(self, n: int) -> list[int]:
        self._at = (self._at + STEP) % (len(self.ids) - n)
        return self.ids[self._at : self._at + n]


def _table(case: str, peers: list[Peer]) -> dict[str, Any]:
    medians = {p.name: statistics.median(p.seen[case]) for p in peers if p.seen.get(case)}
    own = medians.get(OWN)
    return {
        p.name: {
            "tokens_per_second": round(medians[p.name], 2),
            "fewer_is_times": None if own is None else round(own / medians[p.name], 3),
            "all": [round(x, 2) for x in p.seen[case]],
        }
        for p in peers
        if p.name in medians
    }
