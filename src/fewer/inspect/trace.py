"""`fewer trace`: which passages an answer rests on (Wang et al., 2025, "AttnTrace").

    w_j   = attention of the answer's rows to token j, mean over layers, heads and rows
    score = mean of the `topk` largest w_j of a passage      a passage speaks through few tokens, the others are noise
    over `samples` random subsets of the passages: a passage's score is its mean over the subsets that hold it

Passages stand in random order in a subset, as the place in a prompt has a weight of its own (the paper keeps their order).
Passages that say the same share the attention between them; in a subset some stand alone and show. Costs one forward a
subset, not one generation. Does not: prove causes (a passage may be looked at and ignored), split long passages.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch

from fewer.engine import Engine
from fewer.errors import BadRequest, PromptTooLong
from fewer.plan import PLAIN
from fewer.seams import Watcher
from fewer.types import Group, Step, Told, chain

CHUNK = 512
Say = Callable[[str], None]


@dataclass
class Answer(Watcher):
    """Attention of all rows of a forward, summed: weight (n,) over layers, heads and rows; `parts` how many."""

    weight: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    parts: int = 0
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def probe(self, m: int, told: Told, state: Any) -> np.ndarray:
        return np.arange(m)

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Any) -> None:
        for p in probs:
            total = p.double().sum((0, 1))
            self.weight = total if not self.parts else self.weight + total
            self.parts += p.shape[0] * p.shape[1]

    def mean(self) -> np.ndarray:
        return (self.weight / self.parts).numpy()


def passages(text: str) -> list[str]:
    """A text's paragraphs, as blank lines separate them."""
    return [p for p in (part.strip() for part in text.split("\n\n")) if p]


def trace(
    eng: Engine,
    parts: Sequence[str],
    question: str,
    answer: str,
    topk: int = 5,
    samples: int = 8,
    share: float = 0.5,
    seed: int = 0,
    say: Say = lambda s: None,
) -> list[float]:
    """A score for each passage, in order; higher = the answer rests on it more. 0 for one that no subset held.

    samples 0 = all passages at once. share: of the passages, in each subset. Raises BadRequest, PromptTooLong."""
    if not parts or not answer.strip():
        raise BadRequest("to trace an answer, give at least one passage and an answer that is not empty")
    if topk < 1 or samples < 0 or not 0 < share <= 1:
        raise BadRequest(f"topk={topk} must be at least 1, samples={samples} at least 0, share={share} in (0, 1]")
    rng, sums, seen = random.Random(seed), [0.0] * len(parts), [0] * len(parts)
    size = max(1, round(share * len(parts)))
    order: list[int] = []
    for n in range(samples or 1):
        chosen = list(range(len(parts)))
        if samples:  # by turns, so that every passage is in about as many subsets
            while len(order) < size:
                order += rng.sample(range(len(parts)), len(parts))
            chosen, order = list(dict.fromkeys(order[:size])), order[size:]
        say(f"reading subset {n + 1} of {samples or 1}: {len(chosen)} of {len(parts)} passages")
        for i, score in zip(chosen, _scores(eng, [parts[i] for i in chosen], question, answer, topk)):
            sums[i] += score
            seen[i] += 1
    return [s / n if n else 0.0 for s, n in zip(sums, seen)]


@torch.inference_mode()
def _scores(eng: Engine, parts: list[str], question: str, answer: str, topk: int) -> list[float]:
    assert eng.tokenizer is not None
    text = "\n\n".join([*parts, question])
    messages = [{"role": "user", "content": text}]
    ids = eng.tokenizer.encode(text) if eng.chat is None else eng.chat.encode(eng.tokenizer, messages)
    said = eng.tokenizer.encode(answer, bos=False)
    if len(ids) + len(said) > eng.model.spec.max_context:
        raise PromptTooLong(
            f"passages, question and answer have {len(ids) + len(said)} tokens, the model's context is "
            f"{eng.model.spec.max_context}: trace with a smaller share."
        )
    store, told, look = eng.model.new_store(), Told(len(ids)), Answer()
    seq, whole = store.new(), [*ids, *said]
    cuts = [*range(0, len(ids), CHUNK), len(ids), len(whole)]
    for at, end in pairwise(cuts):
        rows = chain(whole[at:end], at)
        watch = look if at == len(ids) else None
        eng.model.forward(Step([Group(seq, rows, PLAIN, told, None, watch)]), store)
        store.commit(seq, rows, np.arange(len(rows)))
    weight = look.mean()
    return [top_mean(weight[first:last], topk) for first, last in spans(eng, ids, parts)]


def top_mean(weight: np.ndarray, k: int) -> float:
    """Mean of the k largest values (of all, if there are fewer); 0 of none."""
    return float(np.sort(weight)[-k:].mean()) if len(weight) else 0.0


def spans(eng: Engine, ids: list[int], parts: Sequence[str]) -> list[tuple[int, int]]:
    """(first, last + 1) token of each passage in a prompt, found by the bytes that its tokens spell."""
    assert eng.tokenizer is not None
    pieces = [eng.tokenizer.text_bytes(t, i == 0) for i, t in enumerate(ids)]
    text, ends, out, at = b"".join(pieces), np.cumsum([len(p) for p in pieces]), [], 0
    for part in parts:
        data = part.encode()
        begin = text.find(data, at)
        if begin < 0:
            raise BadRequest(f"the passage {part[:40]!r} is not in the prompt as it was written")
        at = begin + len(data)
        first, last = np.searchsorted(ends, [begin, at - 1], side="right")
        out.append((int(first), int(last) + 1))
    return out
