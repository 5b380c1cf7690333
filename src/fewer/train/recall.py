"""How well the entries that heads attend to are found: recall of the true ones, attention kept, perplexity when only they
are read.

For a row t, a kv-head of a layer >= 1 truly wants the k entries before t of highest attention, summed over its query heads.

    foretold      the network's scores (parts/importance.py)
    recent        the k newest
    accumulated   the k that all rows before t together gave most (as H2O counts)
    pages         the best pages of 16 by the bound of their keys (as Quest ranks)
    random        recall k / t

What is measured is the choice alone: every method may choose k = share * t entries, and the prompt is read in full.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fewer.bench.teacher import Teacher
from fewer.engine import Engine
from fewer.kv.view import View
from fewer.models.decoder import Decoder
from fewer.parts.importance import SMALL, Weights, foretell, look
from fewer.parts.votes import attention, top
from fewer.plan import PLAIN
from fewer.seams import Method, Select, knob, resolve_budget
from fewer.types import Group, Step, Told, chain

SHARES = (0.5, 0.25)
EVERY, PAGE = 64, 16  # rows asked about; entries a page
FORCED = 64  # last tokens of a text that are decoded sparsely


@dataclass(frozen=True)
class Read:
    """What the model made of a text. x (n, D): hidden states behind layer 0; q (L - 1, n, Hq, d), k (L - 1, n, H, d),
    rotated, of the layers above it. Half precision."""

    x: torch.Tensor
    q: torch.Tensor
    k: torch.Tensor


@torch.inference_mode()
def read(model: Decoder, ids: list[int]) -> Read:
    """Let the engine read a text; queries and keys are made again from its hidden states."""
    rows, store, last = chain(ids, 0), model.new_store(), model.spec.n_layers - 1
    taps = frozenset(f"layer.{i}" for i in range(last))
    step = Step([Group(store.new(), rows, PLAIN, Told(len(rows)), None)], stop=last, taps=taps)
    (out,), _ = model.forward(step, store)
    q, k = list[torch.Tensor](), list[torch.Tensor]()
    for layer in range(1, model.spec.n_layers):
        asks, keys, _ = model.blocks[layer].qkv(
            out.hidden[f"layer.{layer - 1}"], *model.angles(layer, np.arange(len(ids)))
        )
        q.append(asks.half())
        k.append(keys.half())
    return Read(out.hidden["layer.0"].half(), torch.stack(q), torch.stack(k))


def small(weights: Weights, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The network over a whole text x (n, D) -> ask (n, later layers * Hq, SMALL), key (n, later layers * H, SMALL)."""
    pos, seen = torch.arange(len(x)), torch.ones(len(x), len(x), dtype=torch.bool).tril()
    y, q, keys, values = look(weights, x, pos)
    return foretell(weights, y, q, keys, values, seen, pos)


def scores(q: torch.Tensor, k: torch.Tensor, scale: float) -> torch.Tensor:
    """q (L, r, Hq, d), k (L, n, H, d) -> (L, H, g, r, n)."""
    layers, r, _, d = q.shape
    heads = k.shape[2]
    q = q.reshape(layers, r, heads, -1, d).permute(0, 2, 3, 1, 4)
    return q @ k.permute(0, 2, 3, 1)[:, :, None] * scale


