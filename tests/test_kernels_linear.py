"""Products, head and embedding rows: equal to the reference, and a row's bits depend on that row alone."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.kernels import ops, reference
from fewer.kernels.cpu import features
from fewer.kernels.native import native
from fewer.kernels.pack import Packed, pack_dense
from fewer.kernels.torch_ops import arrays
from tests.packed import forms, random_packed

SETTINGS = settings(max_examples=60, deadline=None)
needs_native = pytest.mark.skipif(native is None, reason="fewer._native is not built")
sizes = st.integers(1, 130)
seeds = st.integers(0, 1000)


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    yield
    if native is not None:
        native.set_isa(2)
        ops.set_threads()


def rows(count: int, k: int, seed: int = 0, size: float = 1.0) -> torch.Tensor:
    return torch.randn(count, k, generator=torch.Generator().manual_seed(seed)) * size


def close(y: torch.Tensor, x: torch.Tensor, w: Packed) -> bool:
    """Within rounding of float32 sums: 1e-6 of the sum of the terms' sizes (codes count from zero, hence the 3)."""
    terms = reference.quantise(x).abs() @ w.dequantize().double().abs().T
    floor = 3 * reference.quantise(x).abs().sum(-1, keepdim=True) * float(w.dequantize().abs().max())
    return bool(((y.double() - reference.linear(x.double(), w)).abs() <= 1e-6 * (terms + floor) + 1e-37).all())


@SETTINGS
@given(forms, sizes, sizes, st.integers(1, 40), seeds, st.sampled_from([1e-38, 1e-20, 1.0, 1e20]))
def test_linear_equals_the_reference(form: str, n: int, k: int, count: int, seed: int, size: float) -> None:
    w = random_packed(form, n, k, seed)
    x = rows(count, w.k, seed, size)
    assert close(ops.linear(x, w), x, w)


@needs_native
@SETTINGS
@given(forms, sizes, sizes, st.integers(1, 70), seeds)
def test_a_rows_bits_depend_on_that_row_alone(form: str, n: int, k: int, count: int, seed: int) -> None:
    w = random_packed(form, n, k, seed)
    x, bias = rows(count, w.k, seed), rows(1, n, seed)[0]
    whole = ops.linear(x, w, bias)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ops.linear(x[order], w, bias), whole[order])
    for i in range(0, count, 7):
        assert torch.equal(ops.linear(x[i : i + 1], w, bias), whole[i : i + 1])


@needs_native
@settings(max_examples=30, deadline=None)
@given(forms, sizes, sizes, st.integers(1, 20), seeds)
def test_bits_do_not_depend_on_threads_or_instruction_set(form: str, n: int, k: int, count: int, seed: int) -> None:
    assert native is not None
    w = random_packed(form, n, k, seed)
    x = rows(count, w.k, seed)
    norm = rows(1, w.k, seed + 1)[0]

    def everything() -> list[torch.Tensor]:
        ids = torch.arange(n)
        return [
            ops.linear(x, w),
            ops.logits(x, w, norm, 1e-5),
            *ops.best(x, w, norm, 1e-5, min(n, 5)),
            ops.embed(w, ids),
        ]

    truth = everything()
    for threads, isa in ((1, 2), (3, 2), (2, 1), (2, 0)):
        native.set_threads(threads)
        native.set_isa(isa)
        assert all(torch.equal(a, b) for a, b in zip(everything(), truth)), (threads, isa)
    native.set_isa(2)


@needs_native
@pytest.mark.parametrize("isa", [0, 1, 2])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 33, 70])
def test_nothing_is_written_beside_the_output(n: int, isa: int) -> None:
    assert native is not None
    native.set_isa(isa)
    w, x = random_packed("Q4_1", n, 64), rows(11, 64)
    y = torch.full((13, n), 7.0)
    native.linear(w.handle, x.data_ptr(), 11, 0, y[1:].data_ptr())
    assert torch.equal(y[1:12], ops.linear(x, w))
    assert (y[0] == 7).all() and (y[12] == 7).all()


