"""HOMER: the answer is that of a naive rewrite with matrices; memory grows with the logarithm of the length."""

import math
from itertools import pairwise

import pytest
import torch

from fewer.errors import BadRequest, CannotCombine
from fewer.methods.strategy.merged_chunks import MergedChunks
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.plan import plan
from fewer.runner import Runner
from fewer.testing.harness import generate, request, run
from fewer.testing.tiny import tiny_model

PROMPT = [(7 * i * i + 3 * i) % 31 for i in range(60)]


def layer_of(model, layer, x, pos, old=None):
    """One layer on rows x at positions `pos` behind entries `old` (k, v) -> rows, (k, v) of them, attention (h, m, n + m)."""
    spec, block = model.spec, model.blocks[layer]
    cos, sin = cos_sin(spec.ropes[layer], torch.tensor(pos), x.dtype)
    q, k, v = block.qkv(x, torch.ones_like(cos), torch.zeros_like(sin))
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    keys, values = (k, v) if old is None else (torch.cat([old[0], k]), torch.cat([old[1], v]))
    g, m, n = spec.n_heads // spec.n_kv_heads, len(x), len(keys)
    s = torch.einsum("ihd,jhd->hij", q, keys.repeat_interleave(g, 1)) * spec.scale
    hidden = torch.ones(m, n).triu(1 + n - m).bool()
    p = torch.softmax(s.masked_fill(hidden, float("-inf")), -1)
    return block.mlp(block.out(torch.einsum("hij,jhd->ihd", p, values.repeat_interleave(g, 1)), x)), (k, v), p


class Naive:
    """The paper's recursion on one prompt. A chunk is (states, positions, [(k, v) a layer])."""

    def __init__(self, model, m, prompt, budget, ends):
        self.model, self.m, self.prompt, self.budget, self.ends = model, m, prompt, budget, ends
        middle = prompt[m.prefix : len(prompt) - m.suffix]
        size, more = divmod(len(middle), 2 ** (len(ends) - 1))
        self.longest, self.leaves = size + (more > 0), []
        for i in range(2 ** (len(ends) - 1)):
            self.leaves.append(middle[: size + (i < more)])
            middle = middle[size + (i < more) :]

    def chunk(self, first, level):
        m, n_suffix = self.m, self.m.suffix
        if level == 0:
            leaf = self.leaves[first]
            x = self.model.head.embed(torch.tensor(self.prompt[: m.prefix] + leaf + self.prompt[-n_suffix:]))
            pos = [*range(m.prefix + len(leaf)), *(m.prefix + self.longest + i for i in range(n_suffix))]
            cache, start = [], 0
        else:
            half = 2 ** (level - 1)
            xa, pa, ca = self.chunk(first, level - 1)
            xb, pb, cb = self.chunk(first + half, level - 1)

            def join(a, b):
                return torch.cat(
                    [
                        (a[: m.prefix] + b[: m.prefix]) / 2,
                        a[m.prefix : len(a) - n_suffix],
                        b[m.prefix : len(b) - n_suffix],
                        (a[-n_suffix:] + b[-n_suffix:]) / 2,
                    ]
                )

            x, pos = join(xa, xb), pa[:-n_suffix] + pb[m.prefix :]
            cache = [(join(ka, kb), join(va, vb)) for (ka, va), (kb, vb) in zip(ca, cb)]
            start = self.ends[level - 1]
        for layer in range(start, self.ends[level]):
            x, kv, p = layer_of(self.model, layer, x, pos)
            cache.append(kv)
        room = (self.budget - m.prefix - n_suffix) // 2
        if level < len(self.ends) - 1 and len(pos) - m.prefix - n_suffix > room:
            score = self.significance(p.amax(0), pos)
            among = range(m.prefix, len(pos) - n_suffix)
            best = sorted(sorted(among, key=lambda j: -float(score[j]))[:room])
            kept = [*range(m.prefix), *best, *range(len(pos) - n_suffix, len(pos))]
            x, pos, cache = x[kept], [pos[i] for i in kept], [(k[kept], v[kept]) for k, v in cache]
        return x, pos, cache

    def significance(self, p, pos):
        n, last, k = len(pos), self.m.rows, self.m.calibrate
        others = {int((n - last - 1) * i / (k - 1)) for i in range(k)} if k else set()
        step = lambda i, j: math.floor(2 * math.log2(1 + abs(pos[i] - pos[j])))  # noqa: E731
        by_step = {}
        for i in sorted(others):
            for j in range(i + 1):
                by_step.setdefault(step(i, j), []).append(float(p[i, j]))
        bias = {s: sum(v) / len(v) for s, v in by_step.items()}
        beyond = [[float(p[i, j]) - bias.get(step(i, j), 0.0) for i in range(n - last, n)] for j in range(n)]
        return [sum(b) / last for b in beyond]

    def answer(self):
        """Log probabilities behind the prompt, and the positions that are held."""
        _, pos, cache = self.chunk(0, len(self.ends) - 1)
        x = self.model.head.embed(torch.tensor(self.prompt[-1:]))
        for layer, (k, v) in enumerate(cache):
            x, _, _ = layer_of(self.model, layer, x, pos[-1:], (k[:-1], v[:-1]))
        return torch.log_softmax(self.model.head.logits(x)[0], -1), pos[:-1]


