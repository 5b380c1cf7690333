"""`fewer tokens glitch MODEL`: which tokens did this model hardly see in training?

1. kinds.py sorts the vocabulary and ranks its ordinary tokens by an indicator from the weights.
2. The most suspicious are asked for (repeat.py), and as many others drawn at random, which says what failing means here.
3. A second opinion on each: does a greedy answer repeat it, what type of string is it, how does the answer go wrong.

The indicator is also judged without the model: do tokens a text never has rank before those it has often (AUC)?
"""

from __future__ import annotations

import itertools
import pydoc_data.topics
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.models.source import Source
from fewer.models.tokenizer import Tokenizer
from fewer.tokens.probe import kinds, repeat

SHARE, MOST = 0.02, 1000  # of the ordinary tokens that are asked for
BLOCK = 20  # tokens between two words on progress
OFTEN = 20
Say = Callable[[str], None]


def find(
    engine: Engine,
    source: Source,
    say: Say = lambda _: None,
    count: int | None = None,
    unused: Sequence[int] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """{"tied", "indicator", "kinds", "unused", "auc", "asked", "ranked": a dict a token, "others": as `asked`}.

    count: tokens asked for, None = SHARE of the ordinary ones, MOST at most; 0 = only the indicator, nothing is asked.
    unused: ids known to be unused, instead of what the vocabulary tells. Raises BadRequest."""
    if engine.tokenizer is None:
        raise BadRequest("this model has no tokenizer, so there is nothing to look for")
    tokenizer, vocab = engine.tokenizer, source.spec.vocab
    if wrong := [i for i in unused if not 0 <= i < vocab]:
        raise BadRequest(f"--unused {wrong[0]}: the vocabulary has ids 0 to {vocab - 1}")
    say("sorting the vocabulary")
    found = kinds.kinds(tokenizer, vocab)
    rows = source.raw("embed").dense().numpy()
    ordinary = np.array([i for i, kind in enumerate(found) if kind == kinds.ORDINARY])
    if source.spec.tied:
        template = (engine.chat.template if engine.chat else None) or ""
        known = list(unused) or kinds.unused(tokenizer, found, template)
        main, other = kinds.distances(rows, known)
        told: dict[str, Any] = {"indicator": "cosine distance to unused tokens", "unused": len(known)}
        second = {"without_common_direction": other}
    else:
        main, second = kinds.norms(rows), {}
        told = {"indicator": "norm of the input row", "unused": 0}
    order = ordinary[np.argsort(main[ordinary], kind="stable")]
    n = min(MOST, max(1, int(SHARE * len(order)))) if count is None else min(count, len(order) // 2)
    others = np.random.default_rng(seed).choice(order[n:], n, replace=False) if n else order[:0]
    ranked = _asked(engine, order[:n], say, repeat.Types(tokenizer, vocab))
    for row in ranked:
        row["indicator"] = round(float(main[row["id"]]), 5)
    drawn = _asked(engine, others, say, repeat.Types(tokenizer, vocab))
    return {
        "tied": source.spec.tied,
        **told,
        "kinds": {kind: found.count(kind) for kind in kinds.KINDS},
        "auc": {name: round(_auc(tokenizer, ordinary, x), 4) for name, x in {"main": main, **second}.items()},
        "asked": _summary(ranked),
        "others": _summary(drawn),
        "by_rank": _by_rank(ranked),
        "ranked": ranked,
    }


def _asked(engine: Engine, tokens: np.ndarray, say: Say, types: repeat.Types) -> list[dict[str, Any]]:
    assert engine.tokenizer is not None
    out: list[dict[str, Any]] = []
    for at in range(0, len(tokens), BLOCK):
        say(f"asking: {at}/{len(tokens)}")
        some = [int(i) for i in tokens[at : at + BLOCK]]
        for token, chance, answer in zip(some, repeat.chances(engine, some), repeat.answers(engine, some)):
            text = engine.tokenizer.token_bytes(token).decode()
            row = {
                "id": token,
                "text": text,
                "chance": float(f"{chance:.3g}"),
                "glitch": chance < repeat.GLITCH,
                "type": types.of(text),
                "symptom": repeat.symptom(text, answer),
            }
            out.append(row | ({"answer": answer} if row["symptom"] else {}))
    return out


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    bad = [r for r in rows if r["glitch"]]
    return {
        "tokens": len(rows),
        "glitch": len(bad),
        "not_repeated": sum(bool(r["symptom"]) for r in rows),
        "both": sum(bool(r["symptom"]) for r in bad),
        "types": dict(Counter(r["type"] for r in bad).most_common()),
        "symptoms": dict(Counter(r["symptom"] or "repeated" for r in bad).most_common()),
    }


def _by_rank(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The share of glitch tokens in five stretches of the ranked list."""
    cuts = [round(len(rows) * i / 5) for i in range(6)]
    return [
        {"from": a + 1, "to": b, "glitch": sum(r["glitch"] for r in rows[a:b]) / (b - a)}
        for a, b in itertools.pairwise(cuts)
        if b > a
    ]


def _auc(tokenizer: Tokenizer, ordinary: np.ndarray, indicator: np.ndarray) -> float:
    """Tokens that a text of English and code never has, before those it has OFTEN."""
    seen = Counter(i for text in pydoc_data.topics.topics.values() for i in tokenizer.encode(text, bos=False))
    never = np.array([i for i in ordinary if not seen[i]])
    often = np.array([i for i in ordinary if seen[i] >= OFTEN])
    return kinds.auc(indicator[never], indicator[often]) if len(never) and len(often) else 0.5
