"""Which tokens may follow: the rules against the published encoders of real vocabularies."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from fewer.models.source import open_source
from fewer.models.tokenizer import Tokenizer, from_source
from fewer.tokens.rules import BytePairs
from fewer.tokens.trie import Trie
from tests.texts import multilingual

FOLLOWING = ("", "a", " ", "\n", "x y", "1", ".", " a", "'s", "\n\nz")


@pytest.fixture(scope="module", params=["smollm", "qwen"])
def followed(request: pytest.FixtureRequest) -> tuple[Tokenizer, BytePairs, list[str]]:
    path: Path = request.getfixturevalue(request.param)
    tokenizer = from_source(open_source(path))
    lines = unicodedata.normalize("NFC", multilingual()).split("\n")
    rng = random.Random(0)
    starts = [rng.randrange(len(lines)) for _ in range(200)]
    return tokenizer, BytePairs(tokenizer), ["\n".join(lines[i : i + 3])[:160] for i in starts]


@pytest.mark.slow
def test_what_the_encoder_writes_is_never_refused(followed):
    tokenizer, rule, texts = followed
    place = {int(t): i for i, t in enumerate(rule.trie.ids)}
    for text in texts:
        state = rule.start
        for token in tokenizer.encode(text, bos=False):
            assert rule.allows(state, place[token]), (text, tokenizer.token_bytes(token))
            state = rule.step(state, place[token])


@pytest.mark.slow
def test_a_token_may_follow_exactly_if_some_text_encodes_so(followed):
    tokenizer, rule, texts = followed
    place = {int(t): i for i, t in enumerate(rule.trie.ids)}
    rng = random.Random(1)
    for text in texts[:60]:
        ids = tokenizer.encode(text, bos=False)
        ids = ids[: rng.randrange(len(ids) + 1)]
        state = rule.start
        for token in ids:
            state = rule.step(state, place[token])
        mask = rule.mask(state)
        for i in rng.sample(range(len(mask)), 30):
            assert bool(mask[i]) == rule.allows(state, i)
            data = b"".join(map(tokenizer.token_bytes, ids)) + rule.trie.words[i]
            try:
                spelled = data.decode()
            except UnicodeDecodeError:
                continue
            if unicodedata.is_normalized("NFC", spelled):
                want = [*ids, int(rule.trie.ids[i])]
                can = any(tokenizer.encode(spelled + w, bos=False)[: len(want)] == want for w in FOLLOWING)
                assert can == bool(mask[i]), (ids, rule.trie.words[i])


def test_a_trie_finds_intervals_and_beginnings():
    words = [b"a", b"ab", b"abc", b"b", b"\xff", b"\xff\xff"]
    trie = Trie(enumerate(words))
    assert [trie.words[i] for i in trie.beginnings(b"abd")] == [b"a", b"ab"]
    node = trie.node(b"a")
    assert node is not None and (node.low, node.high) == (0, 3)
    assert trie.whole(node) == 0
    assert trie.node(b"abd") is None and trie.node(b"c") is None
    assert trie.node(b"\xff") == (4, 6, b"\xff")
    sums = trie.next_bytes(trie.root, np.arange(1.0, 7.0))
    assert sums[ord("a")] == 6 and sums[ord("b")] == 4 and sums[0xFF] == 11
    assert trie.next_bytes(node, np.arange(1.0, 7.0))[ord("b")] == 5
    assert ord("c") in trie.missing and ord("a") not in trie.missing
