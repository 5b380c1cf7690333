"""Quest: equality with a naive rewrite, a bound that is one, blocks that follow the cache."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.kernels.ranking import Cut, Ranking, listed
from fewer.kv.segment import Meter, pack_heads, pack_stacked
from fewer.kv.view import View
from fewer.methods.select.blocks import BestBlocks
from fewer.parts.summaries import Summaries
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.types import Told
from tests.methods.selecting import Selecting, written

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8]


def test_equals_a_naive_rewrite():
    """Two blocks of 3 beside the incomplete one, in layers 1 and later."""
    model, budget, size = tiny_model(layers=4), 8, 3

    def choose(layer, pos, q, keys, attention):
        if layer < 1 or pos <= budget:
            return None
        whole, read = pos // size, []
        for h in range(2):
            blocks = keys[: whole * size, h].reshape(whole, size, -1)
            bound = [
                max(
                    sum(max(x * lo, x * hi) for x, lo, hi in zip(head.tolist(), b.amin(0).tolist(), b.amax(0).tolist()))
                    for head in q[2 * h : 2 * h + 2]
                )
                for b in blocks
            ]
            best = sorted(range(whole), key=lambda i, bound=bound: -bound[i])[: (budget - pos % size) // size]
            read.append([b * size + i for b in best for i in range(size)] + list(range(whole * size, pos)))
        return read

    method = BestBlocks(budget=budget, block=size, full_layers=1)
    got, _ = generate(model, PROMPT, use=[method], max_tokens=20)
    assert got != generate(model, PROMPT, max_tokens=20)[0]
    assert got == written(Selecting(model, choose), PROMPT, 20)


def test_no_key_of_a_block_beats_its_bound():
    g = torch.Generator().manual_seed(0)
    keys, q = torch.randn(5, 4, 8, generator=g), torch.randn(3, 8, generator=g)
    method = BestBlocks()
    told_by = method.summarise(keys, torch.zeros(5, 4), 0, None)
    (bound,) = Ranking([told_by], 4, [Cut(0, 5, 5, 20, 20)]).worth(q)
    assert (torch.einsum("gd,bsd->bsg", q, keys).amax((1, 2)) <= bound + 1e-5).all()


def view_of(keys):
    """Keys (H, 12, d) in two segments."""
    pos = torch.arange(keys.shape[1], dtype=torch.int32).expand(len(keys), -1)
    cuts = slice(0, 7), slice(7, None)
    return View([pack_stacked(Meter(), keys[:, c], keys[:, c], pos[:, c]) for c in cuts], len(keys))


def test_summaries_grow_and_start_anew():
    keys, calls = torch.randn(2, 12, 4), []
    kept = Summaries(3, lambda k, pos: calls.append(len(k)) or k.sum(1))
    assert kept.of(view_of(keys), 0, 10).shape == (3, 4)
    assert torch.equal(kept.of(view_of(keys), 0, 12), keys[0].view(4, 3, 4).sum(1))
    other = keys.clone()
    other[0, 11] += 1
    assert torch.equal(kept.of(view_of(other), 0, 12), other[0].view(4, 3, 4).sum(1))
    assert calls == [3, 1, 4]


def test_picking_copies_what_lies_there():
    keys = torch.randn(2, 12, 4)
    view = view_of(keys)
    idx = [torch.tensor([0, 6, 7, 11]), torch.tensor([5, 8])]
    got = View([view.pick(idx, Meter())], 2)
    for h in range(2):
        assert torch.equal(got.keys(h), keys[h, idx[h]]) and got.positions(h).tolist() == idx[h].tolist()


@settings(max_examples=60, deadline=None)
@given(
    lens=st.tuples(st.integers(1, 40), st.integers(1, 40)), limit=st.integers(1, 30), block=st.integers(1, 9),
    sinks=st.integers(0, 4), recent=st.integers(0, 12),
)  # fmt: skip
def test_holds_as_long_as_it_says(lens, limit, block, sinks, recent):
    """Entries appended meanwhile are read too, nothing else changes; and full layers are never asked again."""
    g = torch.Generator().manual_seed(sum(lens))
    keys, q = torch.randn(2, 60, 8, generator=g), torch.randn(4, 8, generator=g)
    method = BestBlocks(budget=limit, block=block, full_layers=1, sinks=sinks, recent=recent)
    told = Told(40, n_layers=2, windows=(None, None))
    told.start(method)
    state = told.of(method)

    def view(more: int) -> View:
        held = [torch.arange(n + more, dtype=torch.int32) for n in lens]
        return View([pack_heads(Meter(), *zip(*((k[: len(p)], k[: len(p)], p) for k, p in zip(keys, held))))], 2)

    def read(more: int) -> list[list[int]]:
        picks = method.pick(1, 0, q, view(more), told, state)
        return [list(range(n + more)) for n in lens] if picks is None else [p.tolist() for p in listed(picks, q)]

    first, lasts = read(0), method.holds(1, 0, view(0), told, state)
    assert lasts >= 0 and method.holds(0, 0, view(0), told, state) > 10**9
    for more in range(min(lasts, 20) + 1):
        assert read(more) == [[*p, *range(n, n + more)] for p, n in zip(first, lens)]
