"""Self-study: what a frozen model says about a document when it is asked, and asks, with a piece of it in its context.

A piece of the document (a window of its tokens, drawn anew) stands in the system's place. The model writes a message in the
user's place, from an opening of each of five kinds on (a small model cannot be told to ask, but it goes on as a user would),
then it answers that message. What is kept is the conversation as somebody without the document sees it: the message, the
answer, and the distribution of every answer token as the model with the piece in its context has it. A piece is read once
for all its conversations.
Does not: check what the model says against the document, or keep it on disk.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewer.train.said import TOP, Spoken, heard

if TYPE_CHECKING:
    from fewer.engine import Engine

WINDOW = 512  # most tokens of a piece
QUESTION, ANSWER = 40, 96  # most tokens
MARK = "\x1a"
TIMES = 2  # openings a kind and piece
ALOUD: dict[str, Any] = {
    "temperature": 0.8,
    "top_k": TOP,
}  # drawn from what is kept of a distribution: greedy answers go in circles
SYSTEM = "You know the following text and talk about it without naming it as a text.\n\n{text}"
OPENINGS = {
    "question": ("What is", "What happens", "Which", "When", "Why"),
    "summary": ("Summarize", "Explain how", "Tell me about", "Describe", "In short, what"),
    "structure": ("List the", "Give me a list of", "Name all", "Write a table of", "What are the steps"),
    "use": ("How do I", "How can I use", "Give an example of", "Can I", "Show me how"),
    "compare": ("What is the difference between", "How does", "Compare", "Is it true that", "Does"),
}


@dataclass(frozen=True)
class Talk:
    """A message, and its answer behind the prompt that the message makes without the document."""

    question: str
    said: Spoken


def converse(
    eng: Engine,
    document: str,
    pieces: int,
    seed: int,
    over: Callable[[], bool] = lambda: False,
    say: Callable[[int], None] = lambda n: None,
) -> list[Talk]:
    """Conversations about `pieces` pieces of a document, or fewer once it is over(); of one piece at least. say(how many)."""
    assert eng.tokenizer is not None
    ids, rng, out = eng.tokenizer.encode(document, bos=False), random.Random(f"study {seed}"), list[Talk]()
    for i in range(pieces):
        if i and over():
            break
        first = rng.randint(0, max(0, len(ids) - WINDOW))
        out += about(eng, eng.tokenizer.decode(ids[first : first + WINDOW]), rng)
        say(len(out))
    return out


def about(eng: Engine, text: str, rng: random.Random) -> list[Talk]:
    """One piece's conversations."""
    assert eng.tokenizer is not None
    system, seed = SYSTEM.format(text=text), rng.randrange(1 << 32)
    opened = [(kind, words) for kind, all_of in OPENINGS.items() for words in rng.sample(all_of, TIMES)]
    before = message(eng, MARK, system, cut=True)
    eng.generate(before, max_tokens=1)  # reads the piece, whose cache all others then share
    begun = [before + eng.tokenizer.encode(words, bos=False) for _, words in opened]
    asked = eng.generate(begun, max_tokens=QUESTION, seed=seed, **ALOUD)
    lines = [first_line(words + r.text) for (_, words), r in zip(opened, asked)]
    prompts = [message(eng, line, system) for line in lines]
    answers = eng.generate(prompts, max_tokens=ANSWER, logprobs=TOP, seed=seed, **ALOUD)
    return [
        Talk(line, heard(kind, message(eng, line), r)) for (kind, _), line, r in zip(opened, lines, answers) if r.tokens
    ]


def message(eng: Engine, text: str, system: str | None = None, cut: bool = False) -> list[int]:
    """The prompt that a user's message makes, as token ids; cut: only what stands before the message. Without a chat
    template, the texts one below the other."""
    assert eng.tokenizer is not None
    if eng.chat is None:
        return eng.tokenizer.encode("\n\n".join([*filter(None, [system]), "" if cut else f"{text}\n\n"]))
    said = [*([] if system is None else [{"role": "system", "content": system}]), {"role": "user", "content": text}]
    if not cut:
        return eng.chat.encode(eng.tokenizer, said)
    return eng.tokenizer.encode(eng.chat.render(said, add_generation_prompt=False).partition(text)[0], special=True)


def first_line(text: str) -> str:
    """What was said, without what came after it."""
    return text.strip().splitlines()[0].strip()