@torch.inference_mode()
def measure(weights: Weights, texts: Sequence[Read], model: Decoder) -> dict[str, dict[str, list[float]]]:
    """way -> {"recall": one a share of SHARES, "mass": the true attention to what was chosen, without the row itself}."""
    spec, found = model.spec, dict[str, list[list[tuple[float, float]]]]()
    for text in texts:
        n = len(text.x)
        ask, key = (t.view(n, spec.n_layers - 1, -1, SMALL).transpose(0, 1) for t in small(weights, text.x.float()))
        rows = torch.arange(n // 4, n, max(1, min(EVERY, n // 8)))
        for i in (i for i in range(spec.n_layers - 1) if spec.windows[i + 1] is None):
            q, k = text.q[i : i + 1].float(), text.k[i : i + 1].float()
            true = attended(scores(q, k, spec.scale)[0])
            said = attended(scores(ask[i : i + 1], key[i : i + 1], SMALL**-0.5)[0])
            sums = true.cumsum(1)
            for t in rows.tolist():
                ways = {
                    "foretold": said[:, t, :t],
                    "accumulated": sums[:, t - 1, :t],
                    "recent": torch.arange(t).expand(spec.n_kv_heads, -1),
                    "pages": pages(q[0, t].view(spec.n_kv_heads, -1, spec.head_dim), k[0, :t].transpose(0, 1)),
                }
                for way, worth in ways.items():
                    found.setdefault(way, []).append([compare(true[:, t, :t], worth, share) for share in SHARES])
    means = {way: np.mean(each, axis=0).T.round(4).tolist() for way, each in found.items()}
    return {way: {"recall": recall, "mass": mass} for way, (recall, mass) in means.items()}


def attended(z: torch.Tensor) -> torch.Tensor:
    """Scores (H, g, n, n) of all rows -> attention (H, n, n), summed over the query heads of a kv-head."""
    later = torch.ones(z.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(z.masked_fill(later, float("-inf")), -1).sum(1)


def pages(q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """q (H, g, d), keys (H, t, d) -> (H, t): the bound of each entry's page; an incomplete last page comes first."""
    heads, t, d = keys.shape
    full = t // PAGE
    paged = keys[:, : full * PAGE].view(heads, full, PAGE, d)
    high, low = paged.amax(2).transpose(1, 2), paged.amin(2).transpose(1, 2)
    bound = (q.relu() @ high - (-q).relu() @ low).amax(1).repeat_interleave(PAGE, 1)
    return torch.cat([bound, bound.new_full((heads, t - full * PAGE), float("inf"))], 1)


def compare(true: torch.Tensor, worth: torch.Tensor, share: float) -> tuple[float, float]:
    """true, worth (H, t) -> recall of the true best share * t entries among those of highest worth; true mass on these."""
    k = max(1, round(share * true.shape[1]))
    chosen = torch.zeros_like(true).scatter_(1, worth.topk(k, 1).indices, 1.0)
    best = true.topk(k, 1).indices
    return float(chosen.gather(1, best).mean()), float(((true * chosen).sum(1) / true.sum(1)).mean())


@dataclass(frozen=True)
class Oracle(Select):
    """Reads what truly gets most attention, or what is newest: the two ends between which a selection lies."""

    share: float = knob(0.5, "share of the prompt that is read")
    newest: bool = knob(False, "the newest instead of the best")

    def pick(self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: None) -> list | None:
        limit = resolve_budget(self.share, told.prompt_len)
        if limit is None or not layer or told.windows[layer] is not None:
            return None
        if self.newest:
            return [torch.arange(max(0, int(n) - limit), int(n)) for n in view.lens()]
        return [top(p.sum(0), limit) for p in attention(q, view)]


def perplexities(eng: Engine, texts: Sequence[list[int]], file: str) -> dict[str, float | list[float]]:
    """Perplexity of the last FORCED tokens of each text, decoded one by one behind the rest, when a share of it is read."""
    plans: dict[str, list[str | Method]] = {"full": []}
    for s in SHARES:
        plans[f"foretold {s}"] = [f"tokenbutler:budget={s},file={file}"]
        plans[f"pages {s}"] = [f"quest:budget={s},full_layers=1,block={PAGE}"]
        plans[f"accumulated {s}"] = [f"h2o:budget={s}"]
        plans[f"recent {s}"] = [Oracle(share=s, newest=True)]
        plans[f"oracle {s}"] = [Oracle(share=s)]
    return {name: perplexity(eng, texts, use) for name, use in plans.items()}


def perplexity(eng: Engine, texts: Sequence[list[int]], use: Sequence[str | Method]) -> float:
    """exp of the mean loss a token."""
    lost = list[float]()
    for ids in texts:
        n = len(ids) - min(FORCED, len(ids) // 2)
        forced = Teacher(tuple(ids[n:]))
        out = eng.generate(
            ids[:n], use=[*use, forced], max_tokens=len(ids) - n, logprobs=1, ignore_eos=True, share_prefix=False
        )
        lost += [-t.logprob for t in out.logprobs]
    return round(math.exp(sum(lost) / len(lost)), 3)
