"""Which token sequences an encoder can begin its output with: what a cover of some bytes may consist of.

A rule walks along a token sequence. `start` is its state before the first token, `step` the state after one more,
`allows` and `mask` say which tokens may come next so that some text still encodes to what stands there. Two encoders:

    BytePairs     merges inside pieces: valid pairs (pairs.py) wherever no cut (cuts.py) separates two tokens
    LongestMatch  maximum prefix encoding: each token is the longest one that the rest of the text begins with, so a
                  later token must not complete a longer one that an earlier place could have had
                  ("Understanding and Mitigating Tokenization Bias in Language Models")

Does not: normalise text (bytes that the encoder would rewrite are taken as they are), match added tokens inside text,
follow SentencePiece's pieces or merges that skip whole words.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from fewer.errors import UnsupportedArchitecture
from fewer.models.tokenizer import Tokenizer
from fewer.tokens.cuts import Cuts, Tail
from fewer.tokens.pairs import Merges
from fewer.tokens.trie import Node, Trie
from fewer.tokens.unfinished import Unfinished, missing


class Rule(Protocol):
    """States are hashable and small; places are places in `trie`."""

    trie: Trie
    start: Any

    def allows(self, state: Any, place: int) -> bool:
        """May the token at this place of the trie come next?"""

    def mask(self, state: Any) -> np.ndarray:
        """(N,) bool: `allows` for every place."""

    def step(self, state: Any, place: int) -> Any:
        """The state after a token that is allowed."""

    def sure(self, text: bytes) -> int:
        """How many leading bytes of `text` every encoding of it and what follows treats alike: a place between tokens."""


class Joined(NamedTuple):
    """The last token's id, the tail of tokens whose cuts may still move, bytes its last character lacks."""

    last: int
    tail: Tail
    lacking: int = 0


class BytePairs:
    """The rule of a byte-level BPE tokenizer. Raises UnsupportedArchitecture for one it cannot follow exactly."""

    start = Joined(-1, ())

    def __init__(self, tokenizer: Tokenizer) -> None:
        backend = tokenizer.backend
        if not tokenizer.byte_level:
            raise _unsupported("its pieces are SentencePiece's")
        if backend.model.ignore_merges:
            raise _unsupported("it takes whole words without merging them")
        self.cuts = Cuts(backend)
        if self.cuts.cut("a") != [1]:
            raise _unsupported("it adds a space before the text")
        normal = json.loads(backend.normalizer.__getstate__())["type"] if backend.normalizer else "NFC"
        if normal != "NFC":
            raise _unsupported(f"it rewrites text ({normal})")
        self.merges = Merges.of(backend.model, tokenizer.vocab_size)
        added = backend.get_added_tokens_decoder()
        ids = [int(i) for i in np.flatnonzero(self.merges.reachable) if int(i) not in added]
        self.trie = Trie((i, tokenizer.token_bytes(i)) for i in ids)
        shapes: dict[bytes, int] = {}
        kind = [shapes.setdefault(self.cuts.shape(w), len(shapes)) for w in self.trie.words]
        self._shapes, self._kind = list(shapes), np.array(kind)
        self.unfinished = Unfinished(self.trie, self.merges)
        self._follows = lru_cache(256)(self._follow_all)

    def allows(self, state: Joined, place: int) -> bool:
        apart, joined = self.cuts.follow(state.tail, self._shapes[self._kind[place]])
        if not (apart or (joined and (state.last < 0 or self.merges.apart(state.last, int(self.trie.ids[place]))))):
            return False
        return self.unfinished.alive(place, missing(self.trie.words[place], state.lacking))

    def mask(self, state: Joined) -> np.ndarray:
        apart, joined = self._follows(state.tail)
        if state.last >= 0:
            joined = joined & self.merges.apart_from(state.last)[self.trie.ids]
        return (apart | joined) & self.unfinished.mask(state.lacking)

    def step(self, state: Joined, place: int) -> Joined:
        token = int(self.trie.ids[place])
        must = state.last >= 0 and not self.merges.apart(state.last, token)
        tail = self.cuts.settled((*state.tail, (self._shapes[self._kind[place]], must and bool(state.tail))))
        return Joined(token, tail, missing(self.trie.words[place], state.lacking))

    def sure(self, text: bytes) -> int:
        ends = self.cuts.cut(text.decode(errors="ignore"))
        return ends[-5] if len(ends) > 4 else 0

    def _follow_all(self, tail: Tail) -> tuple[np.ndarray, np.ndarray]:
        both = np.array([self.cuts.follow(tail, s) for s in self._shapes], dtype=bool)[self._kind]
        return both[:, 0], both[:, 1]


class LongestMatch:
    """The rule of maximum prefix encoding. A state holds the trie nodes of earlier tokens that could still grow."""

    start: tuple[Node, ...] = ()

    def __init__(self, trie: Trie) -> None:
        self.trie = trie
        self.mask = lru_cache(256)(self._mask)

    def allows(self, state: tuple[Node, ...], place: int) -> bool:
        return self._grown(state, self.trie.words[place]) is not None

    def _mask(self, state: tuple[Node, ...]) -> np.ndarray:
        return np.array([self.allows(state, i) for i in range(len(self.trie))], dtype=bool)

    def step(self, state: tuple[Node, ...], place: int) -> tuple[Node, ...]:
        word = self.trie.words[place]
        grown = self._grown(state, word)
        assert grown is not None
        own = self.trie.node(word)
        assert own is not None
        return (*grown, own) if own.high - own.low > 1 else grown

    def sure(self, text: bytes) -> int:
        return 0

    def _grown(self, state: tuple[Node, ...], word: bytes) -> tuple[Node, ...] | None:
        """The nodes after `word`; None if a longer token than the one chosen there would have been complete."""
        kept = []
        for node in state:
            at: Node | None = node
            for byte in word:
                at = self.trie.child(at, byte) if at else None
                if at is None:
                    break
                if self.trie.whole(at) is not None:
                    return None
            if at is not None:
                kept.append(at)
        return tuple(kept)


def _unsupported(why: str) -> UnsupportedArchitecture:
    return UnsupportedArchitecture(
        f"exact bytes need a byte-level BPE tokenizer, and this one is not: {why}. Use plain healing."
    )
