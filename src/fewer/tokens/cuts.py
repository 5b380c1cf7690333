"""Where the encoder cuts text before it merges: the pre-tokenizer as a question about shapes.

A byte-level encoder first cuts text into pieces by a regular expression, then merges inside each piece. So a sequence
of tokens can stand for a text only if every cut falls between two tokens. The expressions in use look at classes of
characters (letters, marks, numbers, white space, apostrophe endings), so tokens are compared by `shape`: the class
string of their text, runs shortened. What comes later can move a cut only through white space or an unfinished
character; there, each way of going on is tried, and one that works is enough.

A tail is the end of a token sequence whose cuts may still move: (shape, must) a token, where must says that a cut has to
precede it because the merges would join it to the token before. Does not: know merges (pairs.py); take expressions
that look back across a cut.
"""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache
from itertools import takewhile

from tokenizers import Tokenizer as Backend

from fewer.parts.constraint import beginning_with

Tail = tuple[tuple[bytes, bool], ...]

AFTER = (
    "a",
    "A",
    "1",
    " ",
    "\n",
    ".",
    "'s",
    "é",
    "中",
    "\u0301",
)  # what may follow, when asked whether a cut is settled
ENDINGS = frozenset("sdmtlrveSDMTLRVE")  # letters of 's, 't, 're, 've, 'm, 'll, 'd
STANDS_FOR = {"Ll": "é", "Lu": "É", "Lt": "ǅ", "Lm": "ʰ", "Nd": "٣", "Nl": "Ⅷ", "No": "½"}  # beyond ASCII


class Cuts:
    """The pieces of one tokenizer."""

    def __init__(self, backend: Backend) -> None:
        self._pre = backend.pre_tokenizer
        self.follow = lru_cache(1 << 18)(self._follow)
        self.settled = lru_cache(1 << 14)(self._settled)
        self.cased = self.cut("aaAA") != self.cut("aaaa") or self.cut("AAaa") != self.cut("aaaa")

    def cut(self, text: str) -> list[int]:
        """Byte offsets at which pieces of `text` end, the last one its length."""
        if self._pre is None:
            return [len(text.encode())] if text else []
        ends, at = [], 0
        for piece, _ in self._pre.pre_tokenize_str(text):  # a piece has one character a byte
            at += len(piece)
            ends.append(at)
        return ends

    def shape(self, word: bytes) -> bytes:
        """A stand-in that is cut like `word`; unfinished characters stay as they are."""
        try:
            text = word.decode()
        except UnicodeDecodeError:
            return word
        out: list[str] = []
        since = 0  # characters since the beginning or an apostrophe
        for c in text:
            c = _class(c, since < 2, self.cased)
            if c in "1'" or not (len(out) > 1 and out[-1] == out[-2] == c):
                out.append(c)
            since = 0 if c in "'’" else since + 1
        return "".join(out).encode()

    def _follow(self, tail: Tail, shape: bytes) -> tuple[bool, bool]:
        """May a token of this shape come next (with a cut before it, without one)?"""
        start = sum(len(s) for s, _ in tail)
        ends = _offsets(tail)
        must = {at for at, (_, m) in zip(ends, tail) if m}
        allowed = {*ends, start}
        apart = joined = False
        data = b"".join(s for s, _ in tail) + shape
        for text in _continued(data):
            found = {at for at in self.cut(text) if 0 < at < len(data)}
            if must <= found | {0} and found <= allowed:
                apart |= start in found or not start
                joined |= start not in found
                if apart and joined:
                    break
        return apart, joined

    def _settled(self, tail: Tail) -> Tail:
        """The tail without what no continuation can cut differently."""
        data = b"".join(s for s, _ in tail)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return tail
        together = zip(*(self.cut(text + w) for w in AFTER))
        sure = {same[0] for same in takewhile(lambda ends: len(set(ends)) == 1, together)}
        ends = [*_offsets(tail)[1:], len(data)]
        drop = max((i + 1 for i, at in enumerate(ends) if at in sure), default=0)
        return tail[drop:]


def _offsets(tail: Tail) -> list[int]:
    """Where each token of a tail begins."""
    out, at = [], 0
    for shape, _ in tail:
        out.append(at)
        at += len(shape)
    return out


@cache
def _class(c: str, near: bool, cased: bool) -> str:
    """The character that stands for c. near: an apostrophe may stand right before it."""
    kind = unicodedata.category(c)
    if c.isspace() or c in "'’/" or kind[0] in "MC":
        return c
    if c.isascii():
        if c.isalpha():
            if near and c in ENDINGS:
                return c
            return "A" if cased and c.isupper() else "a"
        return "1" if c.isdigit() else "."
    if kind in ("Ll", "Lu", "Lt") and not cased:
        return "a"
    if kind == "Lo":
        return "中" if unicodedata.name(c, "").startswith("CJK") else "あ" if "\u3040" <= c <= "\u30ff" else "א"
    return STANDS_FOR.get(kind, "·")


def _continued(data: bytes) -> list[str]:
    """`data` as text, with ways of going on where they can matter; none if it can be no beginning of a text."""
    try:
        text = data.decode()
    except UnicodeDecodeError as e:
        if e.reason != "unexpected end of data":
            return []
        kinds = {unicodedata.category(c)[0] + c.isspace() * "s": c for c in beginning_with(data[e.start :])}
        texts = [data[: e.start].decode() + c for c in kinds.values()]
    else:
        texts = [text]
    return [t + more for t in texts for more in (("", "a", "\n") if t[-1:].isspace() else ("",))]
