"""Asking a model about its tokens: kinds by hand, indicators and figures against naive rewrites, planted faults."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fewer as package
from fewer.errors import BadRequest
from fewer.tokens.load import open_vocabulary
from fewer.tokens.probe import adversarial, glitch, kinds, repeat
from fewer.tokens.probe.prompts import after
from tests.cli_tiny import fewer_command, tiny_model  # noqa: F401  (fixtures)
from tests.real_models import MODELS, fetch
from tests.test_tokens_bytes import tiny_engine, tiny_tokenizer
from tests.tokens.test_measure import made


def test_kinds_of_a_vocabulary_by_hand() -> None:
    tokenizer = tiny_tokenizer()
    found = kinds.kinds(tokenizer, tokenizer.vocab_size + 1)
    by_kind = {k: {tokenizer.token_bytes(i) for i, kind in enumerate(found) if kind == k} for k in kinds.KINDS}
    assert by_kind["special"] == {b"<end>", b""}, "a row without a token cannot be asked for"
    assert by_kind["partial"] == {b"\xc3", b"\xa9", b"a\xc3"}
    assert by_kind["unreachable"] == {b" ab", b"   "}, "a b merges first, and two spaces"
    assert {b"ab", "é".encode(), b" a"} <= by_kind["ordinary"]


def test_unused_tokens_in_order_of_certainty() -> None:
    tokenizer = tiny_tokenizer()
    found = kinds.kinds(tokenizer, tokenizer.vocab_size)
    assert [tokenizer.token_bytes(i) for i in kinds.unused(tokenizer, found)] == [b" ab", b"   "]
    found = kinds.kinds(tokenizer, tokenizer.vocab_size + 2)
    assert kinds.unused(tokenizer, found) == [tokenizer.vocab_size, tokenizer.vocab_size + 1], "rows without a token"
    with pytest.raises(BadRequest, match="--unused"):
        kinds.unused(tokenizer, ["ordinary"] * 3)


def test_distances_are_the_formula() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 8)) + 3 * np.eye(8)[0]
    rows[7] = 0
    plain, without = kinds.distances(rows, [3, 5])
    mean = (rows[3] + rows[5]) / 2
    _, _, axes = np.linalg.svd(rows - rows.mean(0))
    flat = rows - np.outer(rows @ axes[0], axes[0])
    for got, table, m in ((plain, rows, mean), (without, flat, (flat[3] + flat[5]) / 2)):
        for i in (0, 3, 20):
            want = 1 - table[i] @ m / np.linalg.norm(table[i]) / np.linalg.norm(m)
            assert got[i] == pytest.approx(want, abs=1e-9)
        assert got[7] == 0


def test_a_planted_token_is_the_most_suspicious() -> None:
    """Rows that were pushed one way, as rows never right are, and a token among the others that was pushed too."""
    rng = np.random.default_rng(1)
    rows, away = rng.normal(size=(500, 32)), rng.normal(size=32)
    rows[[11, 400, *range(490, 500)]] = away + 0.1 * rng.normal(size=(12, 32))
    for got in kinds.distances(rows, range(490, 500)):
        assert set(np.argsort(got[:490])[:2]) == {11, 400}
    rows[77] *= 1e-3
    assert kinds.norms(rows).argmin() == 77


@given(st.lists(st.integers(0, 5), min_size=1), st.lists(st.integers(0, 5), min_size=1))
def test_auc_counts_pairs(low: list[int], high: list[int]) -> None:
    want = sum((a < b) + (a == b) / 2 for a in low for b in high) / len(low) / len(high)
    assert kinds.auc(np.array(low), np.array(high)) == pytest.approx(want)


def test_prompts_asked_together_are_asked_alone() -> None:
    tokenizer = tiny_tokenizer()
    engine = tiny_engine(tokenizer, tokenizer.vocab_size)
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9] * 30]
    together = list(after(engine, prompts, [2, 1, 4]))
    assert [len(x) for x in together] == [2, 1, 4]
    for prompt, rows in zip(prompts, together):
        for back, row in enumerate(reversed(rows)):
            head = prompt[: len(prompt) - back]
            for token in (0, 3):
                assert float(row[token]) == pytest.approx(engine.score([*head, token]).logprobs[-1], abs=1e-9)
    assert engine.stores["main"].bytes([]) == 0


def test_the_chance_is_the_largest_over_the_prompts(tiny: str) -> None:
    engine = package.open(tiny, threads=1)
    assert engine.tokenizer is not None
    for token, chance in zip((40, 70), repeat.chances(engine, [40, 70])):
        found = []
        for parts in repeat.PROMPTS:
            ids = engine.tokenizer.encode(parts[0])
            for part in parts[1:]:
                ids += [token, *engine.tokenizer.encode(part, bos=False)]
            found.append(np.exp(engine.score([*ids, token]).logprobs[-1]))
        assert chance == pytest.approx(max(found), rel=1e-6)


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (" cat", "cat", ""),
        ("\n", "\n", ""),
        ("wurden", "werden", "spelling mistake"),
        ("SolidGold", "distribute", "hallucination"),
        ("petertodd", "", "incapability"),
        ("petertodd", "I cannot say that", "incapability"),
        ("petertodd", "String: ", "question repetition"),
        ("petertodd", "lantern", "question repetition"),
        ("petertodd", "#$%;;", "random characters"),
    ],
)
def test_symptoms(text: str, answer: str, expected: str) -> None:
    assert repeat.symptom(text, answer) == expected


def test_types_of_strings(tiny: str) -> None:
    class Words:
        def token_bytes(self, i: int) -> bytes:
            return [b" quick", b" ship", b" available", b" x"][i] if i < 4 else b""

    types = repeat.Types(Words(), 20)  # type: ignore[arg-type]
    examples = {
        "quickShipAvailable": "word",
        "davidjl": "letter",
        '\\"': "character",
        "\\Generated": "letter-character",
    }
    assert {text: types.of(text) for text in examples} == examples
    assert types.of("réalis") == "special" and types.of(" Quick") == "word" and types.of("quic") == "letter"


def test_the_command_ranks_and_asks(fewer, tiny: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    said = fewer("tokens", "glitch", tiny, "--count", "4", "--json", "--html", str(page))
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert result["kinds"] == {"ordinary": 129, "partial": 128, "unreachable": 0, "special": 3}
    assert not result["tied"] and result["indicator"].startswith("norm")
    ranks = [row["indicator"] for row in result["ranked"]]
    assert ranks == sorted(ranks) and len(ranks) == 4 and result["others"]["tokens"] == 4
    assert "Glitch tokens" in page.read_text()
    assert "Who can be repeated" in fewer("tokens", "glitch", tiny, "--count", "2").out
    assert json.loads(fewer("tokens", "glitch", tiny, "--count", "0", "--json").out)["ranked"] == []
    for wrong, message in ((["--count", "-1"], "0 tokens or more"), (["--unused", "999"], "ids 0 to")):
        refused = fewer("tokens", "glitch", tiny, *wrong)
        assert refused.code == 2 and message in refused.err


def test_a_model_without_tokenizer_is_refused() -> None:
    engine = tiny_engine(None, 8)
    with pytest.raises(BadRequest, match="no tokenizer"):
        glitch.find(engine, None)  # type: ignore[arg-type]
    with pytest.raises(BadRequest, match="no tokenizer"):
        adversarial.ask(engine, [], [])


# ---------------------------------------------------------------- words written together

WORDS = ["move", "table", "green", "blue", "house"]


def test_traps_are_cut_across_the_border_and_controls_at_it() -> None:
    v = made([b"et", b"eg"], r" ?\p{L}+|[^\p{L}]+")
    traps, controls = adversarial.build(v, 2, 0, WORDS)
    every = set(WORDS)
    for p, trap in [*((p, True) for p in traps), *((p, False) for p in controls)]:
        ends = [len("".join(p.pieces[: i + 1])) for i in range(len(p.pieces))]
        assert "".join(p.pieces) == p.text and (len(p.left) not in ends) == trap, p
        assert sum(p.text[:i] in every and p.text[i:] in every for i in range(len(p.text))) == 1
    with pytest.raises(BadRequest, match="make 0 traps"):
        adversarial.build(made([]), 2, 0, WORDS)


def test_answers_are_scored_as_a_text_is(tiny: str) -> None:
    engine = package.open(tiny, threads=1)
    assert engine.tokenizer is not None
    pair = adversarial.Pair("put", "here", ("p", "u", "th", "e", "r", "e"))
    asked = adversarial.ask(engine, [pair], [pair])
    shots = "".join(f"Typed: {a}{b}\nMeant: {a} {b}\n" for a, b in adversarial.SHOTS) + "Typed:"
    goal = engine.tokenizer.encode(" put here\n")
    for way, parts in (("cut", [" puthere"]), ("mended", [" put", "here"])):
        ids = [i for text in (shots, *parts, "\nMeant:") for i in engine.tokenizer.encode(text)]
        want = sum(engine.score([*ids, *goal]).logprobs[-len(goal) :])
        assert asked["ways"][way]["logp"] == pytest.approx(want, abs=1e-3)
    assert asked["trapped"] == 1 and asked["drop"] == 0 and asked["chance"] == 1


def test_the_sign_test_by_hand() -> None:
    assert adversarial.sign_test(0, 0) == 1 == adversarial.sign_test(3, 3)
    assert adversarial.sign_test(10, 0) == pytest.approx(2 / 1024)
    assert adversarial.sign_test(1, 4) == pytest.approx(12 / 32)


def test_the_adversarial_command(fewer, tiny: str, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.write_text("put\nright\nthere\nrethink\nhere\nshort\nhouse\nharm\n")
    said = fewer("tokens", "adversarial", tiny, "--count", "1", "--words", str(words), "--ask", tiny, "--json")
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert [len(result[k]) for k in ("traps", "controls")] == [1, 1] and set(result["asked"]["ways"]) == {
        "cut",
        "mended",
        "controls",
    }
    assert "Words written together" in fewer("tokens", "adversarial", tiny, "--count", "1", "--words", str(words)).out
    assert fewer("tokens", "adversarial", tiny, "--count", "9999").code == 2


@pytest.mark.slow
def test_known_broken_tokens_of_the_default_model() -> None:
    path = fetch(MODELS["smollm"])
    v, engine = open_vocabulary(str(path)), package.open(path)
    broken = [v.ids[t] for t in (b" InstancePreprocess", b" transistorsum", b"swigfaiss")]
    sound = [v.ids[t] for t in (b" house", b" water", b"import")]
    assert max(repeat.chances(engine, broken)) < repeat.GLITCH < 0.5 < min(repeat.chances(engine, sound))
