"""The decoder loop: pieces, trees, soft rows, early exits, absent rows, neighbours with other seams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewer.methods.retain.sink_window import SinkWindow
from fewer.plan import PLAIN, plan
from fewer.runner import Runner
from fewer.testing.harness import Naive, request, run
from fewer.testing.rig import one_thread
from fewer.testing.tiny import VARIANTS, tiny_model
from fewer.types import Group, Step, Told, Tree, chain, chain_then_tree, soft
from tests.samples import Heaviest, Skips, TopKeys

TEXT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


@pytest.fixture(autouse=True)
def alone_on_a_core():
    with one_thread():
        yield


def feed(model, store, seq, rows, commit=True, **step):
    group = Group(seq, rows, PLAIN, Told(len(rows)), np.arange(len(rows)))
    (out,), (spent,) = model.forward(Step([group], **step), store)
    store.commit(seq, rows, np.arange(len(rows) if commit else 0))
    return out, spent


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_naive_decoder_in_pieces_of_any_size(variant):
    model, naive = tiny_model(variant), Naive(tiny_model(variant))
    want = torch.stack([naive.feed(t) for t in TEXT])
    for sizes in ([12], [5, 7], [1] * 12, [3, 1, 8]):
        store, at, got = model.new_store(), 0, []
        seq = store.new()
        for n in sizes:
            got.append(feed(model, store, seq, chain(TEXT[at : at + n], at))[0].logits)
            at += n
        assert torch.allclose(torch.cat(got), want, atol=1e-10, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_path_of_a_tree_is_what_it_is_alone(variant):
    model = tiny_model(variant)
    store = model.new_store()
    seq = store.new()
    feed(model, store, seq, chain(TEXT, 0))
    bush = Tree(np.array([5, 6, 7, 8, 9, 1]), np.array([-1, -1, 1, 1, 2, 0]))
    out, _ = feed(model, store, seq, chain_then_tree([2], bush, 12), commit=False)
    for path in ([0, 5], [1, 2, 4], [1, 3]):
        fork = store.fork(seq)
        alone, _ = feed(model, store, fork, chain([2, *bush.tokens[path]], 12))
        assert torch.allclose(out.logits[[0, *(1 + i for i in path)]], alone.logits, atol=1e-10, rtol=0)


def test_soft_rows_are_tokens_that_were_embedded():
    model = tiny_model()
    a, b = model.new_store(), model.new_store()
    hard, _ = feed(model, a, a.new(), chain(TEXT, 0))
    softly, _ = feed(model, b, b.new(), soft(model.head.embed(torch.tensor(TEXT)), 0))
    assert torch.equal(hard.logits, softly.logits)


def test_leaving_early_leaves_no_entries_above_and_costs_less():
    model = tiny_model()
    store = model.new_store()
    seq = store.new()
    out, spent = feed(model, store, seq, chain(TEXT, 0), stop=1, taps=frozenset({"layer.0"}))
    assert out.logits is None and out.hidden["layer.0"].shape == (12, 32)
    assert [store.entries(seq, layer)[0] for layer in range(3)] == [12, 0, 0]
    assert (spent.rows, spent.layers_run, spent.layers_skipped) == (12, 12, 24)


def test_taps_are_the_states_after_their_layer():
    model = tiny_model()
    store = model.new_store()
    out, _ = feed(model, store, store.new(), chain(TEXT, 0), taps=frozenset({"layer.2", "last"}))
    assert torch.equal(out.hidden["layer.2"], out.hidden["last"])
    assert torch.allclose(model.head.logits(out.hidden["last"]), out.logits)


def test_the_likeliest_tokens_alone():
    model = tiny_model()
    a, b = model.new_store(), model.new_store()
    full, _ = feed(model, a, a.new(), chain(TEXT, 0))
    few, _ = feed(model, b, b.new(), chain(TEXT, 0), best=3)
    assert few.logits is None and few.best.tolist() == torch.topk(full.logits, 3).indices.tolist()


def test_only_wanted_rows_come_back():
    model = tiny_model()
    store = model.new_store()
    full, _ = feed(model, store, store.new(), chain(TEXT, 0))
    groups = [Group(store.new(), chain(TEXT, 0), PLAIN, Told(12), w) for w in (np.array([2, 11]), None, np.array([5]))]
    outs, _ = model.forward(Step(groups), store)
    assert torch.allclose(outs[0].logits, full.logits[[2, 11]]) and not len(outs[1].logits)
    assert torch.allclose(outs[2].logits, full.logits[[5]])


def test_a_layer_that_no_row_attends_gets_no_entry():
    """Found by the positions check: one row alone, absent from a layer, used to be committed there as an empty entry."""
    runner, entries = Runner({"main": tiny_model()}), []
    store = runner.stores["main"]
    r = request(TEXT, [Skips(every=2, level=1e9)], max_tokens=4)
    r.on_end = lambda req: entries.extend(int(store.entries(req.seqs["main"], layer)[0]) for layer in range(3))
    runner.add(r)
    runner.run()
    assert entries == [15, 8, 15]


def test_rotation_by_place_finds_its_rows_beside_routed_ones():
    """A routed neighbour makes the step's attending rows a subset: places must be looked up in it, not counted through."""
    model = tiny_model()
    uses = ([Skips(every=2)], [SinkWindow(budget=6, sinks=2)])
    alone = []
    for use in uses:
        r = request(TEXT, use, max_tokens=8)
        run(model, [r])
        alone.append(r.tokens)
    for order in ((0, 1), (1, 0)):
        both = [request(TEXT, uses[i], max_tokens=8) for i in order]
        run(model, both)
        assert [r.tokens for r in both] == [alone[i] for i in order]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_evidence_of_a_row_that_selects_is_what_it_read(dtype):
    """Probabilities over all entries: they sum to one, and are zero where the row read nothing; tree rows as alone."""
    seen = []

    class Notes(Heaviest):
        def watch(self, layer, rows, probs, told, state):
            seen.append((told.decoding, rows.tolist(), probs))

        def keep(self, held, told, state):
            return None

    model = tiny_model("qwen3", dtype=dtype)
    use = [Notes(), TopKeys(budget=5)]
    r = request(TEXT, use, max_tokens=4)
    run(model, [r])
    decoded = [(rows, probs) for decoding, rows, probs in seen if decoding]
    assert len(decoded) == 3 * 3
    for step in range(3):
        for rows, probs in decoded[3 * step : 3 * step + 3]:
            assert rows == [0] and [p.shape for p in probs] == [(1, 2, 12 + step + 1)] * 2
            assert all(torch.allclose(p.sum(-1), torch.ones(1, 2, dtype=dtype)) for p in probs)
            assert all(int((p[0] > 0).any(0).sum()) == 6 for p in probs)


def test_spent_counts_half_a_layer_for_attention_and_half_for_the_ffn():
    model = tiny_model()
    store, told = model.new_store(), Told(12)
    seams = plan([Skips(every=3, level=1e9)])
    told.start(seams.route)
    _, (spent,) = model.forward(Step([Group(store.new(), chain(TEXT, 0), seams, told, None)]), store)
    assert (spent.rows, spent.layers_run, spent.layers_skipped) == (12, 36 - 4 / 2, 4 / 2)
