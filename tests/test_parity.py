"""Parity with transformers, the oracle: tiny random models of every family, and the real files.

Tiny: logits within 1e-5 in float32 for a whole prompt, for chunks of it, and for 16 decode steps after it.
Real: the same greedy tokens as transformers on the same dequantised weights, a batch of five prompts, one over 1,000 tokens:
64 on SmolLM2 beside transformers, 16 on the others by its kept texts (parity_texts.py).
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

import fewer
from fewer.models.load import load
from fewer.models.source import open_source
from fewer.models.tensor import RawTensor
from fewer.plan import PLAIN
from fewer.types import Group, Step, Told, chain
from tests.parity_texts import FILE, NAMES, oracle, prompts
from tests.real_models import MODELS
from tests.test_hf_folders import HF
from tests.tiny_files import HF_SIZES


def logits(model, ids, chunks):
    """(n, V) logits, computed `chunks` rows at a time."""
    store, told, out, at = model.new_store(), Told(len(ids)), [], 0
    seq = store.new()
    for size in chunks:
        rows = chain(ids[at : at + size], at)
        (o,), _ = model.forward(Step([Group(seq, rows, PLAIN, told, np.arange(size))]), store)
        store.commit(seq, rows, np.arange(size))
        out.append(o.logits)
        at += size
    return torch.cat(out)


@pytest.mark.parametrize("family", HF)
@pytest.mark.parametrize("chunks", [[24], [1, 7, 3, 13], [8] + [1] * 16], ids=["whole", "chunked", "decode"])
def test_tiny_models_give_transformers_logits(tmp_path, family, chunks):
    make, settings = HF[family]
    config = make(**HF_SIZES, **settings)
    torch.manual_seed(0)
    random = transformers.AutoModelForCausalLM.from_config(config)
    for p in random.parameters():  # variance-preserving, so that float32 noise stays far below the tolerance
        torch.nn.init.normal_(p, std=p.shape[-1] ** -0.5 if p.dim() > 1 else 0.3)
    random.save_pretrained(tmp_path)
    ids = [(5 * i * i + 3 * i) % 40 for i in range(24)]
    with torch.no_grad():
        oracle = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path, dtype=torch.float32, attn_implementation="eager"
        )
        want = oracle(torch.tensor([ids])).logits[0]
    got = logits(load(open_source(tmp_path), "float32"), ids, chunks)
    assert torch.allclose(got, want, atol=1e-5, rtol=1e-5), float((got - want).abs().max())


def weights_equal(source, state):
    """Every tensor of the file, and as transformers reads it, bit by bit."""
    theirs = {
        "attn_norm": "input_layernorm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "up": "mlp.up_proj",
        "down": "mlp.down_proj",
    }
    others = {"norm": "norm", "embed": "embed_tokens"}
    for name in source.names():
        other = others.get(name) or f"layers.{name.split('.')[1]}.{theirs[name.split('.')[2]]}"
        raw, want = source.raw(name), state[f"model.{other}.weight"]
        if len(raw.shape) == 2:  # the first rows: all of them take half a minute to dequantise
            raw, want = RawTensor(raw.kind, (64, raw.shape[1]), raw.data[:64]), want[:64]
        torch.testing.assert_close(raw.dense(), want, rtol=0, atol=0)


@pytest.mark.slow
def test_a_real_model_has_transformers_weights_and_gives_its_greedy_tokens(smollm):
    """What Gemma and Qwen store otherwise shows in their texts below."""
    engine = fewer.open(smollm, dtype="float32", prefix_bytes=0)
    asks = prompts(engine.tokenizer)
    ours = [out.tokens for out in engine.generate(asks, max_tokens=64, ignore_eos=True)]
    del engine
    theirs = oracle(smollm)
    weights_equal(open_source(smollm), theirs.state_dict())
    for ids, got in zip(asks, ours):
        with torch.no_grad():  # the oracle's choice after each of our prefixes: equal everywhere = its own greedy text
            logits = theirs(torch.tensor([ids + got]), logits_to_keep=len(got) + 1).logits
        want = logits[0, :-1].argmax(-1).tolist()
        assert got == want, f"differs at token {next(i for i, (a, b) in enumerate(zip(got, want)) if a != b)}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_real_models_give_the_kept_texts_of_transformers(request, name):
    path, kept = request.getfixturevalue(name), json.loads(FILE.read_text())[name]
    assert kept["sha256"] == MODELS[name].sha256
    engine = fewer.open(path, dtype="float32", prefix_bytes=0)
    asks = [t["prompt"] for t in kept["texts"]]
    assert asks == prompts(engine.tokenizer)
    ours = [out.tokens for out in engine.generate(asks, max_tokens=16, ignore_eos=True)]
    assert ours == [t["text"][:16] for t in kept["texts"]]
