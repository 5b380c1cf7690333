"""`fewer inspect heads`: extreme tokens, head by head (Guo et al., 2024, "Active-Dormant Attention Heads").

    sink rate   a_h = mean over rows of p_h(row -> first token)             a head at rest parks its weight there
    dormant     share of the rows with p_h(row -> first token) > 0.5
    drain       ||v_first|| / median ||v_j||, a kv-head                     the sink's value is small, so nothing is added
    peak        ||x_first|| / median ||x_j||, a layer                       the sink's residual is huge

Texts of several kinds tell heads that are always at rest from those that wake for one kind: their sink rates differ.
Cache methods that keep the first tokens rest on exactly this. Does not: follow training, name what an active head does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from fewer.bench.record import head
from fewer.bench.tasks import functions, prose
from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.models.decoder import Decoder
from fewer.plan import PLAIN
from fewer.seams import Watcher
from fewer.types import Group, Step, Told, chain

AWAKE_FROM = 16  # rows before it see too few tokens to have a choice
Say = Callable[[str], None]


@dataclass
class FirstToken(Watcher):
    """Weight on the first token of every row from `AWAKE_FROM` on: layer -> (rows, Hq)."""

    weight: dict[int, torch.Tensor] = field(default_factory=dict)
    needs: ClassVar[frozenset[str]] = frozenset({"attention"})

    def probe(self, m: int, told: Told, state: Any) -> np.ndarray:
        return np.arange(AWAKE_FROM, m)

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Any) -> None:
        self.weight[layer] = torch.cat([p[:, :, 0] for p in probs], 1)


@dataclass(frozen=True)
class Extremes:
    """Of one text: sink and dormant (L, Hq), drain (L, H), peak (L,)."""

    sink: np.ndarray
    dormant: np.ndarray
    drain: np.ndarray
    peak: np.ndarray


@torch.inference_mode()
def extremes(model: Decoder, ids: list[int]) -> Extremes:
    """Read one text in one forward and measure. Raises BadRequest for fewer than 2 * AWAKE_FROM tokens."""
    if len(ids) < 2 * AWAKE_FROM:
        raise BadRequest(f"a text of {len(ids)} tokens is too short: {2 * AWAKE_FROM} are the least")
    store, layers = model.new_store(), range(model.spec.n_layers)
    seq, rows, seen = store.new(), chain(ids, 0), FirstToken()
    taps = frozenset(f"layer.{i}" for i in layers)
    (out,), _ = model.forward(Step([Group(seq, rows, PLAIN, Told(len(ids)), None, seen)], taps=taps), store)
    store.commit(seq, rows, np.arange(len(rows)))
    values = [
        [store.view(seq, i).values(h).double().norm(dim=-1) for h in range(model.spec.n_kv_heads)] for i in layers
    ]
    states = [out.hidden[f"layer.{i}"].double().norm(dim=-1) for i in layers]
    return Extremes(
        np.stack([seen.weight[i].double().mean(0).numpy() for i in layers]),
        np.stack([(seen.weight[i] > 0.5).double().mean(0).numpy() for i in layers]),
        np.array([[float(v[0] / v.median()) for v in of] for of in values]),
        np.array([float(x[0] / x.median()) for x in states]),
    )


def texts(count: Callable[[str], int], tokens: int, seed: int) -> dict[str, str]:
    """Two kinds of text that every Python has: English prose and code."""
    rng = random.Random(f"heads {seed}")
    code = [source for source, _ in rng.sample(functions(), len(functions()))]
    return {"prose": "\n\n".join(prose(rng, tokens, count)), "code": "\n\n\n".join(code)}


def measure(eng: Engine, given: Mapping[str, str], tokens: int, command: str, seed: int) -> dict[str, Any]:
    """Extremes of each text (its first `tokens` tokens) as plain data, for tables and --json."""
    assert eng.tokenizer is not None
    found = {name: extremes(eng.model, eng.tokenizer.encode(text)[:tokens]) for name, text in given.items()}
    rates = np.stack([e.sink for e in found.values()])
    return {
        **head("heads", command, seed),
        "title": "fewer inspect heads",
        "model": eng.name,
        "texts": {
            name: {k: np.round(getattr(e, k), 4).tolist() for k in ("sink", "dormant", "drain", "peak")}
            for name, e in found.items()
        },
        "differs": np.round(rates.max(0) - rates.min(0), 4).tolist(),
    }
