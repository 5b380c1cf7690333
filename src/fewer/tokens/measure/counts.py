"""Figures that follow from counting: bytes per token, fertility, normalised sequence length, premium, shared load.

    bytes per token   UTF-8 bytes / tokens
    fertility         tokens / words; a word is a run between white space, so Thai or Chinese figures say little
    NSL               tokens / the reference's tokens: over the whole corpus ("sum": Getting the most out of your
                      tokenizer, 2024), or its mean over examples ("mean": the Assamese and the 22-language studies)
    premium           tokens of a text / tokens of its translation into the reference language, one tokenizer

Premium and NSL answer different questions: premium compares languages under one tokenizer, NSL tokenizers on one text.
Not done: quality of a model trained on the tokens, which none of these predicts.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fewer.errors import BadRequest
from fewer.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class Count:
    """One tokenizer on one text. `exact`: decoding gives the text's bytes back. `seconds`: of encoding."""

    nbytes: int
    words: int
    tokens: int
    exact: bool
    seconds: float

    @property
    def bytes_per_token(self) -> float:
        return self.nbytes / self.tokens

    @property
    def fertility(self) -> float:
        return self.tokens / self.words


def count(vocabulary: Vocabulary, text: str | Iterable[str]) -> Count:
    """Encode once and count; a text in stretches is never held whole. Raises BadRequest for an empty text, one of white
    space alone, or one the vocabulary makes nothing of."""
    nbytes = words = tokens = 0
    seconds, exact = 0.0, True
    for part in [text] if isinstance(text, str) else text:
        start = time.perf_counter()
        ids = vocabulary.encode(part)
        seconds += time.perf_counter() - start
        data = part.encode()
        exact = exact and vocabulary.decode(ids) == data
        nbytes, words, tokens = nbytes + len(data), words + len(part.split()), tokens + len(ids)
    if not words:
        raise BadRequest("the text has no words; give one that is not empty")
    if not tokens:
        raise BadRequest(f"{vocabulary.name} makes no token of this text, so there is nothing to count; leave it out")
    return Count(nbytes, words, tokens, exact, seconds)


def nsl(tokens: Sequence[int], reference: Sequence[int], how: str = "sum") -> float:
    """Normalised sequence length of aligned examples; 1.0 for the reference itself.

    Raises BadRequest if the examples do not match or the reference has none."""
    if len(tokens) != len(reference) or not all(reference):
        raise BadRequest("NSL needs the same examples from both tokenizers, none of them empty")
    if how == "sum":
        return sum(tokens) / sum(reference)
    if how == "mean":
        return sum(t / r for t, r in zip(tokens, reference)) / len(tokens)
    raise BadRequest(f"NSL is a ratio of sums ('sum') or a mean of ratios ('mean'), not {how!r}")


def premiums(tokens: Mapping[str, int], reference: str) -> dict[str, float]:
    """Tokens of each translation / tokens of the reference's. Raises BadRequest if the reference has no text."""
    if not tokens.get(reference):
        raise BadRequest(f"there is no text in the reference language {reference!r}; have: {', '.join(sorted(tokens))}")
    return {language: n / tokens[reference] for language, n in tokens.items()}


def speed(vocabulary: Vocabulary, texts: Iterable[str], rounds: int = 3) -> float:
    """Bytes encoded a second, the best of some rounds; pieces may be remembered from the round before."""
    texts = list(texts)
    nbytes = sum(len(t.encode()) for t in texts)
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for text in texts:
            vocabulary.encode(text)
        best = min(best, time.perf_counter() - start)
    return nbytes / max(best, 1e-9)
