"""OMP here beside mergekit's, on one pair of models: the same targets, atoms and k, judged by bits a byte.

    python -m fewer.bench.pursuits MODEL TARGET_MODEL K BYTES MERGEKITS_PYTHON KEEP.json

Both give rows to the new tokens that the texts use; all other new tokens have Fast Vocabulary Transfer's in either case, so
that the whole vocabulary (an hour of mergekit's) need not be spelled. `omp, centred`: see starts.py.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fewer.bench.record import head, save
from fewer.errors import BadRequest
from fewer.tokens.transfer import ends, starts, texts
from fewer.tokens.transfer import transplant as work

TEXTS = ("eng", "docs", "code", "fra", "rus", "kor")
Spelling = tuple[torch.Tensor, torch.Tensor]  # chosen atoms, weights


def measure(model: str, target: str, k: int, nbytes: int, peer: Path, say: work.Say) -> dict[str, Any]:
    """head of record.py with {way: {"bits", "texts", "left"}}. Raises BadRequest, ModelError, FetchError."""
    old, new, judged = ends.open_model(model), ends.open_target(target), texts.judged(TEXTS, nbytes)
    made, dense = work.transplant(old, new, "fvt", starts.Knobs(), say), work.body(old)
    used = {i for text in judged.values() for i in made.tokenizer.encode(text, bos=False)}
    donor, mine = new.matrix("embed"), old.matrix("embed")
    needed = sorted(i for i in used if i in made.match.pieces and i < len(donor))
    shared = [
        pair
        for pair in zip(*(ids.tolist() for ids in made.match.shared()))
        if pair[0] not in made.vocabulary.special and pair[0] < len(donor)
    ]
    theirs, ours = (torch.tensor(ids) for ids in zip(*shared))
    targets, atoms, own = donor[needed], donor[theirs], mine[ours]
    chosen, weights = _peer(peer, targets, atoms, k)
    ways = {"mergekit": torch.einsum("bk,bkd->bd", weights, own[chosen])}
    for name, centre in (("omp", False), ("omp, centred", True)):
        say(name)
        ways[name] = starts.respelled(targets, atoms, own, starts.Knobs(k=k, centre=centre), lambda done: None)
    command = f"python -m fewer.bench.pursuits {model} {Path(target).name} {k} {nbytes} PYTHON"
    out: dict[str, Any] = head("pursuits", command, 0) | {
        "model": model, "target": Path(target).stem, "k": k, "tokens": len(needed), "atoms": len(theirs),
    }  # fmt: skip
    out |= {
        "before": work.judge(dense, old.tokenizer, judged),
        "fvt": work.judge(made.model(dense), made.tokenizer, judged),
    }
    plain = made.rows["embed"]
    for name, rows in ways.items():
        say(f"judging {name}")
        made.rows["embed"] = plain.index_copy(0, torch.tensor(needed), rows)
        out[name] = work.judge(made.model(dense), made.tokenizer, judged)
    return out


def _peer(python: Path, targets: torch.Tensor, atoms: torch.Tensor, k: int) -> Spelling:
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder, "in.npz"), Path(folder, "out.npz")
        np.savez(given, targets=targets.numpy(), atoms=atoms.numpy(), k=k)
        done = subprocess.run([python, Path(__file__).with_name("peer_pursuit.py"), given, made], capture_output=True)
        if done.returncode:
            last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
            raise BadRequest(f"mergekit did not answer: {last} (is it installed for {python}?)")
        held = np.load(made)
        return torch.from_numpy(held["chosen"]), torch.from_numpy(held["weights"]).float()


if __name__ == "__main__":
    source, wanted, k, size, python, keep = sys.argv[1:]
    save(Path(keep), measure(source, wanted, int(k), int(size), Path(python), lambda s: print(s, file=sys.stderr)))
