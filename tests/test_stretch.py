"""Stretched rotations against their closed forms, SSMax against its definition, and what a prompt that is too long is told."""

from __future__ import annotations

import math

import pytest
import torch

from fewer.engine import Engine
from fewer.errors import BadRequest, PromptTooLong
from fewer.models.decoder import Decoder
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin, inv_freq
from fewer.models.spec import Rope
from fewer.models.stretch import stretched
from fewer.testing.harness import generate, request, run
from fewer.testing.tiny import tiny_model, tiny_spec

PROMPT = [(7 * i * i + 3 * i) % 31 for i in range(30)]
SPEC = tiny_spec()  # dim 8, base 50000, context 512
PLAIN = [50000.0 ** (-2 * i / 8) for i in range(4)]


def frequencies(rope):
    return inv_freq(stretched(SPEC, rope, None).ropes[0]).tolist()


def test_closed_forms():
    assert frequencies("linear:factor=8") == pytest.approx([f / 8 for f in PLAIN])
    base = 50000.0 * 8 ** (8 / 6)
    assert frequencies("ntk:factor=8") == pytest.approx([base ** (-2 * i / 8) for i in range(4)])
    assert frequencies("ntk:factor=8")[-1] == pytest.approx(PLAIN[-1] / 8)
    assert frequencies("power:power=2") == pytest.approx([f * (1 - 2 * i / 8) ** 2 for i, f in enumerate(PLAIN)])
    one = 2 * math.pi / 512
    kept = [f if f >= one else one / 4 if f >= one / 8 else 0.0 for f in PLAIN]
    assert frequencies("truncated:factor=4") == pytest.approx(kept)
    assert len({f == k for f, k in zip(PLAIN, kept)}) == 2


def test_factor_one_is_the_model_itself():
    for kind in ("linear", "ntk", "yarn"):
        rope = stretched(SPEC, f"{kind}:factor=1", None).ropes[0]
        for ours, plain in zip(*(cos_sin(r, torch.arange(40), torch.float64) for r in (rope, SPEC.ropes[0]))):
            torch.testing.assert_close(ours, plain, rtol=0, atol=1e-12)


def test_random_steps_keep_order_mean_and_past():
    rope = stretched(SPEC, "random:factor=4", None).ropes[0]
    slow = Rope(base=1e9, dim=2, kind="random", factor=4.0)
    cos, _ = cos_sin(slow, torch.tensor([0, 1, 2, 3]), torch.float64)
    at = torch.acos(cos[:, 0])  # the only frequency is 1
    assert at[0] == 0 and (at[1:] > at[:-1]).all()
    few, many = (cos_sin(rope, torch.arange(n), torch.float64)[0][:20] for n in (20, 2000))
    assert torch.equal(few, many)


def test_windowed_layers_and_context():
    spec = stretched(tiny_spec("gemma3"), "yarn:factor=2", None)
    assert spec.max_context == 1024
    assert [r.kind for r in spec.ropes] == ["default", "default", "yarn"]
    assert spec.ropes[2].attention_factor == pytest.approx(1 + 0.1 * math.log(2))


def model_with(scores):
    plain = tiny_model(seed=1)
    spec = stretched(plain.spec, None, scores)
    return Decoder(spec, plain.blocks, plain.head, plain.dtype)


def test_ssmax_equals_softmax_with_base_n():
    """n^(s z) / sum n^(s z) over the keys a row may see, in a rewrite with matrices."""
    model, n, s = model_with("ssmax:s=0.7,least=0"), len(PROMPT), 0.7
    spec, x = model.spec, model.head.embed(torch.tensor(PROMPT))
    g = spec.n_heads // spec.n_kv_heads
    for layer, block in enumerate(model.blocks):
        cos, sin = cos_sin(spec.ropes[layer], torch.arange(n), x.dtype)
        q, k, v = block.qkv(x, torch.ones_like(cos), torch.zeros_like(sin))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin).repeat_interleave(g, 1)
        z = torch.einsum("ihd,jhd->hij", q, k) * spec.scale
        sizes = torch.arange(1, n + 1, dtype=x.dtype)[None, :, None]
        powers = torch.tril(sizes ** (s * z))
        p = powers / powers.sum(-1, keepdim=True)
        x = block.mlp(block.out(torch.einsum("hij,jhd->ihd", p, v.repeat_interleave(g, 1)), x))
    want = torch.log_softmax(model.head.logits(x[-1:])[0], -1)
    for chunk in (7, 64):
        r = request(PROMPT, max_tokens=1, logprobs=0, chunk=chunk)
        run(model, [r])
        assert r.logprobs[0].logprob == pytest.approx(float(want.max()), abs=1e-9)


def test_ssmax_leaves_the_trained_length_alone():
    assert generate(model_with("ssmax"), PROMPT)[0] == generate(tiny_model(seed=1), PROMPT)[0]


def test_a_prompt_beyond_the_context_is_told_what_would_help():
    model = tiny_model()
    with pytest.raises(PromptTooLong, match=r"context is 512.*rope='yarn:factor=3'.*streaming-llm.*infiniretri"):
        Engine(model, None).generate([1] * 1100)
    spec = stretched(model.spec, "yarn:factor=3", None)
    out = Engine(Decoder(spec, model.blocks, model.head, model.dtype), None).generate([1] * 1100, max_tokens=2)
    assert len(out.tokens) == 2


@pytest.mark.parametrize(
    ("rope", "scores", "why"),
    [
        ("bent", None, "not one of linear, ntk, yarn"),
        ("yarn:faktor=4", None, "it has factor"),
        ("yarn:factor=0.5", None, "from 1 to 1024"),
        ("power:power=nan", None, "finite"),
        (None, "softmax", "not one of ssmax"),
        (None, "ssmax:s=x", "not a number"),
    ],
)
def test_refusals(rope, scores, why):
    with pytest.raises(BadRequest, match=why):
        stretched(SPEC, rope, scores)


def test_a_model_that_is_stretched_already_is_refused():
    with pytest.raises(BadRequest, match="already"):
        stretched(stretched(SPEC, "linear", None), "yarn", None)
