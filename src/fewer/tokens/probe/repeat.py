"""Can a model say a token back? Two opinions on that.

    chance    the token itself, as an id, stands several times in a prompt that asks for it once more; the largest
              probability over the prompts is low for a glitch token ("Fishing for Magikarp")
    answer    a greedy answer in text, compared with the token's text; where it is wrong, how it is wrong, and what kind of
              string the token is ("Glitch Tokens in Large Language Models: Categorization Taxonomy and Effective Detection")

Types by form: `special` has a character outside ASCII, `character` no letter, `letter-character` both, `word` is put
together of the vocabulary's common words, `letter` of none. Symptoms by rules: see `symptom`.
Not done: the taxonomy's spelling and length tasks, which models of this size fail for every token; the clustering of
embeddings that saves queries.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence

from fewer.engine import Engine
from fewer.models.tokenizer import Tokenizer
from fewer.tokens.probe.prompts import after

GLITCH = 0.01  # below this chance in every prompt
ANSWER = 12  # tokens
# Parts of a prompt; between two of them stands the token.
PROMPTS: Sequence[tuple[str, ...]] = (
    ("A parrot says every word again.\nWord: «", "»\nParrot: «", "»\nWord: «", "»\nParrot: «", "»\nWord: «",
     "»\nParrot: «", "»\nWord: «", "»\nParrot: «"),
    ("One string, over and over:", *[" "] * 15),
    ("Question: what is \"", "\" in capital letters, and what as it is?\nAnswer: as it is, \"", "\". Again, as it is, \"",
     "\". Once more, as it is, \""),
)  # fmt: skip
SHOWN = ("lantern", " Berlin", "getValue", "walk", " of", "ment", " };", "Übung")
_REFUSAL = re.compile(r"\b(?:sorry|cannot|can't|unable|don't know)\b", re.IGNORECASE)


def chances(engine: Engine, tokens: Sequence[int]) -> Iterator[float]:
    """For each token the largest probability, over PROMPTS, that it comes where it is asked for."""
    assert engine.tokenizer is not None
    frames = [[engine.tokenizer.encode(part, bos=False) for part in parts] for parts in PROMPTS]
    start = [engine.tokenizer.bos] if engine.tokenizer.add_bos and engine.tokenizer.bos is not None else []
    prompts = []
    for token in tokens:
        for frame in frames:
            ids = start + frame[0]
            for part in frame[1:]:
                ids = [*ids, token, *part]
            prompts.append(ids)
    said = after(engine, prompts)
    for token in tokens:
        yield max(float(next(said)[-1, token].exp()) for _ in frames)


def answers(engine: Engine, tokens: Sequence[int]) -> list[str]:
    """What the model writes, greedily, when asked in text to repeat each token."""
    assert engine.tokenizer is not None
    shown = "".join(f"String: «{s}»\nThe same: «{s}»\n" for s in SHOWN)
    head, tail = (
        engine.tokenizer.encode(t, bos=b) for t, b in ((shown + "String: «", None), ("»\nThe same: «", False))
    )
    outs = engine.generate([[*head, t, *tail] for t in tokens], max_tokens=ANSWER, share_prefix=True)
    return [out.text.split("»")[0] for out in outs]


def symptom(text: str, answer: str) -> str:
    """How an answer differs from the text that was to be repeated: "" where it does not.

    incapability         nothing, or a refusal
    question repetition  a string of the prompt's own
    random characters    fewer letters and digits than other characters, where the text has more
    spelling mistake     most characters stand in the text's order
    hallucination        anything else"""
    if answer == text or (text.strip() and answer.strip() == text.strip()):
        return ""
    said = answer.strip()
    if not said or _REFUSAL.search(said):
        return "incapability"
    if said in {s.strip() for s in SHOWN} or "String" in said or "The same" in said:
        return "question repetition"
    if _plain(said) < 0.5 <= _plain(text):
        return "random characters"
    if difflib.SequenceMatcher(None, text.strip(), said).ratio() >= 0.6:
        return "spelling mistake"
    return "hallucination"


def _plain(text: str) -> float:
    return sum(c.isalnum() or c.isspace() for c in text) / max(1, len(text))


class Types:
    """The taxonomy's five types of strings. Common words: those in the first fifth of the vocabulary's ids."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        first = (tokenizer.token_bytes(i) for i in range(vocab // 5))
        words = [w[1:].decode("ascii") for w in first if w[:1] == b" " and w[1:].isalpha() and w[1:].isascii()]
        self._words = frozenset(w.lower() for w in words if len(w) > 2)

    def of(self, text: str) -> str:
        """The type of a token's text."""
        body = text.strip()
        if not body.isascii():
            return "special"
        letters = sum(c.isalpha() for c in body)
        if not letters:
            return "character"
        if letters < len(body):
            return "letter-character"
        return "word" if self._of_words(body.lower()) else "letter"

    def _of_words(self, body: str) -> bool:
        reached = {0}
        for end in range(3, len(body) + 1):
            if any(body[at:end] in self._words for at in reached):
                reached.add(end)
        return len(body) in reached
