"""Lossless drafters of each make on the real default model, a few prompts. `fewer verify --real` is the long proof."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fewer.bench.record import RESULTS
from fewer.card import cards
from fewer.testing.real import drafts, measure


@pytest.mark.slow
def test_texts_are_plain_decodings(smollm: Path):
    """Without a second model, with one, through text, its own layers; each with drafts that stood and that did not."""
    got = measure(["lookahead", "sequoia", "slem", "kangaroo", "ppd"], str(smollm), prompts=2, tokens=32, threads=1)
    assert not got["failed"]
    for row in got["rows"].values():
        assert row["same"] == row["of"] and row["accepted"] and row["rejected"]


def test_the_proof_that_ships_names_every_lossless_drafter():
    """Made by `fewer verify --real`: 20 prompts, 200 tokens each."""
    shipped = json.loads((RESULTS / "real-smollm2-135m.json").read_text())
    assert shipped["prompts"] >= 20 and shipped["length"] >= 200 and not shipped["failed"]
    assert set(shipped["rows"]) >= {c.name for c in cards().values() if drafts(c)}
    for row in shipped["rows"].values():
        assert row["same"] == row["of"] == shipped["prompts"] and row["accepted"] and row["rejected"]
