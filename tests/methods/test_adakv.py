"""Ada-KV: heads compete for one budget; equality with a naive rewrite; what a head does not keep is freed."""

import torch

from fewer.methods.retain.prompt_scores import PromptScores
from fewer.parts.allocation import Allocation
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT, highest, kept, matrices


def test_the_papers_example_of_two_heads():
    """A head whose attention is spread needs more entries than one that looks at a few: the even share loses more mass."""
    focused, spread = [0.9, 0.06, 0.03, 0.01], [0.26, 0.25, 0.25, 0.24]
    scores = torch.tensor([focused, spread])
    (even,), (shared,) = (Allocation(s, 2, 0, 0.0, 20).places([scores]) for s in ("even", "heads"))
    assert [p.tolist() for p in even] == [[0, 1], [0, 1]]
    assert [p.tolist() for p in shared] == [[0], [0, 1, 2]]
    (safe,) = Allocation("heads", 2, 0, 1.0, 20).places([scores])
    assert [p.tolist() for p in safe] == [p.tolist() for p in even]


def naive(model, budget, window, floor):
    """Rank all (head, entry) of a layer; heads first take their own best floor * (budget - window)."""
    n, rest = len(PROMPT), budget - window
    out = []
    for layer in matrices(model, PROMPT):
        scores = [layer.p[2 * h : 2 * h + 2, n - window :, : n - window].sum((0, 1)).tolist() for h in range(2)]
        own = [set(highest(s, int(floor * rest))) for s in scores]
        others = [(s, -h, -j) for h in range(2) for j, s in enumerate(scores[h]) if j not in own[h]]
        for _, h, j in sorted(others, reverse=True)[: 2 * rest - sum(map(len, own))]:
            own[-h].add(-j)
        out.append([[*sorted(lane), *range(n - window, n)] for lane in own])
    return out


def test_equals_a_naive_rewrite():
    model = tiny_model()
    for floor in (0.0, 0.5):
        got = kept(model, PROMPT, PromptScores(budget=12, shares="heads", window=3, floor=floor), chunk=16)
        assert got == naive(model, 12, 3, floor)
        assert all(len(a) + len(b) == 2 * 12 for a, b in got)
        assert any(len(a) != len(b) for a, b in got)


def test_ragged_heads_are_stored_as_they_are():
    """No padding to the longest head: to the byte what an even share of the same budget takes, and kept so while decoding."""
    model = tiny_model()
    ledgers = [
        generate(model, PROMPT * 4, use=[PromptScores(budget=20, shares=s, window=4)], max_tokens=30)[1]
        for s in ("even", "heads", "model")
    ]
    assert ledgers[0].kv_bytes_end == ledgers[1].kv_bytes_end == ledgers[2].kv_bytes_end
    plain = generate(model, PROMPT * 4, max_tokens=30)[1]
    assert ledgers[1].kv_bytes_end < 0.45 * plain.kv_bytes_end
