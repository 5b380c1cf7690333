"""Attention and append equal the torch reference on random shapes, on every instruction set; bad inputs raise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.kernels import attention_reference as reference
from fewer.kernels.attention import Step, append_kv, attend, packed
from tests.attention_cases import DTYPES, SETTINGS, Keys, cases, present, random_keys, run


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@SETTINGS
@given(case=cases())
def test_equals_the_reference(isa, case):
    q, tables, pos, rows, visible, keys = present(case)
    how = {"window": case["window"], "softcap": case["softcap"]}
    width = max(len(k) for s in keys for k in s.k) + 2
    slot = torch.full((len(q),), -1, dtype=torch.int64)
    slot[::2] = torch.arange((len(q) + 1) // 2)
    got, want = (torch.full((len(q), q.shape[1], width), 5.0) for _ in range(2))
    o, lse = run(q, tables, pos, rows, case["heads"], visible, mass=got, mass_slot=slot, **how)
    o2, lse2 = run(q, tables, pos, rows, case["heads"], visible, op=None, mass=want, mass_slot=slot, **how)
    torch.testing.assert_close(o, o2, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(lse, lse2, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-6)
    sums = torch.full((len(q), case["heads"], width), 5.0)
    again, _ = run(q, tables, pos, rows, case["heads"], visible, mass=sums, mass_slot=slot, **how)
    of_rows = got[: (len(q) + 1) // 2].unflatten(1, (case["heads"], -1)).sum(2)
    torch.testing.assert_close(sums[: len(of_rows)], of_rows, rtol=2e-5, atol=2e-6)
    assert torch.equal(again, o)
    run(q, tables, pos, rows, case["heads"], visible, op=None, mass=sums, mass_slot=slot, **how)
    torch.testing.assert_close(sums[: len(of_rows)], of_rows, rtol=2e-5, atol=2e-6)


def random_picks(rng, keys: Keys) -> list[torch.Tensor]:
    """Of each kv-head some ascending places, in-flight ones too; neighbours as often as loners."""
    out = []
    for k in keys.k:
        wanted = rng.random(len(k)) < rng.choice([0.05, 0.5, 1.0])
        out.append(torch.from_numpy(np.flatnonzero(wanted | np.roll(wanted & (rng.random(len(k)) < 0.5), 1))))
    return out


@SETTINGS
@given(case=cases())
def test_picked_places_equal_the_reference_and_a_gathered_copy(isa, case):
    q, tables, pos, rows, visible, keys = present(case)
    how = {"window": case["window"], "softcap": case["softcap"]}
    rng, g = np.random.default_rng(case["seed"]), case["group"]
    places = [None if rng.random() < 0.2 else random_picks(rng, k) for k in keys]
    picks = [None if p is None else packed(p) for p in places]
    width = max(len(k) for s in keys for k in s.k)
    slot = torch.arange(len(q))
    got, want = (torch.full((len(q), q.shape[1], width), 5.0) for _ in range(2))
    o, lse = run(q, tables, pos, rows, case["heads"], visible, picks=picks, mass=got, mass_slot=slot, **how)
    o2, lse2 = run(q, tables, pos, rows, case["heads"], visible, op=None, picks=picks, mass=want, mass_slot=slot, **how)
    torch.testing.assert_close(o, o2, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(lse, lse2, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(got, want, rtol=2e-5, atol=2e-6)
    ends = np.cumsum([0, *rows])
    for i, (k, at) in enumerate(zip(keys, places)):
        if at is None or case["window"]:
            continue
        copy = Keys(*([x[p] for x, p in zip(xs, at)] for xs in (k.k, k.v, k.pos)), staged=0)
        mine, seen = slice(ends[i], ends[i + 1]), [torch.zeros(rows[i], 0, dtype=torch.bool)]
        alone = run(q[mine], [copy.table()], [pos[i]], [rows[i]], case["heads"], seen, [0], softcap=case["softcap"])
        assert torch.equal(o[mine], alone[0]) and torch.equal(lse[mine], alone[1]), g


def test_places_that_are_not_there_are_refused(isa):
    keys = random_keys(torch.Generator().manual_seed(0), [40, 3], 16, 2, torch.float32)
    q = torch.randn(2, 4, 16)
    for bad in ([[0, 1], [5]], [[3, 3], []], [[-1], []], [[2, 1], []]):
        with pytest.raises(IndexError, match="ascend"):
            run(q, [keys.table()], [[50, 51]], [2], 2, picks=[packed([torch.tensor(b).long() for b in bad])])
    for bad in ([5, 9, 1], [9, 3, 0, 1, 2], [-1, 2, 0, 1], [2]):
        with pytest.raises(ValueError, match="end at"):
            run(q, [keys.table()], [[50, 51]], [2], 2, picks=[np.array(bad)])
    with pytest.raises(TypeError, match="int64"):
        run(q, [keys.table()], [[50, 51]], [2], 2, picks=[np.array([1, 2, 1, 1], dtype=np.int32)])


def test_a_window_may_leave_holes_at_the_border_of_segments(isa):
    """Of two segments the first one's first block and the second one's second block are seen; nothing joins them."""
    g = torch.Generator().manual_seed(2)
    keys = random_keys(g, [128], 16, 9, torch.float32)
    place = [range(900, 932), range(32), range(32, 64), range(932, 964), range(964, 973)]
    keys.pos[0] = torch.tensor([p for part in place for p in part], dtype=torch.int32)
    first = Keys(*([x[:64] for x in xs] for xs in (keys.k, keys.v, keys.pos)), staged=0)
    second = Keys(*([x[64:] for x in xs] for xs in (keys.k, keys.v, keys.pos)), staged=9)
    table = np.concatenate([first.table(), second.table()])
    q = torch.randn(9, 3, 16, generator=g)
    o, lse = run(q, [table], [place[-1]], [9], 1, window=100)
    o2, lse2 = run(q, [table], [place[-1]], [9], 1, window=100, op=None)
    torch.testing.assert_close(o, o2, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(lse, lse2, rtol=2e-5, atol=2e-5)


def test_a_row_that_sees_nothing_is_zero(isa):
    g = torch.Generator().manual_seed(0)
    keys = random_keys(g, [40, 3], 16, 2, torch.float32)
    q = torch.randn(2, 4, 16, generator=g)
    o, lse = run(q, [keys.table()], [[1000, 44]], [2], 2, window=5)
    assert torch.equal(o[0], torch.zeros(4, 16)) and (lse[0] == -torch.inf).all()
    assert not torch.signbit(o[0]).any() and (lse[1] > -torch.inf).all()


def test_extreme_scores_and_denormal_values(isa):
    g = torch.Generator().manual_seed(1)
    keys = random_keys(g, [50], 16, 1, torch.float32)
    keys.k[0] *= 1e18
    keys.v[0] *= 1e-42
    q = torch.randn(1, 1, 16, generator=g) * 1e3
    o, lse = run(q, [keys.table()], [keys.pos[0][-1:]], [1], 1)
    o2, lse2 = run(q, [keys.table()], [keys.pos[0][-1:]], [1], 1, op=None)
    torch.testing.assert_close(o, o2, rtol=0, atol=3e-45)
    torch.testing.assert_close(lse, lse2, rtol=1e-5, atol=0)


def test_a_value_that_vanishes_leaves_no_negative_zero(isa):
    """p v can underflow to -0, and a masked key behind it (0 * v) turns that into +0: both must give the same bits."""
    k = torch.zeros(3, 8)
    k[1] = -1.0
    v = torch.tensor([0.0, -1e-42, 1.0])[:, None].repeat(1, 8)
    keys = Keys([k], [v], [torch.arange(3, dtype=torch.int32)], staged=2)
    q = torch.full((2, 1, 8), 8.0)
    o, _ = run(q, [keys.table()], [[1, 2]], [2], 1, [torch.eye(2, dtype=torch.bool)], scale=0.5)
    only = keys.path([0])
    alone, _ = run(q[:1], [only.table()], [[1]], [1], 1, scale=0.5)
    assert torch.equal(o[0].view(torch.int32), alone[0].view(torch.int32)) and not o[0].signbit().any()


@SETTINGS
@given(
    heads=st.integers(1, 3), d=st.sampled_from([8, 24, 64]), rows=st.lists(st.integers(0, 150), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES), magnitude=st.sampled_from([1.0, 1e-6, 1e4]), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_append_equals_the_reference(isa, heads, d, rows, dtype, magnitude, seed):
    g = torch.Generator().manual_seed(seed)
    k, v = (torch.randn(sum(rows), heads, d, generator=g) * magnitude for _ in range(2))
    pos = torch.randint(0, 10**6, (sum(rows),), generator=g, dtype=torch.int32).numpy()
    starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)

    def tails():
        keys = [
            random_keys(torch.Generator().manual_seed(seed + i), [i, 5, 2][:heads], d, m, dtype)
            for i, m in enumerate(rows)
        ]
        tables = [x.table(1, seed + i) for i, x in enumerate(keys)]
        where = np.array([[t.ctypes.data for t in tables]], dtype=np.int64)
        return keys, tables, Step(starts, pos, where, np.full_like(where, 2))

    keys, _tables, step = tails()
    append_kv(k, v, step, 0)
    keys2, _tables2, step2 = tails()
    reference.append_kv(k, v, step2.row_start, step2.tables[0], step2.nseg[0], step2.pos)
    for a, b in zip(keys, keys2):
        assert all(torch.equal(x.nan_to_num(3.0), y.nan_to_num(3.0)) for x, y in zip(a.alive, b.alive))


def test_half_conversions_match_torch(isa):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.float16)
    finite = every[every.isfinite()].float()
    near = torch.cat(
        [finite * s for s in (1.0, 1.0002, 0.9998, 1.0005)] + [torch.tensor([65519.9, 65520.0, 1e9, -1e9])]
    )
    k = torch.nn.functional.pad(near, (0, -len(near) % 256)).view(-1, 1, 256).contiguous()
    m = len(k)
    keys = random_keys(torch.Generator().manual_seed(0), [0], 256, m, torch.float16)
    table = keys.table()
    where = np.array([[table.ctypes.data]], dtype=np.int64)
    append_kv(k, k, Step(np.array([0, m]), np.arange(m, dtype=np.int32), where, np.ones_like(where)), 0)
    stored = keys.alive[0][int(table[0, 4]) :][:m]
    assert torch.equal(stored.view(torch.int16), k[:, 0].half().view(torch.int16))


def test_bad_inputs_raise():
    keys = random_keys(torch.Generator().manual_seed(0), [5], 16, 2, torch.float32)
    table = keys.table()
    where = np.array([[table.ctypes.data]], dtype=np.int64)
    one, starts, pos = np.ones_like(where), np.array([0, 2]), np.array([5, 6], dtype=np.int32)
    step = Step(starts, pos, where, one)
    q = torch.zeros(2, 2, 16)
    for bad, error in (
        ({"q": q.double()}, TypeError),
        ({"q": torch.zeros(2, 16, 2).transpose(1, 2)}, TypeError),
        ({"q": torch.zeros(3, 2, 16)}, ValueError),
        ({"q": torch.zeros(2, 2, 12)}, ValueError),
        ({"q": torch.zeros(2, 2, 264)}, ValueError),
        ({"o": torch.zeros(2, 2, 8)}, ValueError),
        ({"o": torch.zeros(2, 2, 16, dtype=torch.float16)}, TypeError),
        ({"n_kv_heads": 3}, ValueError),
        ({"n_kv_heads": 0}, ValueError),
        ({"window": -1}, ValueError),
        ({"lse": torch.zeros(2, 3)}, ValueError),
        ({"mass": torch.zeros(1, 2, 9)}, TypeError),
        ({"mass": torch.zeros(1, 2, 9), "mass_slot": torch.tensor([0, 1])}, ValueError),
    ):
        args = {"q": q, "o": torch.zeros(2, 2, 16), "step": step, "layer": 0, "n_kv_heads": 1, "scale": 1.0, **bad}
        with pytest.raises(error):
            attend(**args)
    for k in (torch.zeros(2, 16), torch.zeros(3, 1, 16), torch.zeros(2, 1, 16).half()):
        with pytest.raises((TypeError, ValueError)):
            append_kv(k, k, step, 0)
    square = torch.ones(2, 2)
    for args, error in (
        ((starts.astype(np.int32), pos, where, one), TypeError),
        ((starts, pos.astype(np.int64), where, one), TypeError),
        ((np.array([0, 3]), pos, where, one), ValueError),
        ((np.array([0, 2, 1]), pos, where, one), ValueError),
        ((starts, pos, where[0], one), ValueError),
        ((starts, pos, where, one * 0), ValueError),
        ((starts, pos, where * 0, one), ValueError),
        ((starts, pos, where, one, [square]), TypeError),
        ((starts, pos, where, one, [torch.ones(2, 3, dtype=torch.bool)]), ValueError),
        ((starts, pos, where, one, [None, None]), ValueError),
        ((starts, pos, where, one, None, np.array([3])), ValueError),
    ):
        with pytest.raises(error):
            Step(*args)
