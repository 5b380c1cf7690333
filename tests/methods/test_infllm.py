"""InfLLM: equality with a naive rewrite of local scores, representatives and blocks; pieces of a prompt change nothing."""

import pytest
import torch

from fewer.methods.select.blocks import Represented
from fewer.parts.local_score import LocalScore
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.methods.selecting import Selecting, written

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
LOCAL = 4


@pytest.mark.parametrize("chunk", [5, 64])
def test_equals_a_naive_rewrite(chunk):
    """Blocks of 4 told by 2 representatives; 2 sinks and the 3 newest are read whatever they score."""
    model, n = tiny_model(layers=3), len(PROMPT)

    def score(naive, layer, keys, m, h):
        if m >= n:
            return 0.0
        behind = range(m + 1, min(m + 1 + LOCAL, n))
        return sum(float(naive.queries[layer, j][i] @ keys[m, h]) for j in behind for i in (2 * h, 2 * h + 1)) / max(
            1, 2 * len(behind)
        )

    def choose(layer, pos, q, keys, attention):
        limit = 14
        newest = min((pos - 3) // 4, pos // 4)
        room, read = (limit - (pos - newest * 4)) // 4 - 1, []
        for h in range(2):
            worth = {}
            for b in range(1, newest):
                best = sorted(range(4 * b, 4 * b + 4), key=lambda m, h=h: -score(naive, layer, keys, m, h))[:2]
                worth[b] = sum(float(q[i] @ keys[m, h]) for m in best for i in (2 * h, 2 * h + 1))
            chosen = [0, *sorted(worth, key=lambda b, worth=worth: -worth[b])[:room]]
            read.append([4 * b + i for b in chosen for i in range(4)] + list(range(newest * 4, pos)))
        return read

    naive = Selecting(model, choose)
    use = Represented(budget=14, block=4, full_layers=0, sinks=2, recent=3, representatives=2, local=LOCAL)
    got, _ = generate(model, PROMPT, use=[use], max_tokens=12, chunk=chunk)
    assert got != generate(model, PROMPT, max_tokens=12)[0]
    assert got == written(naive, PROMPT, 12)


def test_pieces_of_a_prompt_change_no_score():
    q, k = torch.randn(11, 4, 8), torch.randn(11, 2, 8)
    whole, cut = LocalScore(3), LocalScore(3)
    whole.add(q, k, 0)
    for a, b in ((0, 2), (2, 9), (9, 11)):
        cut.add(q[a:b] + 1, k[a:b] - 1, a)  # looked at, and gone
        cut.add(q[a:b], k[a:b], a)
    whole.close(11)
    cut.close(11)
    at = torch.arange(12)
    torch.testing.assert_close(whole.of(1, at), cut.of(1, at))
    assert whole.of(0, at)[10] == whole.of(0, at)[11] == 0
