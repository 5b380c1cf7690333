"""Turkish sounds: how a suffix is said behind a stem, and how a stem's end softens before a vowel.

    A = a e        by the last vowel's place       ev + lAr = evler, okul + lAr = okullar
    I = ı i u ü    by place and rounding           göz + Im = gözüm
    D, C           hard behind fstkçşhp            kitap + DA = kitapta, ev + DA = evde
    soft           p ç t k before a vowel          kitap + I = kitabı

Not done: vowels that drop out (oğul, oğlu), exceptions to harmony in loans (saat, saatler); who uses this must check.
"""

from __future__ import annotations

BACK, FRONT = "aıou", "eiöü"
VOWELS = BACK + FRONT
ROUND = "ouöü"
HARD = "fstkçşhp"
SOFT = {"p": "b", "ç": "c", "t": "d", "k": "ğ"}


def spoken(form: str, word: str) -> str:
    """A suffix in capitals for what varies, as it is said behind a lower-case word."""
    vowel = next((c for c in reversed(word) if c in VOWELS), "e")
    last = word[-1:]
    out = ""
    for letter in form:
        if letter == "A":
            letter = "a" if vowel in BACK else "e"
        elif letter == "I":
            letter = (("ı", "u") if vowel in BACK else ("i", "ü"))[vowel in ROUND]
        elif letter == "D":
            letter = "t" if last and last in HARD else "d"
        elif letter == "C":
            letter = "ç" if last and last in HARD else "c"
        vowel = letter if letter in VOWELS else vowel
        out, last = out + letter, letter
    return out


def softened(stem: str) -> str:
    """The stem as it is before a vowel; as it was if it does not end in p, ç, t or k."""
    return stem[:-1] + SOFT.get(stem[-1:], stem[-1:])


def lower(text: str) -> str:
    """Lower case: I and İ are two letters."""
    return text.replace("I", "ı").replace("İ", "i").lower()


def upper(text: str) -> str:
    """Upper case: ı and i are two letters."""
    return text.replace("i", "İ").replace("ı", "I").upper()
