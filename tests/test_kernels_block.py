"""Fused layer operations: equal to the reference, and a row's bits depend on that row alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fewer.errors import CorruptFile
from fewer.kernels import block as block_module
from fewer.kernels import ops
from fewer.kernels.block import MATRICES, PackedBlock, PackedHead
from fewer.kernels.native import native
from fewer.models.layers import DenseBlock, rms_norm
from fewer.models.spec import Rope, Spec
from tests.packed import random_packed

SETTINGS = settings(max_examples=40, deadline=None)
needs_native = pytest.mark.skipif(native is None, reason="fewer._native is not built")
FORMS = ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "dense4g16", "dense8g16")
BASE = Spec("test", 1, 96, 6, 2, 16, 160, 70, (Rope(dim=16),), (None,))
VARIANTS = {
    "llama": BASE,
    "qwen2": replace(BASE, qkv_bias=True),
    "gemma": replace(BASE, qk_norm=True, post_norms=True, act="gelu_tanh", norm_offset=1.0),
    "odd": replace(BASE, n_heads=3, n_kv_heads=1, head_dim=8, d_ff=75, d_model=70),
}
variants = st.sampled_from(list(VARIANTS))


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(name: str, seed: int) -> PackedBlock:
    """A random layer whose matrices are packed in different ways, as in Q4_K_M files; odd seeds: two planes."""
    spec = VARIANTS[name]
    d, q, kv = spec.head_dim, spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    sizes = {"q": (q, spec.d_model), "k": (kv, spec.d_model), "v": (kv, spec.d_model), "o": (spec.d_model, q)}
    sizes |= {"gate": (spec.d_ff, spec.d_model), "up": (spec.d_ff, spec.d_model), "down": (spec.d_model, spec.d_ff)}
    forms = [FORMS[(seed + i) % len(FORMS)] for i in range(len(MATRICES))]
    if name == "odd":
        forms = ["dense4g16", "dense8g32"] * 4
    w = {m: random_packed(form, *sizes[m], seed + i) for i, (m, form) in enumerate(zip(MATRICES, forms))}
    v = {"attn_norm": random(spec.d_model, seed=seed), "mlp_norm": random(spec.d_model, seed=seed + 1)}
    if spec.qkv_bias:
        v |= {"q_bias": random(q, seed=seed), "k_bias": random(kv, seed=seed), "v_bias": random(kv, seed=seed)}
    if spec.qk_norm:
        v |= {"q_norm": random(d, seed=seed), "k_norm": random(d, seed=seed)}
    if spec.post_norms:
        v |= {"post_attn_norm": random(spec.d_model, seed=seed), "post_mlp_norm": random(spec.d_model, seed=seed)}
    return PackedBlock(spec, w, v, planes=1 + seed % 2)


def run(b: PackedBlock, rows: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Every operation on the given rows of one fixed input."""
    spec = b.spec
    x, o = random(600, spec.d_model, seed=seed)[rows], random(600, spec.n_heads * spec.head_dim, seed=seed)[rows]
    angle = random(600, spec.head_dim // 2, seed=seed)[rows]
    return [*b.qkv(x, angle.cos(), angle.sin()), b.out(o, x.clone()), b.mlp(x.clone())]


@needs_native
@SETTINGS
@given(variants, st.integers(1, 30), st.integers(0, 100))
def test_operations_equal_the_reference(name: str, count: int, seed: int) -> None:
    b, rows = make(name, seed), torch.arange(count)
    fast = run(b, rows, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_module, "native", None)
        slow = run(b, rows, seed)
    for got, want in zip(fast, slow):
        assert got.shape == want.shape and got.dtype == want.dtype
        # Last-bit differences of a norm or a sum may move single codes of the next product by one step.
        assert float((got - want).abs().max()) <= 3e-3 * float(want.abs().max())
        assert float((got - want).abs().mean()) <= 1e-4 * float(want.abs().max())


@needs_native
@SETTINGS
@given(variants, st.integers(2, 40), st.integers(0, 100))
def test_a_rows_bits_depend_on_that_row_alone(name: str, count: int, seed: int) -> None:
    b = make(name, seed)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(seed))[:count]
    together = run(b, order, seed)
    for i in range(0, count, 5):
        alone = run(b, order[i : i + 1], seed)
        assert all(torch.equal(a, t[i : i + 1]) for a, t in zip(alone, together))


@needs_native
@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize("name", VARIANTS)
def test_long_inputs_chunks_threads_and_instruction_sets_give_the_same_bits(name: str, seed: int) -> None:
    assert native is not None
    b = make(name, seed)
    whole = run(b, torch.arange(600), seed)
    parts = [run(b, rows, seed) for rows in torch.arange(600).split(271)]
    assert all(torch.equal(w, torch.cat(p)) for w, p in zip(whole, zip(*parts)))
    try:
        for threads, isa in ((1, 2), (3, 2), (2, 1), (2, 0)):
            native.set_threads(threads)
            native.set_isa(isa)
            again = run(b, torch.arange(100), seed)
            assert all(torch.equal(w[:100], a) for w, a in zip(whole, again)), (threads, isa)
    finally:
        native.set_isa(2)
        ops.set_threads()