@needs_native
def test_many_rows_and_a_wide_input() -> None:
    w = random_packed("Q4_K", 96, 5120)
    x = rows(300, 5120)
    y = ops.linear(x, w)
    assert close(y, x, w)
    assert torch.equal(y[137:139], ops.linear(x[137:139], w))


@SETTINGS
@given(forms, sizes, sizes, st.integers(1, 12), st.integers(1, 16), seeds)
def test_the_best_are_those_of_the_logits(form: str, n: int, k: int, count: int, most: int, seed: int) -> None:
    w = random_packed(form, n, k, seed)
    x, norm = rows(count, w.k, seed), rows(1, w.k, seed)[0]
    z = ops.logits(x, w, norm, 1e-5)
    ids, values = ops.best(x, w, norm, 1e-5, min(most, w.n))
    order = [sorted(range(w.n), key=lambda i: (-row[i], i))[:most] for row in z.tolist()]
    assert ids.tolist() == order and torch.equal(values, z.gather(-1, ids))
    # The norm rounds differently in its last bit, so that a code at a tie may be off by one.
    torch.testing.assert_close(z, reference.logits(x, w, norm, 1e-5), rtol=0, atol=2e-2 * float(z.abs().max()) + 1e-6)


def test_the_first_of_equal_logits_come_first() -> None:
    w = pack_dense(torch.ones(200, 32), 8)
    ids, values = ops.best(torch.ones(3, 32), w, torch.ones(32), 0.0, 4)
    assert ids.tolist() == [[0, 1, 2, 3]] * 3
    assert torch.allclose(values, torch.full((3, 4), 32.0), rtol=1e-3)
    for k in (0, 201):
        with pytest.raises(ValueError, match="k must be from 1 to 200"):
            ops.best(torch.ones(3, 32), w, torch.ones(32), 0.0, k)


@SETTINGS
@given(forms, sizes, sizes, seeds)
def test_embedding_rows_are_the_dequantised_rows(form: str, n: int, k: int, seed: int) -> None:
    w = random_packed(form, n, k, seed)
    ids = torch.randint(0, n, (9,), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        ops.embed(w, ids), w.dequantize()[ids], rtol=1e-6, atol=1e-6 * float(w.dequantize().abs().max())
    )


def test_denormal_and_zero_rows_give_zero() -> None:
    w = random_packed("Q8_0", 40, 64)
    x = torch.zeros(3, 64)
    x[1] = 1e-42
    assert torch.equal(ops.linear(x, w), torch.zeros(3, 40))


def test_nan_and_infinity_stay_in_their_row() -> None:
    w = random_packed("Q4_1", 40, 64)
    x = rows(9, 64)
    clean = ops.linear(x, w)
    x[3, 5], x[6, 40] = float("nan"), float("inf")
    y = ops.linear(x, w)
    assert y[3].isnan().all() and not y[6].isfinite().any()
    others = [0, 1, 2, 4, 5, 7, 8]
    assert torch.equal(y[others], clean[others])


@needs_native
def test_float64_input_takes_the_reference() -> None:
    w = random_packed("Q5_1", 20, 64)
    x = rows(4, 64)
    y = ops.linear(x.double(), w)
    assert y.dtype is torch.float64
    assert torch.allclose(y.float(), ops.linear(x, w), rtol=1e-4, atol=1e-4)


@needs_native
def test_two_python_threads_at_once() -> None:
    w, x = random_packed("Q4_1", 300, 256), rows(33, 256)
    truth, wrong = ops.linear(x, w), []

    def work() -> None:
        wrong.extend(1 for _ in range(200) if not torch.equal(ops.linear(x, w), truth))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    assert not wrong


@needs_native
def test_idle_threads_sleep() -> None:
    w, x = random_packed("Q4_1", 300, 256), rows(33, 256)
    ops.linear(x, w)
    time.sleep(0.1)  # other libraries' threads may spin for a while after work; ours stop after 50 us
    used, start = time.process_time(), time.perf_counter()
    time.sleep(0.3)
    assert time.process_time() - used < 0.5 * (time.perf_counter() - start)


@needs_native
def test_a_forked_child_computes_too() -> None:
    w, x = random_packed("Q4_1", 300, 256), rows(33, 256)
    truth = ops.linear(x, w)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(ops.linear(x, w), truth) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(ops.linear(x, w), truth)


