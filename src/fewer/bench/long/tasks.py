"""Tasks that need a long document, in the manner of RULER and Needle Threading, judged by rules.

    single, multikey      one fact asked for, alone or among others of its form
    multivalue            four values of one key             multiquery   four keys asked for at once
    variables             names that hold a value through a chain of assignments
    common, frequent      the words that occur most often; every word equally rare else, or by a power law
    threads               each key's value is the next key: where does a thread of six end
    squad, hotpotqa       a real question whose passages lie among others (needs texts, see texts.py)

`depth` is where the answer lies (0 = beginning, 1 = end; None = everywhere); of several places the mean. A score is the
share of the answers that were said. Ideas: Hsieh et al., "RULER" (2024); Roberts et al., "Needle Threading" (2024);
wording, words and places are our own. The same seed, texts and tokenizer give the same items.
"""

from __future__ import annotations

import functools
import itertools
import random
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fewer.bench.long.texts import Question, Texts
from fewer.bench.tasks import PLACES, Count
from fewer.errors import BadRequest

WORDS = [
    "anchor", "apple", "arrow", "basin", "beacon", "birch", "blanket", "bottle", "bridge", "bucket", "candle",
    "canyon", "carpet", "castle", "cedar", "cellar", "chimney", "circle", "clover", "cobble", "copper", "coral",
    "cotton", "cradle", "crystal", "curtain", "dagger", "daisy", "desert", "diamond", "dragon", "eagle", "ember",
    "engine", "feather", "fiddle", "forest", "fossil", "garden", "garnet", "ginger", "glacier", "goblet", "granite",
    "hammer", "harvest", "hazel", "helmet", "honey", "island", "ivory", "jacket", "jasmine", "jungle", "kettle",
    "ladder", "lantern", "laurel", "lemon", "linen", "magnet", "maple", "marble", "meadow", "mirror", "mitten",
    "monsoon", "needle", "nettle", "oasis", "olive", "onion", "orchid", "oyster", "paddle", "pebble", "pepper",
    "pillar", "planet", "poplar", "puzzle", "quartz", "rabbit", "raven", "ribbon", "river", "saddle", "saffron",
    "sailor", "satin", "shadow", "shovel", "silver", "spider", "spindle", "statue", "summit", "sunset", "teapot",
    "temple", "thistle", "thunder", "ticket", "timber", "turnip", "turtle", "valley", "velvet", "violet", "walnut",
    "willow", "window", "winter", "wizard", "zephyr",
]  # fmt: skip
FACT = "The access code of the {key} is {value}."


@dataclass(frozen=True)
class LongItem:
    """A document and a question about it. answers: what must be said; any_of: one of them is enough."""

    task: str
    document: str
    question: str
    answers: tuple[str, ...]
    depth: float | None
    max_tokens: int = 32
    any_of: bool = False

    def score(self, said: str) -> float:
        """0..1: the share of the answers in what was said, whatever their case."""
        said = said.lower()
        found = [a.lower() in said for a in self.answers]
        return float(any(found)) if self.any_of else sum(found) / len(found)


@dataclass(frozen=True)
class Place:
    """Where an item is being made: its dice, the wanted depth, the document's tokens, how to count them, the texts."""

    rng: random.Random
    depth: float
    tokens: int
    count: Count
    texts: Texts


def make(task: str, n_items: int, tokens: int, seed: int, count: Count, texts: Texts) -> list[LongItem]:
    """`n_items` items of documents of about `tokens` tokens, the answers at depths from beginning to end.

    Raises BadRequest for a task that is not there, or a document too short for it.
    """
    if task not in TASKS:
        raise BadRequest(f"there is no task {task!r}: there are {', '.join(TASKS)}")
    if task in SOURCES and task not in texts.questions:
        raise BadRequest(f"the task {task!r} needs --texts with a folder that holds {task}.json")
    last = max(1, n_items - 1)
    return [
        TASKS[task](Place(random.Random(f"long {task} {tokens} {seed} {i}"), i / last, tokens, count, texts))
        for i in range(n_items)
    ]


