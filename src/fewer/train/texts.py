"""What a frozen model is asked, so that a drafter learns how it goes on: seeded prompts from text that is always at hand.

    chat       questions that the model itself writes in the user's place, then answers
    prose      paragraphs of Python's language reference and of docstrings, to be continued
    code       functions of the standard library, to be continued
    ask        a paragraph and something to do with it: summarise, answer, put simply, translate
    edit       a function and something to do with it: explain, rename, document
    sums       small word problems

A share of paragraphs and functions (`held_out`) is never asked in training, and the modules that `fewer bench` makes its
code tasks from are left out altogether. Does not: use any data set, or text that does not come with Python.
"""

from __future__ import annotations

import ast
import functools
import inspect
import random
import re
import sys
import textwrap
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fewer.bench.tasks import MODULES, paragraphs

if TYPE_CHECKING:
    from fewer.engine import Engine

KINDS = ("chat", "prose", "code", "ask", "edit", "sums")
SHARES = (8, 2, 2, 5, 4, 3)
ASK = (
    "Summarize the following text in a few sentences.\n\n{text}",
    "{text}\n\nWhat is the main point of this text?",
    "Put this text into simple words:\n\n{text}",
    "List the key points of this text:\n\n{text}",
    "Read the text and answer the question.\n\n{text}\n\nQuestion: What does the text say about {word}?",
    "Translate this text into French:\n\n{text}",
    "Translate this text into Spanish:\n\n{text}",
    "Correct the mistakes in this text and write it out again:\n\n{text}",
)
EDIT = (
    "Explain what this function does.\n\n```python\n{code}\n```",
    "Add type hints to this function and write it out in full.\n\n```python\n{code}\n```",
    "Add a docstring to this function and write it out in full.\n\n```python\n{code}\n```",
    "Rename the variable {name} to my_{name} in this function and write it out in full.\n\n```python\n{code}\n```",
    "Write a unit test for this function.\n\n```python\n{code}\n```",
)
SUMS = (
    "{who} has {a} {things} and buys {b} more every day. How many does {who} have after {c} days? Think step by step.",
    "A box holds {a} {things}. How many {things} are in {b} boxes if {c} of them are taken out?",
    "{who} shares {a} {things} among {b} friends. How many does each get, and how many are left?",
    "A train travels {a} kilometres in {b} hours. How far does it travel in {c} hours?",
    "What is {a} plus {b} times {c}? Show your work.",
)
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo")
THINGS = ("apples", "books", "pencils", "stamps", "coins", "marbles", "tickets", "shells")
QUESTION = 72  # most tokens of a question that the model writes itself


def held_out(text: str) -> bool:
    """One text in eight is kept away from training."""
    return zlib.crc32(text.encode()) % 8 == 0


