"""Orthogonal matching pursuit, many targets at once.

    x ~ sum_j c_j a_j over k atoms: pick the atom most correlated with what is left of x, refit all c by least squares, again

The picked atoms' orthonormal basis grows by one vector a step (Gram-Schmidt, twice, for accuracy), so what is left is
x - Q Q' x and the coefficients come from one triangular solve at the end. Correlations are of unit atoms. A target that is
spelled exactly before k atoms are picked gets 0 for the rest. Training-Free Tokenizer Transplantation via Orthogonal
Matching Pursuit.

With A the atoms, A x' - (A A') c' over the atoms picked so far is the same as A (what is left)': where A A' has room in
memory, a step adds up t of its rows instead of multiplying by all atoms again. Not done: a search that is not over every
atom.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch.linalg import solve_triangular
from torch.nn.functional import embedding_bag

from fewer.errors import BadRequest

BATCH = 512
ROWS = 32  # beyond so many picked atoms their rows of A A' are more work than the product


def pursue(
    targets: torch.Tensor,
    atoms: torch.Tensor,
    k: int,
    batch: int = BATCH,
    say: Callable[[int], None] = lambda done: None,
    room: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """targets (B, D), atoms (N, D) -> chosen atoms (B, k) int64, coefficients (B, k). say(targets done). room: bytes that
    A A' may take; None: half of the memory that is free.

    Raises BadRequest if there are fewer atoms than k, or k < 1."""
    if not 1 <= k <= len(atoms):
        raise BadRequest(f"k must be from 1 to the {len(atoms)} tokens that both vocabularies have, not {k}")
    norms = atoms.norm(dim=1).clamp_min(torch.finfo(atoms.dtype).tiny)
    unit = atoms / norms[:, None]
    need = len(atoms) ** 2 * atoms.element_size()
    worth = len(targets) * (k - 1) > len(atoms)
    alike = unit @ unit.T if worth and need <= (_free() // 2 if room is None else room) else None
    chosen, weights = list[torch.Tensor](), list[torch.Tensor]()
    for at in range(0, len(targets), batch):
        picked, c = _some(targets[at : at + batch], unit, alike, min(k, atoms.shape[1]))
        chosen.append(picked)
        weights.append(c / norms[picked])
        say(min(at + batch, len(targets)))
    if not chosen:
        return torch.zeros(0, k, dtype=torch.int64), torch.zeros(0, k, dtype=atoms.dtype)
    return torch.cat(chosen), torch.cat(weights)


def _free() -> int:
    """Bytes of memory nobody uses; 0 where the system does not say."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _some(x: torch.Tensor, unit: torch.Tensor, alike: torch.Tensor | None, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    b, d = x.shape
    q, r = x.new_zeros(b, k, d), torch.eye(k, dtype=x.dtype).repeat(b, 1, 1)
    on_basis = x.new_zeros(b, k)
    picked, rest, rows = torch.zeros(b, k, dtype=torch.int64), x.clone(), torch.arange(b)
    enough, first = 1e-5 * x.norm(dim=1), x @ unit.T
    for t in range(k):
        if t == 0:
            found = first.abs()
        elif alike is None or t > ROWS:
            found = (rest @ unit.T).abs_()
        else:
            c = solve_triangular(r[:, :t, :t], on_basis[:, :t, None], upper=True)[..., 0]
            found = (first - embedding_bag(picked[:, :t], alike, mode="sum", per_sample_weights=c)).abs_()
        found[rows[:, None], picked[:, :t]] = -1.0
        picked[:, t] = found.argmax(1)
        atom = unit[picked[:, t]]
        new, basis = atom, q[:, :t]
        for _ in range(2):
            along = torch.einsum("btd,bd->bt", basis, new)
            new = new - torch.einsum("bt,btd->bd", along, basis)
            r[:, :t, t] += along
        length = new.norm(dim=1)
        useful = (length > 1e-4) & (rest.norm(dim=1) > enough)
        r[:, :t, t] *= useful[:, None]
        r[:, t, t] = torch.where(useful, length, 1.0)
        q[:, t] = torch.where(useful[:, None], new / length.clamp_min(1e-12)[:, None], 0.0)
        on_basis[:, t] = (q[:, t] * rest).sum(1)
        rest = rest - on_basis[:, t, None] * q[:, t]
    return picked, solve_triangular(r, on_basis[..., None], upper=True)[..., 0]
