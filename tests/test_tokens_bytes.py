"""Exact bytes against brute force: every token sequence of a tiny model, judged by the real encoder."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from tokenizers import Regex, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

from fewer.engine import Engine
from fewer.errors import BadRequest, ModelError, UnsupportedArchitecture
from fewer.models.tokenizer import _BYTE_OF, Tokenizer
from fewer.plan import PLAIN
from fewer.testing.tiny import tiny_model
from fewer.tokens.bytes import END, ByteModel
from fewer.tokens.rules import BytePairs, LongestMatch
from fewer.tokens.trie import Trie
from fewer.types import Group, Step, Told, chain

WORDS = r"'s| ?\p{L}+|\s+(?!\S)|\s+"
ALPHABET = "ab '\té"
MERGES = ["a b", "ab a", "Ġ a", "Ġ b", "Ġa b", "Ġ Ġ", "ĉ ĉ", "' s", "Ã ©", "b b", "a Ã", "a a", "Ġ ĠĠ"]
Next = Callable[[tuple[int, ...]], np.ndarray]


def tiny_tokenizer(pattern: str | None = WORDS, alphabet: str = ALPHABET + "s") -> Tokenizer:
    """Byte-level BPE over a few characters; id 0 ends and begins text."""
    spelled = {b: c for c, b in _BYTE_OF.items()}
    tokens = ["<end>", *sorted({spelled[b] for b in alphabet.encode()})]
    tokens += [m.replace(" ", "") for m in MERGES]
    vocab = {t: i for i, t in enumerate(tokens)}
    backend = Backend(BPE(vocab, [tuple(m.split(" ")) for m in MERGES]))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cuts = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cuts, byte_level])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<end>"])
    return Tokenizer(backend, 0, 0, frozenset({0}), None, False, frozenset({0}), True, False)


def tiny_engine(tokenizer: Tokenizer | None, vocab: int, variant: str = "llama", seed: int = 0) -> Engine:
    return Engine(tiny_model(variant, seed, vocab, 2), tokenizer)


def next_tokens(engine: Engine) -> Next:
    """The model's own distribution after some tokens, by a fresh forward."""
    held: dict[tuple[int, ...], np.ndarray] = {}

    def after(ids: tuple[int, ...]) -> np.ndarray:
        if ids not in held:
            store = engine.model.new_store()
            group = Group(store.new(), chain(ids, 0), PLAIN, Told(0), np.array([len(ids) - 1]))
            (out,), _ = engine.model.forward(Step([group]), store)
            held[ids] = torch.softmax(out.logits[0].double(), -1).numpy()
        return held[ids]

    return after


class Brute:
    """P(bytes) by enumeration: sequences of tokens that `begins` says an encoder can begin with, renormalised a token."""

    def __init__(self, engine: Engine, words: dict[int, bytes], begins: Callable[[tuple[int, ...]], bool]) -> None:
        self.after, self.words, self.begins = next_tokens(engine), words, begins

    def level(self, ids: tuple[int, ...]) -> tuple[dict[int, float], float]:
        """Tokens that may follow with their probabilities, and that of the end."""
        p = self.after((0, *ids))
        may = {t: p[t] for t in self.words if self.begins((*ids, t))}
        total = sum(may.values()) + p[0]
        return {t: v / total for t, v in may.items()}, p[0] / total

    def prefix(self, data: bytes, ids: tuple[int, ...] = (), spelled: bytes = b"") -> float:
        """Probability that the text begins with `data`."""
        if spelled.startswith(data):
            return 1.0
        may, _ = self.level(ids)
        return sum(
            p * self.prefix(data, (*ids, t), spelled + w)
            for t, p in may.items()
            if data.startswith(spelled + (w := self.words[t])) or (spelled + w).startswith(data)
        )

    def ending(self, data: bytes, ids: tuple[int, ...] = (), spelled: bytes = b"") -> float:
        """Probability that the text is `data`."""
        may, end = self.level(ids)
        if spelled == data:
            return end
        return sum(
            p * self.ending(data, (*ids, t), spelled + w)
            for t, p in may.items()
            if data.startswith(spelled + (w := self.words[t]))
        )

    def next(self, data: bytes) -> np.ndarray:
        out = np.array([self.prefix(data + bytes([b])) for b in range(256)] + [self.ending(data)])
        return out / out.sum()


