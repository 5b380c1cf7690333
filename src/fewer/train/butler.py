"""Trains the network of methods/select/foretold.py: which entries each head of each layer will want, foretold behind layer 0.

    loss = mean over layers >= 1, heads, some rows t and all j <= t of (ask_t . key_j / sqrt(16) - q_t . k_j * scale)^2

q and k are the frozen model's own, rotated, as the engine has them; the network sees the engine's hidden states. Texts are
the language reference, docstrings and functions, strung together; those that `held_out` names are only measured on
(recall.py). Layers with a sliding window are left out, as the selection leaves them alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fewer.errors import BadRequest
from fewer.methods.select.foretold import KIND
from fewer.models.decoder import Decoder
from fewer.models.size import row_macs
from fewer.parts.importance import SMALL, Weights, fresh, shapes
from fewer.parts.trained import write
from fewer.train.recall import Read, measure, perplexities, read, scores, small
from fewer.train.session import Session
from fewer.train.texts import strung

TOKENS = 1024  # of a text
TEXTS, JUDGED = 64, 3  # read at most; to judge by
ROWS = 96  # queries of a text that a step asks about
RATE = 2e-3


def train(session: Session, output: Path, command: str) -> dict[str, object]:
    """Learn the network and write it; returns what it reaches on held-out texts."""
    eng, spec = session.eng, session.eng.model.spec
    if spec.n_layers < 2 or all(spec.windows):
        raise BadRequest(f"{session.model} has no layer above the first that reads everything: nothing can be foretold")
    learn = list[Read]()
    for ids in strung(eng, TEXTS, TOKENS, session.seed, held=False):
        if learn and session.asked():
            break
        learn.append(read(eng.model, ids))
        session.say(f"reading: {len(learn)} texts")
    sizes = shapes(spec.d_model, spec.n_layers, spec.n_heads, spec.n_kv_heads)
    weights = {name: t.requires_grad_() for name, t in fresh(sizes, session.seed).items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01)
    rng = np.random.default_rng(session.seed)

    def lessons(share: float) -> Iterator[torch.Tensor]:
        yield lesson(weights, learn[rng.integers(len(learn))], eng.model, rng)

    reached = session.descend(optimizer, RATE, lessons, clip=1.0)
    session.say("measuring")
    final = {name: t.detach().half().float() for name, t in weights.items()}
    count = sum(t.numel() for t in final.values())
    texts = list(strung(eng, JUDGED, TOKENS, session.seed, held=True))
    judge = [read(eng.model, ids) for ids in texts]
    report: dict[str, object] = {
        "steps": reached.steps,
        "texts": len(learn),
        "tokens": sum(len(r.x) for r in learn),
        "parameters": count,
        "share_of_model": round(
            count / (row_macs(spec) if spec.tied else row_macs(spec) + spec.vocab * spec.d_model), 5
        ),
        "loss": reached.loss,
        "recall": measure(final, judge, eng.model),
        "recall_untrained": measure(fresh(sizes, session.seed), judge, eng.model)["foretold"],
    }
    write(output, KIND, final, eng.model, {**session.about(command), **report})
    session.say("reading sparsely")
    return {**report, "perplexity": perplexities(eng, texts, str(output))}


def lesson(weights: Weights, text: Read, model: Decoder, rng: np.random.Generator) -> torch.Tensor:
    """The loss at some rows of a text."""
    spec, n = model.spec, len(text.x)
    at = torch.from_numpy(np.sort(rng.choice(n, min(ROWS, n), replace=False)))
    later = torch.tensor([i - 1 for i in range(1, spec.n_layers) if spec.windows[i] is None])
    ask, key = (t.view(n, spec.n_layers - 1, -1, SMALL).transpose(0, 1)[later] for t in small(weights, text.x.float()))
    foretold = scores(ask[:, at], key, SMALL**-0.5)
    true = scores(text.q[later][:, at].float(), text.k[later].float(), spec.scale)
    before = torch.arange(n) <= at[:, None]  # (r, n)
    return ((foretold - true).pow(2) * before).sum() / (before.sum() * len(later) * spec.n_heads)
