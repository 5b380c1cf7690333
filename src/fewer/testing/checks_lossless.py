"""Checks of the claim `lossless`: the same tokens when greedy, the same distribution when sampled.

Greedy: many prompts and limits, with the text's end inside a draft. Sampled: every branch of every draw is enumerated on
a vocabulary of four, so the two distributions are compared exactly, with every sampling parameter inside the draft.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fewer.request import Request
from fewer.seams import Method
from fewer.testing.checks_text import DRAFTS, alone, plain, same_text
from fewer.testing.companions import CYCLE, FEW, LONG, REPEATS, SHORT, WORDS, NoRepeat
from fewer.testing.enumerate import distribution, total_variation
from fewer.testing.harness import request
from fewer.testing.held import before, differ, fresh, require
from fewer.testing.rig import Played, Rig
from fewer.testing.subject import Knobs, Subject
from fewer.testing.tiny import VARIANTS

SAMPLED: tuple[tuple[dict[str, Any], tuple[Method, ...]], ...] = (
    ({"temperature": 1.0, "top_k": 3}, ()),
    (
        {
            "temperature": 0.7,
            "top_p": 0.9,
            "repetition_penalty": 1.3,
            "presence_penalty": 0.4,
            "frequency_penalty": 0.3,
        },
        (),
    ),
    ({"temperature": 1.3, "min_p": 0.1, "logit_bias": {2: 0.8}}, ()),
    ({"temperature": 1.0, "top_k": 2, "min_tokens": 2, "eos": (3, 1), "max_tokens": 4}, ()),
    ({"temperature": 1.0}, (NoRepeat(),)),
)


def lossless_greedy(subject: Subject) -> None:
    """The plain text token by token, wherever it ends: at any length, at any stop token, after a minimum."""
    for knobs in subject.settings:
        tried = [_same(subject, knobs, p, max_tokens=16) for p in (SHORT, WORDS, REPEATS, LONG[:80])]
        tried += [_same(subject, knobs, REPEATS, v, max_tokens=10) for v in VARIANTS if v != "qwen3"]
        shaped: dict[str, Any] = {"repetition_penalty": 1.2, "frequency_penalty": 0.2, "logprobs": None}
        tried += [_same(subject, knobs, p, max_tokens=16, **shaped) for p in (WORDS, REPEATS)]
        if subject.seam not in DRAFTS:
            continue
        ends: list[dict[str, Any]] = [{"max_tokens": n} for n in range(1, 13)]
        for stop in range(8):
            ends.append({"max_tokens": 12, "eos": (stop,)})
            ends.append({"max_tokens": 20, "stop_tokens": (stop,), "min_tokens": 7})
        tried += _ends(subject, knobs, ends)
        for what in ("accepted", "rejected"):
            n = sum(getattr(p.ledger, f"{what}_tokens") for p in tried)
            require(n, f"{dict(knobs)}: no draft was ever {what}, so nothing was shown; give settings that draft more")


def _ends(subject: Subject, knobs: Knobs, ends: Sequence[dict[str, Any]]) -> list[Played]:
    """The same text with many ends; in one batch where the method claims that a batch is nothing."""
    if "batch-invariant" not in subject.claims:
        return [_same(subject, knobs, CYCLE, "cycle", **o) for o in ends]
    requests = [request(CYCLE, subject.use(knobs), **{"logprobs": 0, "seed": 0, **o}) for o in ends]
    got = subject.rig.play(subject.rig.models("cycle"), requests, max_rows=len(ends) * len(CYCLE))
    return [_is_plain(subject, knobs, g, CYCLE, "cycle", **o) for g, o in zip(got, ends)]


def _same(subject: Subject, knobs: Knobs, prompt: Sequence[int], variant: str = "qwen3", **o: Any) -> Played:
    return _is_plain(subject, knobs, alone(subject, subject.use(knobs), prompt, variant, **o), prompt, variant, **o)


def _is_plain(
    subject: Subject, knobs: Knobs, got: Played, prompt: Sequence[int], variant: str = "qwen3", **o: Any
) -> Played:
    want = plain(subject, prompt, variant, **o)
    same_text(got, want, f"{dict(knobs)}, {variant}, prompt of {len(prompt)}, {o}")
    require(
        got.ledger.generated_tokens == len(got.tokens), f"{o}: the ledger counts {got.ledger.generated_tokens} tokens"
    )
    return got


def lossless_sampled(subject: Subject) -> None:
    """Total variation 0 from plain sampling under temperature, top-k, top-p, min-p, penalties, bias, min_tokens, a rule."""
    for knobs in subject.settings:
        drafted = 0
        for options, extra in SAMPLED:
            got, n = _sampled(subject.rig, subject.use(knobs, vocab=4), options, extra)
            want = _plainly_sampled(subject.rig, SAMPLED.index((options, extra)))
            drafted += n
            tv = total_variation(got, want)
            require(
                tv <= 1e-9, f"{dict(knobs)}, {options}, rules {extra}: total variation {tv:.3g} from plain sampling"
            )
        if subject.seam in DRAFTS:
            require(drafted, f"{dict(knobs)}: no token was ever drafted, so nothing was shown")


@functools.lru_cache(maxsize=64)
def _plainly_sampled(rig: Rig, which: int) -> dict[tuple[int, ...], float]:
    return _sampled(rig, (), *SAMPLED[which])[0]


def _sampled(
    rig: Rig, use: Sequence[Method], options: dict[str, Any], extra: Sequence[Method]
) -> tuple[dict[tuple[int, ...], float], int]:
    """The exact distribution of texts, and how many tokens were drafted on the way."""
    models, drafted = rig.models("llama", vocab=4, layers=2), 0

    def run(rng: Any) -> tuple[int, ...]:
        nonlocal drafted
        req = request(FEW, [*use, *extra], rng=rng, **{"max_tokens": 3, **options})
        rig.play(models, [req])
        drafted += req.ledger.drafted_tokens
        return tuple(req.tokens)

    return distribution(run), drafted


def identity_sampled(subject: Subject) -> None:
    """At its `full` knobs a lossy way of drafting gives the plain law; its draws need not be the plain run's, seed by seed."""
    lossless_sampled(replace(subject, settings=({**subject.settings[0], **subject.full},)))


