"""Vocabularies a type of term (drugs, diseases), chosen word by word from the sentence: K-Tokeniser.

Each type's pieces are those of a BPE trained on its terms alone, with ids of their own beside the base's. A word of some
terms may be cut by the base or by any type it is a word of:

    cost(word, type) = - sum log2 P(piece | type) - log2 P(type | sentence)
    P(type | sentence) ~ 1 + the sentence's words that are of this type's terms and of no other's

The cheapest is taken; it stands if it needs no more tokens than the base's cut does. So " lead" in "lead and mercury" and in
"to lead" may be two ids, and a name the base tears into six pieces is one. After "Infusing clinical knowledge into
tokenisers for language models", whose types come from UMLS and whose choice is by entropy first and fertility second too.

This cannot be a tokenizer.json: cutting a word asks the sentence around it, and no pre-tokenizer of that format can. Decoding
needs no context, so any bytes come back. `parts` says which base tokens a new token's embedding should begin as the mean of.
Not done: terms of several words as one token (use KL3M's terms or phrases), training with the new ids.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import regex
from tokenizers import Tokenizer

from fewer.errors import BadRequest, CorruptFile
from fewer.tokens.train import bpe, cuts
from fewer.tokens.train.words import compiled, pieces
from fewer.tokens.vocabulary import Vocabulary

_CUT = compiled(cuts.pattern("words"))
_SENTENCE = regex.compile(r"[^.!?\n]*(?:[.!?\n]+|\Z)")


class Typed:
    """`base`: a byte-level BPE. `terms`: type -> its terms. `size`: tokens a type has beside the bytes, at most.

    Raises BadRequest if a type has no term."""

    def __init__(self, base: Tokenizer, terms: Mapping[str, Sequence[str]], size: int = 256) -> None:
        if empty := [name for name, listed in terms.items() if not any(t.strip() for t in listed)]:
            raise BadRequest(f"the type {empty[0]!r} has no term; give at least one")
        self.base, self.terms, self.size = base, {name: list(listed) for name, listed in terms.items()}, size
        self.tokens = bpe.tokens_of(base)
        self._base_ids = {token: i for i, token in enumerate(self.tokens)}
        self.types: dict[str, Type] = {}
        for name, listed in self.terms.items():
            kind = Type(listed, size, len(self.tokens))
            self.types[name] = kind
            self.tokens += kind.tokens
        self._words = {name: kind.words for name, kind in self.types.items()}

    def encode(self, text: str) -> list[int]:
        """Ids of well-formed text."""
        out: list[int] = []
        for sentence in _SENTENCE.findall(text):
            words = pieces(sentence, _CUT)
            kinds = [[name for name, known in self._words.items() if word.strip() in known] for word in words]
            sure = Counter(names[0] for names in kinds if len(names) == 1)
            held = ""  # neighbouring words of the base, cut as the base cuts text
            for word, names in zip(words, kinds):
                chosen = self._cut(word, names, sure)
                if chosen is None:
                    held += word
                    continue
                out += self.base.encode(held).ids if held else []
                out += chosen
                held = ""
            out += self.base.encode(held).ids if held else []
        return out

    def parts(self, token: int) -> list[int]:
        """The base's tokens of a type's token."""
        if token < len(self._base_ids):
            return [token]
        base = self.tokens[: len(self._base_ids)]
        plain = Vocabulary("base", "tokenizer.json", "tokenizers", base, frozenset(), lambda t: self.base.encode(t).ids)
        return plain.encode_bytes(self.tokens[token])

    def vocabulary(self, name: str = "typed") -> Vocabulary:
        """As any other tokenizer."""
        return Vocabulary(name, "typed", "fewer", self.tokens, frozenset(), self.encode)

    def save(self, path: Path) -> None:
        """A file of its own. Raises BadRequest if it cannot be written."""
        from fewer.bench.record import save

        why = "how a word is cut depends on the sentence around it; no pre-tokenizer of a tokenizer.json sees that"
        held = {"no_tokenizer_json": why, "terms": self.terms, "size": self.size}
        save(path, held | {"base": json.loads(self.base.to_str())})

    def _cut(self, word: str, names: Sequence[str], sure: Counter[str]) -> list[int] | None:
        """Ids of a word by its cheapest type; None = the base's."""
        if not names:
            return None
        total = sum(sure[name] + 1 for name in self.types)
        costs = {n: self.types[n].bits(word) - math.log2((sure[n] + 1) / total) for n in names}
        best = self.types[min(names, key=lambda n: (costs[n], n))]
        ids = [best.ids.get(t, self._base_ids.get(t, -1)) for t in best.cut(word)]
        return ids if -1 not in ids and len(ids) <= len(self.base.encode(word).ids) else None


class Type:
    """One type's pieces: `tokens`, with ids from `first` on, and how probable each is in its terms."""

    def __init__(self, terms: Sequence[str], size: int, first: int) -> None:
        said = [f" {term.strip()}" for term in terms if term.strip()]
        self._backend = bpe.train_pieces(iter(said + [s[1:] for s in said]), 256 + size, cuts.pattern("words"))
        self._listed = bpe.tokens_of(self._backend)
        self.words = frozenset(word.strip() for s in said for word in pieces(s, _CUT) if word.strip())
        counts = Counter(t for s in said for t in self.cut(s))
        self.tokens = [t for t in self._listed if len(t) > 1]
        self.ids = {t: first + i for i, t in enumerate(self.tokens)}
        total = sum(counts.values()) + len(self._listed)
        self._bits = {t: -math.log2((counts[t] + 1) / total) for t in self._listed}

    def cut(self, word: str) -> list[bytes]:
        """A text in this type's pieces."""
        return [self._listed[i] for i in self._backend.encode(word).ids]

    def bits(self, word: str) -> float:
        """Its length in bits under this type."""
        return sum(self._bits[t] for t in self.cut(word))


def load(path: Path) -> Typed:
    """What `save` wrote. Raises CorruptFile."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return Typed(Tokenizer.from_str(json.dumps(held["base"])), held["terms"], held["size"])
    except Exception as error:  # `tokenizers` raises bare Exception
        raise CorruptFile(f"{path} is not a typed tokenizer: {error}") from None
