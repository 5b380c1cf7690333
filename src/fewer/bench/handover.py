"""`fewer bench handover`: which positions of a text need the large model, and can the small one tell?

The large model answers the tasks' prompts greedily; the small one reads the same text and says at every position what it
would have said. Where the two differ the large one is needed. FS-GEN's questions about those positions:

    needed     share of all positions, and of each fifth of the answers
    auc        probability that the small model is less certain at a needed position than at another, by its entropy, its
               likeliest token's probability (top), that token's lead over the second
    covered    share of needed positions among the 5, 10, 20, 30% at which its entropy is highest
    routed     the fs-gen strategy at several thresholds: share of positions handed over, and the share of leading tokens
               equal to the large model's answer

Does not: sample, tune a router, compare pairs of other sizes (two models of one vocabulary are all it needs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import fewer
from fewer.bench.record import head
from fewer.bench.tasks import make
from fewer.bench.teacher import shared
from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.plan import PLAIN
from fewer.types import Group, Step, Told, chain

TASKS = ("chat", "copy", "needle")
SHARES = (0.05, 0.1, 0.2, 0.3)
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
Say = Callable[[str], None]


@dataclass
class Seen:
    """Positions of answers: needed (n,) bool, where in its answer (n,) in [0, 1), the small model's uncertainty (n,) by name."""

    needed: np.ndarray
    where: np.ndarray
    unsure: dict[str, np.ndarray]


def measure(
    model: str,
    draft: str,
    n_items: int = 6,
    tokens: int = 400,
    seed: int = 0,
    say: Say = lambda s: None,
    threads: int | None = None,
) -> dict[str, Any]:
    """{"what": "handover", ..., "tasks": {task: figures}, "routed": {threshold: figures}}.

    tokens: length of the tasks' documents. Raises BadRequest, ModelError.
    """
    if n_items < 1 or tokens < 64:
        raise BadRequest(f"n_items={n_items} must be at least 1 and tokens={tokens} at least 64")
    say(f"loading {model} and {draft}")
    eng = fewer.open(model, draft=draft, threads=threads)
    assert eng.tokenizer is not None
    encode = eng.tokenizer.encode
    tasks, routed = {}, {t: list[tuple[int, int, float]]() for t in THRESHOLDS}
    for task in TASKS:
        seen = []
        for i, item in enumerate(make(task, n_items, tokens, seed, lambda text: len(encode(text, bos=False)))):
            say(f"{task} {i + 1}/{n_items}")
            options: dict[str, Any] = {"raw": item.raw, "max_tokens": item.max_tokens, "share_prefix": False}
            answer = eng.generate(item.prompts[0], **options)
            seen.append(look(eng, answer.prompt_tokens, answer.tokens))
            for t in THRESHOLDS:
                own = eng.generate(item.prompts[0], use=[f"fs-gen:threshold={t}"], **options)
                equal = shared(own.tokens, answer.tokens) / max(len(own.tokens), len(answer.tokens))
                routed[t].append((handed(own.ledger.notes), len(own.tokens), equal))
        tasks[task] = figures(seen)
    given = f"-m {model} --draft {draft} --items {n_items} --tokens {tokens} --seed {seed}"
    return {
        **head("handover", f"fewer bench handover {given}", seed),
        "model": model,
        "draft": draft,
        "tasks": tasks,
        "routed": {
            str(t): {
                "handed": round(sum(h for h, _, _ in runs) / sum(n for _, n, _ in runs), 4),
                "agreement": round(sum(e for _, _, e in runs) / len(runs), 4),
            }
            for t, runs in routed.items()
        },
    }


def handed(notes: list[str]) -> int:
    """How many positions the strategy says it handed over."""
    return next(int(n.split()[0]) for n in notes if "handed over" in n)


def look(eng: Engine, prompt: list[int], answer: list[int]) -> Seen:
    """What the small model says at every position of the large one's answer."""
    logits = torch.cat(list(_logits(eng, [*prompt, *answer[:-1]], len(prompt) - 1)))
    p = torch.softmax(logits.double(), -1)
    best = torch.topk(p, 2).values
    unsure = {
        "entropy": -(p * p.clamp_min(1e-300).log()).sum(-1),
        "top": 1 - best[:, 0],
        "lead": 1 - (best[:, 0] - best[:, 1]),
    }
    needed = logits.argmax(-1) != torch.tensor(answer)
    where = np.arange(len(answer)) / len(answer)
    return Seen(needed.numpy(), where, {name: u.numpy() for name, u in unsure.items()})


@torch.inference_mode()
def _logits(eng: Engine, ids: list[int], first: int) -> Iterator[torch.Tensor]:
    """The draft model's logits behind tokens first, first + 1, .. of a text, a chunk a time."""
    model, store, told = eng.models["draft"], eng.stores["draft"], Told(len(ids))
    seq = store.new()
    try:
        for at in range(0, len(ids), eng.chunk):
            rows = chain(ids[at : at + eng.chunk], at)
            want = np.arange(max(0, first - at), len(rows))
            (out,), _ = model.forward(Step([Group(seq, rows, PLAIN, told, want if len(want) else None)]), store)
            store.commit(seq, rows, np.arange(len(rows)))
            if len(want):
                assert out.logits is not None
                yield out.logits
    finally:
        store.drop(seq)


def figures(seen: list[Seen]) -> dict[str, Any]:
    """The questions' answers over all positions of several texts."""
    needed = np.concatenate([s.needed for s in seen])
    where = np.concatenate([s.where for s in seen])
    unsure = {name: np.concatenate([s.unsure[name] for s in seen]) for name in seen[0].unsure}
    fifths = [needed[(where >= i / 5) & (where < (i + 1) / 5)] for i in range(5)]
    return {
        "positions": len(needed),
        "needed": round(float(needed.mean()), 4),
        "by_fifth": [round(float(part.mean()), 4) for part in fifths if len(part)],
        "auc": {name: auc(u, needed) for name, u in unsure.items()},
        "covered": {str(share): covered(unsure["entropy"], needed, share) for share in SHARES},
    }


def auc(scores: np.ndarray, labels: np.ndarray) -> float | None:
    """The probability that a labelled place has a higher score than another, ties counted half; None if all are alike."""
    yes, no = scores[labels], scores[~labels]
    if not len(yes) or not len(no):
        return None
    ordered = np.sort(no)
    below = np.searchsorted(ordered, yes, "left") + np.searchsorted(ordered, yes, "right")
    return round(float(below.mean() / 2 / len(no)), 4)


def covered(scores: np.ndarray, labels: np.ndarray, share: float) -> float | None:
    """The share of labelled places among the `share` of all places whose scores are highest; None if none is labelled."""
    if not labels.any():
        return None
    chosen = np.argsort(-scores, kind="stable")[: round(share * len(scores))]
    return round(float(labels[chosen].sum() / labels.sum()), 4)