@pytest.mark.parametrize("calibrate", [0, 5])
@pytest.mark.parametrize(("prefix", "rows"), [(0, 1), (3, 2)])
def test_answers_what_a_naive_rewrite_answers(prefix, rows, calibrate):
    model = tiny_model(layers=6)
    budget = 20 + prefix
    method = MergedChunks(budget=budget, prefix=prefix, suffix=4, rows=rows, warmup=0.3, calibrate=calibrate)
    ends = method.levels(len(PROMPT), budget, 6)
    assert ends == [4, 5, 6]  # four chunks; a layer a level, two below and one left over for the first
    want, held = Naive(model, method, PROMPT, budget, ends).answer()
    r, found = request(PROMPT, use=[method], max_tokens=1, logprobs=0), []
    runner = Runner({"main": model})
    r.on_end = lambda req: found.extend(
        runner.stores["main"].view(req.seqs["main"], layer).positions(0).tolist()[: len(held)] for layer in range(6)
    )
    runner.add(r)
    runner.run()
    assert r.error is None
    assert r.tokens == [int(want.argmax())]
    assert r.logprobs[0].logprob == pytest.approx(float(want.max()), abs=1e-9)
    assert found == [held] * 6
    assert max(held) < budget


def test_pieces_of_a_chunk_change_nothing():
    use = [MergedChunks(budget=30, prefix=3, suffix=4)]
    whole, _ = generate(tiny_model(layers=6), PROMPT, use=use)
    pieces, _ = generate(tiny_model(layers=6), PROMPT, use=use, chunk=7)
    assert whole == pieces


def test_memory_grows_with_the_logarithm_of_the_length():
    model, method = tiny_model(layers=12), MergedChunks(budget=24, prefix=2, suffix=4)
    room, peaks, ends = 18, [], []
    for levels in range(1, 7):  # 2 to 64 chunks
        n = room * 2**levels + 6
        r = request([PROMPT[i % 60] for i in range(n)], use=[method], max_tokens=2)
        run(model, [r])
        peaks.append(r.ledger.kv_bytes_peak)
        ends.append(r.ledger.kv_bytes_end)
        assert r.ledger.rows * 12 == r.ledger.layers_run + r.ledger.layers_skipped
    growth = [b - a for a, b in pairwise(peaks)]
    entry = 12 * 2 * (2 * 8 * 8 + 4)  # bytes of one token: layers, heads, float64 key and value, position
    assert max(growth) <= 24 * entry  # one waiting chunk a level, not twice as much at every doubling
    assert len(set(ends)) == 1


def test_a_prompt_of_one_chunk_is_read_as_ever():
    plain, _ = generate(tiny_model(), PROMPT, max_tokens=8)
    assert generate(tiny_model(), PROMPT, use=[MergedChunks(budget=60)], max_tokens=8)[0] == plain


def test_says_which_budget_would_do():
    with pytest.raises(BadRequest, match="raise the budget to 82 or more"):
        generate(tiny_model(), [1] * 200, use=[MergedChunks(budget=81)])
    with pytest.raises(BadRequest, match="joined in 5 levels, and the model has 3 layers"):
        generate(tiny_model(), PROMPT, use=[MergedChunks(budget=8, prefix=1, suffix=2)])


def test_refuses_what_would_edit_the_same_cache():
    with pytest.raises(CannotCombine, match="homer and streaming-llm"):
        plan(["homer", "streaming-llm"])
