"""XL3M: segments are ranked by the entropy that plain readings of each of them give, and spliced in order."""

import numpy as np
import torch

from fewer.methods.transform.certain_segments import CertainSegments
from fewer.testing.harness import Naive, generate, request, run
from fewer.testing.tiny import tiny_model

PROMPT = [(7 * i * i + 3 * i) % 31 for i in range(44)]


def doubt(model, segment, question, span):
    """Mean entropy of the predictions behind the last `span` tokens of segment + question, token by token."""
    naive, lps = Naive(model), []
    for token in [*segment, *question]:
        lps.append(torch.log_softmax(naive.feed(token), -1))
    return float(np.mean([-(lp.exp() * lp).sum() for lp in lps[-span:]]))


def test_keeps_the_segments_of_least_entropy():
    model = tiny_model()
    segments, question = [PROMPT[i : i + 8] for i in range(0, 40, 8)], PROMPT[40:]
    for span in (1, 4):
        r = request(PROMPT, use=[CertainSegments(budget=20, segment=8, question=4, span=span)], max_tokens=6)
        run(model, [r])
        order = np.argsort([doubt(model, s, question, span) for s in segments])
        kept = [j for i in sorted(order[:2]) for j in range(8 * i, 8 * i + 8)]
        assert r.kept.tolist() == [*kept, 40, 41, 42, 43]
        assert r.tokens == generate(model, [PROMPT[i] for i in r.kept], max_tokens=6)[0]


def test_no_reading_is_longer_than_a_segment_and_the_question():
    """Attention is paid inside segments: pairs of rows, not n^2."""
    r = request(PROMPT, use=[CertainSegments(budget=12, segment=8, question=4)], max_tokens=1)
    model = tiny_model()
    run(model, [r])
    pairs = 5 * (12 * 13 // 2) + 12 * 13 // 2
    assert r.ledger.kv_entries_read == pairs * model.spec.n_kv_heads * model.spec.n_layers
    assert r.ledger.rows == 5 * 12 + 12
