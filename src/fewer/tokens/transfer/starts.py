"""Rows for a new vocabulary, without training: one axis, five points. Tokens that both vocabularies have are always copied.

    zero        0
    mean        the mean of all old rows
    fvt         the mean of the rows of its old pieces (Fast Vocabulary Transfer)
    tokenadapt  (1 - g) local + g global (Achieving Tokenizer Flexibility in Language Models through Heuristic Adaptation and
                Supertoken Learning): local weighs its pieces by their likeness to it and by their length, global the k old
                tokens most like it
    omp         k shared tokens that spell it in the target model's own embeddings, with their weights there, added up in the
                old ones (Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit). `centre`: what is spelled
                is the difference from the shared tokens' mean row, there and here. Rows have most of their length along
                the mean, and where the head is tied a row that has less of it is likelier everywhere; weights that do not
                sum to one, as few atoms' do not, change just that. The paper does not centre.

Likeness needs a space that knows old and new tokens. The paper asks a text encoder; here it is the target model's own
embeddings where it has some, over shared tokens, else the letters: counts of runs of 1 to 4 bytes, hashed.
Where an old vocabulary cannot spell a token, and for control tokens it does not know, the row is the mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fewer.errors import BadRequest
from fewer.tokens.transfer.match import Match
from fewer.tokens.transfer.pursuit import pursue
from fewer.tokens.vocabulary import Vocabulary

HOW = ("zero", "mean", "fvt", "tokenadapt", "omp")
BUCKETS = 1024
SHARPNESS = 0.3  # temperature of the softmax over likenesses


@dataclass(frozen=True)
class Knobs:
    """k: shared tokens that omp makes a new one of. centre: see above. atoms: only so many are looked among, spread
    evenly over their ids, frequent and rare ones; None: all. near: old tokens that tokenadapt's global estimate looks at.
    mix: the share of that estimate."""

    k: int = 16
    near: int = 5
    mix: float = 0.3
    atoms: int | None = None
    centre: bool = True

    def __post_init__(self) -> None:
        if self.near < 1 or not 0.0 <= self.mix <= 1.0:
            raise BadRequest(f"near must be 1 or more and mix from 0 to 1, not {self.near} and {self.mix}")


Say = Callable[[str], None]


def rows(
    how: str,
    old: torch.Tensor,
    match: Match,
    spaces: tuple[Vocabulary, Vocabulary],
    donor: torch.Tensor | None,
    knobs: Knobs,
    say: Say,
) -> torch.Tensor:
    """(match.size, D) from `old` (V, D). spaces: the old and the new vocabulary. donor: (V', E), the target model's own
    matrix. Raises BadRequest for an unknown `how`, or omp without a donor."""
    if how not in HOW:
        raise BadRequest(f"{how!r} is no way to start; there are {', '.join(HOW)}")
    mean = old.mean(0)
    out = mean.repeat(match.size, 1)
    new_ids, old_ids = match.shared()
    out[new_ids] = old[old_ids]
    wanted = [i for i, p in match.pieces.items() if p]
    if how == "zero":
        out[list(match.pieces)] = 0.0
    elif how == "fvt":
        for i in wanted:
            out[i] = old[match.pieces[i]].mean(0)
    elif how == "tokenadapt":
        _adapt(out, old, match, spaces, donor, wanted, knobs, say)
    elif how == "omp":
        if donor is None:
            raise BadRequest(
                "omp reads the target model's own embeddings: let --to name a model, or take fvt or tokenadapt"
            )
        known = [i for i in match.pieces if i < len(donor) and spaces[1].tokens[i] and i not in spaces[1].special]
        inside = torch.argsort(new_ids)[: int((new_ids < len(donor)).sum())]
        if knobs.atoms is not None and knobs.atoms < len(inside):
            inside = inside[torch.linspace(0, len(inside) - 1, knobs.atoms).long()]
        pairs = donor[new_ids[inside]], old[old_ids[inside]]
        out[known] = respelled(donor[known], *pairs, knobs, lambda n: say(f"omp: {n} of {len(known)} tokens"))
    return out


def respelled(
    targets: torch.Tensor, theirs: torch.Tensor, ours: torch.Tensor, knobs: Knobs, say: Callable[[int], None]
) -> torch.Tensor:
    """Rows (B, D) for targets (B, E): spelled in atoms `theirs` (N, E), added up in `ours` (N, D). say(targets done)."""
    there, here = (theirs.mean(0), ours.mean(0)) if knobs.centre else (theirs.new_zeros(()), ours.new_zeros(()))
    chosen, weights = pursue(targets - there, theirs - there, knobs.k, say=say)
    mine, out = ours - here, torch.empty(len(targets), ours.shape[1])
    for at in range(0, len(targets), 4096):
        part = slice(at, at + 4096)
        out[part] = here + torch.einsum("bk,bkd->bd", weights[part], mine[chosen[part]])
    return out


def _adapt(
    out: torch.Tensor,
    old: torch.Tensor,
    match: Match,
    spaces: tuple[Vocabulary, Vocabulary],
    donor: torch.Tensor | None,
    wanted: list[int],
    knobs: Knobs,
    say: Say,
) -> None:
    new_ids, old_ids = match.shared()
    if donor is None:
        pool = torch.tensor([i for i, t in enumerate(spaces[0].tokens) if t and i not in spaces[0].special])
        known, mine = (
            letters([spaces[0].tokens[i] for i in pool.tolist()]),
            letters([spaces[1].tokens[i] for i in wanted]),
        )
    else:
        inside = new_ids < len(donor)
        pool, known = old_ids[inside], _unit(donor[new_ids[inside]])
        wanted = [i for i in wanted if i < len(donor)]
        mine = _unit(donor[wanted])
    place = {j: n for n, j in enumerate(pool.tolist())}
    for at in range(0, len(wanted), 1024):
        say(f"tokenadapt: {at} of {len(wanted)} tokens")
        like, best = torch.topk(mine[at : at + 1024] @ known.T, min(knobs.near, len(pool)))
        distant = torch.einsum("bk,bkd->bd", torch.softmax(like / SHARPNESS, 1), old[pool[best]])
        for n, i in enumerate(wanted[at : at + 1024]):
            parts = match.pieces[i]
            found = [place.get(j) for j in parts]
            alike = torch.tensor([0.0 if f is None else float(mine[at + n] @ known[f]) for f in found])
            length = torch.tensor([float(len(spaces[0].tokens[j])) for j in parts])
            weight = torch.softmax(alike / SHARPNESS, 0) * length
            local = (weight / weight.sum()) @ old[parts]
            out[i] = (1 - knobs.mix) * local + knobs.mix * distant[n]


def letters(tokens: list[bytes]) -> torch.Tensor:
    """(n, BUCKETS) unit vectors: how often each run of 1 to 4 bytes stands in a token, its ends marked."""
    out = np.zeros((len(tokens), BUCKETS), np.float32)
    for row, token in enumerate(tokens):
        data = b"\x02" + token + b"\x03"
        for n in range(1, 5):
            for at in range(len(data) - n + 1):
                out[row, _bucket(data[at : at + n])] += 1.0
    return _unit(torch.from_numpy(out))


def _bucket(run: bytes) -> int:
    return (int.from_bytes(run, "little") * 2654435761 >> 11) % BUCKETS


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp_min(1e-12)
