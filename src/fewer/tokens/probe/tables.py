"""Results of this room as the bench's sheets: one list for the terminal and the page."""

from __future__ import annotations

from typing import Any

from fewer.bench.sheets import Sheet, Value

LISTED = 30


def glitch(r: dict[str, Any]) -> list[Sheet]:
    """The tables of a result of glitch.find."""
    low, others = r["asked"], r["others"]
    columns = ["tokens", "asked", "glitch", "not repeated in text", "both"]
    rows: list[list[Value]] = [
        [name, *(x[k] for k in ("tokens", "glitch", "not_repeated", "both"))]
        for name, x in (("the most suspicious", low), ("others, at random", others))
        if x["tokens"]
    ]
    auc = ", ".join(f"{name.replace('_', ' ')} {x:.3f}" for name, x in r["auc"].items())
    how = "tied, so " if r["tied"] else "untied, so "
    note = (
        f"Indicator: {how}{r['indicator']}" + (f" ({r['unused']} of them)" if r["unused"] else "") + f". AUC: {auc} "
        "(tokens a text of English and code never has before those it has often). Glitch: probability below 0.01 in "
        "every prompt that asks for the token once more. Not repeated: the second opinion."
    )
    stretches: list[list[Value]] = [[f"{x['from']} to {x['to']}", 100 * x["glitch"]] for x in r["by_rank"]]
    if others["tokens"]:
        stretches.append(["at random", 100 * others["glitch"] / others["tokens"]])
    listed: list[list[Value]] = [
        [
            repr(x["text"]),
            x["id"],
            x["indicator"],
            x["chance"],
            x["type"],
            x["symptom"],
            x.get("answer", "").strip()[:24],
        ]
        for x in sorted((x for x in r["ranked"] if x["glitch"]), key=lambda x: x["indicator"])[:LISTED]
    ]
    return [
        Sheet("What is in the vocabulary", "", ["kind", "tokens"], [[k, n] for k, n in r["kinds"].items()], drawn=1),
        Sheet("Who can be repeated", note, columns, rows),
        Sheet("Glitch tokens by rank of the indicator", "%", ["rank", "glitch"], stretches, drawn=1),
        Sheet("Types of glitch tokens", "", ["type", "tokens"], [[k, n] for k, n in low["types"].items()], drawn=1),
        Sheet("How they fail", "", ["symptom", "tokens"], [[k, n] for k, n in low["symptoms"].items()], drawn=1),
        Sheet(
            "Glitch tokens",
            f"The first {LISTED} by indicator; --json has all that were asked for.",
            ["token", "id", "indicator", "chance", "type", "symptom", "answer"],
            listed,
        ),
    ]  # fmt: skip


def adversarial(r: dict[str, Any]) -> list[Sheet]:
    """The tables of a result of `fewer tokens adversarial`."""
    rows: list[list[Value]] = [
        [kind, x["text"], f"{x['left']} {x['right']}", " ".join(x["pieces"])]
        for kind in ("traps", "controls")
        for x in r[kind][:LISTED]
    ]
    sets = Sheet(
        "Words written together",
        f"{len(r['traps'])} traps and {len(r['controls'])} controls of {r['vocabulary']}; --json has all.",
        ["kind", "string", "words", "pieces"],
        rows,
        names=4,
    )
    if "asked" not in r:
        return [sets]
    x = r["asked"]
    ways: list[list[Value]] = [[name, w["items"], 100 * w["accuracy"], w["logp"]] for name, w in x["ways"].items()]
    note = (
        f"% right. The drop is {100 * x['drop']:.1f} points: {x['lost']} strings lost and {x['won']} won by the encoder's cut "
        f"(p = {x['chance']:.2g}, sign test). {x['trapped']} of the traps are traps for this model's own tokenizer."
    )
    return [
        Sheet(f"What {r['model']} makes of them", note, ["told as", "strings", "right", "log p"], ways, drawn=1),
        sets,
    ]
