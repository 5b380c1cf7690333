"""Selecting rows in one native call: the same tokens and reads as the pipeline in plain torch, drafts and neighbours or not."""

from __future__ import annotations

import pytest
import torch

from fewer.attend import step
from fewer.kernels.native import native
from fewer.testing.harness import request, run
from fewer.testing.tiny import tiny_model

pytestmark = pytest.mark.skipif(native is None, reason="fewer._native is not built or switched off")

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 1, 5, 9, 2]
SELECTS = [
    "quest:budget=8,block=3,full_layers=1",
    "quest:budget=16,block=8,full_layers=1",  # asked anew every few tokens
    "infllm:budget=12,block=3,representatives=2,local=4,full_layers=0,sinks=2,recent=2",
    "tidaldecode:budget=4,full_layers=1,reselect_layer=3",
    "tidaldecode:budget=4,full_layers=1,reselect_layer=3,heads=shared",
    "recycled-attention:budget=6,stride=3",
    "tokenselect:budget=8,sinks=2,recent=3",
    "squeezed-attention:budget=10,question=4,clusters=0.3",
]


def answers(use: str) -> list[tuple[list[int], int, int]]:
    """Tokens, entries read and bytes scanned: the selection alone and under drafts, beside a request that reads all."""
    model = tiny_model(layers=5, dtype=torch.float32)
    drafts = "token-recycling" if use.startswith("quest") else "lookahead"
    plans = [[use], [use, drafts], [], [use, drafts]]
    asked = [request([*PROMPT[i:], *PROMPT[:i]], use=p, max_tokens=24) for i, p in enumerate(plans)]
    run(model, asked)
    assert sum(r.ledger.drafted_tokens for r in asked) > 10
    return [(r.tokens, r.ledger.kv_entries_read, r.ledger.kv_bytes_scanned) for r in asked]


@pytest.mark.parametrize("use", SELECTS)
def test_equals_the_pipeline(use, monkeypatch):
    called = []
    attend = step.Picking.attend
    monkeypatch.setattr(step.Picking, "attend", lambda self, *a: called.append(1) or attend(self, *a))
    got = answers(use)
    assert called
    monkeypatch.setattr(step, "serves", lambda *a: False)
    assert answers(use) == got and len(called) > 0
