"""`fewer train patterns`: which sparse pattern suits each head and how much it needs to read (MInference, section 3.2).

Documents are read densely. At every layer, for the last block of each piece, every candidate, a pattern with its room, picks
its places as it would; its error is how far what the block's rows would get is from what they do get, for the query head
that suffers most:

    error(candidate) = max over query heads of the mean over rows of ||softmax over picked(z) v - o||^2 / ||o||^2

Then head_effects.py measures what it matters that a head reads sparsely, and the heads share what they may read: again and
again the head and candidate that save most for what they cost more,

    saved = effect(head) * (error(now) - error(then)) / error(best candidate of room 1)

Few heads need everything and get it, others next to nothing. (The authors search budgets by the local error alone. With
it, even relative to what a head gives, heads of the last layers are served first, which nothing that is read later needs.)
What the file saves over one pattern for all is measured on further documents that took no part.
Does not: look at tasks.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from fewer.bench.record import save
from fewer.bench.tasks import prose
from fewer.engine import Engine
from fewer.kv.view import View
from fewer.methods.select.prompt_patterns import PromptPatterns
from fewer.parts.patterns import Pattern, Piece, pick
from fewer.seams import Blocks, Full, Select
from fewer.train.head_effects import Head, effects
from fewer.train.session import Session
from fewer.types import Told

KINDS = (
    Pattern("a-shape"),
    Pattern("vertical-slash", 0.2),
    Pattern("vertical-slash", 0.5),
    Pattern("vertical-slash", 0.8),
    Pattern("block-sparse"),
)
ROOMS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)  # of what heads read on average
WHOLE = Pattern("whole")
CANDIDATES = (*(replace(kind, room=room) for room in ROOMS for kind in KINDS), WHOLE)
AVERAGE = [i for i, p in enumerate(CANDIDATES) if p.room == 1.0 and p != WHOLE]
MOST = 8  # heads that the report names
PerHead = dict[Head, list[float]]  # an error a candidate
BLOCK, LOOK = PromptPatterns.block, PromptPatterns.look
TINY = 1e-30


@dataclass
class Errors:
    """Sums over what was read: layer, kv-head -> an error a candidate."""

    of: PerHead = field(default_factory=dict)


@dataclass(frozen=True)
class Survey(Select):
    """Reads all, and notes how far each candidate would have been off."""

    acts = "prompt"

    errors: Errors = field(default_factory=Errors, hash=False, compare=False)
    room: float = 0.15  # places a block, as a share of the entries before it

    def pick_blocks(self, layer: int, q: torch.Tensor, view: View, told: Told, state: Any, full: Full) -> Blocks | None:
        held = int(view.lens()[0]) - len(q)
        if held < 4 * BLOCK or told.windows[layer] is not None:
            return None
        room = max(BLOCK, round(self.room * held))
        for h, group in enumerate(q.chunk(view.n_heads, 1)):
            k, v = view.keys(h).to(q.dtype), view.values(h).to(q.dtype)
            first = (len(q) - 1) // BLOCK * BLOCK
            piece = Piece(group, k, q.shape[-1] ** -0.5, BLOCK, room, LOOK)
            z = torch.einsum("mgd,nd->mgn", group[first:], k) * piece.scale
            hidden = torch.arange(len(k)) > torch.arange(held + first, len(k))[:, None]
            z.masked_fill_(hidden[:, None], float("-inf"))
            exact = torch.softmax(z, -1) @ v
            sums = self.errors.of.setdefault((layer, h), [0.0] * len(CANDIDATES))
            for i, candidate in enumerate(CANDIDATES[:-1]):
                places = torch.cat([pick(candidate, piece)[0][-1], torch.arange(held + first, len(k))])
                got = torch.softmax(z[..., places], -1) @ v[places]
                off = (got - exact).pow(2).sum(-1) / exact.pow(2).sum(-1).clamp_min(TINY)
                sums[i] += float(off.mean(0).max())
        return None


def train(session: Session, output: Path, tokens: int, documents: int, room: float, command: str) -> dict[str, Any]:
    """Search, write `output` (JSON), and say how far off the choice and the best single pattern are on held-out text."""
    eng, found, held_out = session.eng, Errors(), Errors()
    texts = [_text(eng, f"patterns {session.seed} {i}", tokens) for i in range(documents + 1)]
    for i, text in enumerate(texts):
        session.say(f"document {i + 1} of {len(texts)}: {tokens} tokens")
        survey = Survey(held_out if i == documents else found, room)
        eng.generate(text, use=[survey], raw=True, max_tokens=1, share_prefix=False)
        if session.over() and i < documents - 1:
            break
    first = {key: min((of[i], i) for i in AVERAGE) for key, of in found.of.items()}
    heads = {key: CANDIDATES[i] for key, (_, i) in first.items()}
    matters = effects(eng, texts[0], heads, max(BLOCK, round(room * tokens)), session.over, session.say)
    weight = {key: matters[key] / max(least, TINY) for key, (least, _) in first.items()}
    best = share({key: [weight[key] * e for e in of] for key, of in found.of.items()}, room)
    spec = eng.model.spec
    chosen = [[best.get((n, h), Pattern()) for h in range(spec.n_kv_heads)] for n in range(spec.n_layers)]
    data = {"patterns": [[[p.kind, p.columns, p.room] for p in layer] for layer in chosen], "command": command}
    save(output, data)
    test = held_out.of or found.of
    total, most = sum(matters.values()), sorted(matters, key=lambda key: -matters[key])[:MOST]
    return {
        "patterns": dict(Counter(map(_name, best.values()))),
        "rooms": dict(sorted(Counter(p.room for p in best.values() if p != WHOLE).items())),
        "whole": [f"layer {n}, head {h}" for (n, h), p in sorted(best.items()) if p == WHOLE],
        "share_of_the_effect": {f"layer {n}, head {h}": round(matters[n, h] / total, 3) for n, h in most if total},
        "error_of_the_choice": _total(test, weight, {key: CANDIDATES.index(p) for key, p in best.items()}),
        "error_of_one_pattern_for_all": {
            _name(CANDIDATES[i]): _total(test, weight, dict.fromkeys(test, i)) for i in AVERAGE
        },
    }


def _total(errors: PerHead, weight: dict[Head, float], chosen: dict[Head, int]) -> float:
    return round(sum(weight[key] * of[chosen[key]] for key, of in errors.items()), 6)


def share(errors: PerHead, room: float) -> dict[Head, Pattern]:
    """A candidate for each head, so that heads read 1 on average and the sum of errors is small: again and again the head
    and candidate that save most error for what they cost more. room: what 1 is, as a share of a whole document, half of
    which a row has before it on average."""
    prices = [0.5 / room if p == WHOLE else p.room for p in CANDIDATES]
    least = min(prices)
    now = {key: min((e, i) for i, e in enumerate(of) if prices[i] == least)[1] for key, of in errors.items()}
    left = (1 - least) * len(errors)
    while True:
        steps = [
            ((of[now[key]] - of[i]) / (price - prices[now[key]]), key, i)
            for key, of in errors.items()
            for i, price in enumerate(prices)
            if 0 < price - prices[now[key]] <= left and of[i] < of[now[key]]
        ]
        if not steps:
            return {key: CANDIDATES[i] for key, i in now.items()}
        _, key, i = max(steps)
        left -= prices[i] - prices[now[key]]
        now[key] = i


def _name(pattern: Pattern) -> str:
    return f"{pattern.kind} {pattern.columns:g}" if pattern.kind == "vertical-slash" else pattern.kind


def _text(eng: Engine, seed: str, tokens: int) -> list[int]:
    assert eng.tokenizer is not None
    encode = eng.tokenizer.encode
    return encode("\n\n".join(prose(random.Random(seed), tokens, lambda t: len(encode(t, bos=False)))))