def about_one_text(n: int, tokens: int, seed: int, count: Count, texts: Texts) -> list[LongItem]:
    """`n` items as of `multikey`, all of one document: a fact at each of n even depths, a question about each."""
    p = Place(random.Random(f"one text {tokens} {seed}"), 0.5, tokens, count, texts)
    facts, depths = list(zip(_keys(p.rng, n), _codes(p.rng, n))), [i / max(1, n - 1) for i in range(n)]
    document = _hide(p, [FACT.format(key=k, value=v) for k, v in facts], depths)
    return [LongItem("multikey", document, _question([k], False), (v,), d, 24) for (k, v), d in zip(facts, depths)]


def available(texts: Texts) -> list[str]:
    """Tasks that can be made of these texts."""
    return [t for t in TASKS if t not in SOURCES or t in texts.questions]


# ---------------------------------------------------------------------- needles
def single(p: Place) -> LongItem:
    (key,), (value,) = _keys(p.rng, 1), _codes(p.rng, 1)
    return _needles("single", p, [(key, value)], [], [key])


def multikey(p: Place) -> LongItem:
    key, *others = _keys(p.rng, 8)
    value, *codes = _codes(p.rng, 8)
    return _needles("multikey", p, [(key, value)], list(zip(others, codes)), [key])


def multivalue(p: Place) -> LongItem:
    (key,), codes = _keys(p.rng, 1), _codes(p.rng, 4)
    return _needles("multivalue", p, [(key, v) for v in codes], [], [key])


def multiquery(p: Place) -> LongItem:
    keys = _keys(p.rng, 4)
    return _needles("multiquery", p, list(zip(keys, _codes(p.rng, 4))), [], keys)


def _needles(
    task: str, p: Place, asked: list[tuple[str, str]], others: list[tuple[str, str]], keys: list[str]
) -> LongItem:
    """The first fact asked for lies at the wanted depth, all others anywhere."""
    facts = [FACT.format(key=k, value=v) for k, v in (*asked, *others)]
    depths = [p.depth, *(p.rng.random() for _ in facts[1:])]
    many = len(asked) > 1
    document = _hide(p, facts, depths)
    return LongItem(
        task,
        document,
        _question(keys, many),
        tuple(v for _, v in asked),
        _mean(depths[: len(asked)]),
        64 if many else 24,
    )


def _question(keys: list[str], many: bool) -> str:
    """keys: whose values are asked for; many: there is more than one value."""
    named = f"the {keys[0]}" if len(keys) == 1 else f"the {', the '.join(keys[:-1])} and the {keys[-1]}"
    return f"What {'are all the access codes' if many else 'is the access code'} of {named} mentioned in the text?"


def variables(p: Place) -> LongItem:
    names = ["".join(p.rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=5)) for _ in range(8)]
    value, other = _codes(p.rng, 2)
    chains = [(names[:4], value), (names[4:], other)]
    lines = [f"VAR {a} = {'VAR ' + b if b.isalpha() else b}" for chain, v in chains for a, b in zip(chain, [v, *chain])]
    depths = [p.depth, *sorted(p.rng.uniform(p.depth, 1) for _ in range(3)), *sorted(p.rng.random() for _ in range(4))]
    ask = f"Find all variables that are assigned the value {value}, directly or through other variables. Name them all."
    return LongItem("variables", _hide(p, lines, depths), ask, tuple(names[:4]), _mean(depths[:4]), 48)


# ---------------------------------------------------------------------- words
def common(p: Place) -> LongItem:
    """Five words in every round; the rest of a round is drawn anew, so any other is rarer."""
    often, rare = _split(p.rng, 5)
    rounds: list[str] = []
    while p.count(" ".join(rounds)) < p.tokens:
        some = [*often, *p.rng.sample(rare, 10)]
        p.rng.shuffle(some)
        rounds += some
    ask = "What are the 5 most common words in the list above?"
    return LongItem("common", _numbered(rounds, p), ask, tuple(often), None, 48)


