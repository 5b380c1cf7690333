"""Trains the gates of methods/retain/trained_gates.py: what of a prompt each layer and kv-head must keep.

    loss = - sum_i p_i log q_i, mean over the tokens behind a prompt        + PRESSURE * |share kept - aim|

q is the frozen model whose rows read what the gates let through of a prompt and all that follows it, p the same model with
all of the prompt, cut to its likeliest tokens. A flag is 1 or 0; its gradient is that of the gate's sigmoid (straight
through), and an entry's weight in the softmax is multiplied by it, so what is evicted learns too. The share kept is the
mean over layers, heads and tokens, which differ as they like; the aim falls from 1 to `keep` and stays there. Hidden states,
keys and values of prompts are the engine's, so only the rows behind a prompt run through the model again. Texts are passages
and functions strung together; in those to learn from, and in half of those to judge by, some are said again, so that what
is far away is wanted too.
Afterwards: perplexity behind prompts cut by the gates, beside random, StreamingLLM, H2O and SnapKV at the same share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.methods.retain.trained_gates import KIND, TrainedGates
from fewer.models.decoder import Decoder
from fewer.models.layers import DenseHead
from fewer.models.load import load
from fewer.parts.gates import Weights, fresh, gate, narrow, shapes
from fewer.parts.trained import write
from fewer.plan import PLAIN
from fewer.seams import Held, Method, Retain, knob
from fewer.train.behind import states
from fewer.train.frozen import distil, entries
from fewer.train.recall import FORCED, perplexity
from fewer.train.said import TOP
from fewer.train.session import Session
from fewer.train.texts import strung
from fewer.types import Group, Step, Told, chain

TOKENS, ROWS = 640, 64  # of a text; of them, read behind a prompt in a step
TEXTS, JUDGED = 64, 2  # read at most; to judge by, of each kind
AGAIN = 0.4  # how often a passage is one that was there before
RATE = 3e-3
PRESSURE = 2.0
DESCENT = 0.5  # share of the training in which the aim falls from all to `keep`


@dataclass(frozen=True)
class Read:
    """What the engine made of a text of n tokens. x (L, n, D): what enters each layer; k (rotated), v (L, H, n, d); ids, logp
    (n, TOP): what it says behind each token. Half precision."""

    tokens: torch.Tensor
    x: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    ids: torch.Tensor
    logp: torch.Tensor


def train(session: Session, output: Path, keep: float, command: str) -> dict[str, object]:
    """Learn gates that keep a share of a prompt and write them; returns what they reach on held-out texts."""
    if not 0 < keep < 1:
        raise BadRequest(f"--keep must be a share between 0 and 1, not {keep}")
    eng, spec = session.eng, session.eng.model.spec
    learn = list[Read]()
    for ids in strung(eng, TEXTS, TOKENS, session.seed, held=False, again=AGAIN):
        if learn and session.asked():
            break
        learn.append(read(eng.model, ids))
        session.say(f"reading: {len(learn)} texts")
    session.say("dequantising the model")
    dense, head = load(session.source, "float32"), session.head()
    weights = {
        name: t.requires_grad_()
        for name, t in fresh(shapes(spec.d_model, spec.n_layers, spec.n_kv_heads), session.seed).items()
    }
    optimizer = torch.optim.AdamW(weights.values(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    rng, kept_seen = np.random.default_rng(session.seed), 1.0

    def lessons(share: float) -> Iterator[torch.Tensor]:
        nonlocal kept_seen
        aim = keep + (1 - keep) * max(0.0, 1 - share / DESCENT)
        said, kept = lesson(weights, learn[rng.integers(len(learn))], dense, head, rng)
        kept_seen += (float(kept.detach()) - kept_seen) * 0.05
        yield said + PRESSURE * (kept - aim).abs()

    reached = session.descend(optimizer, RATE, lessons, clip=1.0, note=lambda: f", kept {kept_seen:.2f}")
    session.say("measuring")
    final = {name: t.detach().half().float() for name, t in weights.items()}
    report: dict[str, object] = {
        "keep": keep,
        "steps": reached.steps,
        "texts": len(learn),
        "tokens": sum(len(r.tokens) for r in learn),
        "parameters": sum(t.numel() for t in final.values()),
        "loss": reached.loss,
    }
    write(output, KIND, final, eng.model, {**session.about(command), **report})
    for name, again in (("plain", 0.0), ("said_again", AGAIN)):
        texts = list(strung(eng, JUDGED, TOKENS, session.seed, held=True, again=again))
        session.say(f"measuring: {name}")
        report[name] = compare(eng, texts, final, str(output))
    return report


@torch.inference_mode()
def read(model: Decoder, ids: list[int]) -> Read:
    """Let the engine read a text."""
    rows, store, layers = chain(ids, 0), model.new_store(), range(model.spec.n_layers)
    seq, deeper = store.new(), [f"layer.{i}" for i in layers[:-1]]
    group = Group(seq, rows, PLAIN, Told(len(rows)), np.arange(len(rows)))
    (out,), _ = model.forward(Step([group], taps=frozenset(deeper)), store)
    store.commit(seq, rows, np.arange(len(rows)))
    assert out.logits is not None
    logp, said = torch.log_softmax(out.logits.float(), -1).topk(min(TOP, model.spec.vocab))
    tokens = torch.from_numpy(rows.tokens)
    x = torch.stack([model.head.embed(tokens), *(out.hidden[name] for name in deeper)])
    held = entries(model, store, seq)
    return Read(tokens, x.half(), torch.stack(held.keys).half(), torch.stack(held.values).half(), said, logp)


def lesson(
    weights: Weights, text: Read, dense: Decoder, head: DenseHead, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Some rows of a text behind a prompt that the gates cut: their loss, and the share that was kept."""
    n = len(text.tokens)
    rows = min(ROWS, n // 4)
    start = int(rng.integers(n // 4, n - rows + 1))
    at, flags = slice(start, start + rows), straight(weights, text.x[:, :start].float())
    y = states(dense, text.tokens[at], (text.k[:, :, :start], text.v[:, :, :start]), flags)
    return distil(y, text.ids[at], text.logp[at], head, rng), flags.mean()


def straight(weights: Weights, x: torch.Tensor) -> torch.Tensor:
    """What enters the layers, x (L, n, D) of a prompt -> flags (L, H, n), 1 or 0, with the sigmoid's gradient."""
    p = torch.sigmoid(torch.stack([gate(weights, i, narrow(weights, i, entering)) for i, entering in enumerate(x)]))
    return (p >= TrainedGates().threshold).to(p) + p - p.detach()


@dataclass(frozen=True)
class Chance(Retain):
    """Keeps random entries of the prompt, each kv-head its own: the floor that anything learnt must rise above."""

    acts = "prompt"

    share: float = knob(0.5, "share of the prompt that is kept")

    def keep(self, held: Held, told: Told, state: None) -> dict[int, list[torch.Tensor]]:
        g, n = torch.Generator().manual_seed(told.prompt_len), told.prompt_len
        size = round(self.share * n)
        return {
            layer: [torch.randperm(n, generator=g)[:size].sort().values for _ in range(held.n_heads)]
            for layer in range(held.n_layers)
        }


@torch.inference_mode()
def compare(eng: Engine, texts: Sequence[list[int]], weights: Weights, file: str) -> dict[str, float]:
    """The share of prompts that the gates keep, that of the first one's bytes in the store, and the perplexity of what stands
    behind them when each way keeps as much."""
    prompts = [ids[: len(ids) - min(FORCED, len(ids) // 2)] for ids in texts]
    flags = [straight(weights, read(eng.model, ids).x.float()) for ids in prompts]
    kept = round(float(torch.stack([f.mean() for f in flags]).mean()), 3)
    plans: dict[str, list[str | Method]] = {"full": [], "gates": [f"attention-gate:file={file}"]}
    plans["random"] = [Chance(share=kept)]
    for name in ("streaming-llm", "h2o", "snapkv"):
        plans[name] = [f"{name}:budget={kept}"]
    one, whole = (
        eng.generate(prompts[0], use=plans[name], max_tokens=1, share_prefix=False).ledger.kv_bytes_end
        for name in ("gates", "full")
    )
    return {"kept": kept, "bytes": round(one / whole, 3)} | {
        name: perplexity(eng, texts, p) for name, p in plans.items()
    }
