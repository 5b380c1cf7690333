"""Longer contexts without training: another rotation of positions, another scale of scores, chosen as a model is opened.

    rope = "yarn:factor=4"      every unwindowed layer turns by another formula (rope.py), max_context grows by `factor`
    scores = "ssmax"            q.k is also times max(least, s ln n), n = keys a row may see

SSMax (Nakanishi, 2025) keeps the largest attention weight from fading as n grows. Its s is learnt; for a model that has
not learnt it, s = 1/ln(trained context) changes nothing at that length, and least = 1 nothing below it (0 = the paper's).
Does not: stretch a model whose file stretches it already, train, adapt s to layers or heads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from fewer.errors import BadRequest
from fewer.models.spec import Rope, Spec

Knobs = dict[str, float]


def _yarn(rope: Rope, knobs: Knobs) -> Rope:
    return replace(rope, attention_factor=1 + 0.1 * math.log(knobs["factor"]))


def _power(rope: Rope, knobs: Knobs) -> Rope:
    return replace(rope, power=knobs["power"])


def _truncated(rope: Rope, knobs: Knobs) -> Rope:
    middle = knobs["middle"] or 1 / knobs["factor"]
    return replace(rope, keep=knobs["keep"], drop=knobs["drop"], middle=middle)


def _alike(rope: Rope, knobs: Knobs) -> Rope:
    return rope


ROPES: dict[str, tuple[Knobs, Callable[[Rope, Knobs], Rope]]] = {  # kind -> its own knobs, what they do beside factor
    "linear": ({}, _alike),
    "ntk": ({}, _alike),
    "yarn": ({}, _yarn),
    "power": ({"power": 0.1}, _power),
    "truncated": ({"keep": 1.0, "drop": 0.125, "middle": 0.0}, _truncated),
    "random": ({}, _alike),
}
SCORES: dict[str, Knobs] = {"ssmax": {"s": 0.0, "least": 1.0}}


def stretched(spec: Spec, rope: str | None, scores: str | None) -> Spec:
    """The spec as `rope` and `scores` ask, None = as the file says. Raises BadRequest."""
    if rope is not None:
        kind, knobs = _read("rope", rope, {k: {"factor": 4.0, **own} for k, (own, _) in ROPES.items()})
        if not 1 <= knobs["factor"] <= 1024 or any(v < 0 for v in knobs.values()):
            raise BadRequest(f"rope {rope!r}: factor must be from 1 to 1024, other values at least 0")
        files = {r.kind for r, w in zip(spec.ropes, spec.windows) if w is None and r.kind != "default"}
        if files:
            raise BadRequest(f"rope {rope!r}: this model's file stretches its positions already ({', '.join(files)}).")

        def turned(old: Rope) -> Rope:
            new = replace(old, kind=kind, factor=knobs["factor"], original_context=spec.max_context)
            return ROPES[kind][1](new, knobs)

        ropes = tuple(turned(r) if w is None else r for r, w in zip(spec.ropes, spec.windows))
        spec = replace(spec, ropes=ropes, max_context=int(spec.max_context * knobs["factor"]))
    if scores is not None:
        _, knobs = _read("scores", scores, SCORES)
        trained = spec.max_context if rope is None else spec.ropes[0].original_context or spec.max_context
        if any(v < 0 for v in knobs.values()):
            raise BadRequest(f"scores {scores!r}: values must be at least 0")
        spec = replace(spec, log_scale=(knobs["s"] or 1 / math.log(trained), knobs["least"]))
    return spec


def _read(what: str, text: str, known: dict[str, Knobs]) -> tuple[str, Knobs]:
    """'kind:key=value,...' -> (kind, all its knobs)."""
    kind, _, rest = text.partition(":")
    if kind not in known:
        raise BadRequest(f"{what} {kind!r} is not one of {', '.join(known)}")
    knobs = dict(known[kind])
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        if key not in knobs:
            raise BadRequest(f"{what} {kind} has no {key!r}: it has {', '.join(knobs)}")
        try:
            knobs[key] = float(value)
        except ValueError:
            raise BadRequest(f"{what} {kind}: {key}={value!r} is not a number") from None
        if not math.isfinite(knobs[key]):
            raise BadRequest(f"{what} {kind}: {key}={value!r} is not a finite number")
    return kind, knobs
