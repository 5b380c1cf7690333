"""Fewer rows at prefill: frequent neighbours in a batch of prompts become one row, composed from the rows of both.

    repeat n times: in all prompts, merge the most frequent pair of neighbours that may join (inside a word)
    row of a merged token = the mean of its pieces' rows, or what a trained hypernet says (hypernet.py)

Nothing is added to the vocabulary: what follows is said in the model's own tokens, so generation is unchanged. Retrofitting
(Large) Language Models with Dynamic Tokenization. Measured by the bits of a continuation in plain tokens behind a merged
prefix. Not done: merged tokens as output, the paper's index over a million of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from fewer.models.decoder import Decoder
from fewer.models.tokenizer import Tokenizer
from fewer.plan import PLAIN
from fewer.tokens.transfer.bits import opening
from fewer.tokens.transfer.texts import cut
from fewer.types import Group, Rows, Step, Told, chain

Run = tuple[int, ...]
Compose = Callable[[Sequence[Run]], torch.Tensor]
PREFIX = 2 / 3  # of a window's tokens


def merged(batch: Sequence[Sequence[int]], times: int, joins: Callable[[int, int], bool]) -> list[list[Run]]:
    """Prompts as runs of tokens after `times` merges. joins(last token of the left, first of the right): may they?

    Ties go to the pair that was met first; merging stops where no pair stands twice."""
    out: list[list[Run]] = [[(i,) for i in ids] for ids in batch]
    for _ in range(times):
        pairs = Counter(
            (a, b) for runs in out for a, b in pairwise(runs) if joins(a[-1], b[0])
        )  # overlapping ones count twice: only the order matters
        if not pairs:
            break
        (left, right), often = pairs.most_common(1)[0]
        if often < 2:
            break
        out = [_joined(runs, left, right) for runs in out]
    return out


def _joined(runs: list[Run], left: Run, right: Run) -> list[Run]:
    out, at = list[Run](), 0
    while at < len(runs):
        if runs[at] == left and runs[at + 1 : at + 2] == [right]:
            out.append(left + right)
            at += 2
        else:
            out.append(runs[at])
            at += 1
    return out


def inside_words(tokenizer: Tokenizer) -> Callable[[int, int], bool]:
    """Letters may join letters; nothing joins across white space, signs, digits or control tokens."""
    kinds: dict[int, tuple[bool, bool]] = {}

    def ends(i: int) -> tuple[bool, bool]:
        if i not in kinds:
            data = b"" if i in tokenizer.special else tokenizer.token_bytes(i)
            first, last = (data[:1], data[-1:])
            kinds[i] = (_letter(first), _letter(last))
        return kinds[i]

    return lambda a, b: ends(a)[1] and ends(b)[0]


def _letter(byte: bytes) -> bool:
    return byte.isalpha() or byte >= b"\x80"


def means(embed: torch.Tensor, scale: float) -> Compose:
    """The untrained way: (V, D) rows, the model's factor on them."""
    return lambda runs: torch.stack([embed[list(run)].mean(0) for run in runs]) * scale


def rows(runs: Sequence[Run], compose: Compose) -> Rows:
    """Rows of one prompt: real tokens as they are, merged ones as vectors."""
    tokens = np.array([run[0] if len(run) == 1 else -1 for run in runs], dtype=np.int64)
    soft = [run for run in runs if len(run) > 1]
    n = len(runs)
    return Rows(np.arange(n), np.arange(-1, n - 1), tokens, compose(soft) if soft else None)


@torch.inference_mode()
def continued(model: Decoder, runs: Sequence[Run], rest: Sequence[int], compose: Compose) -> torch.Tensor:
    """log p of `rest` (n,) behind a merged prefix."""
    store = model.new_store()
    seq, prefix, told = store.new(), rows(runs, compose), Told(len(runs) + len(rest))
    (first,), _ = model.forward(Step([Group(seq, prefix, PLAIN, told, np.array([len(runs) - 1]))]), store)
    store.commit(seq, prefix, np.arange(len(prefix)))
    after = chain(rest[:-1], len(runs))
    z = [first.logits]
    if len(after):
        (second,), _ = model.forward(Step([Group(seq, after, PLAIN, told, np.arange(len(after)))]), store)
        z.append(second.logits)
    store.drop(seq)
    logp = torch.log_softmax(torch.cat([x for x in z if x is not None]).float(), -1)
    return logp.gather(1, torch.tensor(rest)[:, None])[:, 0]


def measure(
    model: Decoder,
    tokenizer: Tokenizer,
    texts: Mapping[str, str],
    times: Sequence[int],
    ways: Mapping[str, Compose],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """A row a number of merges: prefix rows saved, and the continuation's bits a byte by each way of composing."""
    first, joins = opening(tokenizer), inside_words(tokenizer)
    windows = [tokenizer.encode(w, bos=False) for text in texts.values() for w in cut(text)]
    windows = [ids for ids in windows if len(ids) > 8]
    cuts = [int(len(ids) * PREFIX) for ids in windows]
    prefixes = [[first, *ids[:c]] for ids, c in zip(windows, cuts)]
    rests = [ids[c:] for ids, c in zip(windows, cuts)]
    size = sum(len(tokenizer.token_bytes(i)) for rest in rests for i in rest)
    out = []
    for n in times:
        held = merged(prefixes, n, joins)
        row: dict[str, Any] = {
            "merges": n,
            "rows": sum(map(len, held)),
            "saved": 1 - sum(map(len, held)) / sum(map(len, prefixes)),
        }
        for name, compose in ways.items():
            say(f"{n} merges, {name}")
            nats = -sum(float(continued(model, runs, rest, compose).sum()) for runs, rest in zip(held, rests))
            row[name] = nats / math.log(2) / size
        out.append(row)
    return out