def rollback(subject: Subject) -> None:
    """After drafts were rejected, every model's cache is what a fresh prefill of the same tokens makes.

    A draft model is rolled back when it drafts again, so its cache is looked at as far as the text stood at its last draft:
    one forward of the main model before the end, or two where the last one had no room for a draft.
    """
    for knobs in subject.settings:
        rejected = 0
        for prompt in (WORDS, REPEATS):
            for variant in ("qwen3", "gemma3"):
                models = subject.rig.models(variant)
                req, lengths = request(prompt, subject.use(knobs), max_tokens=16, chunk=16), [0, 0]

                def note(_: Any, req: Request = req, lengths: list[int] = lengths) -> None:
                    if len(req.tokens) > lengths[-1]:
                        lengths.append(len(req.tokens))

                (got,) = subject.rig.play(models, [req], each_turn=note)
                text = [*req.kept_prompt, *got.tokens]
                sure = len(req.kept_prompt) + lengths[-3]
                for method in req.seams.methods():
                    models |= method.brings(models["main"])
                for model, cache in got.cache.items():
                    end = cache.next_pos if model == "main" else min(cache.next_pos, sure)
                    gap = differ(before(cache, end), fresh(models[model], text[:end]), got.tolerance)
                    require(
                        gap is None, f"{dict(knobs)}, {variant}, model {model!r}: not a fresh prefill's cache: {gap}"
                    )
                held = got.cache["main"].next_pos
                require(
                    held == len(text) - 1,
                    f"{dict(knobs)}, {variant}: {held} tokens are cached, expected {len(text) - 1}",
                )
                rejected += got.ledger.rejected_tokens
        require(rejected, f"{dict(knobs)}: no draft was rejected, so nothing was shown")
