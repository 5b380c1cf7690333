"""KIVI: keys by channel against a naive rewrite, why that is better, bytes to the byte."""

import torch

from fewer.methods.codec.uniform_bits import ByChannel, ByToken
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT
from tests.methods.test_int8 import naive


def keys(*lens):
    g = torch.Generator().manual_seed(2)
    return [torch.randn(n, 8, dtype=torch.float64, generator=g) for n in lens]


def test_equals_a_naive_rewrite():
    """A channel's tokens are to a key what a token's channels are to a value: the same formula on the transposed matrix."""
    heads = keys(11, 4, 0, 7)
    packed = ByChannel(heads, 2, 4)
    want = torch.cat([naive(k.T, 2, 4).T for k in heads])
    torch.testing.assert_close(packed.dense(torch.float64), want, rtol=0, atol=1e-12)
    assert packed.nbytes == 22 * 2 + (3 + 1 + 2) * (8 * 4 + 4)


def test_a_large_channel_spoils_tokens_but_not_channels():
    """The paper's observation, and why keys and values are treated differently."""
    (k,) = keys(64)
    k[:, 3] += 40
    small = [c for c in range(8) if c != 3]
    by_channel, by_token = ByChannel([k], 4, 32).dense(torch.float64), ByToken(k, 4, 32).dense(torch.float64)
    assert (by_channel - k)[:, small].abs().mean() < 0.2 * (by_token - k)[:, small].abs().mean()


def test_bytes_are_what_the_bits_say():
    """Of 40 tokens: groups of 32 and 8. Keys 2 bytes and a pair a channel and group, values 2 bytes and a pair."""
    ledger = generate(tiny_model(), PROMPT, use=["kivi"], max_tokens=1)[1]
    head = 40 * 2 + 2 * (8 * 4 + 4) + 40 * (2 + 4) + 40 * 4
    assert ledger.kv_bytes_end == 6 * head