def frequent(p: Place) -> LongItem:
    """Words drawn by a power law; the three most frequent are asked for."""
    words = list(WORDS)
    p.rng.shuffle(words)
    per = max(1, p.count(" ".join(words)) // len(words))  # tokens a word
    drawn = p.rng.choices(words, [(i + 1) ** -1.5 for i in range(len(words))], k=max(40, p.tokens // per))
    text = _fit(drawn, " ", p)
    best = [w for w, _ in Counter(text.split(" ")).most_common(3)]
    ask = "What are the three most frequent words in the text above?"
    return LongItem("frequent", text, ask, tuple(best), None, 32)


def threads(p: Place) -> LongItem:
    """Pairs of identifiers in a list; a thread runs from key to value to the key that is that value."""
    name = functools.partial(lambda rng: str(uuid.UUID(int=rng.getrandbits(128)))[:8], p.rng)
    pairs: list[tuple[str, str]] = []
    size = p.count(f"{name()}: {name()}\n")
    for _ in range(max(8, p.tokens // size)):
        pairs.append((name(), name()))
    hops = [name() for _ in range(7)]
    for a, b in itertools.pairwise(hops):
        pairs.insert(p.rng.randrange(len(pairs) + 1), (a, b))
    at = next(i for i, (_, b) in enumerate(pairs) if b == hops[-1])
    ask = (
        f"Start at the key {hops[0]}. Its value is again a key; follow the thread until a value is no key. Which value?"
    )
    text = "\n".join(f"{a}: {b}" for a, b in pairs)
    return LongItem("threads", text, ask, (hops[-1],), at / len(pairs), 32)


def _split(rng: random.Random, n: int) -> tuple[list[str], list[str]]:
    words = list(WORDS)
    rng.shuffle(words)
    return words[:n], words[n:]


def _numbered(words: list[str], p: Place) -> str:
    return _fit([f"{i}. {w}" for i, w in enumerate(words, 1)], " ", p)


def _fit(parts: list[str], joint: str, p: Place) -> str:
    """As many leading parts as there is room for."""
    low, high = 1, len(parts)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if p.count(joint.join(parts[:middle])) <= p.tokens else (low, middle - 1)
    return joint.join(parts[:low])


# ---------------------------------------------------------------------- questions
def _ask(source: str, p: Place) -> LongItem:
    """A real question; its passages at the wanted depth among others of the same source."""
    q: Question = p.rng.choice(p.texts.questions[source])
    left, others = p.tokens - sum(map(p.count, q.gold)), list[str]()
    pool = p.texts.passages[source]
    while left > 0:
        passage = p.rng.choice(pool)
        if passage not in q.gold and not any(a in passage for a in q.answers):
            left -= p.count(passage)
            others.append(passage)
    at = round(p.depth * len(others))
    document = "\n\n".join([*others[:at], *q.gold, *others[at:]])
    ask = f"Answer in a few words, from the text above only. {q.ask}"
    return LongItem(source, document, ask, q.answers, p.depth, 32, any_of=True)


# ---------------------------------------------------------------------- haystacks
def _hide(p: Place, facts: Sequence[str], depths: Sequence[float]) -> str:
    """Consecutive paragraphs of real text with every fact at its depth."""
    left = p.tokens - sum(map(p.count, facts))
    if left < 1:
        raise BadRequest(f"{p.tokens} tokens are too few for this task's {len(facts)} facts")
    pool, body = p.texts.paragraphs, list[str]()
    at = p.rng.randrange(len(pool))
    while left > 0:
        words, n = pool[at].split(" "), p.count(pool[at])
        body.append(" ".join(words if n <= left else words[: max(1, len(words) * left // n)]))
        at, left = (at + 1) % len(pool), left - n
    ends = [0]  # tokens before each paragraph
    for paragraph in body:
        ends.append(ends[-1] + p.count(paragraph))
    for i in sorted(range(len(facts)), key=lambda i: (depths[i], i), reverse=True):  # the last first: places stay right
        at = min(range(len(ends)), key=lambda j: abs(ends[j] - depths[i] * ends[-1]))
        body.insert(at, facts[i])
    return "\n\n".join(body)


def _keys(rng: random.Random, n: int) -> list[str]:
    return [f"{word} {place}" for word, place in zip(rng.sample(WORDS, n), rng.choices(PLACES, k=n))]


def _codes(rng: random.Random, n: int) -> list[str]:
    return [str(c) for c in rng.sample(range(10000, 100000), n)]


def _mean(depths: Sequence[float]) -> float:
    return sum(depths) / len(depths)


SOURCES = ("squad", "hotpotqa")
_MADE = (single, multikey, multivalue, multiquery, variables, common, frequent, threads)
TASKS: dict[str, Callable[[Place], LongItem]] = {
    **{f.__name__: f for f in _MADE},
    **{source: functools.partial(_ask, source) for source in SOURCES},
}
