"""Every lossless drafter of the catalogue on the real default model: 20 prompts, 200 greedy tokens each, the plain text."""

from __future__ import annotations

from pathlib import Path

import pytest

import fewer
from fewer.bench import kinds
from fewer.card import cards

pytestmark = pytest.mark.slow

ROWS = [  # those that need no second model, and no trained part, since none comes with fewer yet
    c.name
    for c in cards().values()
    if c.seam == "propose" and "lossless" in c.claims and not c.load().uses and "file" not in c.load().knobs()
]
KINDS = ("chat", "code", "maths", "translation")  # prompts without long documents
OPTIONS = {"max_tokens": 200, "ignore_eos": True, "share_prefix": False}


@pytest.fixture(scope="module")
def engine(smollm: Path) -> fewer.Engine:
    return fewer.open(smollm, threads=1)


@pytest.fixture(scope="module")
def prompts(engine) -> list[list[int]]:
    assert engine.tokenizer is not None
    items = [
        i for kind in KINDS for i in kinds.make(kind, 5, 60, 0, lambda t: len(engine.tokenizer.encode(t, bos=False)))
    ]
    return [engine._tokens(i.prompts[0], i.raw) for i in items]


@pytest.fixture(scope="module")
def texts(engine, prompts) -> list[list[int]]:
    return [r.tokens for r in engine.generate(prompts, **OPTIONS)]


@pytest.mark.parametrize("row", ROWS)
def test_the_text_is_plain_decodings(engine, prompts, texts, row):
    """In one batch, with every draft verified; and by itself at its pace."""
    got = engine.generate(prompts, use=[row], guard=False, **OPTIONS)
    assert [r.tokens for r in got] == texts
    assert sum(r.ledger.accepted_tokens for r in got) > 0 and sum(r.ledger.rejected_tokens for r in got) > 0
    assert engine.generate(prompts[6], use=[row], **OPTIONS).tokens == texts[6]
