"""Ranking completions that somebody else proposes (identifiers that are valid here) by what the model thinks of them.

    greedy   one pass down the trie of the candidates' tokens: at each node all its children get their log probability,
             and the likeliest is followed; nodes with one child are passed without asking. A candidate is ranked by how
             far it shares the path, then by the score where it leaves it: "TreeRanker: Fast and Model-agnostic Ranking
             System for Code Suggestions in IDEs"
    exact    the log probability that the text goes on with the candidate's bytes (bytes.py), all in few forwards

Does not: normalise by length; know what is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.plan import PLAIN
from fewer.tokens.bytes import ByteModel
from fewer.types import Group, Step, Told, chain


@dataclass
class Ranked:
    """Candidates from best to worst, each with its score (greedy: depth shared and log probability; exact: one number),
    and the forwards this took."""

    order: list[str]
    scores: dict[str, tuple[float, ...]]
    forwards: int


@dataclass
class Branch:
    """A node of the candidates' trie; `ends` holds what is complete here."""

    then: dict[int, Branch] = field(default_factory=dict)
    ends: list[str] = field(default_factory=list)
    score: tuple[float, ...] = ()

    def below(self) -> list[str]:
        return self.ends + [c for b in self.then.values() for c in b.below()]


def rank(engine: Engine, text: str, candidates: Sequence[str], how: str = "greedy") -> Ranked:
    """Rank `candidates` as continuations of `text`. Raises BadRequest if either is empty."""
    if not text or not candidates or not all(candidates):
        raise BadRequest("ranking needs a text and candidates, none of them empty")
    if how == "exact":
        with ByteModel(engine).start(text) as state:
            found = state.score([c.encode() for c in candidates])
            scores: dict[str, tuple[float, ...]] = {c: (s,) for c, s in zip(candidates, found)}
            return Ranked(sorted(scores, key=lambda c: -scores[c][0]), scores, state.ledger.forwards)
    if how != "greedy":
        raise BadRequest(f"how={how!r} must be greedy or exact")
    return _greedy(engine, text, candidates)


def _greedy(engine: Engine, text: str, candidates: Sequence[str]) -> Ranked:
    if engine.tokenizer is None:
        raise BadRequest("ranking needs text, and this engine has no tokenizer")
    prompt = engine.tokenizer.encode(text)
    root = Branch()
    for c in dict.fromkeys(candidates):
        ids = engine.tokenizer.encode(text + c)
        shared = next((i for i, (a, b) in enumerate(zip(ids, prompt)) if a != b), min(len(ids), len(prompt)))
        own = ids[len(prompt) :] if shared == len(prompt) else engine.tokenizer.encode(c, bos=False)
        node = root
        for token in own:
            node = node.then.setdefault(token, Branch())
        node.ends.append(c)
    store, told, pending, done, forwards = engine.stores["main"], Told(0), list(prompt), 0, 0
    seq, scores, node, depth = store.new(), dict[str, tuple[float, ...]](), root, 0
    try:
        while node.then:
            tokens = list(node.then)
            if len(tokens) == 1 and not node.ends:
                best = 0
            else:
                rows = chain(pending, done)
                (out,), _ = engine.model.forward(
                    Step([Group(seq, rows, PLAIN, told, np.array([len(rows) - 1]))]), store
                )
                store.commit(seq, rows, np.arange(len(rows)))
                done, pending, forwards = done + len(pending), [], forwards + 1
                assert out.logits is not None
                logp = torch.log_softmax(out.logits[0].double(), -1)[torch.tensor(tokens)].numpy()
                best = int(logp.argmax())
                for i, token in enumerate(tokens):
                    if i != best:
                        scores |= dict.fromkeys(node.then[token].below(), (float(depth), float(logp[i])))
                node.then[tokens[best]].score = (float(depth), float(logp[best]))
            scores |= dict.fromkeys(node.ends, node.score or (float(depth), 0.0))
            following = node.then[tokens[best]]
            following.score = following.score or node.score
            node, depth, pending = following, depth + 1, [*pending, tokens[best]]
        scores |= dict.fromkeys(node.ends, (float(depth), node.score[1] if node.score else 0.0))
    finally:
        store.drop(seq)
    return Ranked(sorted(scores, key=lambda c: tuple(-s for s in scores[c])), scores, forwards)
