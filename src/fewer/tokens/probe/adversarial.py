"""`fewer tokens adversarial`: strings that a vocabulary is bound to cut across a word border, and what that costs a model.

Two common words written together make a trap if no token of the encoder ends where the first word ends ("moves" + "table"
with a token "stable") and no other two words make the same string; they make a control if one does. A model is then told
the string and asked for the words, with the string's tokens given in two ways:

    cut      as the encoder cuts it: the trap
    mended   the same characters, cut at the words: what the model would know if the tokenizer had been right

The drop is the share of right answers of mended less that of cut on the same strings, so only tokens differ; controls say
what the task itself costs. After "Tokenization Matters! Degrading Large Language Models through Challenging Their
Tokenization", whose automatic set is made from a vocabulary too; theirs puts strings into sentences of Chinese and English
and asks questions about these, which takes a model of some size to answer and a person to write.
Words: those a text of English uses often and the vocabulary holds whole, or a list of one's own in any language.
"""

from __future__ import annotations

import math
import pydoc_data.topics
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import regex

from fewer.errors import BadRequest
from fewer.tokens.vocabulary import Vocabulary

POOL = 600  # words that are paired
SHORTEST = 4  # letters of a word
OFTEN = 3
SHOTS = (("sun", "flower"), ("week", "end"), ("paper", "clip"), ("rain", "coat"))
Say = Callable[[str], None]


@dataclass(frozen=True)
class Pair:
    """Two words; the string is both together. `pieces`: what the vocabulary makes of it, a space before it."""

    left: str
    right: str
    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.left + self.right


def common_words(v: Vocabulary) -> list[str]:
    """Words of a text of English that stand in the vocabulary whole, the most frequent first."""
    text = " ".join(pydoc_data.topics.topics.values())
    counts = Counter(regex.findall(r"(?<![\w.`'])\p{Ll}+(?![\w.`'])", text))
    return [w for w, n in counts.most_common() if n > 2 and f" {w}".encode() in v.ids]


def build(
    v: Vocabulary, count: int, seed: int = 0, words: Sequence[str] | None = None
) -> tuple[list[Pair], list[Pair]]:
    """`count` traps and as many controls; no word comes more than OFTEN times on one side of either.

    Raises BadRequest if the words make too few of either."""
    known = list(dict.fromkeys(words if words is not None else common_words(v)))
    shown = {w for shot in SHOTS for w in shot}
    pool = [w for w in known if len(w) >= SHORTEST and w not in shown][:POOL]
    pairs = [(a, b) for a in pool for b in pool if a != b]
    random.Random(seed).shuffle(pairs)
    found: dict[bool, list[Pair]] = {True: [], False: []}
    used: Counter[tuple[bool, str, str]] = Counter()
    every = set(known)
    for a, b in pairs:
        if all(len(some) >= count for some in found.values()):
            break
        text = a + b
        pieces = _cut(v, text)
        trap = len(a.encode()) not in _ends(pieces)
        uses = [(trap, "left", a), (trap, "right", b)]
        otherwise = any(text[:i] in every and text[i:] in every for i in range(1, len(text)) if i != len(a))
        if len(found[trap]) < count and not otherwise and all(used[use] < OFTEN for use in uses):
            found[trap].append(Pair(a, b, tuple(piece.decode(errors="replace") for piece in pieces)))
            used.update(uses)
    for trap, name in ((True, "traps"), (False, "controls")):
        if len(found[trap]) < count:
            raise BadRequest(
                f"{v.name}: {len(pool)} words make {len(found[trap])} {name}, {count} were asked for; ask for fewer, or give "
                "more words"
            )
    return found[True], found[False]


def ask(engine: Any, traps: Sequence[Pair], controls: Sequence[Pair], say: Say = lambda _: None) -> dict[str, Any]:
    """Figures a way of telling: right answers, log probability of the right one; the drop, and how likely chance makes it.

    engine: fewer.Engine, with any tokenizer: a trap for one may be none for another, which "trapped" counts."""
    tokenizer = engine.tokenizer
    if tokenizer is None:
        raise BadRequest("this model has no tokenizer, so no text can be put to it")

    def encoded(text: str) -> list[int]:
        return tokenizer.encode(text, bos=False)

    def split(p: Pair) -> list[int]:
        return [*encoded(f" {p.left}"), *encoded(p.right)]

    trapped = sum(
        len(p.left.encode()) + 1 not in _ends(tokenizer.token_bytes(i) for i in encoded(f" {p.text}")) for p in traps
    )
    ways = {
        "cut": [(p, encoded(f" {p.text}")) for p in traps],
        "mended": [(p, split(p)) for p in traps],
        "controls": [(p, encoded(f" {p.text}")) for p in controls],
    }
    out: dict[str, Any] = {"trapped": trapped, "ways": {}}
    right: dict[str, list[bool]] = {}
    for way, items in ways.items():
        say(f"asking: {way}")
        said, logp = _answers(engine, items)
        right[way] = [s == f"{p.left} {p.right}" for s, (p, _) in zip(said, items)]
        out["ways"][way] = {
            "items": len(items),
            "accuracy": round(mean(right[way]), 4),
            "logp": round(mean(logp), 4),
            "answers": said,
        }
    lost = sum(m and not c for c, m in zip(right["cut"], right["mended"]))
    won = sum(c and not m for c, m in zip(right["cut"], right["mended"]))
    out |= {
        "drop": round(mean(right["mended"]) - mean(right["cut"]), 4),
        "lost": lost,
        "won": won,
        "chance": float(f"{sign_test(lost, won):.3g}"),
    }
    return out


def sign_test(lost: int, won: int) -> float:
    """Probability, were losing and winning equally likely, of a difference of this size or more in either direction."""
    n, few = lost + won, min(lost, won)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(few + 1)) / 2**n)


def as_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Pairs as JSON knows them."""
    return [asdict(p) | {"text": p.text, "pieces": list(p.pieces)} for p in pairs]


def _answers(engine: Any, items: Sequence[tuple[Pair, list[int]]]) -> tuple[list[str], list[float]]:
    """What the model answers, greedily, and log probabilities of the right answers."""
    from fewer.tokens.probe.prompts import after

    encode = engine.tokenizer.encode
    shots = "".join(f"Typed: {a}{b}\nMeant: {a} {b}\n" for a, b in SHOTS)
    head, tail = encode(shots + "Typed:"), encode("\nMeant:", bos=False)
    prompts = [[*head, *ids, *tail] for _, ids in items]
    outs = engine.generate(prompts, max_tokens=12, stop=["\n"])
    goals = [encode(f" {p.left} {p.right}\n", bos=False) for p, _ in items]
    told = after(engine, [[*p, *g[:-1]] for p, g in zip(prompts, goals)], [len(g) for g in goals])
    logp = [float(rows[range(len(g)), g].sum()) for rows, g in zip(told, goals)]
    return [o.text.strip() for o in outs], logp


def _cut(v: Vocabulary, text: str) -> list[bytes]:
    """A word's pieces as it stands behind a space, which is left out."""
    pieces = [v.tokens[i] for i in v.encode(text if v.strips else f" {text}")]
    return [p for p in (pieces[0].removeprefix(b" "), *pieces[1:]) if p]


def _ends(pieces: Iterable[bytes]) -> set[int]:
    """Where pieces end, in bytes."""
    out, at = set(), 0
    for piece in pieces:
        at += len(piece)
        out.add(at)
    return out
