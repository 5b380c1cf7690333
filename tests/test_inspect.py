"""Sink rates, drains and peaks against matrices; passages an answer rests on, and where they stand in the prompt."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import fewer as package
from fewer.errors import BadRequest, PromptTooLong
from fewer.inspect.heads import AWAKE_FROM, extremes
from fewer.inspect.trace import _scores, passages, spans, top_mean, trace
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.testing import tiny as toys
from tests.cli_tiny import fewer_command, tiny_model  # noqa: F401  (fixtures)

IDS = [(7 * i * i + 3 * i) % 31 for i in range(40)]


def naive(model, ids):
    """Per layer: causal attention (Hq, n, n), values (n, H, d), what leaves the layer (n, D)."""
    spec, n, out = model.spec, len(ids), []
    x, g = model.head.embed(torch.tensor(ids)), spec.n_heads // spec.n_kv_heads
    for layer, block in enumerate(model.blocks):
        cos, sin = cos_sin(spec.ropes[layer], torch.arange(n), x.dtype)
        q, k, v = block.qkv(x, torch.ones_like(cos), torch.zeros_like(sin))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin).repeat_interleave(g, 1)
        s = torch.einsum("ihd,jhd->hij", q, k) * spec.scale
        p = torch.softmax(s.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf")), -1)
        x = block.mlp(block.out(torch.einsum("hij,jhd->ihd", p, v.repeat_interleave(g, 1)), x))
        out.append((p, v, x))
    return out


def test_extremes_equal_a_naive_rewrite():
    model = toys.tiny_model()
    got = extremes(model, IDS)
    for layer, (p, v, x) in enumerate(naive(model, IDS)):
        first = p[:, AWAKE_FROM:, 0]
        np.testing.assert_allclose(got.sink[layer], first.mean(1), atol=1e-9)
        np.testing.assert_allclose(got.dormant[layer], (first > 0.5).double().mean(1), atol=1e-9)
        sizes = v.norm(dim=-1)
        np.testing.assert_allclose(got.drain[layer], sizes[0] / sizes.median(0).values, rtol=1e-9)
        np.testing.assert_allclose(got.peak[layer], x.norm(dim=-1)[0] / x.norm(dim=-1).median(), rtol=1e-9)


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(BadRequest, match="32 are the least"):
        extremes(toys.tiny_model(), IDS[:20])


def test_passages_and_the_strongest_tokens():
    assert passages("One.\n\n\nTwo\nlines.\n\n ") == ["One.", "Two\nlines."]
    assert top_mean(np.array([0.1, 0.5, 0.3]), 2) == pytest.approx(0.4)
    assert top_mean(np.array([0.2]), 5) == pytest.approx(0.2)


PARTS = ["The mill is red.", "A dog barks at night.", "Rain fell on the harbour."]


def test_spans_spell_their_passages(tiny):
    eng = package.open(tiny)
    ids = eng.tokenizer.encode("\n\n".join([*PARTS, "What is red?"]))
    for part, (first, last) in zip(PARTS, spans(eng, ids, PARTS)):
        said = b"".join(eng.tokenizer.text_bytes(t, False) for t in ids[first:last])
        assert part.encode() in said and len(said) <= len(part) + 2


def test_all_at_once_is_one_reading_and_subsets_are_averages_of_readings(tiny):
    eng = package.open(tiny)
    whole = trace(eng, PARTS, "What is red?", "The mill.", samples=0)
    assert whole == _scores(eng, PARTS, "What is red?", "The mill.", 5)
    assert all(s > 0 for s in whole)
    alone = trace(eng, PARTS, "What is red?", "The mill.", samples=3, share=0.3)
    assert alone == [_scores(eng, [p], "What is red?", "The mill.", 5)[0] for p in PARTS]


def test_refusals(tiny):
    eng = package.open(tiny)
    with pytest.raises(BadRequest, match="not empty"):
        trace(eng, PARTS, "What?", " ")
    with pytest.raises(BadRequest, match="share=2"):
        trace(eng, PARTS, "What?", "It.", share=2)
    with pytest.raises(PromptTooLong, match="smaller share"):
        trace(eng, ["long " * 2000], "What?", "It.")


def test_command_lines(fewer, tiny, tmp_path):
    text, page = tmp_path / "t.txt", tmp_path / "p.html"
    text.write_text("\n\n".join(PARTS))
    said = fewer("trace", "What is red?", "-f", str(text), "--answer", "The mill.", "-m", tiny, "--json")
    assert said.code == 0
    found = json.loads(said.out)
    assert sorted(p["text"] for p in found["passages"]) == sorted(PARTS)
    scores = [p["score"] for p in found["passages"]]
    assert scores == sorted(scores, reverse=True)
    said = fewer("inspect", "heads", "-m", tiny, "-f", str(text), "--html", str(page))
    assert said.code == 0 and "Sink rate, t.txt" in said.out
    html = page.read_text()
    assert "fewer inspect heads" in html and "color-mix" in html
