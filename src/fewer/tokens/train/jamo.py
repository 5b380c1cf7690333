"""Consonants and vowels as tokens: the finest of the grains Korean is cut at.

    한글  ->  ᄒ ᅡ ᆫ ᄀ ᅳ ᆯ          syllable = 0xAC00 + (588 * first + 28 * vowel + last)

A syllable is 2 or 3 tokens, so 67 of them spell all 11,172; everything else is `base`'s, any tokenizer whose bytes are exact.
A jamo that stands in the text by itself is the base's too, so any text comes back exactly.
After An Empirical Study of Tokenization Strategies for Various Korean NLP Tasks, whose other grains are granularity.py's
`characters` (syllables), `morphemes` and `words`, and the points bpe and korean (morphemes, then BPE).

This cannot be a tokenizer.json: three tokens become one character, and no decoder of that format composes them.
Not done: BPE over jamo.
"""

from __future__ import annotations

from collections.abc import Iterable

import regex

from fewer.errors import BadRequest
from fewer.tokens.vocabulary import Vocabulary

FIRST, LEADS, VOWELS, TAILS = 0xAC00, 19, 21, 28  # a tail of 0 is none
COUNT = LEADS + VOWELS + TAILS - 1
LEAD, VOWEL, TAIL = 0x1100, 0x1161, 0x11A7
_SYLLABLES = regex.compile("([가-힣]+)")


class Jamo:
    """Ids: `base`'s, then first consonants, vowels, last consonants."""

    def __init__(self, base: Vocabulary) -> None:
        self.base, self.begin = base, len(base.tokens)

    def encode(self, text: str) -> list[int]:
        """Ids; decode gives the text back. Raises BadRequest for lone surrogates."""
        out: list[int] = []
        for part in _SYLLABLES.split(text):
            if not part or not "가" <= part[0] <= "힣":
                out += self.base.encode(part) if part else []
                continue
            for char in part:
                lead, rest = divmod(ord(char) - FIRST, VOWELS * TAILS)
                vowel, tail = divmod(rest, TAILS)
                places = [lead, LEADS + vowel] + [LEADS + VOWELS + tail - 1] * bool(tail)
                out += [self.begin + place for place in places]
        return out

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes: ill-formed ones are the base's."""
        out: list[int] = []
        for part in _SYLLABLES.split(data.decode(errors="surrogateescape")):
            korean = part and "가" <= part[0] <= "힣"
            out += self.encode(part) if korean else self.base.encode_bytes(part.encode(errors="surrogateescape"))
        return out

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids; jamo that make no syllable stand as they are. Raises BadRequest for an id out of range."""
        out, run, held = [], list[int](), list[int]()

        def flush() -> None:
            nonlocal run, held
            out.append(self.base.decode(run) + "".join(self._spelled(held)).encode())
            run, held = [], []

        for i in ids:
            if not 0 <= i < self.begin + COUNT:
                raise BadRequest(f"there is no token {i}; ids are 0 to {self.begin + COUNT - 1}")
            if i < self.begin:
                if held:
                    flush()
                run.append(i)
            else:
                held.append(i - self.begin)
        flush()
        return b"".join(out)

    def vocabulary(self, name: str = "jamo") -> Vocabulary:
        """For measuring; a jamo's own bytes are those of the letter alone."""
        letters = [self._letter(place).encode() for place in range(COUNT)]
        return Vocabulary(
            name,
            "jamo",
            "fewer",
            [*self.base.tokens, *letters],
            self.base.special,
            self.encode,
            from_bytes=self.encode_bytes,
            to_bytes=self.decode,
        )

    def _letter(self, place: int) -> str:
        if place < LEADS:
            return chr(LEAD + place)
        return chr(VOWEL + place - LEADS) if place < LEADS + VOWELS else chr(TAIL + place - LEADS - VOWELS + 1)

    def _spelled(self, places: list[int]) -> Iterable[str]:
        at = 0
        while at < len(places):
            lead, *after = places[at : at + 3]
            if lead < LEADS and after and LEADS <= after[0] < LEADS + VOWELS:
                tail = after[1] - LEADS - VOWELS + 1 if len(after) > 1 else 0
                yield chr(FIRST + (lead * VOWELS + after[0] - LEADS) * TAILS + max(tail, 0))
                at += 3 if tail > 0 else 2
            else:
                yield self._letter(lead)
                at += 1