@pytest.mark.parametrize("name", VARIANTS)
def test_two_planes_are_as_exact_as_float32(name: str) -> None:
    """Beside the same weights dequantised; one plane is a hundred times as far away."""
    spec, away = VARIANTS[name], []
    for seed in (1, 2):
        b = make(name, seed)
        v = {n: t - spec.norm_offset if "norm" in n else t for n, t in b.v.items()}
        exact = DenseBlock(spec, {n: w.dequantize() for n, w in b.w.items()} | v)
        rows = torch.arange(40)
        pairs = zip(run(b, rows, seed), run(exact, rows, seed))
        away.append(max(float((got - want).abs().max() / want.abs().max()) for got, want in pairs))
    assert away[0] < 1e-4 < 1e-3 < away[1]


def test_out_and_mlp_write_into_x() -> None:
    b = make("llama", 1)
    x = random(3, 96, seed=1)
    assert b.mlp(x) is x and b.out(random(3, 6, 16, seed=2), x) is x
    assert b.nbytes == sum(w.nbytes for w in b.w.values())


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("tied", [True, False])
def test_head(tied: bool, softcap: float | None, planes: int) -> None:
    spec = replace(BASE, embed_scale=3.0, norm_offset=1.0, final_softcap=softcap)
    table, proj = random_packed("Q8_0", 70, 96, 1), random_packed("Q5_0", 70, 96, 2)
    head = PackedHead(spec, table, torch.zeros(96), None if tied else proj, planes)
    x = random(4, 96, seed=3)
    ids = torch.tensor([0, 69, 5])
    torch.testing.assert_close(head.embed(ids), table.dequantize()[ids] * 3)
    z = ops.logits(x, table if tied else proj, torch.ones(96), spec.norm_eps, planes)
    if planes == 2:
        exact = rms_norm(x, torch.ones(96), spec.norm_eps) @ (table if tied else proj).dequantize().T
        assert float((z - exact).abs().max()) < 1e-4 * float(exact.abs().max())
    torch.testing.assert_close(head.logits(x), z if softcap is None else softcap * torch.tanh(z / softcap))
    assert torch.equal(head.best(x, 3), z.sort(dim=-1, descending=True, stable=True)[1][:, :3])


def test_a_layer_that_does_not_fit_its_spec_is_refused() -> None:
    good = make("llama", 0)
    with pytest.raises(CorruptFile, match=r"matrix up must be \(160, 96\), found nothing"):
        PackedBlock(good.spec, {n: w for n, w in good.w.items() if n != "up"}, good.v)
    with pytest.raises(CorruptFile, match=r"matrix k must be \(32, 96\), found \(96, 96\)"):
        PackedBlock(good.spec, good.w | {"k": good.w["q"]}, good.v)
    with pytest.raises(CorruptFile, match="vector mlp_norm must have 96 values"):
        PackedBlock(good.spec, good.w, good.v | {"mlp_norm": torch.ones(95)})
    with pytest.raises(CorruptFile, match="vector q_bias"):
        PackedBlock(VARIANTS["qwen2"], good.w, good.v)
    with pytest.raises(CorruptFile, match="no place for q_norm"):
        PackedBlock(good.spec, good.w, good.v | {"q_norm": torch.ones(16)})
    with pytest.raises(CorruptFile, match="width is 96"):
        PackedHead(BASE, random_packed("Q8_0", 70, 64), torch.ones(64), None)


def test_wrong_arguments_raise() -> None:
    b = make("llama", 0)
    x, angle = random(3, 96, seed=0), torch.zeros(3, 8)
    with pytest.raises(TypeError, match=r"x must be torch\.float32"):
        b.mlp(x.half())
    with pytest.raises(ValueError, match="x must be contiguous"):
        b.mlp(random(96, 3, seed=0).T)
    with pytest.raises(ValueError, match="x must have shape"):
        b.mlp(x[:, :64])
    with pytest.raises(ValueError, match="cos must have shape"):
        b.qkv(x, angle[:2], angle)
    with pytest.raises(ValueError, match="sin must have shape"):
        b.qkv(x, angle, torch.zeros(3, 16))
    with pytest.raises(ValueError, match="o must have shape"):
        b.out(random(2, 96, seed=0), x)
    with pytest.raises(ValueError, match="CPU"):
        b.mlp(x.to("meta"))


def test_no_rows() -> None:
    b = make("gemma", 0)
    assert b.mlp(torch.zeros(0, 96)).shape == (0, 96)
    assert b.qkv(torch.zeros(0, 96), torch.zeros(0, 8), torch.zeros(0, 8))[0].shape == (0, 6, 16)
