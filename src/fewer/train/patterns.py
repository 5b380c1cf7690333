"""`fewer train patterns`: which sparse pattern suits each head, found by reading real text in full (MInference, section 3.2).

Documents are read densely. At every layer, for the last block of each piece, every candidate picks its places as it
would; its error is how far what the block's rows would get is from what they do get, for the query head that suffers most:

    error(candidate) = max over query heads of the mean over rows of ||softmax over picked(z) v - o||^2 / ||o||^2

All candidates have the same number of places, so the least error is the best pattern of that head at that price. The heads
whose least error is greatest read all instead, a share `whole` of them: on qwen2.5-coder-0.5b one such head of 48 decides
whether a long document is remembered. (The authors search budgets too; distances that are not relative miss that head.)
What the file saves over one pattern for all is measured on further documents that took no part.
Does not: look at tasks.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fewer.bench.tasks import prose
from fewer.engine import Engine
from fewer.kv.view import View
from fewer.methods.select.prompt_patterns import PromptPatterns
from fewer.parts.patterns import Pattern, Piece, pick
from fewer.seams import Blocks, Select
from fewer.train.session import Session
from fewer.types import Told

CANDIDATES = (
    Pattern("a-shape"),
    Pattern("vertical-slash", 0.2),
    Pattern("vertical-slash", 0.5),
    Pattern("vertical-slash", 0.8),
    Pattern("block-sparse"),
)
BLOCK, LOOK = PromptPatterns.block, PromptPatterns.look
TINY = 1e-30


@dataclass
class Errors:
    """Sums over what was read: layer, kv-head -> an error a candidate."""

    of: dict[tuple[int, int], list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Survey(Select):
    """Reads all, and notes how far each candidate would have been off."""

    acts = "prompt"

    errors: Errors = field(default_factory=Errors, hash=False, compare=False)
    room: float = 0.1  # places a block, as a share of the entries before it

    def pick_blocks(self, layer: int, q: torch.Tensor, view: View, told: Told, state: Any) -> Blocks | None:
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
            for i, candidate in enumerate(CANDIDATES):
                places = torch.cat([pick(candidate, piece)[0][-1], torch.arange(held + first, len(k))])
                got = torch.softmax(z[..., places], -1) @ v[places]
                off = (got - exact).pow(2).sum(-1) / exact.pow(2).sum(-1).clamp_min(TINY)
                sums[i] += float(off.mean(0).max())
        return None


def train(
    session: Session, output: Path, tokens: int, documents: int, room: float, whole: float, command: str
) -> dict[str, Any]:
    """Search, write `output` (JSON), and say how far off the choice and the best single pattern are on held-out text."""
    eng, found, held_out = session.eng, Errors(), Errors()
    for i in range(documents + 1):
        session.say(f"document {i + 1} of {documents + 1}: {tokens} tokens")
        _read(eng, Survey(held_out if i == documents else found, room), f"patterns {session.seed} {i}", tokens)
        if session.over() and i < documents - 1:
            break
    heads = eng.model.spec.n_kv_heads
    best = {key: CANDIDATES[sums.index(min(sums))] for key, sums in found.of.items()}
    for key in sorted(best, key=lambda k: -min(found.of[k]))[: round(whole * len(best))]:
        best[key] = Pattern("whole")
    chosen = [[best.get((n, h), Pattern()) for h in range(heads)] for n in range(eng.model.spec.n_layers)]
    data = {"patterns": [[[p.kind, p.columns] for p in layer] for layer in chosen], "command": command}
    partial = output.with_suffix(".partial")
    partial.write_text(json.dumps(data) + "\n", encoding="utf-8")
    partial.replace(output)
    test = held_out.of or found.of
    single = [sum(sums[i] for sums in test.values()) for i in range(len(CANDIDATES))]
    names = [_name(p) for p in CANDIDATES]
    left = (sums[CANDIDATES.index(best[key])] for key, sums in test.items() if best[key] in CANDIDATES)
    return {
        "heads": dict(Counter(map(_name, best.values()))),
        "whole": [f"layer {n}, head {h}" for (n, h), p in sorted(best.items()) if p.kind == "whole"],
        "error_of_the_choice": round(sum(left), 3),
        "error_of_one_pattern_for_all": {n: round(e, 3) for n, e in zip(names, single)},
    }


def _name(pattern: Pattern) -> str:
    return f"{pattern.kind} {pattern.columns:g}" if pattern.kind == "vertical-slash" else pattern.kind


def _read(eng: Engine, survey: Survey, seed: str, tokens: int) -> None:
    assert eng.tokenizer is not None
    encode = eng.tokenizer.encode
    text = "\n\n".join(prose(random.Random(seed), tokens, lambda t: len(encode(t, bos=False))))
    eng.generate(text, use=[survey], raw=True, max_tokens=1, share_prefix=False)
