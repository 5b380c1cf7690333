"""Tables of `fewer bench speculation`."""

from __future__ import annotations

from typing import Any

from fewer.bench.sheets import Sheet, Value

OWN = "fewer"


def tables(r: dict[str, Any]) -> list[Sheet]:
    """A result of speculation.measure as sheets."""
    kinds, plans = r["kinds"], _modes(r, OWN)
    said = "; ".join(f"{name}: {why}" for name, why in r["failed"].items())
    runs = f"{r['items']} items a kind, {r['rounds']} rounds, at most {r['tokens']} tokens, {r['threads']} threads."
    means = r["mean"].get(OWN, {})
    return [
        Sheet(
            "Speed-up against own plain decoding",
            "Medians of plain's seconds a token over the mode's; the last row is the geometric mean. Plain beside itself is "
            f"this machine's noise. {runs} {said}".strip(),
            ["kind", *plans, "plain"],
            [
                *([kind, *(_of(f, OWN, p, "speedup") for p in [*plans, ""])] for kind, f in kinds.items()),
                ["all", *(means.get(p) for p in [*plans, ""])],
            ],
            drawn=min(5, len(plans)),
        ),
        Sheet(
            "Tokens a forward of the target",
            "1 is plain decoding.",
            ["kind", *plans],
            [[kind, *(_of(f, OWN, p, "tokens_per_forward") for p in plans)] for kind, f in kinds.items()],
        ),
        Sheet(
            "Right at each depth",
            "Share of the verified drafts whose first levels stand; drafting: its share of the time after the prompt; rests: "
            "how often the guard stopped a losing drafter.",
            ["plan", "kind", *map(str, range(1, 9)), "drafted", "accepted", "drafting", "rests"],
            [_depths(p, kind, f[OWN][p]) for p in plans for kind, f in kinds.items() if p in f.get(OWN, {})],
            names=2,
        ),
        Sheet(
            "Beside other engines",
            "Tokens a second of the best mode; x = how many times as fast fewer is as the best speculative mode of a peer.",
            ["kind", "fewer", "with", "best peer", "with", "x"],
            [[kind, *_best(b["own"]), *_best(b["peer"]), b["times"]] for kind, b in r["beside"].items() if b["peer"]],
        ),
        Sheet(
            "Other engines, mode by mode",
            "Tokens a second, and the speed-up against the same engine's plain decoding.",
            ["engine", "mode", *kinds, "speed-up"],
            [
                [
                    e,
                    m or "plain",
                    *(_of(f, e, m, "tokens_per_second") for f in kinds.values()),
                    r["mean"].get(e, {}).get(m),
                ]
                for e in r["engines"]
                for m in ["", *_modes(r, e)]
            ],
            names=2,
        ),
        Sheet(
            "The same text",
            "Greedy texts that are plain decoding's token for token, in one batch, with every draft verified.",
            ["plan", "same", "of", "tokens"],
            [[p, x["same"], x["of"], x["tokens"]] for p, x in r["same"].items()],
        ),
    ]


def _modes(r: dict[str, Any], engine: str) -> list[str]:
    """Speculative modes of an engine, in the order they were measured."""
    return list(dict.fromkeys(m for f in r["kinds"].values() for m in f.get(engine, {}) if m))


def _of(figures: dict[str, Any], engine: str, mode: str, key: str) -> Value:
    return figures.get(engine, {}).get(mode, {}).get(key)


def _depths(plan: str, kind: str, f: dict[str, Any]) -> list[Value]:
    right = [*f.get("right_at_depth", ()), *[None] * 8][:8]
    return [plan, kind, *right, f.get("drafted"), f.get("accepted"), f.get("drafting_share"), f.get("rests")]


def _best(held: Any) -> tuple[Value, Value]:
    return (
        (held[1], held[0].partition(" ")[2] or "plain" if held[0].startswith(OWN) else held[0])
        if held
        else (None, None)
    )
