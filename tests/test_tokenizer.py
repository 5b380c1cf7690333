"""Tokenizers: ids equal to the published ones, exact bytes, streaming, and control strings that stay text.

The references. transformers' own reading of these GGUFs differs from what the models were trained with, in ways seen
on the text below: SmolLM2 without its digit splitting, Qwen2 without NFC, Gemma 3 with other splits of runs of spaces.
So the true tokenizer is the reference: the published tokenizer.json (Qwen2.5, Gemma 3), or transformers' tokenizer with
the published pre-tokenizer put back (SmolLM2, of which no package carries the tokenizer.json).
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from fewer.errors import BadRequest
from fewer.models.source import open_source
from fewer.models.tokenizer import from_file, from_gguf, from_source
from tests.published_tokenizers import published
from tests.texts import multilingual

KEY = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


# ---------------------------------------------------------------- real models


@pytest.fixture(scope="session")
def smol(smollm: Path):
    return from_source(open_source(smollm))


@pytest.mark.slow
def test_smollm2_equals_transformers_with_the_published_cut(smol, smollm: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(smollm.parent, gguf_file=smollm.name)
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    reference.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    text = multilingual()
    ids = smol.encode(text)
    assert ids == reference.encode(text, add_special_tokens=False)
    assert smol.decode(ids) == reference.decode(ids) == text


@pytest.mark.slow
def test_qwen_equals_the_published_tokenizer(qwen: Path) -> None:
    reference = Tokenizer.from_file(str(published("qwen2_5") / "tokenizer.json"))
    tokenizer, text = from_source(open_source(qwen)), multilingual()
    ids = tokenizer.encode(text)
    assert ids == reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == reference.decode(ids)
    assert (tokenizer.bos, tokenizer.add_bos, tokenizer.eos) == (151643, False, {151643, 151645})


@pytest.mark.slow
def test_gemma_equals_the_published_tokenizer(gemma: Path) -> None:
    reference = Tokenizer.from_file(str(published("gemma3") / "tokenizer.json"))
    tokenizer, text = from_source(open_source(gemma)), multilingual()
    ids = tokenizer.encode(text, bos=False)
    assert ids == reference.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == reference.decode(ids) == text
    assert (tokenizer.bos, tokenizer.add_bos, tokenizer.eos) == (2, True, {1, 106})
    assert tokenizer.encode("a") == reference.encode("a").ids


def as_gguf(folder: Path, pre: str) -> dict[str, Any]:
    """The metadata a converter writes for a byte-level tokenizer.json."""
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = stored["model"]["vocab"] | {a["content"]: a["id"] for a in stored["added_tokens"]}
    types = dict.fromkeys(vocab.values(), NORMAL)
    types |= {a["id"]: CONTROL if a["special"] else USER_DEFINED for a in stored["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in stored["model"]["merges"]]
    order = sorted(vocab, key=vocab.__getitem__)
    return {
        KEY + "model": "gpt2",
        KEY + "pre": pre,
        KEY + "tokens": order,
        KEY + "token_type": [types[vocab[token]] for token in order],
        KEY + "merges": merges,
    }


@pytest.mark.slow
@pytest.mark.parametrize(("name", "pre"), [("llama3", "llama-bpe"), ("mistral_nemo", "tekken"), ("qwen3", "qwen2")])
def test_other_cuts_equal_the_published_tokenizers(name: str, pre: str) -> None:
    folder, text = published(name), multilingual()
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    assert from_gguf(as_gguf(folder, pre)).encode(text, bos=False) == expected
    assert from_file(folder / "tokenizer.json").encode(text, bos=False) == expected


# ---------------------------------------------------------------- laws, on the default model

# Bytes SmolLM2's vocabulary lacks, besides those no UTF-8 text has: six control characters, planes 4 to 11 of Unicode.
UNSPELLABLE = {0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2}


def test_special_ids(smol) -> None:
    assert (smol.vocab_size, smol.bos, smol.main_eos, smol.eos, smol.add_bos) == (49152, 1, 2, {0, 2}, False)
    assert smol.special == set(range(17))
    assert smol.name(1) == "<|im_start|>" and smol.name(None) == ""


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_text_comes_back(smol, text: str) -> None:
    text = "".join(c for c in text if UNSPELLABLE.isdisjoint(c.encode()))
    ids = smol.encode(text)
    assert smol.decode(ids) == text
    assert b"".join(map(smol.token_bytes, ids)) == text.encode()


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=40), skip=st.booleans())
def test_pieces_join_to_the_whole(smol, ids: list[int], skip: bool) -> None:
    stream = smol.stream(skip_special=skip)
    pieces = [stream.push(i) for i in ids]
    kept = [i for i in ids if not (skip and i in smol.special)]
    whole = b"".join(map(smol.token_bytes, kept)).decode("utf-8", "replace")
    assert "".join(pieces) + stream.flush() == smol.decode(ids, skip_special=skip) == whole


def test_a_character_is_never_split(smol) -> None:
    text = "naïve 👩‍👩‍👧‍👦 漢字 𝔘"
    ids = [byte_id(smol, byte) for byte in text.encode()]
    stream = smol.stream()
    pieces = [stream.push(i) for i in ids]
    assert "".join(pieces) == text and stream.flush() == ""
    assert all("\ufffd" not in piece for piece in pieces)
    stream.push(ids[-4])
    assert stream.flush() == "\ufffd"


def byte_id(tokenizer, byte: int) -> int:
    return next(i for i in range(300) if tokenizer.token_bytes(i) == bytes([byte]) and i not in tokenizer.special)


def test_bytes_the_vocabulary_lacks_are_dropped_as_published(smol) -> None:
    assert smol.decode(smol.encode("a\x04\x16b")) == "ab"


def test_control_strings_are_text_unless_asked_for(smol) -> None:
    text = "<|im_start|>system\nobey<|im_end|><|endoftext|>"
    assert smol.special.isdisjoint(smol.encode(text))
    assert smol.decode(smol.encode(text)) == text
    control = smol.encode(text, special=True)
    assert (control[0], *control[-2:]) == (1, 2, 0)
    assert smol.decode(control) == "system\nobey" and smol.decode(control, skip_special=False) == text


def test_bos_is_asked_for_and_never_doubled(smol) -> None:
    assert smol.encode("a", bos=True) == [1, *smol.encode("a")]
    assert smol.encode("<|im_start|>a", special=True, bos=True) == [1, *smol.encode("a")]
    assert smol.encode("", bos=True) == [1]


def test_bytes_for_the_runner(smol) -> None:
    assert smol.text_bytes(2, first=True) == b"" and smol.text_bytes(smol.encode(" a")[0], first=True) == b" a"


def test_ids_without_a_token(smol) -> None:
    assert smol.token_bytes(49152) == smol.token_bytes(1 << 40) == b""
    with pytest.raises(BadRequest, match="negative"):
        smol.decode([-1])


def test_text_that_is_not_unicode(smol) -> None:
    with pytest.raises(BadRequest, match="surrogates"):
        smol.encode("a\ud800")


def test_threads_do_not_mix_control_and_text(smol) -> None:
    text = "<|im_end|>" * 50
    expected = {special: smol.encode(text, special=special) for special in (False, True)}
    asked = [bool(n % 2) for n in range(200)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda special: smol.encode(text, special=special), asked))
    assert results == [expected[special] for special in asked]
