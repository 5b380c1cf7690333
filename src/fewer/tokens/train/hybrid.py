"""Tokens with meaning: a suffix is one token however it sounds, a stem one token hard or soft, capitals are marks.

    Kitaplarında  ->  <Up> kitap lAr InDA      kitabı -> kitap I        EV -> <UP> ev

Stems and all else are a byte-level BPE's. A shared token is used only where the rules of harmony.py give back what stood
there, so any text comes back exactly, and what the rules do not know is spelled by the BPE. "Tokens with Meaning: A Hybrid
Tokenization Approach for NLP".

This cannot be a tokenizer.json: what a suffix's token spells depends on the word before it, and no decoder of that format
looks there. `save` writes a file of its own with a standard tokenizer.json inside, for the BPE.
Not done: a dictionary of roots (stems are found by suffixes and by soft and hard forms side by side in the corpus), marks
for white space.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import regex
from tokenizers import Tokenizer

from fewer.errors import BadRequest, CorruptFile
from fewer.tokens.rank_files import PATTERNS
from fewer.tokens.train import bpe, cuts, export
from fewer.tokens.train.corpus import Corpus
from fewer.tokens.train.harmony import VOWELS, lower, softened, spoken, upper
from fewer.tokens.train.words import compiled, pieces
from fewer.tokens.vocabulary import Vocabulary

UP, ALL_UP = "<Up>", "<UP>"
_CUT = compiled(cuts.pattern("turkish"))
_WORD = regex.compile(rf"{cuts.LETTER}+")
_TAIL = regex.compile(rf"{cuts.LETTER}*\Z")
_ILL_FORMED = re.compile("([\udc80-\udcff]+)")
Item = str | int  # text for the BPE, or a shared token's number


class Hybrid:
    """`base`: the BPE. `roots`: stems that soften. Ids: the BPE's, then two marks, then a suffix each."""

    def __init__(self, base: Tokenizer, roots: Iterable[str], forms: Sequence[str] = cuts.TURKISH_FORMS) -> None:
        self.base, self.roots, self.forms = base, frozenset(roots), list(dict.fromkeys(forms))
        self.first = base.get_vocab_size()
        self._hard = {softened(root): root for root in self.roots}
        self._bytes = bpe.tokens_of(base)

    @property
    def size(self) -> int:
        return self.first + 2 + len(self.forms)

    def encode(self, text: str) -> list[int]:
        """Ids; decode gives the text back. Raises BadRequest for lone surrogates."""
        try:
            return self.encode_bytes(text.encode())
        except UnicodeEncodeError as error:
            raise BadRequest(f"the text has a lone surrogate at character {error.start}; decode it first") from None

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of any bytes."""
        out: list[int] = []
        for part in _ILL_FORMED.split(data.decode(errors="surrogateescape")):
            if _ILL_FORMED.fullmatch(part):
                out += [self._id_of(bytes([b])) for b in part.encode(errors="surrogateescape")]
                continue
            for item in self.items(part):
                out += [self.first + item] if isinstance(item, int) else self.base.encode(item).ids
        return out

    def items(self, text: str) -> Iterator[Item]:
        """What the text is made of: shared tokens, and text for the BPE in the longest stretches."""
        held, at = "", 0
        for word in _WORD.finditer(text):
            held += text[at : word.start()]
            at = word.end()
            found = self._word(word.group())
            if found is None:
                held += word.group()
                continue
            for item in found:
                if isinstance(item, str):
                    held += item
                else:
                    if held:
                        yield held
                    held = ""
                    yield item
        if held + text[at:]:
            yield held + text[at:]

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes of ids. Raises BadRequest for one out of range."""
        items: list[Item] = []
        run: list[int] = []
        for i in ids:
            if not 0 <= i < self.size:
                raise BadRequest(f"there is no token {i}; ids are 0 to {self.size - 1}")
            if i < self.first:
                run.append(i)
                continue
            items += [self._text(run), i - self.first]
            run = []
        return self._said([*items, self._text(run)]).encode(errors="surrogateescape")

    def vocabulary(self, name: str = "hybrid") -> Vocabulary:
        """For measuring: a suffix goes by one of its variants."""
        shared = [UP.encode(), ALL_UP.encode(), *(spoken(form, "a").encode() for form in self.forms)]
        marks = frozenset({self.first, self.first + 1})
        return Vocabulary(
            name,
            "hybrid",
            "fewer",
            [*self._bytes, *shared],
            marks,
            self.encode,
            from_bytes=self.encode_bytes,
            to_bytes=self.decode,
        )

    def save(self, path: Path) -> None:
        """A file of its own; see above. Raises BadRequest if it cannot be written."""
        from fewer.bench.record import save

        why = "a suffix's token spells what the word before it asks for; no decoder of a tokenizer.json can"
        held = {"no_tokenizer_json": why, "roots": sorted(self.roots), "forms": self.forms}
        save(path, held | {"base": json.loads(self.base.to_str())})

    @classmethod
    def load(cls, path: Path) -> Hybrid:
        """Raises CorruptFile."""
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return cls(Tokenizer.from_str(json.dumps(held["base"])), held["roots"], held["forms"])
        except Exception as error:  # `tokenizers` raises bare Exception
            raise CorruptFile(f"{path} is not a hybrid tokenizer: {error}") from None

    # ------------------------------------------------------------------ inside
    def _word(self, word: str) -> list[Item] | None:
        """A word of letters as items, None if it is the BPE's as it stands."""
        plain = lower(word)
        marks: list[Item] = []
        if plain != word:
            if word == upper(plain) and len(word) > 1:
                marks = [1]
            elif word == upper(plain[:1]) + plain[1:]:
                marks = [0]
            else:
                return None
        for found in ([*marks, *self._morphemes(plain)], [*marks, plain]):
            if len(found) > 1 and self._said(found) == word:
                return found
        return None

    def _morphemes(self, word: str) -> list[Item]:
        stem, *suffixes = pieces(word, _CUT)
        found: list[Item] = []
        before = stem
        for suffix in suffixes:
            which = next((k for k, form in enumerate(self.forms) if spoken(form, before) == suffix), None)
            if which is None:
                return [word]
            found.append(which + 2)
            before += suffix
        if suffixes and suffixes[0][0] in VOWELS:
            stem = self._hard.get(stem, stem)
        return [stem, *found]

    def _said(self, items: Sequence[Item]) -> str:
        """What items spell one after the other."""
        text, mark, begun = "", -1, 0  # the mark that waits, and where in the text the word it is for may begin
        for item in items:
            if isinstance(item, int) and item < 2:
                text, mark = _marked(text, mark, begun), item
                begun = len(text)
            elif isinstance(item, int):
                tail = _TAIL.search(text)
                word = lower(tail.group() if tail else "")
                said = spoken(self.forms[item - 2], word)
                if said[0] in VOWELS and word in self.roots:
                    text = text[:-1] + softened(text)[-1:]
                text += said
            else:
                text += item
        return _marked(text, mark, begun)

    def _text(self, ids: Sequence[int]) -> str:
        return b"".join(self._bytes[i] for i in ids).decode(errors="surrogateescape")

    def _id_of(self, token: bytes) -> int:
        found = self.base.token_to_id(export.spelled(token))
        assert found is not None
        return found


