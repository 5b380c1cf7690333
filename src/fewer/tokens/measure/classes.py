"""What a vocabulary consists of: each token's script, category, place in a word and completeness.

    script        of its letters, "none" without letters, "several" for more than one
    category      letters, digits, punctuation, spaces, control, mixed, fragment
    place         "start" of a word (white space comes first), "inside", "" where the question makes no sense
    completeness  whole characters, or a "fragment" of one

After Qtok (2024), whose classes these are by kind, not by name. A language cannot be read off a token, a script can.
Coverage: the share of a text's distinct characters which are a token of their own or part of one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import regex

from fewer.tokens.vocabulary import Vocabulary

# The scripts of living languages with text in UDHR or CLDR; others are "other".
SCRIPTS = [
    "Latin",
    "Han",
    "Cyrillic",
    "Hangul",
    "Arabic",
    "Devanagari",
    "Greek",
    "Hebrew",
    "Hiragana",
    "Katakana",
    "Thai",
    "Bengali",
    "Tamil",
    "Telugu",
    "Kannada",
    "Malayalam",
    "Gujarati",
    "Gurmukhi",
    "Oriya",
    "Sinhala",
    "Armenian",
    "Georgian",
    "Ethiopic",
    "Khmer",
    "Lao",
    "Myanmar",
    "Tibetan",
    "Mongolian",
    "Cherokee",
    "Thaana",
    "Syriac",
    "Ol_Chiki",
    "Meetei_Mayek",
    "Canadian_Aboriginal",
    "Tifinagh",
    "Nko",
    "Vai",
    "Javanese",
    "Balinese",
    "Sundanese",
    "Yi",
    "Bopomofo",
    "Coptic",
    "Gothic",
]
_TESTS = [(name, regex.compile(rf"\p{{Script={name}}}")) for name in SCRIPTS]
_KINDS = [
    ("letters", regex.compile(r"[\p{L}\p{M}]")),
    ("digits", regex.compile(r"\p{N}")),
    ("spaces", regex.compile(r"\s")),
    ("control", regex.compile(r"\p{C}")),
]


@dataclass(frozen=True)
class Class:
    script: str
    category: str
    place: str
    complete: bool


@cache
def script(char: str) -> str:
    """The script of a letter, "" for what has none of its own."""
    if not regex.match(r"\p{L}", char):
        return ""
    return next((name for name, test in _TESTS if test.match(char)), "other")


@cache
def _kind(char: str) -> str:
    return next((name for name, test in _KINDS if test.match(char)), "punctuation")


def classify(token: bytes) -> Class:
    """The class of one token's bytes."""
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return Class("none", "fragment", "", False)
    body = text.lstrip()
    kinds = {_kind(c) for c in body} or {"spaces"}
    scripts = {s for c in body if (s := script(c))}
    named = "none" if not scripts else scripts.pop() if len(scripts) == 1 else "several"
    category = kinds.pop() if len(kinds) == 1 else "mixed"
    place = ("start" if body != text else "inside") if category in ("letters", "mixed") else ""
    return Class(named, category, place, True)


def composition(vocabulary: Vocabulary) -> dict[str, dict[str, int]]:
    """How many ordinary tokens are of each script, category, place and completeness; `special` apart.

    Every token is counted once in each of the four."""
    scripts: Counter[str] = Counter()
    categories: Counter[str] = Counter()
    places: Counter[str] = Counter()
    whole = ordinary = 0
    for i, token in enumerate(vocabulary.tokens):
        if not token or i in vocabulary.special:
            continue
        c = classify(token)
        scripts[c.script] += 1
        categories[c.category] += 1
        places[c.place or "neither"] += 1
        whole += c.complete
        ordinary += 1
    return {
        "script": dict(scripts.most_common()),
        "category": dict(categories.most_common()),
        "place": dict(places.most_common()),
        "completeness": {"whole": whole, "fragment": ordinary - whole},
        "size": {"ordinary": ordinary, "special": vocabulary.size - ordinary},
    }


def coverage(vocabulary: Vocabulary, text: str) -> float:
    """The share of the text's distinct letters that are a token by themselves: the others cost several tokens."""
    letters = {c for c in text if _kind(c) == "letters"}
    return sum(c.encode() in vocabulary.ids for c in letters) / len(letters) if letters else 1.0


def duplicates(vocabularies: Iterable[Vocabulary]) -> list[list[str]]:
    """Names of those that hold the same ordinary tokens, as different models often do."""
    groups: dict[frozenset[bytes], list[str]] = {}
    for v in vocabularies:
        groups.setdefault(frozenset(v.ids), []).append(v.name)
    return [names for names in groups.values() if len(names) > 1]
