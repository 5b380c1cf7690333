"""A result of the bench as plain tables: one list for the terminal, the CSV file, the HTML page and the docs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Value = str | float | int | bool | None


@dataclass(frozen=True)
class Sheet:
    """title, what to know before reading it, column headings and rows; None = nothing there.

    names: how many leading columns say what a row is. drawn: how many columns after them are drawn as bars. shaded: values
    of 0 to 1 colour their cells, so the table is a map.
    """

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    names: int = 1
    drawn: int = 0
    shaded: bool = False


def sheets(result: dict[str, Any]) -> list[Sheet]:
    """The tables of a result of one of the bench's measurements."""
    return [s for s in KINDS[result["what"]](result) if s.rows]


def cell(value: Value) -> str:
    """A value as text: three digits of a fraction, thousands apart, yes and no."""
    if value is None:
        return ""
    if value is True or value is False:
        return "yes" if value else "no"
    if type(value) is float:
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if type(value) is int else str(value)


def speed(r: dict[str, Any]) -> list[Sheet]:
    others = [p for p in r["peers"] if p != "fewer"]
    cases = [_case(name, by_peer, list(r["peers"]), others) for name, by_peer in r["cases"].items()]
    said = "; ".join(f"{name} failed: {why}" for name, why in r["failed"].items())
    ratio = f"Medians of {r['rounds']} rounds in turn, {r['threads']} threads; x = how many times as fast fewer is."
    top = r["ceilings"]
    weights = f"read bandwidth {top['read'] / 1e9:.1f} GB/s, {top['macs'] / 1e9:,.0f} G multiply-adds/s"
    weights += f" of bytes, {top['floats'] / 1e9:,.0f} of floats" if "floats" in top else ""
    rows = r.get("rows", {"context": 0, "times": {}, "seconds": {}})
    return [
        Sheet(
            "Tokens a second",
            " ".join([ratio, said]).strip(),
            ["case", *r["peers"], *(f"x {p}" for p in others)],
            cases,
            drawn=len(r["peers"]),
        ),
        Sheet(
            "What limits fewer",
            f"Measured in the same run: {weights}; {r['weight_bytes'] / 1e6:.1f} MB of weights a forward.",
            ["case", "tokens/s", "memory allows", "of memory", "compute allows", "of compute", "limited by"],
            [_limit(name, x) for name, x in r["limits"].items()],
        ),
        Sheet(
            "What M rows cost beside one",
            f"One forward at a context of {rows['context']}.",
            ["rows", "times", "milliseconds", "of memory", "of compute", "limited by"],
            [_rows(m, rows) for m in rows["times"]],
            drawn=1,
        ),
        Sheet(
            "Engines",
            "Peak memory is that of the engine's own process; the start is `fewer run` until its first text.",
            ["engine", "version", "seconds to load", "to the first text", "peak MB"],
            [[p, x["version"], x["load_seconds"], None, x["peak_mb"]] for p, x in r["peers"].items()] + _start(r),
            names=2,
        ),
    ]


def _case(name: str, by_peer: dict[str, Any], peers: list[str], others: list[str]) -> list[Value]:
    def read(peer: str, key: str) -> Value:
        return by_peer.get(peer, {}).get(key)

    return [name, *(read(p, "tokens_per_second") for p in peers), *(read(p, "fewer_is_times") for p in others)]


def _limit(name: str, x: dict[str, Any]) -> list[Value]:
    keys = ("tokens_per_second", "memory_limit", "of_memory", "compute_limit", "of_compute", "limited_by")
    return [name, *(x[k] for k in keys)]


def _rows(m: str, rows: dict[str, Any]) -> list[Value]:
    limits = rows.get("limits", {}).get(m, {})  # results of the first sessions have none
    return [m, rows["times"][m], rows["seconds"][m] * 1e3, *map(limits.get, ("of_memory", "of_compute", "limited_by"))]


def _start(r: dict[str, Any]) -> list[list[Value]]:
    start = r.get("start")
    return [] if start is None else [["fewer run", "", None, start["seconds"], start["peak_mb"]]]


