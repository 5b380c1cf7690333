"""Trained tokenizers: each point against a naive rewrite, every one of them round-trips any bytes through its file."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import pydoc_data.topics
import tarfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from fewer.errors import BadRequest, CorruptFile, UnsupportedArchitecture
from fewer.tokens.load import open_vocabulary
from fewer.tokens.measure import lexicon, tables
from fewer.tokens.measure.shortest import Shortest
from fewer.tokens.train import (
    boundless,
    bpe,
    cuts,
    export,
    granularity,
    harmony,
    hybrid,
    jamo,
    pathpiece,
    recipe,
    superwords,
    trial,
    typed,
    utf8,
)
from fewer.tokens.train.corpus import BLOCK, Corpus
from fewer.tokens.train.words import Bounded, compiled, pieces
from fewer.tokens.vocabulary import Vocabulary
from tests.cli_tiny import fewer_command  # noqa: F401  (fixture)
from tests.texts import multilingual

ENGLISH = "".join(pydoc_data.topics.topics[k] for k in ("specialnames", "exprlists", "lambda", "with", "import"))[
    :120_000
]
TEXT = ENGLISH + "\nevlerimizde kitaplardan 학교에서 우리는 사람들은 भारत में 1234567 x\r\n\n"
SIZES = {"utf8": 256, "kl3m-chars": 600}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text(TEXT, encoding="utf-8", newline="")
    return Corpus([path])


@pytest.fixture(scope="module")
def trained(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Vocabulary]:
    """Every point, trained, saved and opened again."""
    out = {}
    folder = tmp_path_factory.mktemp("trained")
    for name in recipe.POINTS:
        made = recipe.train(recipe.point(name, size=SIZES.get(name, 900)), corpus)
        out[name] = open_vocabulary(str(export.save(made.backend, folder / f"{name}.json", made.made)))
    return out


@pytest.mark.parametrize("name", list(recipe.POINTS))
def test_any_bytes_come_back(trained: dict[str, Vocabulary], name: str) -> None:
    v = trained[name]

    @settings(max_examples=40, deadline=None)
    @given(st.binary(max_size=80) | st.text(max_size=40).map(str.encode) | st.builds(bytes, st.lists(st.just(0))))
    def check(data: bytes) -> None:
        assert v.decode(v.encode_bytes(data)) == data

    check()
    for text in (TEXT[-3000:], multilingual(2000)[:8000]):
        assert v.decode(v.encode(text)) == text.encode()
        assert v.decode(v.encode_bytes(text.encode())) == text.encode()


def test_bpe_is_that_of_the_library(corpus: Corpus, trained: dict[str, Vocabulary]) -> None:
    theirs = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(cuts.pattern("words")), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    theirs.pre_tokenizer, theirs.decoder = pre_tokenizers.Sequence([split, level]), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    theirs.train_from_iterator([TEXT], trainer)
    assert trained["bpe"].encode(TEXT) == theirs.encode(TEXT).ids


# ---------------------------------------------------------------- cuts


@pytest.mark.parametrize("cut", ["words", "none", "turkish", "korean"])
@pytest.mark.parametrize("digits", list(cuts.DIGITS))
def test_cuts_lose_nothing_and_both_engines_agree(cut: str, digits: str) -> None:
    pattern = cuts.pattern(cut, digits)
    split, compiled_ = pre_tokenizers.Split(Regex(pattern), "isolated"), compiled(pattern)
    for text in [TEXT[-4000:], *multilingual(3000)[:30_000].split("\n")]:
        ours = pieces(text, compiled_)
        assert "".join(ours) == text
        assert ours == [piece for piece, _ in split.pre_tokenize_str(text)], text


@pytest.mark.parametrize(
    ("cut", "text", "expected"),
    [
        ("turkish", "evlerimizde kitaplardan", ["ev", "ler", "imiz", "de", " kitap", "lar", "dan"]),
        ("turkish", "yapıyorlar, masa", ["yap", "ıyor", "lar", ",", " masa"]),
        ("korean", "학교에서 사람들은", ["학교", "에서", " 사람", "들은"]),
        ("words", "it's 1234567 भारत में", ["it", "'s", " ", "123", "456", "7", " भारत", " में"]),
    ],
)
def test_cuts_by_example(cut: str, text: str, expected: list[str]) -> None:
    assert pieces(text, compiled(cuts.pattern(cut))) == expected


def test_digits_from_the_right() -> None:
    assert pieces("x1234567", compiled(cuts.pattern("words", "right"))) == ["x", "1", "234", "567"]


def test_no_token_crosses_a_morpheme_border_as_plain_bpe_does(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "tr.txt"
    path.write_text("evlerimizde evlerimizden kitaplardan kitaplarda okullardan\n" * 50)
    made = {}
    for name in ("bpe", "turkish"):
        t = recipe.train(recipe.point(name, size=400), Corpus([path]))
        made[name] = open_vocabulary(str(export.save(t.backend, tmp_path / f"{name}.json", t.made)))

    def cut(v: Vocabulary) -> list[str]:
        return [v.tokens[i].decode() for i in v.encode("evlerimizde kitaplardan")]

    assert cut(made["turkish"]) == ["ev", "ler", "imiz", "de", " kitap", "lar", "dan"]
    assert len(cut(made["bpe"])) == 2


# ---------------------------------------------------------------- across words


def naive_supermerges(stretches: Counter, made: list[int], size: int) -> tuple[int, list]:
    """The two-phase rule with everything counted anew at every step."""
    runs, supers, tokens = dict(stretches.items()), [], set()
    while True:
        counts: Counter = Counter()
        for run, n in runs.items():
            for pair in itertools.pairwise(run):
                counts[pair] += n
        best = min(counts, key=lambda p: (-counts[p], p), default=None)
        if best is None or counts[best] < 2 or sum(n >= counts[best] for n in made) + len(tokens) >= size:
            return max(0, min(len(made), size - len(tokens))), supers
        supers.append(best)
        tokens.add(best[0] + best[1])
        merged: Counter = Counter()
        for run, n in runs.items():
            out: list[bytes] = []
            for token in run:
                out.append(token)
                if len(out) > 1 and (out[-2], out[-1]) == best:
                    out[-2:] = [out[-2] + out[-1]]
            merged[tuple(out)] += n
        runs = merged


@settings(max_examples=80, deadline=None)
@given(
    st.dictionaries(
        st.lists(st.sampled_from([b" a", b" b", b" c"]), min_size=2, max_size=7).map(tuple), st.integers(1, 9)
    ),
    st.lists(st.integers(1, 40)),
    st.integers(0, 12),
)
def test_supermerges_follow_the_rule(stretches: dict, made: list[int], size: int) -> None:
    made = sorted(made, reverse=True)
    kept, supers = superwords.supermerges(stretches, made, size)
    assert (kept, supers) == naive_supermerges(Counter(stretches), made, size)


def naive_merge(word: bytes, ranks: dict) -> list[bytes]:
    parts = [bytes([b]) for b in word]
    while found := [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]:
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


def naive_boundless(text: str, made: boundless.Boundless, pattern: str) -> list[bytes]:
    """Words first, each by its merges; then over stretches of neighbouring one-token words the first supermerge there is,
    the leftmost, until none is."""
    ranks = {pair: i for i, pair in enumerate(made.word_merges)}
    units: list[bytes] = []  # neighbouring words that may take part
    out: list[bytes] = []

    def flush() -> None:
        tokens = list(units)
        order = {pair: i for i, pair in reversed(list(enumerate(made.supermerges)))}
        while found := [(order[pair], i) for i, pair in enumerate(itertools.pairwise(tokens)) if pair in order]:
            _, i = min(found)
            tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]
        out.extend(tokens)
        units.clear()

    for piece in pieces(text, compiled(pattern)):
        tokens = naive_merge(piece.encode(), ranks)
        takes_part = len(tokens) == 1 and superwords.TAKES_PART.fullmatch(piece) is not None
        if not takes_part or piece[0] != " ":
            flush()
        if takes_part:
            units.append(tokens[0])
        else:
            out.extend(tokens)
    flush()
    return out


@pytest.fixture(scope="module")
def superword(corpus: Corpus) -> boundless.Boundless:
    return boundless.train_boundless(corpus, 900, cuts.pattern("words"), lambda _: None)


def test_the_file_merges_across_words_as_the_paper_says(superword: boundless.Boundless) -> None:
    pattern = cuts.pattern("words")
    assert len(superword.supermerges) > 9 and (b" of", b" the") in superword.supermerges
    assert superword.backend.get_vocab_size() == 900
    vocabulary = bpe.tokens_of(superword.backend)
    for text in [
        ENGLISH[:30_000],
        " of theology of the offthe of the's of thé of the",
        *multilingual(2000).split("\n"),
    ]:
        assert [vocabulary[i] for i in superword.backend.encode(text).ids] == naive_boundless(text, superword, pattern)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from([" of", " the", "the", " in", " a", "s", "'s", "\u0301", "  ", "3", ".", "\n", "ory", "é"])
    )
)
def test_and_on_any_text(superword: boundless.Boundless, parts: list[str]) -> None:
    text, vocabulary = "".join(parts), bpe.tokens_of(superword.backend)
    found = [vocabulary[i] for i in superword.backend.encode(text).ids]
    assert found == naive_boundless(text, superword, cuts.pattern("words"))


def test_words_across_borders_take_fewer_tokens(trained: dict[str, Vocabulary]) -> None:
    held_out = pydoc_data.topics.topics["typesseq"] + pydoc_data.topics.topics["objects"]
    n = {name: len(trained[name].encode(held_out)) for name in ("bpe", "boundless", "supertokens", "pathpiece")}
    assert n["boundless"] < n["bpe"]
    assert any(b" " in t[1:] and t[:1].isalpha() for t in trained["supertokens"].tokens), (
        "a token from within a word on"
    )


def test_phrases_are_found_from_the_left_the_longest_first(corpus: Corpus) -> None:
    base = json.loads(recipe.train(recipe.point("bpe", size=800), corpus).backend.to_str())
    made = boundless.with_phrases(base, [" of the", " of the same", "in a"])

    def cut(text: str) -> list[bytes]:
        listed = bpe.tokens_of(made)
        return [t for i in made.encode(text).ids if b" " in (t := listed[i])[1:]]

    assert cut("x of the samething") == [b" of the"]
    assert cut("x of the same thing") == [b" of the same"]
    assert cut("in a in an") == [b"in a"]
    assert cut(" of them of the\u0301") == []
    plain, text = Tokenizer.from_str(json.dumps(base)), "no phrase here: only words, 12345 and “marks”\n\n"
    assert made.encode(text).ids == plain.encode(text).ids


def test_the_most_frequent_phrases_are_chosen(tmp_path: Path, corpus: Corpus) -> None:
    base = json.loads(recipe.train(recipe.point("bpe", size=300), corpus).backend.to_str())
    (tmp_path / "x").write_text("a bb cc. a bb cc. a bb dd. x a bb. one two, three\n")
    _, phrases = boundless.add_phrases(base, Corpus([tmp_path / "x"]), 3, 3, lambda _: None)
    # " a bb" 3 times (the first stands at the start of the line, without its space), " bb cc" and " a bb cc" ...
    words = ["a", " bb", " cc", ".", " a", " bb", " cc", ".", " a", " bb", " dd", ".", " x", " a", " bb", "."]
    words += [" one", " two", ",", " three", "\n"]
    counted: Counter[str] = Counter()
    for n in (2, 3):
        for at in range(len(words) - n + 1):
            part = words[at : at + n]
            if all(w.strip().isalpha() for w in part) and all(w[0] == " " for w in part[1:]):
                counted["".join(part)] += 1
    assert phrases == sorted((p for p in counted if counted[p] > 1), key=lambda p: (-counted[p], p))[:3]


def test_phrases_need_a_cut_with_a_place_for_them() -> None:
    model = {"type": "BPE", "vocab": {}, "merges": []}
    for step in ({"type": "Metaspace"}, None):
        with pytest.raises(UnsupportedArchitecture):
            boundless.cut_stages({"model": model, "pre_tokenizer": step, "normalizer": None})


# ---------------------------------------------------------------- shortest paths


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("abc", min_size=2, max_size=4), max_size=8), st.text("abcdefgh", min_size=1, max_size=8))
def test_the_cost_of_loss_is_that_of_cutting_again_without_it(tokens: list[str], word: str) -> None:
    vocabulary = {*(t.encode() for t in tokens), *(bytes([b]) for b in range(256))}
    data = word.encode()
    costs = pathpiece.costs_of_loss({data: 3}, vocabulary)
    path = Shortest(vocabulary).path(data)
    assert set(costs) == {t for t in path if len(t) > 1}
    for token in costs:
        without = Shortest(vocabulary - {token}).count(data) - len(path)
        assert costs[token] <= 3 * without * path.count(token)
        if data.count(token) == 1:
            assert costs[token] == 3 * without


def test_the_token_that_costs_least_goes() -> None:
    words = {b"abab": 10, b"cdcd": 1, b"cd": 1}
    assert pathpiece.build(words, [b"ab", b"abab", b"cd", b"cdcd"], 258)[256:] == [b"cd", b"abab"]


def test_the_file_cuts_by_the_shortest_path(trained: dict[str, Vocabulary]) -> None:
    v = trained["pathpiece"]
    shortest, cut = Shortest(v.tokens), compiled(cuts.pattern("words"))
    for text in (ENGLISH[:20_000], multilingual(2000)):
        for piece in set(pieces(text, cut)):
            assert [v.tokens[i] for i in v.encode(piece)] == shortest.path(piece.encode()), piece
    assert v.size == 900


def test_any_vocabulary_may_be_cut_by_the_shortest_path(corpus: Corpus, trained: dict[str, Vocabulary]) -> None:
    made = recipe.train(replace(recipe.point("bpe", size=900), segment="shortest"), corpus)
    assert set(bpe.tokens_of(made.backend)) == set(trained["bpe"].tokens)
    assert len(made.backend.encode(ENGLISH).ids) <= len(trained["bpe"].encode(ENGLISH))


# ---------------------------------------------------------------- bytes, terms, characters


def test_character_tokens_are_short_and_terms_are_kept(corpus: Corpus, trained: dict[str, Vocabulary]) -> None:
    assert max(len(t) for t in trained["bpe"].tokens) > 3 >= max(len(t) for t in trained["kl3m-chars"].tokens)
    made = recipe.train(recipe.point("bpe", size=500), corpus, terms=["habeas corpus", "§ 1983"])
    assert made.backend.encode("a habeas corpus, 42 U.S.C. § 1983").tokens.count("habeas corpus") == 1
    assert made.made["tokens"] == 502


def test_executables(tmp_path: Path) -> None:
    native = sorted(Path(np.__file__).parent.rglob("*.so"))[:6]
    first, held_out = native[:-1], native[-1].read_bytes()[:60_000]
    for i, file in enumerate(first):
        (tmp_path / f"{i}").write_bytes(file.read_bytes()[:60_000])
    small = Corpus([tmp_path / f"{i}" for i in range(len(first))])
    per_token = {}
    for size in (400, 1200):
        made = recipe.train(recipe.point("binary", size=size), small)
        v = open_vocabulary(str(export.save(made.backend, tmp_path / f"{size}.json", made.made)))
        assert v.decode(v.encode_bytes(held_out)) == held_out
        per_token[size] = len(held_out) / len(v.encode_bytes(held_out))
    packed = gzip.compress(held_out)
    assert 1 < per_token[400] < per_token[1200]
    assert len(packed) / len(v.encode_bytes(packed)) < 1.2 < per_token[1200]


def test_utf8_ids_are_the_bytes(trained: dict[str, Vocabulary]) -> None:
    v, text = trained["utf8"], "Grüße \x02 한국 👍"
    assert v.encode(text) == list(text.encode()) and v.size == 256
    said = utf8.message("user", "héllo")
    assert v.encode_bytes(said) == list(said) and max(said) < 256
    assert utf8.clean("a\nb\t") and not utf8.clean("a\x02")
    assert set(utf8.MARKS.values()).isdisjoint(utf8.TEXT_CONTROLS) and len(set(utf8.MARKS.values())) == len(utf8.MARKS)


def test_folded_embeddings_are_the_unfolded_ones() -> None:
    rng = np.random.default_rng(0)
    table, projection = rng.normal(size=(256, 16)), rng.normal(size=(8, 16))
    folded = utf8.fold(table, projection)
    for byte in (0, 1, 77, 255):
        naive = table[byte] + sum(projection[k] for k in range(8) if byte >> k & 1)
        np.testing.assert_allclose(folded[byte], naive, rtol=1e-12)


# ---------------------------------------------------------------- corpora and bad input


def test_a_corpus_is_read_in_stretches(tmp_path: Path) -> None:
    lines = [f"line {i} ü\r\n" for i in range(200_000)]
    long = "x" * (BLOCK + 5) + "é"
    (tmp_path / "a").write_text("".join(lines), encoding="utf-8", newline="")
    (tmp_path / "b").write_text(long, encoding="utf-8")
    said: list[tuple[int, int]] = []
    corpus = Corpus([tmp_path / "a", tmp_path / "b"], lambda done, total: said.append((done, total)))
    parts = list(corpus.stretches())
    assert "".join(parts) == "".join(lines) + long
    assert max(map(len, parts)) <= 2 * BLOCK and all(p.endswith("\n") for p in parts[:2])
    assert said[-1] == (corpus.size, corpus.size)


@pytest.mark.parametrize("at", [0, 5, BLOCK - 1, BLOCK, BLOCK + 3])
def test_ill_formed_text_says_where(tmp_path: Path, at: int) -> None:
    (tmp_path / "a").write_bytes(b"a" * at + b"\xff" + b"b" * 9)
    with pytest.raises(BadRequest, match=f"byte 0xff at offset {at} "):
        list(Corpus([tmp_path / "a"]).stretches())
    (tmp_path / "b").write_bytes(b"a" * (BLOCK - 1) + "é".encode()[:1] + b"b")
    with pytest.raises(BadRequest, match=f"byte 0xc3 at offset {BLOCK - 1} "):
        list(Corpus([tmp_path / "b"]).stretches())


@given(st.lists(st.integers(0, 30), max_size=400), st.integers(2, 12))
def test_bounded_counts_are_never_too_high_and_low_by_the_floor_at_most(keys: list[int], limit: int) -> None:
    bounded: Bounded[int] = Bounded(limit)
    for i in range(0, len(keys), 7):
        bounded.add(keys[i : i + 7])
    assert len(bounded.counts) <= limit
    for key, n in Counter(keys).items():
        assert n - bounded.floor <= bounded.counts[key] <= n


@pytest.mark.parametrize(
    ("name", "knobs", "said"),
    [
        ("bpe", {"size": 200}, "smaller than its alphabet"),
        ("bpe", {"digits": "up"}, "digits are cut"),
        ("bpe", {"cut": "(["}, "does not compile"),
        ("bpe", {"cut": "(?P<a>b)(?P=a)"}, "cannot stand in a tokenizer.json"),
        ("bpe", {"merge": "all"}, "merge is one of"),
        ("bpe", {"longest": 1}, "leaves no merge"),
        ("pathpiece", {"segment": "merges"}, "pathpiece vocabulary is cut by shortest"),
        ("pathpiece", {"surplus": 0.5}, "at least 1"),
        ("boundless", {"cut": "none"}, "need words"),
        ("boundless", {"build": "unigram", "segment": "likeliest"}, "supermerges are BPE's"),
        ("binary", {"segment": "shortest"}, "raw bytes"),
        ("wordpieces", {}, "not a way to train"),
    ],
)
def test_recipes_that_cannot_be(corpus: Corpus, name: str, knobs: dict, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        recipe.train(recipe.point(name, **knobs), corpus)


def test_empty_and_missing_corpora(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for path, said in [
        (tmp_path / "empty", "corpus is empty"),
        (tmp_path / "none", "not a file"),
        (tmp_path, "not a file"),
    ]:
        with pytest.raises(BadRequest, match=said):
            recipe.train(recipe.point("bpe"), Corpus([path]))
    with pytest.raises(BadRequest, match="give a corpus"):
        recipe.train(recipe.point("bpe"), None)


def test_nothing_is_left_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "t.json"
    target.write_text("before")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(BadRequest, match="No space left"):
        export.save(utf8.tokenizer(), target, {})
    assert [f.name for f in tmp_path.iterdir()] == ["t.json"] and target.read_text() == "before"


def test_phrases_on_a_damaged_base(fewer, corpus: Corpus, tmp_path: Path) -> None:
    twice = '{"model": {"type": "BPE", "vocab": {"a": 0, "aa": 1}, "merges": ["a a", "a a"]}}'
    for base, named in [("{", "not JSON"), ('{"model": "x"}', "cannot be read"), (twice, "repeats merge 1")]:
        (tmp_path / "base.json").write_text(base)
        said = fewer("tokens", "phrases", str(tmp_path / "base.json"), "--text", str(corpus.paths[0]), "-o", "no.json")
        assert said.code == 2 and named in said.err


def test_the_commands(fewer, corpus: Corpus, tmp_path: Path) -> None:
    text, out, more = str(corpus.paths[0]), str(tmp_path / "t.json"), str(tmp_path / "m.json")
    said = fewer("tokens", "train", "bpe", "--text", text, "--size", "600", "--digits", "right", "-o", out, "--json")
    assert said.code == 0 and json.loads(said.out)["recipe"]["digits"] == "right" and "training" in said.err
    assert json.loads((tmp_path / "t.recipe.json").read_text())["tokens"] == 600
    said = fewer("tokens", "phrases", out, "--text", text, "--count", "20", "-o", more)
    assert said.code == 0 and said.out == f"{more}: 620 tokens\n"
    assert "boundless" in fewer("tokens", "ways").out
    (tmp_path / "bad").write_bytes(b"ok\xff")
    said = fewer("tokens", "train", "--text", str(tmp_path / "bad"), "-o", str(tmp_path / "never.json"))
    assert said.code == 2 and "offset 2" in said.err and not (tmp_path / "never.json").exists()
    assert fewer("tokens", "train", "utf8", "-o", str(tmp_path / "u.json")).code == 0


# ---------------------------------------------------------------- tokens with meaning, grains


@pytest.fixture(scope="module")
def meaning(tmp_path_factory: pytest.TempPathFactory) -> hybrid.Hybrid:
    path = tmp_path_factory.mktemp("turkish") / "tr.txt"
    lines = "evlerde okullarda kitaplar kitaptan kitabım kitabımız ağaçlar ağacım top topum toplar toptan İstanbul\n"
    path.write_text(lines * 20, encoding="utf-8")
    made = hybrid.train_hybrid(Corpus([path]), 500)
    made.save(path.with_suffix(".json"))
    return hybrid.Hybrid.load(path.with_suffix(".json"))


@pytest.mark.parametrize(
    ("form", "stem", "said"),
    [("lAr", "ev", "ler"), ("lAr", "okul", "lar"), ("Im", "göz", "üm"), ("DA", "kitap", "ta"), ("lArI", "yol", "ları")],
)
def test_suffixes_follow_the_vowels(form: str, stem: str, said: str) -> None:
    assert harmony.spoken(form, stem) == said and said in cuts.TURKISH


def test_variants_share_a_token(meaning: hybrid.Hybrid) -> None:
    assert {"kitap", "ağaç"} <= meaning.roots and "top" not in meaning.roots
    plural = meaning.forms.index("lAr") + 2
    assert list(meaning.items("evler okullar")) == ["ev", plural, " okul", plural]
    mine = meaning.forms.index("Im") + 2
    assert list(meaning.items("kitabım")) == ["kitap", mine] and list(meaning.items("topum")) == ["top", mine]
    assert list(meaning.items("Evler EVLER")) == [0, "ev", plural, " ", 1, "ev", plural]
    ids = meaning.encode("evler"), meaning.encode("okullar")
    assert ids[0][-1] == ids[1][-1] == meaning.first + plural
    assert meaning.size <= 500 and meaning.vocabulary().round_trips("Kitaplarımız, topum")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=40)
    | st.text(max_size=30).map(str.encode)
    | st.lists(st.sampled_from(["ev", "Ev", "kitab", "kitap", "ağac", "İ", "I", "i", "lar", "ım", "ım", "DA", " ", "'", "́", "ler"]))
    .map("".join).map(str.encode)
)  # fmt: skip
def test_meaning_loses_no_byte(meaning: hybrid.Hybrid, data: bytes) -> None:
    assert meaning.decode(meaning.encode_bytes(data)) == data


def test_the_hybrid_says_why_it_is_no_tokenizer_json(meaning: hybrid.Hybrid, corpus: Corpus, tmp_path: Path) -> None:
    meaning.save(tmp_path / "h.json")
    held = json.loads((tmp_path / "h.json").read_text())
    assert "depends" in hybrid.__doc__ and "no decoder" in held["no_tokenizer_json"]
    assert Tokenizer.from_str(json.dumps(held["base"])).encode("ev").ids
    for ids in ([meaning.size], [-1]):
        with pytest.raises(BadRequest, match="no token"):
            meaning.decode(ids)
    with pytest.raises(BadRequest, match="lone surrogate"):
        meaning.encode("a\ud800")
    with pytest.raises(BadRequest, match="does not hold"):
        hybrid.train_hybrid(corpus, 300)
    (tmp_path / "h.json").write_text("{}")
    with pytest.raises(CorruptFile):
        hybrid.Hybrid.load(tmp_path / "h.json")


def test_grains(corpus: Corpus, tmp_path: Path) -> None:
    text = "evlerde ve okullarda, भारत"
    for make, longest in ((granularity.characters, 1), (granularity.morphemes, 20), (granularity.words, 20)):
        backend = make(corpus, 400)
        v = open_vocabulary(str(export.save(backend, tmp_path / "grain.json", {})))
        assert 256 < v.size <= 400 and v.round_trips(TEXT[-2000:]) and v.round_trips(text)
        whole = [t.decode() for t in v.tokens[256:]]
        assert 1 <= max(map(len, whole)) <= longest
    assert " the" in whole


def test_the_longest_token_first(trained: dict[str, Vocabulary]) -> None:
    v = trained["wordpiece"]
    assert v.tokens[:900] == trained["bpe"].tokens
    for piece in pieces(TEXT[-1500:], compiled(cuts.pattern("words"))):
        data, wanted = piece.encode(), []
        while data:
            token = next(data[:n] for n in range(len(data), 0, -1) if data[:n] in v.ids)
            wanted.append(v.ids[token])
            data = data[len(token) :]
        assert v.encode(piece) == wanted


@pytest.fixture(scope="module")
def letters(trained: dict[str, Vocabulary]) -> Vocabulary:
    return jamo.Jamo(trained["bpe"]).vocabulary()


def test_jamo_are_those_of_unicode(letters: Vocabulary) -> None:
    import unicodedata

    text = "".join(map(chr, range(0xAC00, 0xD7A4)))
    ids = letters.encode(text)
    assert b"".join(letters.tokens[i] for i in ids).decode() == unicodedata.normalize("NFD", text)
    assert len(set(ids)) == jamo.COUNT and letters.decode(ids) == text.encode()
    assert letters.decode(ids[:1]).decode() == "\u1100", "half a syllable stands as it is"
    with pytest.raises(BadRequest, match="no token"):
        letters.decode([len(letters.tokens)])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=40)
    | st.lists(st.sampled_from(["한", "가", "\u1100", "\u1161", "\u11a8", "ㄱ", " a", "힣"]))
    .map("".join)
    .map(str.encode)
)
def test_jamo_lose_no_byte(letters: Vocabulary, data: bytes) -> None:
    assert letters.decode(letters.encode_bytes(data)) == data


def test_the_vocabulary_takes_its_share() -> None:
    size = granularity.vocabulary_size(80_000_000, 576, 0.2)
    assert size * 576 / (size * 576 + 80_000_000) == pytest.approx(0.2, abs=1e-5)
    with pytest.raises(BadRequest):
        granularity.vocabulary_size(1, 1, 1.0)


# ---------------------------------------------------------------- a vocabulary a type

TERMS = {
    "metals": ["lead", "mercury", "cadmium", "chromium", "lead acetate", "mercury chloride"],
    "verbs": ["lead", "follow", "leading", "following", "guide", "mislead"],
}


@pytest.fixture(scope="module")
def by_type(corpus: Corpus) -> typed.Typed:
    return typed.Typed(recipe.train(recipe.point("bpe", size=500), corpus).backend, TERMS, 64)


def test_one_word_is_cut_by_what_its_sentence_is_about(by_type: typed.Typed) -> None:
    metals, verbs = by_type.types["metals"].ids, by_type.types["verbs"].ids
    poison = by_type.encode("Mixing lead with mercury, cadmium and chromium.")
    walk = by_type.encode("They lead, guide and follow.")
    assert metals[b" lead"] in poison and verbs[b" lead"] not in poison
    assert verbs[b" lead"] in walk and metals[b" lead"] not in walk
    both = "cadmium and chromium with lead. They guide, follow and lead."
    assert {metals[b" lead"], verbs[b" lead"]} <= set(by_type.encode(both)), "each sentence for itself"


def test_terms_take_fewer_tokens_and_other_text_the_same(by_type: typed.Typed) -> None:
    assert len(by_type.encode(" cadmium chloride")) < len(by_type.base.encode(" cadmium chloride").ids)
    plain = "nothing of that kind is here, 123\n"
    assert by_type.encode(plain) == by_type.base.encode(plain).ids
    token = by_type.types["metals"].ids[b" cadmium"]
    assert b"".join(by_type.tokens[i] for i in by_type.parts(token)) == b" cadmium" and by_type.parts(token) != [token]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=40)
    | st.text(max_size=30).map(str.encode)
    | st.lists(st.sampled_from([*TERMS["metals"], *TERMS["verbs"], " ", ".", "x", "́"])).map("".join).map(str.encode)
)
def test_types_lose_no_byte(by_type: typed.Typed, data: bytes) -> None:
    v = by_type.vocabulary()
    assert v.decode(v.encode_bytes(data)) == data


def test_types_say_why_they_are_no_tokenizer_json(by_type: typed.Typed, tmp_path: Path) -> None:
    by_type.save(tmp_path / "t.json")
    again = typed.load(tmp_path / "t.json")
    assert again.encode("lead and cadmium") == by_type.encode("lead and cadmium")
    assert "sentence" in json.loads((tmp_path / "t.json").read_text())["no_tokenizer_json"]
    (tmp_path / "t.json").write_text("[]")
    with pytest.raises(CorruptFile):
        typed.load(tmp_path / "t.json")
    with pytest.raises(BadRequest, match="has no term"):
        typed.Typed(by_type.base, {"none": [" "]})


# ---------------------------------------------------------------- the trial


def test_the_trial_trains_every_way_on_what_it_does_not_measure_on(
    fewer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = ["evlerde ve okullarda kitaplar", "ağaçlar ve evler", "kitaplarda okullar"]
    chapters = [{"verses": [{"translation": f"{said[i % 3]} {i}"} for i in range(40)]}]
    with tarfile.open(tmp_path / "quran-json-3.1.2.tgz", "w:gz") as archive:
        data = json.dumps(chapters).encode()
        member = tarfile.TarInfo("package/dist/quran_tr.json")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    monkeypatch.setenv("FEWER_DATA", str(tmp_path))
    monkeypatch.setattr(trial, "_binary", lambda *_: {})
    train, held_out = trial.verses("tr")
    assert len(train.splitlines()) == 36 and held_out.splitlines()[1] == f"{said[10 % 3]} 10"
    r = trial.trial(["tr"], 400, lambda _: None, lexicon.Lexicon({"ev": frozenset(), "kitap": frozenset()}))
    assert {x["way"] for x in r["rows"]} == {*trial.WAYS, *trial.OWN["tr"], *trial.GRAINS["tr"], "bpe, shortest"}
    assert all(x["exact"] and x["tokens"] > 0 for x in r["rows"])
    assert all(x["tokens"] >= x["fewest"] for x in r["rows"] if x["way"] != "hybrid")
    assert r["speed"]["train"] > 0 and tables.trial(r)[0].title == "Tokens of held-out verses"
    for language, wrong in (("xx", BadRequest), ("en", CorruptFile)):
        with pytest.raises(wrong):
            trial.verses(language)
    assert fewer("tokens", "trial", "--language", "xx").code == 2


def test_korean_grains_of_the_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in trial.KOREAN:
        file = tmp_path / "konlpy-0.6.0" / "konlpy" / "data" / "corpus" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("대한민국은 민주공화국이다.\n\n모든 권력은 국민으로부터 나온다.\n" * 2, encoding="utf-8")
    monkeypatch.setenv("FEWER_DATA", str(tmp_path))
    monkeypatch.setattr(trial, "WAYS", ("bpe",))
    monkeypatch.setattr(trial, "_binary", lambda *_: {})
    rows = {x["way"]: x for x in trial.trial(["ko"], 400, lambda _: None)["rows"]}
    assert rows.keys() == {"bpe", *trial.OWN["ko"], *trial.GRAINS["ko"], "bpe, shortest"}
    assert all(x["exact"] for x in rows.values())
    assert rows["jamo"]["tokens"] > rows["characters"]["tokens"] > rows["morphemes"]["tokens"] > rows["words"]["tokens"]


def test_ctrl_c_is_heard_while_the_library_trains(monkeypatch):
    """The text is read no further, and what the library cannot do is said where it was asked."""
    read, join, asked = [], threading.Thread.join, []

    class Library:
        def train_from_iterator(self, texts, trainer):
            for text in texts:
                read.append(text)
            raise ValueError(trainer)

    def interrupted(self, timeout=None):
        asked.append(timeout)
        if len(asked) == 1:
            raise KeyboardInterrupt
        join(self, timeout)

    with pytest.raises(ValueError, match="no trainer"):
        bpe._learn(Library(), iter(["a", "b"]), "no trainer")
    assert read == ["a", "b"]
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bpe._learn(Library(), itertools.repeat("c"), "never")
    seen = len(read)
    time.sleep(0.05)
    assert len(asked) == 2 and len(read) == seen


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_of_a_large_corpus_a_part_is_read_evenly(tmp_path, share):
    lines = [f"{i:07d} and so on\n" for i in range(120_000)]
    (tmp_path / "a").write_text("".join(lines))
    corpus = Corpus([tmp_path / "a"])
    most = round(share * corpus.size)
    taken = list(Corpus([tmp_path / "a"], most=most).stretches())
    whole = list(corpus.stretches())
    assert set(taken) <= set(whole) and taken[0] == whole[0]
    assert abs(sum(map(len, taken)) - most) <= max(map(len, whole))
    at = [whole.index(t) for t in taken]
    assert max(b - a for a, b in zip(at, [*at[1:], len(whole)])) <= round(1 / share) + 1
    blocks = sum(map(len, Corpus([tmp_path / "a"], most=most).blocks()))
    assert abs(blocks - most) <= 1 << 18
