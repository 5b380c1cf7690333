"""Does holding the weights packed cost quality? The model as it is run, beside the same weights in float32.

    perplexity of real English prose, read in windows of the model's context;  greedy answers to chat questions

What a method does to quality is measured by methods.py, not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import fewer
from fewer.bench.record import head
from fewer.bench.tasks import QUESTIONS, paragraphs
from fewer.bench.teacher import shared
from fewer.engine import Engine
from fewer.errors import BadRequest

WINDOW = 1024  # tokens scored together
MORE = (
    "What is a good name for a small boat?",
    "Write a short poem about rain.",
    "List three uses of a paper clip.",
    "What does a conductor of an orchestra do?",
    "How many legs does a spider have?",
    "Translate 'good morning' into French.",
    "Give me a recipe for pancakes.",
    "Who wrote Romeo and Juliet?",
)
EXACT = "float32"
Say = Callable[[str], None]


def measure(
    model: str = "smollm2-135m",
    nbytes: int = 50_000,
    prompts: int = 20,
    tokens: int = 64,
    say: Say = lambda s: None,
    threads: int | None = None,
    weights: str = "auto",
    activations: str = "int8",
) -> dict[str, Any]:
    """{"what": "quality", ..., "perplexity": {"own", "float32", "ratio"}, "answers": {"same", "of", "agreement"}}.

    nbytes: of text scored. prompts: questions asked, `tokens` greedy tokens each. weights, activations: how `own` holds them.
    Raises BadRequest, ModelError.
    """
    questions = [*QUESTIONS, *MORE]
    if nbytes < 100 or tokens < 1 or not 1 <= prompts <= len(questions):
        raise BadRequest(
            f"needed: at least 100 bytes (not {nbytes}), a token, 1 to {len(questions)} prompts (not {prompts})"
        )
    text = "\n\n".join(paragraphs()).encode()[:nbytes].decode(errors="ignore")
    seen = {}
    ways: dict[str, dict[str, Any]] = {"own": {"weights": weights, "activations": activations}, EXACT: {"dtype": EXACT}}
    for name, options in ways.items():
        say(f"loading {model}, {name}")
        eng = fewer.open(model, threads=threads, **options)
        say(f"perplexity, {name}")
        score = perplexity(eng, text)
        say(f"answers, {name}")
        seen[name] = score, [eng.generate(q, max_tokens=tokens).tokens for q in questions[:prompts]]
    (own, answers), (exact, wanted) = seen["own"], seen[EXACT]
    equal = [shared(a, b) / max(len(a), len(b)) for a, b in zip(answers, wanted)]
    given = f"--weights {weights} --activations {activations} --bytes {nbytes} --prompts {prompts} --tokens {tokens}"
    return {
        **head("quality", f"fewer bench quality -m {model} {given}", 0),
        "model": model,
        "weights": weights,
        "activations": activations,
        "bytes": len(text.encode()),
        "perplexity": {"own": round(own, 4), EXACT: round(exact, 4), "ratio": round(own / exact, 5)},
        "answers": {
            "same": sum(e == 1.0 for e in equal),
            "of": len(equal),
            "tokens": tokens,
            "agreement": round(sum(equal) / len(equal), 4),
        },
    }


def perplexity(eng: Engine, text: str, window: int = WINDOW) -> float:
    """exp of the mean -log p over all tokens of `text` but the first of each window."""
    assert eng.tokenizer is not None
    ids = eng.tokenizer.encode(text)
    logprobs = [
        p for piece in _windows(ids, min(window, eng.model.spec.max_context - 1)) for p in eng.score(piece).logprobs
    ]
    return math.exp(-sum(logprobs) / len(logprobs))


def _windows(ids: list[int], size: int) -> Iterator[list[int]]:
    for at in range(0, len(ids), size):
        if len(piece := ids[at : at + size]) > 1:
            yield piece
