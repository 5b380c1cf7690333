"""GGUF files -> Spec and tensors: the real files, and tiny ones written with the `gguf` package."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from fewer.errors import CorruptFile, ModelError, UnsupportedArchitecture
from fewer.models.families import from_hf
from fewer.models.source import RawTensor, open_source
from fewer.models.spec import Rope
from tests.tiny_files import HF_SIZES, SIZES, write_gguf

REAL = {
    "smollm": {
        "family": "llama",
        "n_layers": 30,
        "d_model": 576,
        "n_heads": 9,
        "n_kv_heads": 3,
        "head_dim": 64,
        "d_ff": 1536,
        "vocab": 49152,
        "ropes": (Rope(base=100000.0, dim=64),) * 30,
        "windows": (None,) * 30,
        "tied": True,
        "max_context": 8192,
        "norm_eps": pytest.approx(1e-5),
    },
    "qwen": {
        "family": "qwen2",
        "n_layers": 24,
        "d_model": 896,
        "n_heads": 14,
        "n_kv_heads": 2,
        "head_dim": 64,
        "d_ff": 4864,
        "vocab": 151936,
        "ropes": (Rope(base=1e6, dim=64),) * 24,
        "qkv_bias": True,
        "tied": False,
        "max_context": 32768,
        "norm_eps": pytest.approx(1e-6),
    },
    "larger_qwen": {
        "family": "qwen2",
        "n_layers": 28,
        "d_model": 1536,
        "n_heads": 12,
        "n_kv_heads": 2,
        "head_dim": 128,
        "d_ff": 8960,
        "vocab": 151936,
        "qkv_bias": True,
        "tied": False,
    },
    "gemma": {
        "family": "gemma3",
        "n_layers": 18,
        "d_model": 640,
        "n_heads": 4,
        "n_kv_heads": 1,
        "head_dim": 256,
        "d_ff": 2048,
        "vocab": 262144,
        "windows": ((512,) * 5 + (None,)) * 3,
        "ropes": ((Rope(base=1e4, dim=256),) * 5 + (Rope(base=1e6, dim=256),)) * 3,
        "act": "gelu_tanh",
        "qk_norm": True,
        "post_norms": True,
        "norm_offset": 0.0,
        "embed_scale": float(np.float32(640**0.5)),
        "scale": 256**-0.5,
        "tied": True,
    },
}


@pytest.fixture
def larger_qwen() -> Path:
    path = Path(os.environ.get("FEWER_MODELS", "~/.cache/fewer-models")).expanduser() / "qwen2.5-coder-1.5b.gguf"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


@pytest.mark.parametrize("name", REAL)
def test_real_files(request, name):
    source = open_source(request.getfixturevalue(name))
    assert source.format == "gguf"
    for field, value in REAL[name].items():
        assert getattr(source.spec, field) == value, field
    assert source.has("head") is not source.spec.tied
    q = source.raw("layers.0.q")
    assert q.shape == (source.spec.n_heads * source.spec.head_dim, source.spec.d_model) == q.dense().shape
    assert len(source.metadata()["tokenizer.ggml.tokens"]) == source.spec.vocab


@pytest.mark.slow
def test_lazy_metadata_equals_the_gguf_package(smollm):
    metadata = open_source(smollm).metadata()
    theirs = {k: v.contents() for k, v in gguf.GGUFReader(smollm).fields.items() if not k.startswith("GGUF.")}
    assert dict(metadata) == theirs


def test_metadata_values_keep_their_types(tmp_path):
    values = {"flag": True, "off": False, "whole": 7, "real": 0.5, "text": "é\u4e2d", "flags": [True, False]}
    write_gguf(tmp_path / "m.gguf", keys=values)
    metadata = open_source(tmp_path / "m.gguf").metadata()
    assert repr({key: metadata[f"llama.{key}"] for key in values}) == repr(values)
    assert metadata["tokenizer.ggml.tokens"][:2] == ["t0", "t1"]
    assert metadata["tokenizer.ggml.scores"][:2] == [0.0, -1.0]
    assert "absent" not in metadata and len(metadata) == len(list(metadata))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_kinds_and_row_order(tmp_path, kind):
    want = write_gguf(tmp_path / "m.gguf", kind=kind, qkv_bias=True)
    source = open_source(tmp_path / "m.gguf")
    assert set(source.names()) == set(want)
    for name, value in want.items():
        raw = source.raw(name)
        assert raw.data.dtype == np.uint8
        assert raw.data.shape[0] == value.shape[0] or value.ndim == 1
        torch.testing.assert_close(raw.dense(), torch.from_numpy(value), rtol=0, atol=0)
    assert source.raw("layers.0.q").kind == kind
    assert source.raw("layers.0.gate").dense(torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("tied", [True, False])
def test_gguf_families(tmp_path, family, tied):
    want = write_gguf(tmp_path / "m.gguf", family, tied=tied)
    source = open_source(tmp_path / "m.gguf")
    spec = source.spec
    assert {size: getattr(spec, size) for size in SIZES} == SIZES
    assert (spec.family, spec.tied, spec.max_context) == (family, tied, 128)
    assert spec.ropes == (Rope(base=50000.0, dim=16),) * 3
    assert spec.qkv_bias is (family == "qwen2") and spec.qk_norm is (family in ("qwen3", "gemma3"))
    for name, value in want.items():
        torch.testing.assert_close(source.raw(name).dense(), torch.from_numpy(value), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("family", "keys", "windows"),
    [
        ("llama", {"attention.sliding_window": 8}, (8, 8, 8)),
        ("llama", {"attention.sliding_window": 0}, (None, None, None)),
        (
            "qwen3",
            {"attention.sliding_window": 8, "attention.sliding_window_pattern": [True, False, True]},
            (8, None, 8),
        ),
        ("gemma3", {"attention.sliding_window": 8}, (8, 8, 8)),
        ("gemma3", {"attention.sliding_window": 8, "attention.sliding_window_pattern": 2}, (8, None, 8)),
    ],
)
def test_gguf_windows(tmp_path, family, keys, windows):
    write_gguf(tmp_path / "m.gguf", family, keys=keys)
    assert open_source(tmp_path / "m.gguf").spec.windows == windows


def test_gguf_rope_scaling(tmp_path):
    def rope(**keys):
        write_gguf(tmp_path / "m.gguf", keys={f"rope.{k}": v for k, v in keys.items()})
        return open_source(tmp_path / "m.gguf").spec.ropes[0]

    linear = {"scaling.type": "linear", "scaling.factor": 4.0}
    assert rope(**linear) == Rope(base=50000.0, dim=16, kind="linear", factor=4.0)
    assert rope(scale_linear=4.0) == rope(**linear)
    yarn = rope(**{"scaling.type": "yarn", "scaling.factor": 4.0, "scaling.original_context_length": 32})
    theirs = transformers.LlamaConfig(
        **HF_SIZES,
        rope_parameters={
            "rope_theta": 50000.0,
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    )
    assert yarn == from_hf(theirs.to_dict()).ropes[0]


def test_gguf_scaling_spares_gemmas_local_layers(tmp_path):
    keys = {"attention.sliding_window": 8, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    write_gguf(tmp_path / "m.gguf", "gemma3", keys={**keys, "attention.sliding_window_pattern": 3})
    local, distant = Rope(base=10000.0, dim=16), Rope(base=50000.0, dim=16, kind="linear", factor=8.0)
    assert open_source(tmp_path / "m.gguf").spec.ropes == (local, local, distant)


def test_gguf_frequency_factors(tmp_path):
    factors = np.linspace(1, 8, 8).astype(np.float32)
    write_gguf(tmp_path / "m.gguf", extra={"rope_freqs.weight": factors})
    source = open_source(tmp_path / "m.gguf")
    assert source.spec.ropes[0].freq_factors == tuple(factors.tolist())
    assert "rope_freqs" not in "".join(source.names())


ROW = np.zeros((4, 64), np.float32)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"keys": {"expert_count": 8}}, UnsupportedArchitecture, "expert_count"),
        ({"keys": {"rope.dimension_count": 8}}, UnsupportedArchitecture, "part of each head"),
        ({"keys": {"rope.scaling.type": "longrope"}}, UnsupportedArchitecture, "longrope"),
        ({"keys": {"attention.head_count_kv": [2, 2, 4]}}, UnsupportedArchitecture, "layer to layer"),
        ({"keys": {"attention.value_length": 8}}, UnsupportedArchitecture, "different widths"),
        ({"extra": {"blk.0.attn_sinks.weight": ROW[0]}}, UnsupportedArchitecture, "attn_sinks.*no place"),
        ({"extra": {"blk.1.ffn_gate_inp.weight": ROW}}, UnsupportedArchitecture, "ffn_gate_inp.*no place"),
        ({"extra": {"blk.0.attn_output.bias": ROW[0]}}, UnsupportedArchitecture, "attn_output.bias"),
        ({"keys": {"attention.layer_norm_rms_epsilon": None}}, CorruptFile, "layer_norm_rms_epsilon is missing"),
        ({"drop": ("blk.1.ffn_up.weight",)}, CorruptFile, "blk.1.ffn_up.weight.*missing"),
        ({"drop": ("token_embd.weight",)}, CorruptFile, "token_embd"),
        ({"keys": {"feed_forward_length": 64}}, CorruptFile, "ffn_gate.*shape"),
        ({"keys": {"attention.head_count": 3}}, CorruptFile, "heads"),
        ({"keys": {"rope.freq_base": float("inf")}}, CorruptFile, "freq_base"),
        ({"extra": {"rope_freqs.weight": ROW[0]}}, CorruptFile, "rope_freqs"),
        ({"extra": {"rope_freqs.weight": ROW[0] + 1}}, CorruptFile, "64 factors"),
    ],
)
def test_gguf_refusals_name_file_and_cause(tmp_path, change, error, match):
    write_gguf(tmp_path / "m.gguf", **change)
    with pytest.raises(error, match=match) as caught:
        open_source(tmp_path / "m.gguf")
    assert str(tmp_path / "m.gguf") in str(caught.value)


def test_split_and_foreign_architecture(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "mamba")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedArchitecture, match=r"'mamba'.*gemma3, llama, qwen2, qwen3"):
        open_source(tmp_path / "x.gguf")
    writer = gguf.GGUFWriter(tmp_path / "s.gguf", "llama")
    writer.add_uint16("split.count", 2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="merge"):
        open_source(tmp_path / "s.gguf")


def test_unsupported_storage_is_named(tmp_path):
    packed = np.zeros((4, 84), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tensor("token_embd.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q2_K)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UnsupportedArchitecture, match=r"Q2_K.*Q8_0"):
        open_source(tmp_path / "x.gguf")


def test_dense_counts_bytes():
    with pytest.raises(CorruptFile, match="needs 36 bytes"):
        RawTensor("Q4_0", (2, 32), np.zeros(18, np.uint8)).dense()
    with pytest.raises(CorruptFile, match="whole number"):
        RawTensor("Q4_0", (2, 31), np.zeros(36, np.uint8)).dense()