@functools.cache
def stdlib() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Functions and methods of 6 to 40 lines, and paragraphs of docstrings, of the standard library without the modules
    of the bench."""
    code, prose = list[str](), list[str]()
    for path in sorted(Path(inspect.getfile(inspect)).parent.glob("*.py")):
        if path.stem in MODULES or path.stem not in sys.stdlib_module_names:
            continue
        source = path.read_text(encoding="utf-8")
        lines = source.split("\n")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                blocks = (" ".join(b.split()) for b in (ast.get_docstring(node) or "").split("\n\n"))
                prose += [b for b in blocks if len(b) > 160 and ">>>" not in b]
            if isinstance(node, ast.FunctionDef) and node.args.args:
                own = lines[node.lineno - 1 : node.end_lineno]
                if 6 <= len(own) <= 40 and sum(map(len, own)) < 1000:
                    code.append(textwrap.dedent("\n".join(own)))
    return tuple(dict.fromkeys(code)), tuple(dict.fromkeys(prose))


@functools.cache
def functions() -> tuple[str, ...]:
    return stdlib()[0]


@functools.cache
def passages() -> tuple[str, ...]:
    """Paragraphs of the language reference and of docstrings."""
    return paragraphs() + stdlib()[1]


def prompts(eng: Engine, n: int, room: int, seed: int, held: bool = False) -> list[tuple[str, list[int]]]:
    """n prompts of at most `room` tokens as (kind, token ids), the kinds in their shares; the same seed gives the same.

    held: from the texts that training never sees. A model without a chat template is only asked to go on.
    """
    rng = random.Random(f"prompts {seed} {held}")
    kinds = rng.choices(KINDS, SHARES, k=n) if eng.chat is not None else rng.choices(KINDS[1:3], k=n)
    own = iter(questions(eng, kinds.count("chat"), seed * 2 + held) if "chat" in kinds else [])
    makers: dict[str, Callable[[], list[int]]] = {
        "chat": lambda: next(own),
        "prose": lambda: _cut(eng, rng, _one(rng, passages(), held)),
        "code": lambda: _cut(eng, rng, _one(rng, functions(), held)),
        "ask": lambda: _said(eng, _ask(rng, _one(rng, passages(), held))),
        "edit": lambda: _said(eng, _edit(rng, _one(rng, functions(), held))),
        "sums": lambda: _said(eng, _sum(rng)),
    }
    return [(kind, makers[kind]()[-room:]) for kind in kinds]


def strung(eng: Engine, n: int, tokens: int, seed: int, held: bool, again: float = 0.0) -> Iterator[list[int]]:
    """n texts of so many tokens, or as many as fit the model: passages and functions strung together. again: how often one
    that the text already has is said again."""
    assert eng.tokenizer is not None
    pool = [t for t in (*passages(), *functions()) if held_out(t) == held]
    rng, room = random.Random(f"lines {seed} {held}"), min(tokens, eng.model.spec.max_context)
    for _ in range(n):
        ids, said = list[int](), list[str]()
        while len(ids) < room:
            repeats = again and said and rng.random() < again
            said.append(rng.choice(said if repeats else pool))
            ids += eng.tokenizer.encode(said[-1] + "\n\n", bos=not ids)
        yield ids[:room]


def questions(eng: Engine, n: int, seed: int) -> Iterator[list[int]]:
    """Prompts around n questions that the model writes by itself where the chat template lets the user speak."""
    assert eng.chat is not None and eng.tokenizer is not None
    mark = "\x1a"
    before = eng.chat.render([{"role": "user", "content": mark}], add_generation_prompt=False).partition(mark)[0]
    begin = eng.tokenizer.encode(before, special=True)
    said = eng.generate(begin, n=n, max_tokens=QUESTION, temperature=1.0, top_k=40, seed=seed << 12, share_prefix=False)
    return (_said(eng, r.text.strip() or "Hello") for r in (said if n > 1 else [said]))


def _said(eng: Engine, text: str) -> list[int]:
    assert eng.chat is not None and eng.tokenizer is not None
    return eng.chat.encode(eng.tokenizer, [{"role": "user", "content": text}])


def _one(rng: random.Random, pool: tuple[str, ...], held: bool) -> str:
    while True:
        text = rng.choice(pool)
        if held_out(text) == held:
            return text


def _cut(eng: Engine, rng: random.Random, text: str) -> list[int]:
    """The beginning of a text, which is to be continued."""
    assert eng.tokenizer is not None
    ids = eng.tokenizer.encode(text)
    return ids[: max(8, min(192, int(len(ids) * rng.uniform(0.3, 0.9))))]


def _ask(rng: random.Random, text: str) -> str:
    words = [w for w in text.split() if w.isalpha() and len(w) > 5] or ["it"]
    return rng.choice(ASK).format(text=text[:800], word=rng.choice(words))


def _edit(rng: random.Random, code: str) -> str:
    names = re.findall(r"^ *(\w+) = ", code, re.M) or ["x"]
    return rng.choice(EDIT).format(code=code, name=rng.choice(names))


def _sum(rng: random.Random) -> str:
    a, b, c = rng.randrange(12, 200), rng.randrange(2, 12), rng.randrange(2, 12)
    return rng.choice(SUMS).format(a=a, b=b, c=c, who=rng.choice(NAMES), things=rng.choice(THINGS))