def test_wrong_arguments_raise() -> None:
    w, x = random_packed("Q4_0", 40, 64), rows(3, 64)
    norm = torch.ones(64)
    for bad in (x.half(), x.int()):
        with pytest.raises(TypeError, match="x must be"):
            ops.linear(bad, w)
    for bad in (x[:, :32], x[0], rows(3, 65), x.T.contiguous(), torch.zeros(128, 3).T[:, :64]):
        with pytest.raises(ValueError, match="x must"):
            ops.linear(bad, w)
    with pytest.raises(ValueError, match="CPU"):
        ops.linear(x.to("meta"), w)
    with pytest.raises(ValueError, match="bias must have shape"):
        ops.linear(x, w, torch.zeros(39))
    with pytest.raises(ValueError, match="norm must have shape"):
        ops.best(x, w, norm[1:], 1e-5)
    with pytest.raises(TypeError, match="norm must be"):
        ops.logits(x, w, norm.double(), 1e-5)
    with pytest.raises(TypeError, match="ids must be"):
        ops.embed(w, torch.tensor([1.0]))
    for ids in ([40], [-1]):
        with pytest.raises(IndexError):
            ops.embed(w, torch.tensor(ids))


@needs_native
def test_native_methods_refuse_nonsense() -> None:
    assert native is not None
    w = random_packed("Q4_0", 40, 64)
    with pytest.raises(TypeError, match="takes 5 arguments, 1 given"):
        native.linear(w.handle)
    with pytest.raises(ValueError, match="PyCapsule"):
        native.linear(None, 0, 0, 0, 0)
    with pytest.raises(TypeError):
        native.linear(w.handle, "x", 1, 0, 0)
    with pytest.raises(ValueError, match="bits 7"):
        native.packed_new(1, 1, 0, 7, 32, 1, 32, 0.0, 1.0)
    with pytest.raises(ValueError, match="threads"):
        native.set_threads(0)
    with pytest.raises(ValueError, match="no type"):
        native.pack("Q9", 1, 1, 32, 1.0, 1, 1, 0)


def test_torch_operations_are_the_same_functions() -> None:
    w, x, norm = random_packed("Q4_K", 40, 256), rows(3, 256), torch.ones(256)
    ids = torch.tensor([3, 0, 39])
    fewer = torch.ops.fewer
    assert torch.equal(fewer.linear(x, *arrays(w), None), ops.linear(x, w))
    assert torch.equal(fewer.embed(ids, *arrays(w)), ops.embed(w, ids))
    assert torch.equal(fewer.logits(x, *arrays(w), norm, 1e-5), ops.logits(x, w, norm, 1e-5))
    assert torch.equal(fewer.best(x, *arrays(w), norm, 1e-5, 3)[0], ops.best(x, w, norm, 1e-5, 3)[0])
    for op, args in (
        (fewer.linear, (x, *arrays(w))),
        (fewer.embed, (ids, *arrays(w))),
        (fewer.logits, (x, *arrays(w), norm, 1e-5)),
        (fewer.best, (x, *arrays(w), norm, 1e-5, 3)),
    ):
        torch.library.opcheck(op.default, args, test_utils=("test_schema", "test_faketensor"))
    with pytest.raises(ValueError, match="q must be"):
        fewer.linear(x, w.q[1:], *arrays(w)[1:])
    with pytest.raises(TypeError, match="scale must be"):
        fewer.linear(x, w.q, w.scale.float(), *arrays(w)[2:])


def test_features_say_what_is_used() -> None:
    facts = features()
    assert facts["physical_cores"] >= 1 and facts["native"] == (native is not None)
    assert "isa" in facts if native is not None else "why" in facts


def test_no_rows() -> None:
    w = random_packed("Q4_0", 40, 64)
    assert ops.linear(torch.zeros(0, 64), w).shape == (0, 40)
    assert ops.embed(w, torch.zeros(0, dtype=torch.int64)).shape == (0, 64)
    assert ops.best(torch.zeros(0, 64), w, torch.ones(64), 1e-5)[0].shape == (0, 1)
