"""Pre-tokenisation as one regular expression that `regex` and `tokenizers` (Oniguruma) read alike.

    words     letters with one character before them, digits, other characters, white space: the GPT-4 cut, but marks
              stay with their letters, so words of Indian scripts are not torn
    none      whole lines
    turkish, korean   words, and then stem | suffix | suffix where a list of suffixes fits to the word's end

Digits come in groups: "left" by 3 as GPT-4 counts, "right" by 3 from the right (see measure/numbers.py), or "single".
The suffix lists are the common ones and the cut is by form alone: a stem that ends like a suffix is cut too. Turkish
suffixes are written in their allomorphs and may stack (ev|ler|imiz|de); Korean ones are particles and endings of whole
syllables. Korean endings melted into a syllable (간다) are not done; Turkish variants under one id are in hybrid.py.
Morphology-aware cutting after An Empirical Study of Tokenization Strategies for Various Korean NLP Tasks (2020), Impact of
Tokenization on Language Models: An Analysis for Turkish (2023), Tokens with Meaning (2025).
"""

from __future__ import annotations

from collections.abc import Mapping

from fewer.errors import BadRequest

LETTER = r"[\p{L}\p{M}]"
WORD_END = rf"(?!{LETTER})"
_ENDINGS = r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
_WORD = rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?{LETTER}+"
_REST = r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
DIGITS: Mapping[str, str] = {
    "left": r"\p{N}{1,3}",
    "right": r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
    "single": r"\p{N}",
}


def _harmony(*forms: str) -> list[str]:
    """Allomorphs: A = a/e, I = ı/i/u/ü, D = d/t, C = c/ç."""
    spread = {"A": "ae", "I": "ıiuü", "D": "dt", "C": "cç"}
    found: list[str] = []
    for form in forms:
        out = [""]
        for letter in form:
            out = [done + option for done in out for option in spread.get(letter, letter)]
        found += out
    return sorted(set(found), key=lambda s: (-len(s), s))


TURKISH_FORMS = (
    "lAr", "Im", "Imız", "ImIz", "InIz", "lArI", "sI", "yI", "nI", "yA", "nA", "DA", "DAn", "nDA", "nDAn", "nIn", "yIn", "yle",
    "ylA", "lA", "ki", "lIk", "lI", "sIz", "CI", "CA", "mAk", "mA", "Iyor", "yor", "DI", "mIş", "yAcAk", "AcAk", "Ar", "Ir", "DIr",
    "sA", "ysA", "yDI", "ymIş", "In", "Il", "Iş", "mAz", "yAn", "An", "DIk", "DIğ", "lAş", "lAn", "yIp", "Ip",
)  # fmt: skip
TURKISH = _harmony(*TURKISH_FORMS)
KOREAN = sorted(
    [
        "은",
        "는",
        "이",
        "가",
        "을",
        "를",
        "의",
        "에",
        "에서",
        "에게",
        "께",
        "께서",
        "로",
        "으로",
        "와",
        "과",
        "도",
        "만",
        "까지",
        "부터",
        "보다",
        "처럼",
        "마다",
        "조차",
        "밖에",
        "이나",
        "나",
        "이라",
        "라",
        "이라고",
        "라고",
        "하고",
        "한테",
        "들",
        "들이",
        "들을",
        "들은",
        "들의",
        "이다",
        "입니다",
        "합니다",
        "한다",
        "하는",
        "하여",
        "하며",
        "하지",
        "하고",
        "했다",
        "되는",
        "된다",
        "되어",
        "으며",
        "며",
        "고",
        "지만",
        "는데",
        "아니하",
        "다",
    ],
    key=lambda s: (-len(s), s),
)


def pattern(cut: str, digits: str = "left") -> str:
    """The expression; every character of a text is in one of its matches. `cut`: a name above, or a regular expression
    of one's own. Raises BadRequest for digits that are not in DIGITS."""
    if digits not in DIGITS:
        raise BadRequest(f"digits are cut {', '.join(DIGITS)}; not {digits!r}")
    if cut == "none":
        return r"[^\r\n]*[\r\n]+|[^\r\n]+"
    if cut == "words":
        return f"{_ENDINGS}|{_WORD}|{DIGITS[digits]}|{_REST}"
    if cut == "turkish":
        return f"{_ENDINGS}|{_morphemes(TURKISH, shortest=2, sure=3)}|{_WORD}|{DIGITS[digits]}|{_REST}"
    if cut == "korean":
        return f"{_ENDINGS}|{_morphemes(KOREAN, shortest=1, sure=1)}|{_WORD}|{DIGITS[digits]}|{_REST}"
    return cut


def _morphemes(suffixes: list[str], shortest: int, sure: int) -> str:
    """A stem (the shortest behind which only suffixes follow, to the word's end), or one suffix of it. A stem of less
    than `sure` letters, down to `shortest`, needs a first suffix of `sure` letters: "ma|sa" is no table."""

    def any_of(some: list[str]) -> str:
        return f"(?:{'|'.join(some)})"

    every = any_of(suffixes)
    begin = rf"(?:[^\r\n\p{{L}}\p{{M}}\p{{N}}]|(?<!{LETTER}))"
    stems = [rf"{LETTER}{{{sure},}}?(?={every}+{WORD_END})"]
    if shortest < sure:
        strong = any_of([s for s in suffixes if len(s) >= sure])
        stems.insert(0, rf"{LETTER}{{{shortest},{sure - 1}}}(?={strong}{every}*{WORD_END})")
    return f"{begin}(?:{'|'.join(stems)})|(?<={LETTER}){every}(?={every}*{WORD_END})"
