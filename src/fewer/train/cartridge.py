"""Trains the entries of methods/transform/given_entries.py: a document as p keys and values a layer and kv-head.

    study   loss = - sum_i p_i log q_i at every answer token of a conversation about the document (study.py)
    plain   loss = - log q(next token) of the document itself: what the paper compares with

p is what the model said with the piece in its context, cut to its likeliest tokens, q the model with the entries and without
the piece. The start is what the model holds of the document's first p tokens; the first entry, a sink, stays as it is. Only
the entries are trained: gradients run through the frozen model. Steps are taken in units of a layer's typical size.
Afterwards, on conversations that training never saw: divergence and perplexity without the document, with all of it in the
context, with the start and with what was learnt, by the engine's own forward, and the bytes that each takes in the store.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from fewer.attend.reader import unrotated
from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.methods.transform.given_entries import KIND
from fewer.models.decoder import Decoder
from fewer.models.load import load
from fewer.parts.trained import write
from fewer.train.behind import Entries, gap, held, states, turned
from fewer.train.frozen import distil, past
from fewer.train.said import Spoken
from fewer.train.session import Session
from fewer.train.study import SYSTEM, Talk, converse, message

RATE = 0.02  # of a layer's own typical size
BATCH = 2  # conversations a step
LINE = 192  # most tokens of the document in a plain lesson
PIECES, JUDGED = 1000, 4  # pieces of the document to learn from, at most; to judge by
LESSONS = ("study", "plain")


def train(session: Session, output: Path, document: str, entries: int, lesson: str, command: str) -> dict[str, object]:
    """Learn a document and write its entries; returns what they reach."""
    eng = session.eng
    assert eng.tokenizer is not None
    ids = eng.tokenizer.encode(document, bos=False)
    if not 2 <= entries <= len(ids):
        raise BadRequest(f"--entries {entries}: the document has {len(ids)} tokens, give from 2 to that many")
    judge = converse(eng, document, JUDGED, 2 * session.seed + 1)
    learn = [line(ids, at) for at in range(0, len(ids) - 1, LINE)]
    if lesson == "study":
        talks = converse(eng, document, PIECES, 2 * session.seed, session.asked, lambda n: session.say(f"{n} talks"))
        learn = [t.said for t in talks]
    session.say("dequantising the model")
    dense, head = load(session.source, "float32"), session.head()
    whole = message(eng, "", SYSTEM.format(text=document))
    start = begin(eng.model, whole[:entries])
    sizes = [t.pow(2).mean((1, 2, 3), keepdim=True).sqrt() for t in start]
    moves = [torch.zeros_like(t[:, :, 1:]).requires_grad_() for t in start]
    optimizer = torch.optim.Adam(moves, betas=(0.9, 0.95))
    rng = np.random.default_rng(session.seed)

    def lessons(share: float) -> Iterator[torch.Tensor]:
        for i in rng.integers(len(learn), size=BATCH):
            s = learn[i]
            keys, values = moved(start, sizes, moves)
            y = states(dense, s.tokens[:-1], (turned(dense.spec, keys), values))[s.start - 1 :]
            yield distil(y, s.ids, s.logp, head, rng) / BATCH

    reached = session.descend(optimizer, RATE, lessons)
    session.say("measuring")
    keys, values = (t.detach().half() for t in moved(start, sizes, moves))
    said = [t.said for t in judge]
    report: dict[str, object] = {
        "entries": entries,
        "lesson": lesson,
        "document_tokens": len(ids),
        "steps": reached.steps,
        "lessons": len(learn),
        "loss": reached.loss,
        "judged_by": len(judge),
        "without": gap(eng.model, said),
        "in_context": gap(eng.model, [within(eng, document, t) for t in judge]),
        "start": gap(eng.model, said, start),
        "trained": gap(eng.model, said, (keys, values)),
        "kv_bytes_document": held(eng.model, whole),
        "kv_bytes_entries": held(eng.model, [], (keys, values)),
    }
    write(output, KIND, {"keys": keys, "values": values}, eng.model, {**session.about(command), **report})
    return report


def begin(model: Decoder, tokens: list[int]) -> Entries:
    """What the model holds of some tokens: keys with their rotation undone, values."""
    kv, at = past(model, torch.tensor(tokens)), np.arange(len(tokens))
    keys = [unrotated(k.transpose(0, 1), *model.angles(layer, at)).transpose(0, 1) for layer, k in enumerate(kv.keys)]
    return torch.stack(keys).clone(), torch.stack(kv.values).clone()


def moved(start: Entries, sizes: list[torch.Tensor], moves: list[torch.Tensor]) -> Entries:
    """The entries after training moved all but the first of them."""
    keys, values = (
        torch.cat([t[:, :, :1], t[:, :, 1:] + size * move], 2) for t, size, move in zip(start, sizes, moves)
    )
    return keys, values


def line(ids: list[int], at: int) -> Spoken:
    """A stretch of the document, every token but the first of which is an answer."""
    tokens = torch.tensor(ids[at : at + LINE])
    n = len(tokens) - 1
    return Spoken("line", tokens, 1, tokens[1:, None], torch.zeros(n, 1))


def within(eng: Engine, document: str, talk: Talk) -> Spoken:
    """The same answer behind a prompt that holds the whole document."""
    prompt, answer = message(eng, talk.question, SYSTEM.format(text=document)), talk.said.tokens[talk.said.start :]
    return dataclasses.replace(talk.said, tokens=torch.cat([torch.tensor(prompt), answer]), start=len(prompt))
