"""`fewer bench reach` and `endless`, `fewer train patterns`, and opening with --rope: on a tiny model, from the command line."""

from __future__ import annotations

import json
import math

import pytest

import fewer as package
from tests.cli_tiny import fewer_command, tiny_model  # noqa: F401  (fixtures)


def test_reach_is_the_perplexity_of_bands(fewer, tiny, tmp_path):
    flags = ["--tokens", "96", "--band", "32", "--way", "linear:factor=2", "--way", "ntk:factor=1", "--json"]
    said = fewer("bench", "reach", "-m", tiny, *flags, "--keep", str(tmp_path))
    assert said.code == 0
    found = json.loads(said.out)
    assert list(found["perplexity"]) == ["as it is", "linear:factor=2", "ntk:factor=1"]
    plain, linear, same = found["perplexity"].values()
    assert len(plain) == 3 and plain == same != linear
    (kept,) = tmp_path.glob("reach-*.json")
    assert json.loads(kept.read_text())["perplexity"] == found["perplexity"]


def test_a_band_is_what_score_says(tiny):
    from fewer.bench.reach import _text, measure

    eng = package.open(tiny)
    lps = eng.score(_text(eng.tokenizer, 64, 5)).logprobs
    found = measure(tiny, [], tokens=64, band=32, seed=5)["perplexity"]["as it is"]
    assert found == [
        pytest.approx(math.exp(-sum(lps[:32]) / 32), abs=1e-3),
        pytest.approx(math.exp(-sum(lps[32:]) / 31), abs=1e-3),
    ]


def test_endless_asks_beyond_the_context(fewer, tiny, tmp_path):
    keep = tmp_path / "e.json"
    flags = ["--plan", "infiniretri:budget=200,piece=400", "--length", "2600", "--items", "1", "--keep", str(keep)]
    said = fewer("bench", "endless", "-m", tiny, *flags)
    assert said.code == 0 and "A needle beyond the context" in said.out
    (row,) = json.loads(keep.read_text())["results"]
    assert row["tokens"] > 2048 and row["kept_tokens"] <= 200
    said = fewer("bench", "endless", "-m", tiny, "--plan", "snapkv")
    assert said.code == 2 and "snapkv does not make a longer text fit" in said.err


def test_patterns_are_found_and_used(fewer, tiny, tmp_path):
    file = tmp_path / "p.json"
    flags = ["-m", tiny, "-o", str(file), "--tokens", "1100", "--documents", "1", "--json"]
    said = fewer("train", "patterns", *flags)
    assert said.code == 0
    found, table = json.loads(said.out), json.loads(file.read_text())["patterns"]
    assert sum(found["patterns"].values()) == sum(len(layer) for layer in table) == 2
    assert all(room > 0 for layer in table for _, _, room in layer)
    assert found["error_of_the_choice"] <= min(found["error_of_one_pattern_for_all"].values())
    text = tmp_path / "t.txt"
    text.write_text("all is said and done. " * 60)
    said = fewer("run", "What?", "-f", str(text), "-m", tiny, "-n", "2", "--use", f"minference:budget=200,file={file}")
    assert said.code == 0


def test_rope_makes_room(fewer, tiny, tmp_path):
    text = tmp_path / "t.txt"
    text.write_text("all is said and done. " * 120)
    asked = ["run", "What?", "-f", str(text), "-m", tiny, "-n", "2"]
    said = fewer(*asked)
    assert said.code == 2 and "--rope" in said.err and "infiniretri" in said.err
    assert fewer(*asked, "--rope", "yarn:factor=2", "--scores", "ssmax").code == 0
    said = fewer(*asked, "--rope", "bent")
    assert said.code == 2 and "linear, ntk, yarn, power, truncated, random" in said.err


@pytest.mark.parametrize("documents", [1, 2])
def test_prefill_reads_a_document_once_for_all_questions(fewer, tiny, tmp_path, documents):
    keep = tmp_path / "p.json"
    flags = ["--length", "1100", "--questions", "3", "--documents", str(documents), "--keep", str(keep)]
    flags += ["--plan", "minference:budget=200"]
    said = fewer("bench", "prefill", "-m", tiny, *flags)
    assert said.code == 0 and "Documents read sparsely" in said.out and "Facts told, by depth" in said.out
    plain, sparse = json.loads(keep.read_text())["results"].values()
    assert plain["depths"] == [0.0, 0.5, 1.0] * documents and plain["reads"] == 1.0 > sparse["reads"] > 0.1
    assert [len(of) for of in (*plain["pieces"], *sparse["pieces"])] == [3] * 2 * documents
    assert len(plain["found"]) == len(sparse["found"]) == 3 * documents
    said = fewer("bench", "prefill", "-m", tiny, "--length", "1100", "--plan", "snapkv")
    assert said.code == 2 and "`fewer bench long` measures such a plan" in said.err
    said = fewer("bench", "prefill", "-m", tiny, "--length", "4000")
    assert said.code == 2 and "room for 4000" in said.err


def test_a_question_after_a_document_is_answered_as_the_engine_would(tiny):
    from fewer.bench.prefill import Reader
    from fewer.plan import PLAIN

    eng = package.open(tiny, prefix_bytes=0)
    ids = [5 * i % 90 for i in range(700)]
    reader = Reader(eng, PLAIN, len(ids))
    for at in range(0, 640, eng.chunk):
        reader.piece(ids[at : min(640, at + eng.chunk)])
    want = eng.generate(ids, max_tokens=6, ignore_eos=True).tokens
    assert [reader.answer(ids[640:], 6, frozenset()) for _ in range(2)] == [want, want]


def test_items_about_one_text_share_it():
    from fewer.bench.long.tasks import about_one_text
    from fewer.bench.long.texts import load

    items = about_one_text(5, 2000, 3, lambda t: len(t) // 4, load(None))
    assert len({i.document for i in items}) == 1 and len({i.question for i in items}) == 5
    at = [i.document.index(f"is {i.answers[0]}.") / len(i.document) for i in items]
    assert at == sorted(at) and at[0] < 0.05 and at[-1] > 0.9
