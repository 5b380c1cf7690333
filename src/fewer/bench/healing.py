"""`fewer bench healing`: prompts cut inside tokens, continued without healing and with each kind; bytes beside genlm-bytes.

    accuracy         greedy text begins with the rest of the token that was cut (one right answer, so 1 is not reachable)
    forwards         of the model to heal a prompt and say that rest
    bytes            the exact byte sampler: forwards and milliseconds a greedy byte behind the prompt, bits a byte it gives
                     to the rest that was cut off; the peer beside it on the same prompts. On a busy machine with one
                     thread the processor's own time is the fairer figure

The peer (peer_bytes.py) runs in an environment of its own, named by its Python.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import fewer
from fewer.bench.cuts import Cut, cuts
from fewer.bench.drive import launch_script
from fewer.bench.record import head, save
from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.models.resolve import resolve
from fewer.tokens.bytes import ByteModel
from fewer.tokens.healing import KINDS
from fewer.tokens.sampling import Ensemble, sample

WIDTH = 5  # candidates the peer keeps: the value its own documentation uses
NEW = 8  # bytes a prompt is continued by, for speed
BATCH = 50  # prompts continued together
TOKENS = 5  # enough to spell the rest of any token
Say = Callable[[str], None]


def measure(
    model: str = "smollm2-135m",
    count: int = 300,
    seed: int = 0,
    say: Say = lambda s: None,
    threads: int = 1,
    peer: Path | None = None,
    timed: int = 20,
    beside: str | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """head of record.py with "kinds": {kind: figures}, "sources", "bytes": {engine: figures}, and "apart" if there is a peer.

    count, timed: prompts for accuracy, and for the byte samplers; 0 leaves that half out, so that it can be run by itself.
    beside: a second model, mixed with the first. keep: a folder for healing-MODEL.json and bytes-MODEL.json.
    Raises BadRequest, ModelError."""
    if count < 0 or timed < 0 or not count + timed:
        raise BadRequest(f"cuts={count} and timed={timed} must not be negative, and not both 0")
    path = resolve(model)
    engine = fewer.open(path, threads=threads)
    assert engine.tokenizer is not None
    drawn = cuts(engine.tokenizer, max(count, timed), seed)
    given = [f"--peer-python {peer}"] * (peer is not None) + [f"--with {beside}"] * (beside is not None)
    command = f"fewer bench healing -m {model} --cuts {count} --seed {seed} -t {threads} --timed {timed}"
    result = {
        **head("healing", " ".join([command, *given]), seed),
        "model": path.name,
        "threads": threads,
        "cuts": count,
        "timed": timed,
        "sources": {s: sum(c.source == s for c in drawn[:count]) for s in dict.fromkeys(c.source for c in drawn)},
    }
    if count:
        result["kinds"] = {kind: _kind(engine, kind, drawn[:count], say) for kind in KINDS}
    if timed:
        result |= _bytes(engine, path, drawn[:timed], threads, peer, say)
        if beside is not None:
            result["ensemble"] = _ensemble(engine, beside, threads, drawn[:timed], say)
    if keep is not None:
        save(keep / f"{'healing' if count else 'bytes'}-{path.stem}.json", result)
    return result


def _bytes(engine: Engine, path: Path, drawn: list[Cut], threads: int, peer: Path | None, say: Say) -> dict[str, Any]:
    """The byte samplers: figures of each, how many times as fast fewer is, how far the distributions are apart."""
    own, dists = _own(engine, drawn, say)
    if peer is None:
        return {"bytes": {"fewer": own}}
    theirs, others = _peer(peer, path, threads, drawn, say)
    apart = [float(abs(a - b).sum() / 2) for a, b in zip(dists, others)]
    return {
        "bytes": {"fewer": own, "genlm-bytes": theirs},
        "times_faster": round(theirs["ms_a_byte"] / own["ms_a_byte"], 2),
        "times_less_cpu": round(theirs["cpu_ms_a_byte"] / own["cpu_ms_a_byte"], 2),
        "apart": {"median": round(statistics.median(apart), 5), "most": round(max(apart), 5)},
    }


def _kind(engine: Engine, kind: str, drawn: list[Cut], say: Say) -> dict[str, Any]:
    right: dict[str, list[bool]] = {}
    forwards, healing = [], []
    for i in range(0, len(drawn), BATCH):
        say(f"{kind}: {i}/{len(drawn)}")
        some = drawn[i : i + BATCH]
        prompts = [cut.prompt for cut in some]
        outs = engine.generate(prompts, raw=True, healing=kind, max_tokens=TOKENS)
        engine.prefixes.clear()
        for cut, out in zip(some, outs):
            right.setdefault(cut.source, []).append(out.text.startswith(cut.rest))
            forwards.append(out.ledger.forwards - len(out.tokens) + 1)
            healing.append(out.ledger.seconds.get("healing", 0.0))
    every = [x for xs in right.values() for x in xs]
    return {
        "accuracy": round(sum(every) / len(every), 4),
        **{f"accuracy {s}": round(sum(xs) / len(xs), 4) for s, xs in right.items()},
        "forwards_before_text": round(statistics.mean(forwards), 3),
        "healing_ms": round(1e3 * statistics.median(healing), 2),
    }


def _own(engine: Engine, drawn: list[Cut], say: Say) -> tuple[dict[str, Any], list[np.ndarray]]:
    say("loading the byte model")
    start = time.perf_counter()
    model = ByteModel(engine)
    load = time.perf_counter() - start
    figures, dists = [], []
    for i, cut in enumerate([drawn[0], *drawn]):  # the first one warms up
        say(f"bytes: {i}/{len(drawn)}")
        start = time.perf_counter()
        with model.start(cut.prompt) as state:
            ready = time.perf_counter() - start
            dist = state.next()
            (logp,) = state.score([cut.rest.encode()])
            before, start, cpu = state.ledger.forwards, time.perf_counter(), time.process_time()
            text = bytes(sample(state, NEW))
            spent = (time.perf_counter() - start, time.process_time() - cpu, state.ledger.forwards - before)
        engine.prefixes.clear()
        if i:
            figures.append((ready, *spent, len(text), text.startswith(cut.rest.encode()[:NEW]), logp, len(cut.rest)))
            dists.append(dist[:256])
    return {"version": fewer.__version__, "load_seconds": round(load, 3), **_figures(figures)}, dists


def _peer(
    python: Path, path: Path, threads: int, drawn: list[Cut], say: Say
) -> tuple[dict[str, Any], list[np.ndarray]]:
    say("loading genlm-bytes")
    figures, dists = [], []
    try:
        peer = launch_script("genlm-bytes", python, "peer_bytes.py", path, threads, WIDTH)
    except RuntimeError as e:
        raise BadRequest(f"{e} (is genlm-bytes installed for {python}?)") from None
    try:
        peer.job({"prompt": drawn[0].prompt, "rest": drawn[0].rest[:1], "new": 1})  # warms up
        for i, cut in enumerate(drawn):
            say(f"genlm-bytes: {i}/{len(drawn)}")
            x = peer.job({"prompt": cut.prompt, "rest": cut.rest, "new": NEW})
            right = x["text"].encode("latin-1").startswith(cut.rest.encode()[:NEW])
            spent = (x["seconds"], x["cpu"], x["forwards"])
            figures.append((x["prefill"], *spent, NEW, right, x["logp"], len(cut.rest)))
            dists.append(np.array(x["next"]))
    except RuntimeError as e:
        raise BadRequest(f"{e} (is genlm-bytes installed for {python}?)") from None
    finally:
        peer.close()
    return {
        "version": peer.version,
        "load_seconds": round(peer.load, 3),
        "width": WIDTH,
        **_figures(figures),
    }, dists


def _ensemble(engine: Engine, beside: str, threads: int, drawn: list[Cut], say: Say) -> dict[str, float]:
    """Bits a byte of the rest that was cut off: each model's and those of the mean of both."""
    say(f"loading {beside}")
    models = {engine.name: ByteModel(engine), beside: ByteModel(fewer.open(beside, threads=threads))}
    bits = dict.fromkeys([*models, "both"], 0.0)
    for i, cut in enumerate(drawn):
        say(f"both: {i}/{len(drawn)}")
        rest, states = cut.rest.encode(), [m.start(cut.prompt) for m in models.values()]
        for name, state in zip(models, states):
            bits[name] -= state.score([rest])[0] / math.log(2)
        bits["both"] -= Ensemble(states).push(rest) / math.log(2)
        for state in states:
            state.close()
    size = sum(len(c.rest) for c in drawn)
    return {Path(name).stem: round(b / size, 4) for name, b in bits.items()}


def _figures(figures: list[tuple[float, float, float, int, int, bool, float, int]]) -> dict[str, Any]:
    prefill, seconds, cpu, forwards, said, right, logp, rest = (list(x) for x in zip(*figures))
    return {
        "prefill_ms": round(1e3 * statistics.median(prefill), 1),
        "ms_a_byte": round(1e3 * statistics.median(s / n for s, n in zip(seconds, said) if n), 2),
        "cpu_ms_a_byte": round(1e3 * statistics.median(s / n for s, n in zip(cpu, said) if n), 2),
        "forwards_a_byte": round(sum(forwards) / sum(said), 3),
        "accuracy": round(sum(right) / len(right), 4),
        "bits_a_byte_of_the_rest": round(-sum(logp) / math.log(2) / sum(rest), 4),
    }
