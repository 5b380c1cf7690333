"""Exact bytes on real models: SmolLM2 and Qwen2.5-Coder, whose tokenizers differ."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import fewer
from fewer.bench.cuts import cuts
from fewer.tokens.bytes import ByteModel
from fewer.tokens.fim import infill, prompt
from fewer.tokens.ranking import rank
from fewer.tokens.sampling import Ensemble
from tests.test_tokens_bytes import distance

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one(smollm: Path) -> ByteModel:
    return ByteModel(fewer.open(smollm))


@pytest.fixture(scope="module")
def two(qwen: Path) -> ByteModel:
    return ByteModel(fewer.open(qwen))


def test_byte_by_byte_is_a_fresh_start(one: ByteModel):
    text = "import os\n\n\ndef naïve(x):\n\treturn  x + 12 # don't\n\n  y"
    with one.start(text[:12]) as slow:
        for byte in text[12:].encode():
            slow.push(bytes([byte]))
        with one.start(text) as fresh:
            assert distance(slow.next(), fresh.next()) < 1e-4
            assert slow.next().sum() == pytest.approx(1)


@pytest.mark.parametrize("which", ["one", "two"])
def test_exact_healing_finds_more_than_none(which: str, request: pytest.FixtureRequest):
    engine = request.getfixturevalue(which).engine
    drawn = cuts(engine.tokenizer, 12, seed=1)
    right = {}
    for kind in ("none", "exact"):
        outs = engine.generate([c.prompt for c in drawn], raw=True, healing=kind, max_tokens=4)
        right[kind] = sum(o.text.startswith(c.rest) for o, c in zip(outs, drawn))
    assert right["exact"] > right["none"]


def test_two_vocabularies_mix(one: ByteModel, two: ByteModel):
    with one.start("The capital of Fr") as a, two.start("The capital of Fr") as b:
        both = Ensemble([a, b])
        assert both.next() == pytest.approx((a.next() + b.next()) / 2)
        assert math.exp(both.push(b"ance")) > 0.5


def test_a_gap_that_begins_inside_a_token(two: ByteModel):
    before, after = "def add(a, b):\n    retu", "\n\n\nprint(add(1, 2))\n"
    assert infill(two, before, after, 12, stop="\n") == "rn a + b"
    said = two.engine.tokenizer.decode(prompt(two.engine, before, after, ("<START>", "<END>")), skip_special=False)
    assert said == (
        "<|fim_prefix|>def add(a, b):\n<|fim_suffix|>\n\nprint(add(1, 2))\n<START>    retu<END>\n<|fim_middle|>"
    )


def test_ranking_costs_no_more_than_the_trie_is_deep(one: ByteModel):
    names = [
        "append",
        "appendleft",
        "clear",
        "copy",
        "count",
        "extend",
        "extendleft",
        "index",
        "insert",
        "pop",
        "popleft",
    ]
    text = "from collections import deque\n\nqueue = deque()\nqueue.append(1)\nfirst = queue."
    ranked, exact = rank(one.engine, text, names), rank(one.engine, text, names, "exact")
    assert sorted(ranked.order) == sorted(exact.order) == sorted(names)
    assert ranked.order[0].startswith("pop") and exact.order[0].startswith("pop")
    assert ranked.forwards <= 4 and exact.forwards <= 3