def _marked(text: str, mark: int, begun: int) -> str:
    """The first word behind `begun` as its mark says: 0 = one capital, 1 = all."""
    word = _WORD.search(text, begun)
    if mark < 0 or word is None:
        return text
    start, end = word.start(), word.start() + 1 if mark == 0 else word.end()
    return text[:start] + upper(text[start:end]) + text[end:]


def train_hybrid(corpus: Corpus, size: int) -> Hybrid:
    """`size` ids in all. Raises BadRequest if bytes, marks and suffixes do not fit."""
    own = 2 + len(set(cuts.TURKISH_FORMS))
    if size < 256 + own:
        raise BadRequest(f"a vocabulary of {size} does not hold 256 bytes, 2 marks and {own - 2} suffixes")
    stems: Counter[str] = Counter()
    before_vowel: Counter[str] = Counter()
    for text in corpus.stretches():
        for word in _WORD.findall(lower(text)):
            stem, *suffixes = pieces(word, _CUT)
            stems[stem] += 1
            if suffixes and suffixes[0][0] in VOWELS:
                before_vowel[stem] += 1
    roots = {r for r in stems if softened(r) != r and before_vowel[softened(r)] > before_vowel[r] and stems[r] > 1}
    draft = Hybrid(export.merging(export.BYTES, [], PATTERNS["gpt2"]), roots)
    stretches = (item for text in corpus.stretches() for item in draft.items(text) if isinstance(item, str))
    return Hybrid(bpe.train_pieces(stretches, size - own, cuts.pattern("words")), roots)
