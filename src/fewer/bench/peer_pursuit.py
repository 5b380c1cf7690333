"""mergekit's orthogonal matching pursuit in an environment of its own (no part of fewer is imported).

python peer_pursuit.py IN.npz OUT.npz       IN: targets (B, D), atoms (N, D), k;  OUT: chosen (B, k), weights (B, k), version
"""

from __future__ import annotations

import sys
from importlib import metadata

import numpy as np
import torch
from mergekit.tokensurgeon import batch_omp

BATCH = 512

if __name__ == "__main__":
    torch.set_num_threads(1)
    held = np.load(sys.argv[1])
    targets, atoms, k = torch.from_numpy(held["targets"]), torch.from_numpy(held["atoms"]), int(held["k"])
    chosen, weights = zip(*(batch_omp(targets[i : i + BATCH], atoms, k) for i in range(0, len(targets), BATCH)))
    np.savez(
        sys.argv[2],
        chosen=torch.cat(chosen).numpy(),
        weights=torch.cat(weights).numpy(),
        version=metadata.version("mergekit"),
    )
