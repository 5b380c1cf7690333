"""int8 a token: codes against the formula, bytes to the byte, heads of different lengths."""

import pytest
import torch

from fewer.methods.codec.uniform_bits import ByToken, UniformBits
from fewer.methods.retain.prompt_scores import PromptScores
from fewer.plan import plan
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT

LANES = 3 * 2


def naive(x, bits, group):
    """Number by number: low and step of its token's group of channels, rounded to float16."""
    out = torch.empty_like(x)
    for t in range(x.shape[0]):
        for c in range(0, x.shape[1], group):
            part = x[t, c : c + group]
            low = float(part.min().half())
            step = float(((part.max() - low) / (2**bits - 1)).half())
            for i, value in enumerate(part.tolist()):
                code = min(max(round((value - low) / step), 0), 2**bits - 1)
                out[t, c + i] = low + step * code
    return out


@pytest.mark.parametrize(("bits", "group"), [(8, 64), (8, 3), (4, 4), (2, 8)])
def test_equals_a_naive_rewrite(bits, group):
    x = torch.randn(9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    packed = ByToken(x, bits, group)
    torch.testing.assert_close(packed.dense(torch.float64), naive(x, bits, group), rtol=0, atol=1e-12)
    groups = -(-8 // group)
    assert packed.nbytes == sum(9 * -(-min(group, 8 - group * i) * bits // 8) for i in range(groups)) + 9 * groups * 4


def test_bytes_are_what_the_bits_say():
    """An entry: 8 + 8 codes, a pair of float16 for its key and one for its value, its position."""
    ledger = generate(tiny_model(), PROMPT, use=["int8"], max_tokens=1)[1]
    assert ledger.kv_bytes_end == LANES * len(PROMPT) * (8 + 8 + 4 + 4 + 4)


def test_packs_what_a_retention_left():
    """Ragged heads are packed each by itself; bytes are the budget's, packed."""
    use = [PromptScores(budget=10, shares="model", window=3), UniformBits()]
    assert plan(use).codec is not None
    ledger = generate(tiny_model(), PROMPT, use=use, max_tokens=1)[1]
    assert ledger.kv_bytes_end == LANES * 10 * (8 + 8 + 4 + 4 + 4)
