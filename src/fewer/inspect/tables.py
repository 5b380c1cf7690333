"""Results of `fewer inspect heads` and `fewer trace` as tables; shaded ones are heat maps in the HTML page."""

from __future__ import annotations

from typing import Any

from fewer.bench.sheets import Sheet


def heads(r: dict[str, Any]) -> list[Sheet]:
    out = []
    for name, x in r["texts"].items():
        note = f"Mean weight that each query head puts on the first token of a text of {name}: dark heads are at rest."
        columns = ["layer", *(f"head {h}" for h in range(len(x["sink"][0])))]
        out.append(
            Sheet(f"Sink rate, {name}", note, columns, [[i, *row] for i, row in enumerate(x["sink"])], shaded=True)
        )
        note = (
            "The first token beside the median one: length of its values (smallest over kv-heads) and of its residual."
        )
        rows = [
            [i, sum(d > 0.5 for d in x["dormant"][i]), min(v), p] for i, (v, p) in enumerate(zip(x["drain"], x["peak"]))
        ]
        out.append(Sheet(f"Drain and peak, {name}", note, ["layer", "heads mostly at rest", "value", "residual"], rows))
    if len(r["texts"]) > 1:
        note = f"Difference of the sink rates on {' and '.join(r['texts'])}: heads that wake for one of them."
        columns = ["layer", *(f"head {h}" for h in range(len(r["differs"][0])))]
        out.append(
            Sheet("Awake by kind of text", note, columns, [[i, *d] for i, d in enumerate(r["differs"])], shaded=True)
        )
    return out


def trace(r: dict[str, Any]) -> list[Sheet]:
    note = f"{r['question']} {r['answer']} - attention of the answer to each passage's strongest tokens."
    rows = [[f"{p['place']}: {p['text'][:60]}", p["score"]] for p in r["passages"]]
    return [Sheet("What the answer rests on", note, ["passage", "score"], rows, drawn=1)]
