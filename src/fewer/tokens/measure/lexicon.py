"""Do tokens mean something in the language? %TR and %Pure of the Turkish studies, for any language with a lexicon.

    valid   the share of distinct tokens that are words of the language        (%TR)
    pure    the share of distinct tokens that are a root or an affix           (%Pure)

Tokens are what a text's encoding yields, white space around them taken away; those left empty do not count. A lexicon is
a Hunspell dictionary (a .dic file with its .aff beside it, or an npm package: `npm pack dictionary-tr@2.0.0`, MIT), or a
plain list, one word a line. A word is valid if it is an entry, or an entry with one suffix its flags allow. Roots are
entries, affixes are suffixes of the .aff file, which in Turkish are often two or three morphemes in a row ("larla").
Tokenization Standards for Linguistic Integrity: Turkish as a Benchmark (2025). The papers use an analyser and a word
list of their own, so their percentages are not these; the order of tokenizers can be compared.
Not done: prefixes, conditions and stripping beyond what Hunspell's SFX lines say, compounds.
"""

from __future__ import annotations

import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from fewer.errors import BadRequest, CorruptFile
from fewer.tokens import packages
from fewer.tokens.vocabulary import Vocabulary


def lower_turkish(word: str) -> str:
    """Lower case as Turkish has it: I and İ are two letters."""
    return word.replace("I", "ı").replace("İ", "i").lower()


@dataclass(frozen=True)
class Lexicon:
    """`entries`: word -> its flags. `suffixes`: suffix -> [(flag, what it replaces, pattern of the stem's end)]."""

    entries: dict[str, frozenset[str]]
    suffixes: dict[str, list[tuple[str, str, re.Pattern[str]]]] = field(default_factory=dict)

    def is_word(self, word: str) -> bool:
        if word in self.entries:
            return True
        for at in range(len(word) - 1, 0, -1):
            for flag, strip, ends in self.suffixes.get(word[at:], ()):
                stem = word[:at] + strip
                if flag in self.entries.get(stem, ()) and ends.search(stem):
                    return True
        return False

    def is_morpheme(self, piece: str) -> bool:
        return piece in self.entries or piece in self.suffixes


def open_lexicon(source: str) -> Lexicon:
    """From a .dic file, a word list, an npm package's .tgz or npm:NAME@VERSION. Raises BadRequest, CorruptFile."""
    path = packages.npm(source.removeprefix("npm:")) if source.startswith("npm:") else Path(source).expanduser()
    try:
        if path.name.endswith(".tgz"):
            with tarfile.open(path) as archive:
                texts = [archive.extractfile(f"package/index.{end}") for end in ("dic", "aff")]
                return _hunspell(*(t.read().decode() if t else "" for t in texts))
        text = path.read_text(encoding="utf-8")
        affixes = path.with_suffix(".aff")
        if path.suffix == ".dic":
            return _hunspell(text, affixes.read_text(encoding="utf-8") if affixes.is_file() else "")
    except (OSError, KeyError, UnicodeDecodeError, tarfile.TarError) as error:
        raise BadRequest(f"{source} cannot be read as a lexicon in UTF-8: {error}") from None
    words = text.split()
    if not words:
        raise BadRequest(f"{source} has no words")
    return Lexicon({lower_turkish(w): frozenset() for w in words})


def _hunspell(dic: str, aff: str) -> Lexicon:
    numeric = "FLAG num" in aff
    suffixes: dict[str, list[tuple[str, str, re.Pattern[str]]]] = defaultdict(list)
    for line in aff.splitlines():
        part = line.split()
        if len(part) == 5 and part[0] == "SFX":
            _, flag, strip, add, ends = part
            add = add.partition("/")[0]
            try:
                suffixes[add].append((flag, "" if strip == "0" else strip, re.compile(f"{ends}$")))
            except re.error as error:
                raise CorruptFile(f"the affix line {line!r} does not compile: {error}") from None
    entries: dict[str, frozenset[str]] = {}
    for line in dic.splitlines()[1:]:
        word, _, flags = line.split("\t")[0].strip().partition("/")
        if word:
            found = frozenset(flags.split(",") if numeric else flags)
            word = lower_turkish(word)
            entries[word] = entries.get(word, frozenset()) | found
    if not entries:
        raise CorruptFile("the dictionary has no entries")
    return Lexicon(entries, dict(suffixes))


def linguistic(vocabulary: Vocabulary, texts: Iterable[str], lexicon: Lexicon) -> dict[str, float]:
    """valid and pure as shares of the distinct tokens the texts yield, and how many those are (`distinct`)."""
    used = {vocabulary.tokens[i] for text in texts for i in vocabulary.encode(text)}
    pieces = {lower_turkish(token.decode(errors="replace").strip()) for token in used} - {""}
    if not pieces:
        raise BadRequest("the texts yield no tokens; give some that are not empty")
    valid = sum(map(lexicon.is_word, pieces))
    pure = sum(map(lexicon.is_morpheme, pieces))
    return {"distinct": len(pieces), "valid": valid / len(pieces), "pure": pure / len(pieces)}
