"""All layers in one native call give the bits of the decoder's own loop, whatever rides along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.attend.step import Attention
from fewer.kernels.block import MATRICES, PackedBlock, PackedHead
from fewer.kernels.native import native
from fewer.kernels.pack import pack_dense
from fewer.kernels.stack import PackedStack
from fewer.models.decoder import Decoder
from fewer.plan import PLAIN
from fewer.testing.harness import request, run
from fewer.testing.tiny import VARIANTS, tiny_model
from fewer.types import Group, Rows, Step, Told, Tree, chain, chain_then_tree

pytestmark = pytest.mark.skipif(native is None, reason="fewer._native is not built")
BUSH = Tree(np.array([5, 6, 7, 8, 9]), np.array([-1, -1, 1, 1, 2]))


def packed(variant: str, stacked: bool) -> Decoder:
    """The tiny model of that name in 8 bits."""
    tiny = tiny_model(variant, dtype=torch.float32)
    blocks = []
    for b in tiny.blocks:
        w = {n: t for n, t in b.w.items() if n not in MATRICES}
        blocks.append(PackedBlock(tiny.spec, {n: pack_dense(b.w[n], 8) for n in MATRICES}, w))
    ends = (None if tiny.spec.tied else pack_dense(tiny.head.proj, 8),)
    head = PackedHead(tiny.spec, pack_dense(tiny.head.weight, 8), tiny.head.norm, *ends)
    stack = PackedStack(tiny.spec, blocks) if stacked else None
    return Decoder(tiny.spec, blocks, head, torch.float32, "cpu", torch.float16, stack)


def play(model: Decoder, stop: int | None = None) -> tuple[list[torch.Tensor], list[int]]:
    """Two prompts, then a tree beside a chain: every logit or, of a forward that stops early, every entry and cost."""
    store, out, costs = model.new_store(), [], []
    told = Told(20)
    one, two = store.new(), store.new()
    steps: list[list[tuple[int, Rows]]] = [
        [(one, chain(range(20), 0)), (two, chain([3, 1, 4], 0))],
        [(two, chain([1], 3)), (one, chain_then_tree([2], BUSH, 20))],
    ]
    for groups in steps:
        step = Step([Group(seq, rows, PLAIN, told, np.arange(len(rows))) for seq, rows in groups], stop)
        outs, spent = model.forward(step, store)
        out += [o.logits for o in outs if o.logits is not None]
        costs += [s.entries_read for s in spent]
        for seq, rows in groups:
            store.commit(seq, rows, np.arange(len(rows)))
    for seq in (one, two):
        out += [store.view(seq, layer).keys(1) for layer in range(stop or model.spec.n_layers)]
    return out, costs


@pytest.mark.parametrize("stop", [None, 1])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_stack_is_the_loop(variant, stop):
    (a, spent_a), (b, spent_b) = play(packed(variant, True), stop), play(packed(variant, False), stop)
    assert len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))
    assert spent_a == spent_b


WALKED = [
    "quest:budget=8,block=3,full_layers=1",
    "tokenbutler:budget=6,file=untrained",
    "tidaldecode:budget=4,full_layers=1,reselect_layer=1",
    "recycled-attention:budget=6,stride=3",
]


@pytest.mark.parametrize("variant", ["llama", "gemma3"])
@pytest.mark.parametrize("use", WALKED)
def test_a_walk_is_the_loop(variant, use):
    """Rows that pick, beside rows that read all: the same text and reads, with and without a stack."""
    prompts, plans = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9], [2, 7, 1, 8], list(range(20))], [[use], [], [use]]
    said = []
    for stacked in (True, False):
        asked = [request(p, use=u, max_tokens=16) for p, u in zip(prompts, plans)]
        run(packed(variant, stacked), asked)
        said.append([(r.tokens, r.ledger.kv_entries_read, r.ledger.kv_bytes_scanned) for r in asked])
    assert said[0] == said[1]


def test_wrong_arguments_raise():
    model = packed("llama", True)
    store = model.new_store()
    attention = Attention(
        [Group(store.new(), chain([1], 0), PLAIN, Told(1), None)], store, model.angles, model.dtype, 3
    )
    turns = model.angles.step(np.zeros(1, np.int64))
    with pytest.raises(TypeError, match="float32"):
        model.stack.run(torch.zeros(1, 32, dtype=torch.float64), turns, attention.whole, 3)
    with pytest.raises(ValueError, match=r"\(1, 32\)"):
        model.stack.run(torch.zeros(2, 32), turns, attention.whole, 3)
    with pytest.raises(ValueError, match="4 layers"):
        model.stack.run(torch.zeros(1, 32), turns, attention.whole, 4)
    with pytest.raises(TypeError, match="a tuple of blocks"):
        native.stack_new([], 0, 1, 1, 1.0, 0.0)
    with pytest.raises((TypeError, ValueError)):
        native.stack_run(object(), 1)