def encoder_begins(tokenizer: Tokenizer) -> Callable[[tuple[int, ...]], bool]:
    """Does some text encode to these tokens and more? The rest of a character and one more of the alphabet are tried."""
    held: dict[tuple[int, ...], bool] = {}
    tails = ["", *ALPHABET, "s"]
    chars = [c.encode()[i:] for c in ALPHABET for i in range(1, len(c.encode()))]

    def begins(ids: tuple[int, ...]) -> bool:
        if ids not in held:
            held[ids] = (len(ids) == 1 or begins(ids[:-1])) and any(
                fits(ids, end + tail.encode()) for end in (b"", *chars) for tail in tails
            )
        return held[ids]

    def fits(ids: tuple[int, ...], tail: bytes) -> bool:
        try:
            text = (b"".join(map(tokenizer.token_bytes, ids)) + tail).decode()
        except UnicodeDecodeError:
            return False
        return tuple(tokenizer.encode(text)[: len(ids)]) == ids

    return begins


def distance(p: np.ndarray, q: np.ndarray) -> float:
    return float(abs(p - q).sum() / 2)


@pytest.mark.parametrize("pattern", [WORDS, None], ids=["cut", "uncut"])
@pytest.mark.parametrize("text", ["ab", "aba b", "\t\ta", "a  b", "b's", "aé"])
def test_next_byte_is_that_of_enumeration(pattern: str | None, text: str):
    tok = tiny_tokenizer(pattern)
    engine = tiny_engine(tok, tok.vocab_size)
    words = {i: tok.token_bytes(i) for i in range(1, tok.vocab_size)}
    brute = Brute(engine, words, encoder_begins(tok))
    with ByteModel(engine).start(text, context=[0]) as state:
        assert distance(state.next(), brute.next(text.encode())) < 1e-9


def test_bytes_inside_a_character():
    tok = tiny_tokenizer()
    engine = tiny_engine(tok, tok.vocab_size, "qwen3")
    brute = Brute(engine, {i: tok.token_bytes(i) for i in range(1, tok.vocab_size)}, encoder_begins(tok))
    with ByteModel(engine).start("aé".encode()[:2], context=[0]) as state:
        got = state.next()
        assert distance(got, brute.next("aé".encode()[:2])) < 1e-9
        assert got["é".encode()[1]] == pytest.approx(1)


def test_byte_by_byte_equals_at_once():
    tok = tiny_tokenizer()
    engine = tiny_engine(tok, tok.vocab_size, "gemma3")
    text = "ab a's\t\tab  baé "
    model = ByteModel(engine)
    with model.start(text[:1], context=[0]) as slow, model.start(text[:1], context=[0]) as quick:
        apart = 0.0
        for byte in text[1:].encode():
            before = slow.next()
            logp = slow.push(bytes([byte]))
            assert logp == pytest.approx(math.log(before[byte]), abs=1e-9)
            apart += logp
        assert quick.push(text[1:].encode()) == pytest.approx(apart, abs=1e-9)
        assert distance(slow.next(), quick.next()) < 1e-9
        with model.start(text, context=[0]) as fresh:
            assert distance(slow.next(), fresh.next()) < 1e-9
        assert slow.ledger.forwards <= len(text.encode())
        assert quick.ledger.forwards == 2
    assert engine.stores["main"].bytes() == 0


