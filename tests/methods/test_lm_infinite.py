"""LM-Infinite: equality with a naive rewrite of the Lambda mask and the capped distances; StreamingLLM's differ."""

import torch

from fewer.methods.retain.sink_window import SinkWindow
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.testing.harness import generate, request, run
from fewer.testing.tiny import tiny_model

PROMPT, SINKS, WINDOW = [(7 * i * i + 3 * i) % 31 for i in range(30)], 2, 6


def naive(model, tokens):
    """Log probabilities behind the last token: whole-text matrices, mask and distances as the paper has them."""
    spec, n = model.spec, len(tokens)
    i, j = torch.arange(n)[:, None], torch.arange(n)[None]
    seen = (j <= i) & ((i - j <= WINDOW) | (j < SINKS))
    apart = (i - j).clamp(min=0, max=WINDOW)
    x, g = model.head.embed(torch.tensor(tokens)), spec.n_heads // spec.n_kv_heads
    for layer, block in enumerate(model.blocks):
        cos, sin = cos_sin(spec.ropes[layer], torch.arange(WINDOW + 1), x.dtype)
        q, k, v = block.qkv(x, torch.ones_like(cos[:1].expand(n, -1)), torch.zeros_like(sin[:1].expand(n, -1)))
        k, v = k.repeat_interleave(g, 1), v.repeat_interleave(g, 1)
        turned = torch.stack([rotate(q, c.expand(n, -1), s.expand(n, -1)) for c, s in zip(cos, sin)])  # by distance
        z = torch.einsum("xihd,jhd->xhij", turned, k).gather(0, apart.expand(1, spec.n_heads, n, n))[0] * spec.scale
        p = torch.softmax(z.masked_fill(~seen, float("-inf")), -1)
        x = block.mlp(block.out(torch.einsum("hij,jhd->ihd", p, v), x))
    return torch.log_softmax(model.head.logits(x[-1:])[0], -1)


def test_equals_a_naive_rewrite():
    model = tiny_model()
    method = SinkWindow(budget=SINKS + WINDOW, sinks=SINKS, capped=True)
    r = request(PROMPT, use=[method], max_tokens=6, chunk=1, logprobs=0)
    run(model, [r])
    text = list(PROMPT)
    for token, said in zip(r.tokens, r.logprobs):
        want = naive(model, text)
        assert token == int(want.argmax())
        assert abs(said.logprob - float(want.max())) < 1e-9
        text.append(token)


def test_distances_are_capped_and_short_texts_untouched():
    """Sinks stand elsewhere than StreamingLLM's once the window is full, and where they always stood before."""
    model, use = tiny_model(), [SinkWindow(budget=20, sinks=SINKS, capped=True)]
    assert generate(model, PROMPT[:10], use=use, max_tokens=8)[0] == generate(model, PROMPT[:10], max_tokens=8)[0]
    said = []
    for capped in (True, False):
        method = SinkWindow(budget=8, sinks=SINKS, capped=capped)
        r = request(PROMPT, use=[method], max_tokens=1, chunk=1, logprobs=0)
        run(model, [r])
        said.append(r.logprobs[0].logprob)
    assert abs(said[0] - said[1]) > 1e-6
