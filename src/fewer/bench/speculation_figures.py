"""What `fewer bench speculation` reports, computed from the answers of engines in their modes (speculators.py)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

OWN, PLAIN = "fewer", ""
PEERS = ("llama.cpp", "transformers")
DEPTHS = 8

Answers = dict[str, list[dict[str, Any]]]  # mode -> an answer an item and round


def figures(by_mode: Answers) -> dict[str, dict[str, Any]]:
    """mode -> its figures on one kind. Each answer says its "item", and may say how fast "plain" decoding of it just was."""
    plain = {a["item"]: rate(a) for a in by_mode.get(PLAIN, ())}
    return {mode: _figure(answers, plain) for mode, answers in by_mode.items()}


def _figure(answers: list[dict[str, Any]], plain: dict[Any, float | None]) -> dict[str, Any]:
    rates = [(a["item"], r) for a in answers if (r := rate(a))]
    beside = {a["item"]: a["plain"] for a in answers if a.get("plain")}
    ratios = [r / p for item, r in rates if (p := beside.get(item) or plain.get(item))]
    drafts = sum(a.get("drafts", 0) for a in answers)
    tokens = sum(len(a["ids"][0]) for a in answers)
    out: dict[str, Any] = {
        "tokens_per_second": _median([r for _, r in rates]),
        "speedup": _median(ratios),
        "tokens": tokens,
    }
    if len(ratios) > 3:
        low, _, high = statistics.quantiles(ratios, n=4)
        out["middle_half"] = [round(low, 3), round(high, 3)]
    forwards = [len(a["ids"][0]) - 1 - a["accepted"] for a in answers if "accepted" in a]
    if forwards and sum(forwards):
        out["tokens_per_forward"] = round((tokens - len(forwards)) / sum(forwards), 3)
    if drafts:
        levels = range(min(DEPTHS, max(len(a["by_depth"]) for a in answers)))
        stood = [sum(a["by_depth"][d] for a in answers if d < len(a["by_depth"])) for d in levels]
        out["right_at_depth"] = [round(n / drafts, 3) for n in stood]
        out["drafted"] = sum(a["drafted"] for a in answers)
        out["accepted"] = sum(a["accepted"] for a in answers)
    if "rests" in answers[0]:
        out["rests"] = sum(a["rests"] for a in answers)
        decoding = sum(a["decode"] for a in answers)
        out["drafting_share"] = round(sum(a["drafting"] for a in answers) / decoding, 4) if decoding else None
    return out


def rate(answer: dict[str, Any]) -> float | None:
    """Tokens a second after the first; None if there was no second."""
    more = len(answer["ids"][0]) - answer.get("first", 1)
    return more / answer["decode"] if more > 0 and answer["decode"] > 0 else None


def mean(figures: dict[str, dict[str, dict[str, dict[str, Any]]]]) -> dict[str, dict[str, float]]:
    """Geometric mean of the speed-ups over kinds, engine by engine and mode by mode."""
    held: dict[str, dict[str, list[float]]] = {}
    for engines in figures.values():
        for engine, by_mode in engines.items():
            for mode, f in by_mode.items():
                if f["speedup"] and (mode or engine == OWN):
                    held.setdefault(engine, {}).setdefault(mode, []).append(f["speedup"])
    return {e: {m: round(statistics.geometric_mean(v), 3) for m, v in modes.items()} for e, modes in held.items()}


def beside(engines: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """fewer's best mode and the peers' best speculative one: {"own", "peer", "times"}, the first two as (name, tokens/s)."""

    def best(names: Sequence[str]) -> tuple[str, float] | None:
        held = [
            (f["tokens_per_second"], f"{e} {m}") for e in names for m, f in engines.get(e, {}).items() if m or e == OWN
        ]
        held = [h for h in held if h[0]]
        return (max(held)[1].strip(), max(held)[0]) if held else None

    own, peer = best([OWN]), best(PEERS)
    times = round(own[1] / peer[1], 3) if own and peer else None
    return {"own": own, "peer": peer, "times": times}


def joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Two results of different kinds, measured alike, as one; of what both have, the newer."""
    both = {key: {**old[key], **new[key]} for key in ("kinds", "beside", "same", "failed", "engines")}
    return {
        **new,
        **both,
        "mean": mean(both["kinds"]),
        "commands": [*old.get("commands", [old["command"]]), new["command"]],
    }


def _median(values: list[float]) -> float | None:
    return round(statistics.median(values), 3) if values else None
