"""Texts that methods learn from before a request: a file, or English that comes with Python.

PYTHON names the language reference of the running Python (pydoc's topics, 0.7 MB): a stand-in where no file is at hand.
"""

from __future__ import annotations

from pathlib import Path

PYTHON = "python"
DOC = f"a UTF-8 text file to learn from first; {PYTHON} = Python's language reference; empty = none"


def check(source: str) -> None:
    """Raise ValueError for a source that cannot be read."""
    if source and source != PYTHON and not Path(source).is_file():
        raise ValueError(f"there is no text file {source!r}; give one, or {PYTHON!r} for Python's language reference")


def read(source: str) -> str:
    """The text of a source, "" if there is none. Raises ValueError as check(), and for a file that is not UTF-8."""
    if source == PYTHON:
        from pydoc_data import topics

        return "\n\n".join(topics.topics.values())
    check(source)
    try:
        return Path(source).read_text(encoding="utf-8") if source else ""
    except UnicodeDecodeError as e:
        raise ValueError(f"{source!r} is not UTF-8 text: {e}") from None
