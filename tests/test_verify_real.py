"""`fewer verify --real`: texts of a whole model with and without each lossless drafter; what differs or fails is an error."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from fewer.engine import Engine
from fewer.errors import BadRequest, UnknownMethod
from fewer.testing import real
from tests.cli_tiny import fewer_command, tiny_model  # noqa: F401  (fixtures)

ROWS = ["prompt-lookup", "sequoia:budget=4", "slem"]


def test_every_row_says_what_plain_decoding_says(fewer, tiny, tmp_path):
    options = ["--prompts=2", "-n", "12", "--keep", str(tmp_path)]
    done = fewer("verify", "--real", *ROWS, "-m", tiny, *options)
    assert done.code == 0 and all(row in done.out for row in ROWS)
    more = json.loads(fewer("verify", "--real", "lookahead", "-m", tiny, *options, "--json").out)
    kept = json.loads((tmp_path / "real-tiny.json").read_text())
    assert list(more["rows"]) == ["lookahead"] and list(kept["rows"]) == [*ROWS, "lookahead"]
    assert all(r["same"] == r["of"] == 2 and r["tokens"] == 24 for r in kept["rows"].values())
    assert kept["command"].startswith("fewer verify --real prompt-lookup sequoia:budget=4 slem lookahead -m ")
    assert kept["draft"] == "its own first 1 layers" and kept["rows"]["slem"]["rejected"]
    fewer("verify", "--real", "lookahead", "-m", tiny, "--prompts=1", "-n", "12", "--keep", str(tmp_path))
    assert list(json.loads((tmp_path / "real-tiny.json").read_text())["rows"]) == ["lookahead"]


def test_another_text_or_a_failure_is_an_error(fewer, tiny, monkeypatch):
    done = fewer("verify", "--real", "kangaroo", "-m", tiny, "--prompts=1", "-n", "4")
    assert done.code == 1 and "FAILED kangaroo" in done.err
    said = Engine.generate

    def otherwise(self, prompt, **options):
        out = said(self, prompt, **options)
        return [replace(r, tokens=r.tokens[::-1]) for r in out] if options.get("use") else out

    monkeypatch.setattr(Engine, "generate", otherwise)
    assert fewer("verify", "--real", "lookahead", "-m", tiny, "--prompts=2", "-n", "12").code == 1


def test_only_lossless_drafters_can_be_compared(tiny):
    for names, error, says in (
        (["bild"], BadRequest, "bild is no lossless drafter"),
        (["streaming-llm"], BadRequest, "streaming-llm is no lossless drafter"),
        (["lookahed"], UnknownMethod, "lookahead"),
    ):
        with pytest.raises(error, match=says):
            real.measure(names, tiny)
    with pytest.raises(BadRequest, match="at least 1"):
        real.measure(["lookahead"], tiny, prompts=0)
