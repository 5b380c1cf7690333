"""Results of a transplant as tables: for the terminal and the page."""

from __future__ import annotations

from typing import Any

from fewer.bench.sheets import Sheet, Value


def sheets(r: dict[str, Any]) -> list[Sheet]:
    """The tables of a result of transplant.report."""
    before, ways = r["before"], r["ways"]
    after = next(iter(ways.values()))
    facts = r["target_facts"]
    columns = ["text", "before", *ways]
    bits: list[list[Value]] = [
        [name, x["bits"], *(w["texts"][name]["bits"] for w in ways.values())] for name, x in before["texts"].items()
    ]
    bits.append(["mean", before["bits"], *(w["bits"] for w in ways.values())])
    tokens: list[list[Value]] = []
    for name, x in before["texts"].items():
        y = after["texts"][name]
        tokens.append([name, x["bytes"], x["tokens"], y["tokens"], 100 * (1 - y["tokens"] / x["tokens"]), y["exact"]])
    a, b = (sum(x["tokens"] for x in side["texts"].values()) for side in (before, after))
    tokens.append(["all", sum(x["bytes"] for x in before["texts"].values()), a, b, 100 * (1 - b / a), None])
    inexact = [name for name, x in after["texts"].items() if not x["exact"]]
    note = (
        f"{facts['copied']:,} of {facts['tokens']:,} rows copied, {facts['new']:,} made. Bits a byte, less is better."
    )
    if not facts["exact"]:
        note += " The target's tokenizer does not give every text back."
    if r.get("adapted"):
        note += " " + "; ".join(f"{k}: {v['steps']} steps, {v['tokens']:,} tokens" for k, v in r["adapted"].items())
    warning = f" Decoding does not give back: {', '.join(inexact)}." if inexact else ""
    out = [
        Sheet(f"{r['model']} under {r['target']}", note, columns, bits, drawn=len(columns) - 1),
        Sheet(
            "Tokens", "Saved: % fewer tokens." + warning, ["text", "bytes", "before", "after", "saved", "exact"], tokens
        ),
    ]
    if seconds := r.get("prefill_seconds"):
        x, y = seconds["before"], seconds["after"]
        row: list[Value] = ["all texts' beginnings", x, y, 100 * (1 - y / x)]
        say = "Seconds to read the same bytes, float32, best of three in turn."
        out.append(Sheet("Prefill", say, ["prompt", "before", "after", "saved %"], [row]))
    return out
