"""What a frozen model says once, kept on disk, so that drafters can be trained on it as often as need be.

A folder holds numbered chunks. Chunk i is a function of the model and (seed, i) alone: 64 prompts (texts.py), the model's
greedy answers, and at every answer token the model's TOP likeliest tokens with their log probabilities. Chunks are written
in one piece, so an interrupted run is continued by the next one. What is distilled is the model as it runs here, packed
weights and all. Does not: keep hidden states (they are quicker computed than read), or sample answers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from fewer.errors import BadRequest, CorruptFile
from fewer.train.texts import KINDS, prompts

if TYPE_CHECKING:
    from fewer.engine import Engine
    from fewer.result import Result

CHUNK = 64  # prompts
ANSWER = 256  # most tokens of an answer
TOP = 16


@dataclass(frozen=True)
class Spoken:
    """One prompt and answer. tokens (n,) int64; the answer begins at `start`. ids, logp (A, TOP): the likeliest tokens at
    each of its A places, what was said first."""

    kind: str
    tokens: torch.Tensor
    start: int
    ids: torch.Tensor
    logp: torch.Tensor


def collect(
    eng: Engine,
    folder: Path,
    tokens: int,
    seconds: float,
    seed: int,
    say: Callable[[int], None],
    held: bool = False,
    over: Callable[[], bool] = lambda: False,
) -> list[Spoken]:
    """What the folder holds, after asking on until it has `tokens` answer tokens or the time is over; one chunk at least.

    held: about texts that training never sees. say(answer tokens so far). over(): stop asking. Raises BadRequest for a
    folder of another model, CorruptFile for a damaged chunk.
    """
    started, out = time.monotonic(), list[Spoken]()
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(10**6):
        path = folder / f"{'held' if held else 'said'}-{seed}-{i:04d}.safetensors"
        n = sum(len(s.ids) for s in out)
        if not path.exists():
            if out and (n >= tokens or over() or time.monotonic() - started > seconds):
                break
            room = eng.model.spec.max_context - ANSWER
            _write(path, answers(eng, prompts(eng, CHUNK, room, seed * 100_003 + i, held)), eng.name)
        out += _read(path, eng.name)
        say(sum(len(s.ids) for s in out))
    return out


def answers(eng: Engine, asked: list[tuple[str, list[int]]]) -> list[Spoken]:
    """The greedy answers to prompts of (kind, ids)."""
    said = eng.generate([ids for _, ids in asked], max_tokens=ANSWER, logprobs=TOP, share_prefix=False)
    return [heard(kind, ids, r) for (kind, ids), r in zip(asked, said)]


def heard(kind: str, ids: list[int], r: Result) -> Spoken:
    """An answer that was asked for with logprobs=TOP, as what follows the prompt `ids`."""
    best = [sorted(p.top, key=lambda t: t[0] != p.token) for p in r.logprobs]
    return Spoken(
        kind,
        torch.tensor([*ids, *r.tokens]),
        len(ids),
        torch.tensor([[t for t, _ in row] for row in best]),
        torch.tensor([[lp for _, lp in row] for row in best]),
    )


def _write(path: Path, said: list[Spoken], model: str) -> None:
    partial = path.with_suffix(f".{os.getpid()}.partial")
    save_file(
        {
            "kinds": torch.tensor([KINDS.index(s.kind) for s in said]),
            "lengths": torch.tensor([len(s.tokens) for s in said]),
            "starts": torch.tensor([s.start for s in said]),
            "tokens": torch.cat([s.tokens for s in said]).int(),
            "ids": torch.cat([s.ids for s in said]).int(),
            "logp": torch.cat([s.logp for s in said]).half(),
        },
        partial,
        {"model": model},
    )
    partial.replace(path)


def _read(path: Path, model: str) -> list[Spoken]:
    try:
        with safe_open(path, "pt") as f:
            whose = (f.metadata() or {}).get("model")
            t = {name: f.get_tensor(name) for name in ("kinds", "lengths", "starts", "tokens", "ids", "logp")}
    except (SafetensorError, OSError, ValueError) as e:
        raise CorruptFile(f"{path} is damaged ({e}); delete it and it is made again") from None
    if whose != model:
        raise BadRequest(f"{path} is what {whose} said, not {model}; give another folder with --data")
    lengths, starts = t["lengths"].numpy(), t["starts"].numpy()
    at, row = np.cumsum(lengths) - lengths, np.cumsum(lengths - starts) - (lengths - starts)
    return [
        Spoken(
            KINDS[int(t["kinds"][i])],
            t["tokens"][at[i] : at[i] + lengths[i]].long(),
            int(starts[i]),
            t["ids"][row[i] : row[i] + lengths[i] - starts[i]].long(),
            t["logp"][row[i] : row[i] + lengths[i] - starts[i]].float(),
        )
        for i in range(len(lengths))
    ]