def test_candidates_are_scored_together_and_exactly():
    tok = tiny_tokenizer()
    engine = tiny_engine(tok, tok.vocab_size)
    candidates = [b"a", b"ab", b"aba", b" b", b"'s", b"\xff"]
    brute = Brute(engine, {i: tok.token_bytes(i) for i in range(1, tok.vocab_size)}, encoder_begins(tok))
    with ByteModel(engine).start("ba", context=[0]) as state:
        before = state.ledger.forwards
        got = state.score(candidates)
        assert state.ledger.forwards == before + 1
    whole = brute.prefix(b"ba")
    want = [math.log(brute.prefix(b"ba" + c) / whole) for c in candidates[:-1]]
    assert got[:-1] == pytest.approx(want, abs=1e-9)
    assert got[-1] == -math.inf


def longest_match(text: bytes, words: dict[int, bytes]) -> list[int]:
    ids, at = [], 0
    while at < len(text):
        fits = [t for t, w in words.items() if text.startswith(w, at)]
        ids.append(max(fits, key=lambda t: len(words[t])))
        at += len(words[ids[-1]])
    return ids


@pytest.mark.parametrize("text", [b"ab", b"aba", b"bbab"])
def test_maximum_prefix_encoding(text: bytes):
    words = dict(enumerate([b"a", b"b", b"ab", b"aba", b"bba", b"abab"], start=1))
    engine = tiny_engine(None, 8)
    tails = ["".join(c).encode() for n in range(4) for c in itertools.product("ab", repeat=n)]

    @cache
    def begins(ids: tuple[int, ...]) -> bool:
        spelled = b"".join(words[t] for t in ids)
        return (len(ids) == 1 or begins(ids[:-1])) and any(
            tuple(longest_match(spelled + t, words)[: len(ids)]) == ids for t in tails
        )

    model = ByteModel(engine, LongestMatch(Trie(words.items())))
    model.ends = np.array([0])
    with model.start(text, context=[0]) as state:
        assert distance(state.next(), Brute(engine, words, begins).next(text)) < 1e-9


def test_tokenisation_bias_is_gone():
    """The paper's point: after an encoded prompt the model can never say what the encoder would have joined to it."""
    tok = tiny_tokenizer(None)
    engine = tiny_engine(tok, tok.vocab_size)
    a, ab = tok.encode("a")[0], tok.encode("ab")[0]
    with ByteModel(engine).start("a", context=[0]) as state:
        p = state.next()
    assert p[ord("b")] > next_tokens(engine)((0,))[ab] / 2  # the mass of "ab" is there
    rule = BytePairs(tok)
    after_a = rule.step(rule.start, rule.trie.words.index(b"a"))
    assert not rule.allows(after_a, rule.trie.words.index(b"b"))  # which a prompt ending in token "a" rules out
    assert tok.encode("ab") == [ab] != [a]


def test_bad_input():
    tok = tiny_tokenizer()
    engine = tiny_engine(tok, tok.vocab_size)
    model = ByteModel(engine)
    for text, said in [(b"", "empty"), (b"a\xffb", "byte 1 .* not UTF-8"), ("\ud800", "not UTF-8"), ("az", "0x7a")]:
        with pytest.raises(BadRequest, match=said):
            model.start(text)
    with model.start("ab a") as state, pytest.raises(BadRequest, match="0x7a"):
        state.push(b"z")
    with pytest.raises(ModelError, match="tokenizer"):
        ByteModel(tiny_engine(None, 8))
    assert model.start("a").next()[END] > 0
    engine.prefixes.clear()


def test_tokenizers_that_cannot_be_followed():
    tok = tiny_tokenizer()
    tok.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(UnsupportedArchitecture, match=r"space before the text.*plain healing"):
        BytePairs(tok)
    tok = tiny_tokenizer()
    tok.backend.model = BPE(tok.backend.get_vocab(), [tuple(m.split(" ")) for m in MERGES], ignore_merges=True)
    with pytest.raises(UnsupportedArchitecture, match="whole words"):
        BytePairs(tok)
