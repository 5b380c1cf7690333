"""Attention on packed entries: the bits of decoding them first, no float copy of them, and what cannot be read as it lies."""

from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import fewer
from fewer.attend.one import attend
from fewer.kernels import attention as kernel
from fewer.kernels.codes import describe
from fewer.kernels.native import native
from fewer.kv.segment import Buffer, Meter, Segment, pack_heads
from fewer.kv.view import View
from fewer.methods.codec.uniform_bits import ByChannel, ByToken, UniformBits
from tests.attention_cases import needs_native
from tests.cli_tiny import tiny_model  # noqa: F401  (a fixture)

LENS = [75, 33, 0, 128]


def raw(lens, d, dtype, seed=0):
    g = torch.Generator().manual_seed(seed)
    ks, vs = ([torch.randn(n, d, generator=g).mul(3).to(dtype) for n in lens] for _ in range(2))
    return pack_heads(Meter(), ks, vs, [torch.arange(n, dtype=torch.int32) for n in lens])


def packed(segment, **knobs):
    """The segment under UniformBits; reading it by decoding fails."""
    encoded, pos, lens = UniformBits(**knobs).encode(0, View([segment], len(segment.len)), None, None)

    def decode():
        raise AssertionError("a packed segment was decoded")

    start = np.concatenate([[0], np.cumsum(lens)[:-1]])
    return Segment(Buffer(Meter(), 0), None, None, pos, start, lens, replace(encoded, decode=decode)), encoded


def read(segments, q, window, probes):
    """Rows behind the segments, with two raw entries before them and themselves in flight."""
    rows, heads, d, dtype = len(q), len(LENS), q.shape[2], torch.float32
    more, own = raw([2] * heads, d, dtype, 5), raw([rows] * heads, d, dtype, 6)
    spec = SimpleNamespace(windows=[window], attn_softcap=None, scale=d**-0.5, n_kv_heads=heads, n_heads=q.shape[1])
    pos = torch.arange(128, 128 + rows, dtype=torch.int32)
    return attend(q, [*segments, more], own, None, pos, 0, spec, True, probes)


@needs_native
@pytest.mark.parametrize("isa", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_same_bits_as_decoding_first(isa, dtype, monkeypatch):
    before, best = native.isa()
    if isa > best:
        pytest.skip("this processor lacks the instruction set")
    native.set_isa(isa)
    try:
        for bits, keys, (group, d) in product((2, 4, 8), ("token", "channel"), ((16, 80), (48, 80), (100, 16))):
            whole, encoded = packed(raw(LENS, d, dtype), bits=bits, keys=keys, group=group)
            assert whole.in_place
            cut = whole.cut(np.array([40, 33, 0, 97]))
            for some, rows, window in ((whole, 1, None), (whole, 7, 50), (cut, 7, None)):
                k, v = encoded.decode()
                decoded = Segment(some.buffer, k, v, some.pos, some.start, some.len)
                q = torch.randn(rows, 2 * len(LENS), d, generator=torch.Generator().manual_seed(bits))
                probes = np.array([rows - 1])
                (o, mass), (o2, mass2) = (read([s], q, window, probes) for s in (some, decoded))
                assert torch.equal(o, o2) and all(map(torch.equal, mass, mass2))
            with monkeypatch.context() as patch:
                patch.setattr(kernel, "native", None)
                o3, mass3 = read([cut], q, None, probes)
            torch.testing.assert_close(o, o3, rtol=2e-5, atol=2e-5)
            for p, p3 in zip(mass, mass3):
                torch.testing.assert_close(p, p3, rtol=2e-5, atol=2e-6)
    finally:
        native.set_isa(before)


@needs_native
def test_groups_of_keys_by_channel_may_have_any_size():
    """Runs of entries need no alignment, only values' groups of channels do."""
    heads = [torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) for n in LENS]
    assert ByChannel(heads, 4, 5).described(torch.float32) is not None
    assert ByToken(heads[0], 4, 5).described(torch.float32) is None
    assert ByToken(heads[0], 4, 16).described(torch.float64) is None
    assert ByToken(heads[0][:, :8], 8, 16).described(torch.float32) is None


def test_arrays_that_do_not_fit_are_refused():
    codes, pair = torch.zeros(9, 16, dtype=torch.uint8), torch.zeros(9, 1, dtype=torch.float16)
    with pytest.raises(ValueError, match=r"low \(9, 1\) and step \(9, 1\) must be contiguous \(9, 2\)"):
        describe(codes, pair, pair, 4, 16, torch.float32)


@needs_native
@pytest.mark.parametrize("use", ["int8:gap=5", "int4:gap=5,group=16", "kivi:gap=5,bits=4,group=16"])
def test_a_text_is_the_same_and_no_layer_is_decoded(tiny, use, monkeypatch):
    eng = fewer.open(tiny, prefix_bytes=0)
    decoded = []
    for kind in (ByToken, ByChannel):
        dense = kind.dense
        monkeypatch.setattr(kind, "dense", lambda self, dtype, dense=dense: decoded.append(1) or dense(self, dtype))
    prompts = ["The quick brown fox jumps over the lazy dog. " * 3, "Once"]

    def texts():
        return [r.tokens for r in eng.generate(prompts, use=[use], max_tokens=24, raw=True, ignore_eos=True)]

    in_place = texts()
    assert not decoded
    monkeypatch.setattr(Segment, "in_place", property(lambda s: s.packed is None))
    assert texts() == in_place and decoded
