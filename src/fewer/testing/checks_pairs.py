"""Checks on two methods in one plan: refused at construction, naming both, or sound together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fewer.errors import CannotCombine
from fewer.plan import Seams, plan
from fewer.seams import Method
from fewer.testing.checks_text import same_text
from fewer.testing.companions import LONG, REPEATS, WORDS, Guess
from fewer.testing.harness import request
from fewer.testing.held import differ, require
from fewer.testing.rig import Played
from fewer.testing.subject import Subject

PROMPTS = (REPEATS, WORDS)
CHUNK = 16
OPTIONS: dict[str, Any] = {"max_tokens": 10, "chunk": CHUNK, "logprobs": 0, "seed": 0}


def together(a: Subject, b: Subject) -> list[Method]:
    """One fresh method of each; a drafter only if neither brings one."""
    methods = [*a.use(), *b.use()]
    real = [m for m in methods if type(m) is not Guess]
    return real if len(real) == len(methods) or any(m.seam == "propose" for m in real) else [*real, Guess()]


def combined(use: Sequence[Method], name_a: str, name_b: str) -> Seams | None:
    """The plan, or None if it is refused in both orders with a message that names both methods."""
    said = []
    for order in (use, use[::-1]):
        try:
            bundle = plan(order)
        except CannotCombine as e:
            said.append(str(e))
    if not said:
        return bundle
    require(len(said) == 2, f"{name_a} and {name_b} are refused in one order only: {said[0]}")
    for text in said:
        require(name_a in text and name_b in text, f"the refusal of {name_a} and {name_b} does not name both: {text}")
    return None


def pair(a: Subject, b: Subject) -> None:
    """Side by side in one batch each says what it says alone; in one plan they are refused, or sound together."""
    neighbours(a, b)
    combination(a, b)


def combination(a: Subject, b: Subject) -> None:
    """In one plan: refused; or it runs, adds up, says the same again, named in the other order and in a batch; and beside
    a lossless one the other's text and cache stay."""
    use = together(a, b)
    if combined(use, a.name, b.name) is None:
        return
    first = [_one(a, use, p) for p in PROMPTS]
    for got, want in zip(_again(a, b, use), first):
        same_text(got, want, f"the pair again, in the other order, in a batch; prompt of {len(want.req.prompt)}")
    for harmless, other in ((a, b), (b, a)):
        judged = (harmless.seam, other.seam) == (
            "propose",
            "accept",
        )  # what a lossy rule lets stand depends on the draft
        if "lossless" in harmless.claims and not (judged and "lossy" in other.claims):
            for got, prompt in zip(first, PROMPTS):
                want = _by_itself(other, prompt)
                same_text(got, want, f"{harmless.name} is lossless, but beside it {other.name} says something else")
                gap = differ(got.cache["main"], want.cache["main"], want.tolerance)
                where = f"{harmless.name} is lossless, but beside it {other.name} holds something else"
                require(gap is None, f"{where}: {gap}")


def _again(a: Subject, b: Subject, use: Sequence[Method]) -> list[Played]:
    """The same method objects on the same prompts once more, in every way that may not matter: named in the other order
    if they act at different seams, with a plain request in one batch of small forwards if both claim that."""
    use = use[::-1] if a.seam != b.seam else use
    if "batch-invariant" not in a.claims & b.claims:
        return [_one(a, use, p) for p in PROMPTS]
    requests = [request(p, u, **OPTIONS) for p, u in zip((*PROMPTS, LONG[:40]), (use, use, ()))]
    return a.rig.play(a.rig.models(), requests, max_rows=40)[: len(PROMPTS)]


def neighbours(*subjects: Subject) -> None:
    """Requests with different methods share forwards and nothing else: all those that claim it, in one batch."""
    both = [(p, s) for p in PROMPTS for s in subjects if "batch-invariant" in s.claims]
    if len(both) <= len(PROMPTS):
        return
    rig = subjects[0].rig
    got = rig.play(rig.models(), [request(p, s.use(), **OPTIONS) for p, s in both], max_rows=len(both) * CHUNK)
    for played, (prompt, s) in zip(got, both):
        beside = " and ".join(o.name for o in subjects if o is not s)
        same_text(played, _by_itself(s, prompt), f"{s.name} in a batch with {beside}, prompt of {len(prompt)}")


@functools.lru_cache(maxsize=256)
def _by_itself(subject: Subject, prompt: tuple[int, ...]) -> Played:
    """One method alone; remembered, since every pair asks."""
    return _one(subject, subject.use(), prompt)


def _one(subject: Subject, use: Sequence[Method], prompt: Sequence[int]) -> Played:
    (played,) = subject.rig.play(subject.rig.models(), [request(prompt, use, **OPTIONS)])
    return played
