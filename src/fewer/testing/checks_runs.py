"""Checks on when and with whom: a text depends on nothing but its own request.

Not on what ran before, on what runs beside it, on the pieces its prompt comes in, or on another engine in the process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from fewer.errors import CannotCombine
from fewer.plan import plan
from fewer.runner import Runner
from fewer.seams import Method
from fewer.testing.checks_text import alone, plain, same_text
from fewer.testing.companions import LONG, REPEATS, SHORT, WORDS, Broken, Fails
from fewer.testing.harness import request
from fewer.testing.held import require
from fewer.testing.rig import Played, Rig, empty
from fewer.testing.subject import Knobs, Subject

BATCH = (SHORT, WORDS, LONG[:60])
ENGINES = ((WORDS, 0), (LONG[:33], 5))  # prompt, seed of the model


def deterministic(subject: Subject) -> None:
    """A, B, A on one runner with one method object, with failures and a cancelled request between: A is A again.

    The ledger is A's again too; for a method that remembers, it is what the same requests cost on another runner."""
    for knobs in subject.settings:
        use = subject.use(knobs)
        before = [repr(vars(m)) for m in use]
        first, again = _a_b_a(subject, use, knobs)
        for a, b in zip(first, again):
            same_text(b, a, f"{knobs}: the same request, later")
        pairs: Iterable[tuple[Played, Played]] = zip(first, again)
        if any(type(m).remember is not Method.remember for m in use):
            pairs = zip([*first, *again], chain(*_a_b_a(subject, use, knobs)))
        for a, b in pairs:
            clocks = ("seconds", "lanes")
            counts = [{k: v for k, v in p.ledger.to_dict().items() if k not in clocks} for p in (a, b)]
            odd = {k: (counts[0][k], counts[1][k]) for k in counts[0] if counts[0][k] != counts[1][k]}
            require(not odd, f"{knobs}: the same request, later, has another ledger: {odd}")
        after = [repr(vars(m)) for m in use]
        require(before == after, f"{knobs}: the method object changed: {before} became {after}")


def _a_b_a(subject: Subject, use: Sequence[Method], knobs: Knobs) -> tuple[list[Played], list[Played]]:
    """A request greedy and sampled, then others, then the first two again, on one new runner."""
    runner = subject.rig.runner(subject.rig.models())
    ways: list[dict[str, Any]] = [{}, {"temperature": 1.0, "seed": 11}]
    first = [_on(runner, subject.rig, use, WORDS, **o) for o in ways]
    _on(runner, subject.rig, use, LONG[:40])
    _on(runner, subject.rig, use, REPEATS, turns=4)
    if _takes_a_rule(use):
        broken = _on(runner, subject.rig, [*use, Fails()], REPEATS, may_fail=True)
        require(type(broken.req.error) is Broken, f"{knobs}: a failure in a request was lost: {broken.req.error!r}")
        broken.req.error = None  # its traceback holds on to the store
    again = [_on(runner, subject.rig, use, WORDS, **o) for o in ways]
    empty(runner)
    return first, again


def _takes_a_rule(use: Sequence[Method]) -> bool:
    """May a rule that fails stand beside these methods?"""
    try:
        return not any(r.black_box for r in plan([*use, Fails()]).rules)
    except CannotCombine:
        return False


def _on(
    runner: Runner,
    rig: Rig,
    use: Sequence[Method],
    prompt: Sequence[int],
    turns: int = 1000,
    may_fail: bool = False,
    **o: Any,
) -> Played:
    """One request on a runner that goes on living; cancelled after so many turns."""
    played = rig.enter(runner, request(prompt, use, max_tokens=10, chunk=16, logprobs=0, **{"seed": 0, **o}))
    while turns and runner.turn():
        turns -= 1
    runner.cancel(played.req)
    if played.req.error is not None and not may_fail:
        raise played.req.error
    return played


def batch(subject: Subject) -> None:
    """Alone = batched with itself and with plain requests = in any order = in small forwards."""
    for knobs in subject.settings:
        use = subject.use(knobs)
        o: dict[str, Any] = {"max_tokens": 8, "chunk": 16}
        want = {p: alone(subject, use, p, **o) for p in BATCH}
        own = [(p, use) for p in BATCH]
        mixed: list[tuple[tuple[int, ...], Sequence[Method]]] = [*own[:2], (WORDS, ()), *own[2:], (LONG[:40], ())]
        for what, pairs, rows in (
            ("batched", mixed, 1024),
            ("in another order, in forwards of 24 rows", mixed[::-1], 24),
        ):
            got = subject.rig.play(
                subject.rig.models(), [request(p, u, logprobs=0, seed=0, **o) for p, u in pairs], rows
            )
            for played, (prompt, used) in zip(got, pairs):
                expected = want[prompt] if used else plain(subject, prompt, **o)
                kind = "the request" if used else "a plain neighbour"
                same_text(played, expected, f"{knobs}, {what}, prompt of {len(prompt)}: {kind} differs from alone")


def chunking(subject: Subject) -> None:
    """The prompt may be fed in pieces of any size."""
    for knobs in subject.settings:
        want = alone(subject, subject.use(knobs), LONG[:33], max_tokens=5, chunk=512)
        for chunk in (1, 7, 32):
            got = alone(subject, subject.use(knobs), LONG[:33], max_tokens=5, chunk=chunk)
            same_text(got, want, f"{knobs}, prompt in pieces of {chunk}")


def isolation(subject: Subject) -> None:
    """Two engines that share the method object and take turns do not hear of each other."""
    use = subject.use()
    o: dict[str, Any] = {"max_tokens": 8, "chunk": 16, "logprobs": 0, "seed": 0}
    runners, entered = [], []
    for prompt, seed in ENGINES:
        runners.append(subject.rig.runner(subject.rig.models(seed=seed)))
        entered.append(subject.rig.enter(runners[-1], request(prompt, use, **o)))
    while sum(runner.turn() for runner in runners):
        pass
    for (prompt, seed), played in zip(ENGINES, entered):
        (want,) = subject.rig.play(subject.rig.models(seed=seed), [request(prompt, subject.use(), **o)])
        require(played.req.error is None, f"with another engine taking turns it fails: {played.req.error!r}")
        same_text(played, want, "with another engine taking turns")
