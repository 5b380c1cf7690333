"""Checks on what is said: the identity at `full`, drafts that change nothing, decisions replayed by a naive decoder."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from fewer.plan import plan
from fewer.seams import Method
from fewer.testing.companions import CYCLE, LONG, REPEATS, WORDS, Oracle
from fewer.testing.held import differ, require
from fewer.testing.replay import Decisions, Replay, recorded
from fewer.testing.rig import Played, Rig, as_it_is
from fewer.testing.subject import Subject
from fewer.testing.tiny import VARIANTS

CACHE_SEAMS = ("retain", "select", "codec", "route")
DRAFTS = ("propose", "accept")
WHOLLY = ("qwen3", "gemma3")  # families that between them have every structure but biases


def alone(subject: Subject, use: Sequence[Method], prompt: Sequence[int], variant: str = "qwen3", **o: Any) -> Played:
    """One request by itself on the subject's rig, with log probabilities."""
    return subject.rig.alone(use, prompt, variant, **o)


@functools.lru_cache(maxsize=512)
def _plain(rig: Rig, prompt: tuple[int, ...], variant: str, options: tuple[tuple[str, Any], ...]) -> Played:
    return rig.alone((), prompt, variant, **dict(options))


def plain(subject: Subject, prompt: Sequence[int], variant: str = "qwen3", **options: Any) -> Played:
    """The same request without any method on the same rig; remembered, since many checks ask."""
    return _plain(subject.rig, tuple(prompt), variant, tuple(sorted(options.items())))


def same_text(got: Played, want: Played, where: str) -> None:
    """Equal tokens and finish reason; log probabilities equal up to rounding."""
    require(got.tokens == want.tokens, f"{where}: tokens {got.tokens}, expected {want.tokens}")
    reasons = got.req.finish_reason, want.req.finish_reason
    require(reasons[0] == reasons[1], f"{where}: finish reason {reasons[0]!r}, expected {reasons[1]!r}")
    if got.logprobs and want.logprobs:
        gap = max(abs(a - b) for a, b in zip(got.logprobs, want.logprobs))
        require(gap <= want.tolerance, f"{where}: log probabilities differ by {gap:.3g}")


def identity(subject: Subject) -> None:
    """At its `full` knobs a method changes nothing: same tokens, same log probabilities, same cache, on every family;
    sampled and over several chunks on a plain one and on one with windows, full layers, caps and norms.

    Sampled drafts may be judged by draws of their own: there `identity-sampled` compares laws."""
    ways: tuple[tuple[Sequence[int], dict[str, Any]], ...] = (
        (WORDS, {}),
        (REPEATS, {"temperature": 1.0, "seed": 3}),
        (LONG[:50], {"max_tokens": 4}),
    )
    for variant in VARIANTS:
        for prompt, options in ways if variant in WHOLLY else ways[:1]:
            if "temperature" in options and drafts_lossily(subject):
                continue
            o = {"max_tokens": 10, "chunk": 16, **options}
            where = f"{variant}, prompt of {len(prompt)}, {o}"
            got = alone(subject, subject.use(subject.full), prompt, variant, **o)
            want = plain(subject, prompt, variant, **o)
            same_text(got, want, where)
            if subject.seam in CACHE_SEAMS:
                gap = differ(got.cache["main"], want.cache["main"], want.tolerance)
                require(gap is None, f"{where}: the final cache is not the plain one: {gap}")


def drafts_lossily(s: Subject) -> bool:
    """Does its text depend on what is drafted?"""
    return s.seam in DRAFTS and "lossy" in s.claims


def acts(subject: Subject) -> None:
    """A lossy method does something at its settings: otherwise the other checks would say nothing about it."""
    for knobs in subject.settings:
        got = alone(subject, subject.use(knobs), LONG[:64], max_tokens=8, chunk=16)
        want = plain(subject, LONG[:64], max_tokens=8, chunk=16)
        same = got.logprobs == want.logprobs and differ(got.cache["main"], want.cache["main"], 0.0) is None
        require(not same, f"{dict(knobs)}: nothing differs from a plain run; give settings that act on short prompts")


def drafts(subject: Subject) -> None:
    """Drafted trees, right and wrong, change neither the text nor the cache: where a draft could, none may be asked for."""
    for knobs in subject.settings:
        for variant, o in (("qwen3", {}), ("mistral", {"temperature": 1.0, "seed": 5})):
            options: dict[str, Any] = {"max_tokens": 14, "chunk": 16, **o}
            want = alone(subject, subject.use(knobs), WORDS, variant, **options)
            oracle = Oracle(script=(*want.req.kept_prompt, *want.tokens))
            got = alone(subject, [*subject.use(knobs), oracle], WORDS, variant, **options)
            same_text(got, want, f"{knobs}, {variant}, with drafts")
            gap = differ(got.cache["main"], want.cache["main"], want.tolerance)
            require(gap is None, f"{knobs}, {variant}: after drafts the final cache is another: {gap}")


def replay(subject: Subject) -> None:
    """The method's decisions, carried out naively token by token on lists, give the same log probabilities and tokens."""
    for knobs in subject.settings:
        for variant, prompt in (
            ("gemma3", LONG[:40]),
            ("cycle", CYCLE) if subject.seam == "propose" else ("qwen3", LONG[:30]),
        ):
            log = Decisions()
            use = [recorded(m, log) for m in subject.use(knobs)]
            got = alone(subject, use, prompt, variant, max_tokens=8, chunk=16)
            text = [*got.req.kept_prompt, *got.tokens[:-1]]
            model = replace(subject.rig, wrap=as_it_is).models(variant)["main"]
            logp = Replay(model, log, plan(use).place).text(text)[len(got.req.kept_prompt) - 1 :]
            for i, (token, said, lp) in enumerate(zip(got.tokens, got.logprobs, logp)):
                where, naive = f"{dict(knobs)}, {variant}, token {i}", float(lp[token])
                near = abs(naive - said) <= got.tolerance
                require(near, f"{where} has log probability {said:.12g}, replayed naively {naive:.12g}")
                best = float(lp.max())
                require(
                    naive >= best - got.tolerance, f"{where} has log probability {naive:.12g}, the best has {best:.12g}"
                )


def float32(subject: Subject) -> None:
    """`replay` in float32, where the native kernels do the work; at the first settings."""
    replay(replace(subject, settings=subject.settings[:1], rig=replace(subject.rig, dtype=torch.float32)))
