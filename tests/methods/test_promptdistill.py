"""PromptDistill: the answer is that of a naive rewrite with matrices; rows, layers and entries are as stated."""

import pytest
import torch

from fewer.errors import CannotCombine
from fewer.methods.strategy.retained_rows import RetainedRows
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.plan import plan
from fewer.testing.harness import request, run
from fewer.testing.tiny import tiny_model

PROMPT = [(7 * i * i + 3 * i) % 31 for i in range(40)]


def layer_of(model, layer, x, at):
    """One layer on rows x that stand at positions `at`, with matrices -> (rows, raw scores of the last one)."""
    spec, block = model.spec, model.blocks[layer]
    cos, sin = cos_sin(spec.ropes[layer], at, x.dtype)
    q, k, v = block.qkv(x, torch.ones_like(cos), torch.zeros_like(sin))
    g = spec.n_heads // spec.n_kv_heads
    q, k = rotate(q, cos, sin), rotate(k, cos, sin).repeat_interleave(g, 1)
    s = torch.einsum("ihd,jhd->hij", q, k) * spec.scale
    p = torch.softmax(s.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), float("-inf")), -1)
    return block.mlp(block.out(torch.einsum("hij,jhd->ihd", p, v.repeat_interleave(g, 1)), x)), s[:, -1].sum(0)


def naive(model, prompt, depth, budget, pool, tail):
    """Log probabilities after the prompt, and the places that went on."""
    n, at = len(prompt), torch.arange(len(prompt))
    x = model.head.embed(torch.tensor(prompt))
    for layer in range(depth):
        x, raw = layer_of(model, layer, x, at)
    smooth = torch.stack([raw[max(0, j - pool // 2) : j + pool // 2 + 1].mean() for j in range(n)])
    smooth[n - tail :] = float("inf")
    kept = smooth.topk(budget).indices.sort().values
    x = x[kept]
    for layer in range(depth, model.spec.n_layers):
        x, _ = layer_of(model, layer, x, kept)
    return torch.log_softmax(model.head.logits(x[-1:])[0], -1), kept.tolist()


@pytest.mark.parametrize("chunk", [7, 64])
def test_answers_what_a_naive_rewrite_answers(chunk):
    model = tiny_model(layers=4)
    want, kept = naive(model, PROMPT, 2, 12, 3, 4)
    method = RetainedRows(budget=12, layer=0.5, pool=3, tail=4)
    r = request(PROMPT, use=[method], max_tokens=1, chunk=chunk, logprobs=0)
    held = []
    r.on_end = lambda req: held.extend(
        runner.stores["main"].view(req.seqs["main"], layer).positions(0).tolist() for layer in range(4)
    )
    from fewer.runner import Runner

    runner = Runner({"main": model})
    runner.add(r)
    runner.run()
    assert r.error is None
    assert r.tokens == [int(want.argmax())]
    assert r.logprobs[0].logprob == pytest.approx(float(want.max()), abs=1e-9)
    assert held == [list(range(40))] * 2 + [kept] * 2


def test_rows_and_layers_fall_as_stated():
    """n rows x r layers, the kept ones but the last x (L - r), and the last one through all."""
    r = request(PROMPT, use=[RetainedRows(budget=10, layer=0.5, tail=4)], max_tokens=1)
    run(tiny_model(layers=4), [r])
    assert r.ledger.layers_run == 40 * 2 + 9 * 2 + 4
    assert (r.ledger.kept_tokens, r.ledger.dropped_tokens) == (40, 0)


def test_refuses_what_would_edit_the_same_cache():
    with pytest.raises(CannotCombine, match="promptdistill and streaming-llm"):
        plan(["promptdistill", "streaming-llm"])