METHODS: dict[str, tuple[str, dict[str, str]]] = {  # a table's title -> its note, and its figures with their headings
    "What it saves": (
        "Medians of method / plain, so below 1 is less. Reads: KV entries a forward while decoding; layers: rows x layers "
        "a token; forwards a token.",
        {"kv_peak": "KV peak", "kv_end": "KV end", "reads": "reads", "layers": "layers", "forwards": "forwards"},
    ),
    "What it takes": (
        "Medians of method / plain: seconds until decoding, tokens a second after that, seconds of the whole call.",
        {"prefill": "prefill time", "decode": "decode speed", "seconds": "total time"},
    ),
    "What it keeps": (
        "Quality: the task's own score. Agreement: the share of leading tokens equal to plain's answer.",
        {
            "quality": "quality",
            "quality_plain": "plain quality",
            "agreement": "agreement",
            "same_tokens": "same tokens",
        },
    ),
    "How likely it finds what is true": (
        "Log probability of the true value; perplexity of how the text really goes on.",
        {
            "value_logprob": "log p",
            "value_logprob_plain": "plain log p",
            "perplexity": "perplexity",
            "perplexity_plain": "plain perplexity",
        },
    ),
}


def methods(r: dict[str, Any]) -> list[Sheet]:
    def plan(x: dict[str, Any]) -> str:
        return f"{x['method']}:{x['setting']}" if x["setting"] else x["method"]

    def sheet(title: str, note: str, figures: dict[str, str]) -> Sheet:
        rows = [[plan(x), *(x.get(k) for k in figures)] for x in r["results"] if figures.keys() & x.keys()]
        return Sheet(title, note, ["plan", *figures.values()], rows)

    return [
        *(sheet(title, *what) for title, what in METHODS.items()),
        sheet("What did not run", "", {"error": "why"}),
    ]


def quality(r: dict[str, Any]) -> list[Sheet]:
    p, a = r["perplexity"], r["answers"]
    row = [r["model"], p["own"], p["float32"], p["ratio"], f"{a['same']} of {a['of']}", a["agreement"]]
    how = f"weights {r['weights']}, activations {r['activations']}"
    note = f"{r['bytes']:,} bytes of English scored; {a['of']} questions, {a['tokens']} greedy tokens each; {how}."
    columns = ["model", "perplexity", "float32's", "ratio", "same answers", "agreement"]
    return [Sheet("Packed weights beside float32", note, columns, [row])]


def healing(r: dict[str, Any]) -> list[Sheet]:
    sources = [f"accuracy {s}" for s in r["sources"]]
    rows = [
        [k, x["accuracy"], *(x[s] for s in sources), x["forwards_before_text"], x["healing_ms"]]
        for k, x in r.get("kinds", {}).items()
    ]
    keys = (
        "accuracy",
        "bits_a_byte_of_the_rest",
        "forwards_a_byte",
        "ms_a_byte",
        "cpu_ms_a_byte",
        "prefill_ms",
        "load_seconds",
    )
    peer = f"fewer is {r['times_faster']} times as fast a byte. " if "times_faster" in r else ""
    apart = f"Next-byte distributions differ by {r['apart']['median']} (median)." if "apart" in r else ""
    return [
        Sheet(
            "Prompts cut inside a token",
            f"{r['cuts']} cuts, {r['model']}; accuracy: the greedy text begins with the rest of the token.",
            ["healing", "accuracy", *sources, "forwards until text", "ms to heal"],
            rows,
        ),
        Sheet(
            "Byte by byte",
            f"{r['timed']} of the cuts, {r['threads']} threads. {peer}{apart}".strip(),
            [
                "engine",
                "accuracy",
                "bits a byte",
                "forwards a byte",
                "ms a byte",
                "CPU ms a byte",
                "ms prompt",
                "s to load",
            ],
            [[name, *(x[k] for k in keys)] for name, x in r.get("bytes", {}).items()],
        ),
        Sheet(
            "Two models on bytes",
            "Bits a byte of what was cut off: each model's, and those of the mean of both.",
            ["model", "bits a byte"],
            [list(x) for x in r.get("ensemble", {}).items()],
        ),
    ]


