"""ZipCache: quantisers against their formulas, saliency against the full attention matrix, bytes as stated."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.kernels.codes import unpack
from fewer.methods.codec.salient_bits import PackedTokens, Saliency, SalientBits
from fewer.parts.quant import pack, quantise
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model

PROMPT = [(7 * i * i + 3 * i) % 31 for i in range(60)]


@given(st.integers(1, 9), st.integers(1, 33), st.sampled_from([2, 4, 8]), st.integers(0, 2**31))
def test_codes_survive_packing(n, c, bits, seed):
    codes = torch.randint(0, 2**bits, (n, c), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    assert torch.equal(unpack(pack(codes, bits), bits)[:, :c], codes)


def test_error_is_at_most_half_a_step():
    x = torch.randn(50, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for bits, dim in ((4, 0), (4, 1), (8, 1)):
        q = quantise(x, bits, dim)
        slack = 1e-3 * (x.amax() - x.amin())  # low and step are float16
        assert ((q.dense(torch.float64) - x).abs() <= q.step.double() / 2 + slack).all()


def test_separating_channels_beats_plain_tokenwise_on_outlier_channels():
    """The paper's reason for channel-separable tokenwise quantisation: a few channels are far larger than the rest."""
    v = torch.randn(64, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    v[:, :2] *= 30
    plain = quantise(v, 4, 1).dense(torch.float64)
    packed = PackedTokens(2, torch.float64, v, v, [torch.arange(64), torch.arange(0)], (4, 2))
    ours = packed.decode()[1].view(2, 64, 16).transpose(0, 1).reshape(64, 32)
    small = slice(2, None)
    assert (ours - v)[:, small].pow(2).mean() < 0.5 * (plain - v)[:, small].pow(2).mean()


def test_saliency_is_the_normalised_attention_score():
    """All rows probes: column sums of the lower-triangular matrix over the number of rows that see the column."""
    g = torch.Generator().manual_seed(3)
    p = torch.softmax(
        torch.randn(10, 10, generator=g, dtype=torch.float64).masked_fill(torch.ones(10, 10).triu(1).bool(), -1e9), -1
    )
    state = Saliency()
    for i in range(10):
        state.probes.add(i)
        state.add(0, p[i, : i + 1])
    assert torch.allclose(state.scores(0, 0, 10), p.sum(0) / torch.arange(10, 0, -1))
    assert torch.allclose(state.scores(0, 4, 3), (p.sum(0) / torch.arange(10, 0, -1))[4:7])


def test_bytes_fall_to_what_the_bits_say():
    """128 channels (4 heads of 32): 4 bits for 60%, 2 for 40% = 3.2 bits of 64 (float64), plus scales and positions."""
    model = tiny_model()
    plain = generate(model, PROMPT, max_tokens=2)[1]
    packed = generate(model, PROMPT, use=[SalientBits()], max_tokens=2)[1]
    assert packed.kv_bytes_end < 0.5 * plain.kv_bytes_end


def test_probes_do_not_depend_on_chunks():
    model = tiny_model()
    runs = [generate(model, PROMPT, use=[SalientBits(gap=10)], max_tokens=30, chunk=c)[0] for c in (512, 7, 1)]
    assert runs[0] == runs[1] == runs[2]


def test_more_bits_are_closer_to_the_full_cache():
    model = tiny_model()
    want = generate(model, PROMPT, max_tokens=24)[0]
    agree = [
        int(np.sum(np.array(generate(model, PROMPT, use=[SalientBits(high=h, low=w)], max_tokens=24)[0]) == want))
        for h, w in ((8, 8), (2, 2))
    ]
    assert agree[0] == 24 > agree[1]
