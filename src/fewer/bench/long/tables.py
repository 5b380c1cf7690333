"""Tables of `fewer bench long`; where the answers lie and how long the documents are is a map of scores."""

from __future__ import annotations

import statistics
from typing import Any

from fewer.bench.sheets import Sheet, Value

BINS = 5  # of depth
PLAIN = "plain"


def tables(r: dict[str, Any]) -> list[Sheet]:
    """A result of measure() as sheets."""
    ways = [tuple(w) for w in r["ways"] if any((x["plan"], x["protocol"]) == tuple(w) for x in r["results"])]
    others = [w for w in ways if w[0] != PLAIN]
    note = f"{r['items']} items a task and length; lengths {', '.join(f'{n:,}' for n in r['lengths'])} tokens."
    return [
        Sheet(
            "Plain: what the model can do",
            f"Mean score, every entry kept and read. {note}",
            ["tokens", *r["tasks"]],
            [[n, *(_figure(r, (PLAIN, "aware"), t, n, "score") for t in r["tasks"])] for n in r["lengths"]],
            shaded=True,
        ),
        Sheet(
            "What is kept of the score",
            "Score over plain's, on the items that plain can do; aware: the method saw the question.",
            ["plan", "protocol", "all", *r["tasks"]],
            [[*w, _kept(r, w), *(_kept(r, w, t) for t in r["tasks"])] for w in others],
            names=2,
            drawn=1,
        ),
        Sheet(
            "What it costs",
            "Medians over plain's, all tasks and lengths; KL in nats a token; bytes: of keys and values, read a forward.",
            ["plan", "protocol", "KV end", "KV peak", "reads", "bytes", "prefill time", "decode speed", "KL"],
            [
                [*w, *(_median(r, w, f) for f in ("kv_end", "kv_peak", "reads", "bytes", "prefill", "decode", "kl"))]
                for w in others
            ],
            names=2,
        ),
        *([_ranking(r)] if "beside" in r else []),
        *(_map(r, w) for w in ways),
    ]


def _rows(r: dict[str, Any], way: tuple[str, str], task: str | None = None) -> list[dict[str, Any]]:
    return [x for x in r["results"] if (x["plan"], x["protocol"]) == way and (task is None or x["task"] == task)]


def _figure(r: dict[str, Any], way: tuple[str, str], task: str, tokens: int, name: str) -> Value:
    return next((x[name] for x in _rows(r, way, task) if x["tokens"] == tokens), None)


def _kept(r: dict[str, Any], way: tuple[str, str], task: str | None = None) -> Value:
    """Over the items that plain can do, all lengths."""
    return _share(_rows(r, way, task))


def _share(rows: list[dict[str, Any]]) -> Value:
    held = [(x["kept"], x["can"]) for x in rows if x["kept"] is not None]
    return round(sum(k * n for k, n in held) / sum(n for _, n in held), 3) if held else None


def _median(r: dict[str, Any], way: tuple[str, str], name: str) -> Value:
    held = [x[name] for x in _rows(r, way) if x[name] is not None]
    return round(statistics.median(held), 3) if held else None


def _ranking(r: dict[str, Any]) -> Sheet:
    """fewer and kvpress, a way of both a row, the best of a protocol first."""
    theirs = r["beside"]["results"]
    places = {(x["plan"], x["protocol"], x["task"], x["tokens"]): x for x in theirs}
    own = [x for x in r["results"] if (x["plan"], x["protocol"], x["task"], x["tokens"]) in places]
    both = dict.fromkeys((x["plan"], x["protocol"]) for x in own)
    rows = []
    for plan, protocol in both:
        mine = [x for x in own if (x["plan"], x["protocol"]) == (plan, protocol)]
        other = [places[plan, protocol, x["task"], x["tokens"]] for x in mine]
        scores = [statistics.fmean(x["score"] for x in some) for some in (mine, other)]
        shares = [_share(mine), _share(other)]
        rows.append([plan, protocol, *(round(s, 3) for s in scores), round(scores[0] - scores[1], 3), *shares])
    rows.sort(key=lambda x: (x[1] != "aware", x[0] != PLAIN, -x[2]))
    failed = "; ".join(f"{way} failed there: {why}" for way, why in r["beside"]["failed"].items())
    return Sheet(
        "Beside kvpress",
        "Mean scores on the same items, as many entries kept; kept: over its own plain score on what its own plain can do. "
        f"kvpress {r['beside']['version']}. {failed}".strip(),
        ["plan", "protocol", "fewer", "kvpress", "difference", "fewer kept", "kvpress kept"],
        rows,
        names=2,
        drawn=2,
    )


def _map(r: dict[str, Any], way: tuple[str, str]) -> Sheet:
    """Mean scores by length and depth of the answer."""
    places = r["places"].get(" ".join(way), [])
    cells: dict[tuple[int, int], list[float]] = {}
    for tokens, depth, score in places:
        cells.setdefault((tokens, min(int(depth * BINS), BINS - 1)), []).append(score)

    def mean(tokens: int, i: int) -> Value:
        return round(statistics.fmean(cells[tokens, i]), 2) if (tokens, i) in cells else None

    named = way[0] if way[0] == PLAIN else f"{way[0]}, {way[1]}"
    return Sheet(
        f"Where: {named}",
        "Mean score by length of the document (rows) and depth of the answer (columns, share of the document).",
        ["tokens", *(f"{i / BINS:.1f}-{(i + 1) / BINS:.1f}" for i in range(BINS))],
        [[n, *(mean(n, i) for i in range(BINS))] for n in r["lengths"]] if places else [],
        shaded=True,
    )