def handover(r: dict[str, Any]) -> list[Sheet]:
    pair = f"{r['draft']} beside {r['model']}"
    tasks: list[list[Value]] = [
        [task, x["positions"], x["needed"], *x["auc"].values(), *x["covered"].values()]
        for task, x in r["tasks"].items()
    ]
    first = next(iter(r["tasks"].values()))
    shares = [f"in {float(s):.0%}" for s in first["covered"]]
    fifths: list[list[Value]] = [[task, *x["by_fifth"]] for task, x in r["tasks"].items()]
    routed: list[list[Value]] = [[float(t), x["handed"], x["agreement"]] for t, x in r["routed"].items()]
    return [
        Sheet(
            "Where the large model is needed",
            f"{pair}. Needed: share of positions at which the small one would say something else. AUC: how well its "
            "uncertainty finds them. In 5%: how many of them lie where its entropy is highest.",
            ["task", "positions", "needed", *(f"AUC {name}" for name in first["auc"]), *shares],
            tasks,
        ),
        Sheet("Needed, by fifth of the answer", pair, ["task", "1st", "2nd", "3rd", "4th", "5th"], fifths),
        Sheet(
            "Handed over by threshold",
            "The fs-gen strategy over all tasks. Agreement: leading tokens equal to the large model's answer.",
            ["threshold", "handed over", "agreement"],
            routed,
        ),
    ]


def speculation(r: dict[str, Any]) -> list[Sheet]:
    from fewer.bench.speculation_sheets import tables

    return tables(r)


def long(r: dict[str, Any]) -> list[Sheet]:
    from fewer.bench.long.tables import tables

    return tables(r)


def endless(r: dict[str, Any]) -> list[Sheet]:
    names = ("plan", "tokens", "depth", "found", "kept", "kept_tokens", "kv_peak", "layers_a_token", "seconds")
    columns = [*names[:4], "sentence kept", "tokens kept", "KV peak, bytes", "layers a token", "seconds"]
    note = f"{r['model']}, context {r['context']:,}: one fact asked for in texts that are longer."
    return [Sheet("A needle beyond the context", note, columns, [[x[n] for n in names] for x in r["results"]], names=3)]


def heads(r: dict[str, Any]) -> list[Sheet]:
    from fewer.inspect.tables import heads

    return heads(r)


def trace(r: dict[str, Any]) -> list[Sheet]:
    from fewer.inspect.tables import trace

    return trace(r)


def reach(r: dict[str, Any]) -> list[Sheet]:
    bands = len(next(iter(r["perplexity"].values())))
    note = f"{r['model']}, trained on {r['context']:,} positions; one text, perplexity of the positions up to each heading."
    columns = ["way", *(f"to {(i + 1) * r['band']:,}" for i in range(bands))]
    return [Sheet("Perplexity by position", note, columns, [[way, *p] for way, p in r["perplexity"].items()])]


def fill(r: dict[str, Any]) -> list[Sheet]:
    keys = ("milliseconds", "times", "first_milliseconds", "entries_read", "bytes_scanned", "kv_bytes")
    rows = [[name, *(x.get(k) for k in keys)] for name, x in r["results"].items()]
    one = f"{r['model']}, {r.get('requests', 1)} requests of {r['length']:,} entries a kv-head, random."
    note = f"{one} x: how many times as fast as full attention."
    columns = ["plan", "ms a step", "x plain", "ms the first", "entries read", "bytes scanned", "KV bytes"]
    return [Sheet("Decoding in a filled cache", note, columns, rows, drawn=1)]


def prefill(r: dict[str, Any]) -> list[Sheet]:
    results = r["results"]
    keys = ("seconds", "times", "late", "reads", "score", "can", "kept")
    plain = next(iter(results.values()))
    tokens, n = plain["tokens"], len(plain["found"]) // len(plain["tokens"])
    of = f"{max(tokens):,} tokens" if len(tokens) == 1 else f"{len(tokens)} documents of {min(tokens):,} tokens or more"
    note = f"{r['model']}, {of}, in pieces of {r['chunk']:,}, the plans in turn. x: how many times as fast as reading all; "
    note += "late: in the last quarter. Kept: of the facts that plain tells."
    columns = ["plan", "seconds", "x plain", "x late", "entries read", "score", "plain can", "kept"]
    told = [[name, *(sum(x["found"][i::n]) / len(tokens) for i in range(n))] for name, x in results.items()]
    return [
        Sheet("Documents read sparsely", note, columns, [[n, *(x[k] for k in keys)] for n, x in results.items()], drawn=1),
        Sheet(
            "Facts told, by depth", "0 = the beginning, 1 = the end.", ["plan", *(f"{d:.2f}" for d in plain["depths"][:n])],
            told, shaded=True,
        ),
    ]  # fmt: skip


KINDS: dict[str, Callable[[dict[str, Any]], list[Sheet]]] = {
    f.__name__: f
    for f in (
        speed,
        methods,
        quality,
        healing,
        speculation,
        handover,
        long,
        reach,
        endless,
        fill,
        prefill,
        heads,
        trace,
    )
}
