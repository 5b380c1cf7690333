"""The two superword points: supermerges over a fresh BPE, and multi-word tokens on top of any byte-level BPE.

What they are is in superwords.py; this is how a corpus and a tokenizer go through it.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from fewer.errors import BadRequest, UnsupportedArchitecture
from fewer.tokens.rank_files import PATTERNS
from fewer.tokens.ranks import merge
from fewer.tokens.train import export, superwords
from fewer.tokens.train.bpe import merges_of, train_bpe
from fewer.tokens.train.corpus import Corpus
from fewer.tokens.train.words import Bounded, compiled, pieces

Say = Callable[[str], None]


@dataclass(frozen=True)
class Boundless:
    """`backend`: the tokenizer. `word_merges`, `supermerges`: in order. `floor`: how much counts may be too low."""

    backend: Tokenizer
    word_merges: list[tuple[bytes, bytes]]
    supermerges: list[tuple[bytes, bytes]]
    floor: int


def train_boundless(corpus: Corpus, size: int, pattern: str, say: Say) -> Boundless:
    """BPE of `size`, then supermerges in place of its rarest merges. Reads the corpus three times."""
    say("merging within words")
    merges = merges_of(train_bpe(corpus, size, pattern))
    ranks = {pair: i for i, pair in enumerate(merges)}
    cut = compiled(pattern)
    say("counting words")
    words: Bounded[str] = Bounded()
    for text in corpus.stretches():
        words.add(pieces(text, cut))
    made: Counter[int] = Counter()
    single: dict[str, bytes] = {}
    for word, times in words.counts.items():
        data = word.encode()
        tokens, used = merge(data, lambda a, b: ranks.get((a, b)))
        for rank in used:
            made[rank] += times
        if len(tokens) == 1 and superwords.TAKES_PART.fullmatch(word):
            single[word] = data
    say("counting stretches of words")
    stretches: Bounded[tuple[bytes, ...]] = Bounded()
    for text in corpus.stretches():
        stretches.add(superwords.runs(pieces(text, cut), single.get))
    say("merging across words")
    falling = [made[i] for i in range(len(merges))]
    for i in range(len(falling) - 2, -1, -1):  # a pair that overlaps itself may be made more often later
        falling[i] = max(falling[i], falling[i + 1])
    kept, supers = superwords.supermerges(stretches.counts, falling, size - 256)
    return build_boundless(merges[:kept], supers, pattern, words.floor + stretches.floor)


def build_boundless(
    word_merges: list[tuple[bytes, bytes]], supers: list[tuple[bytes, bytes]], pattern: str, floor: int = 0
) -> Boundless:
    """The tokenizer of these merges; see superwords.run_pattern for its cut."""
    merges = [*word_merges, *supers]
    tokens = list(dict.fromkeys([*export.BYTES, *(a + b for a, b in merges)]))
    parts = {part for pair in supers for part in pair} - {a + b for a, b in supers}
    stretch = superwords.run_pattern(part.decode() for part in parts)
    full = f"{stretch}|{pattern}" if stretch else pattern
    return Boundless(export.merging(tokens, merges, full), word_merges, supers, floor)


def add_phrases(
    base: Mapping[str, Any], corpus: Corpus, count: int, most: int, say: Say
) -> tuple[Tokenizer, list[str]]:
    """A tokenizer.json with the `count` most frequent n-grams of 2 to `most` words added, and these.

    Raises BadRequest for numbers out of range, UnsupportedArchitecture if its cut is not by regular expressions."""
    if count < 1 or most < 2:
        raise BadRequest(f"give at least one phrase of at least two words, not {count} of up to {most}")
    stages = cut_stages(base)
    cuts = [compiled(stage) for stage in stages]
    say("counting phrases")
    found: Bounded[str] = Bounded()
    for text in corpus.stretches():
        parts = [text]
        for cut in cuts:
            parts = [piece for part in parts for piece in pieces(part, cut)]
        found.add(superwords.ngrams(parts, most))
    vocab = base["model"]["vocab"]
    fresh = [(p, n) for p, n in found.counts.items() if n > 1 and export.spelled(p.encode()) not in vocab]
    phrases = [p for p, _ in sorted(fresh, key=lambda pair: (-pair[1], pair[0]))[:count]]
    return with_phrases(base, phrases), phrases


def with_phrases(base: Mapping[str, Any], phrases: Sequence[str]) -> Tokenizer:
    """The tokenizer with these phrases as tokens, taken whole where all their words end."""
    if not phrases:
        return Tokenizer.from_str(json.dumps(base))
    stages = cut_stages(base)
    made: dict[str, Any] = copy.deepcopy(dict(base))
    expression = superwords.phrase_pattern(phrases)
    splits: list[dict[str, Any]] = [
        {"type": "Split", "pattern": {"Regex": f"{expression}|{stage}"}, "behavior": "Isolated", "invert": False}
        for stage in stages
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    made["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, level]}
    free = max([*made["model"]["vocab"].values(), *(t["id"] for t in made.get("added_tokens", []))]) + 1
    for i, phrase in enumerate(phrases):
        made["model"]["vocab"][export.spelled(phrase.encode())] = free + i
    made["model"]["ignore_merges"] = True
    return Tokenizer.from_str(json.dumps(made))


def cut_stages(base: Mapping[str, Any]) -> list[str]:
    """The regular expressions a byte-level BPE cuts by, one after the other."""
    whole = base.get("pre_tokenizer") or {}
    steps = whole.get("pretokenizers", [whole])
    stages: list[str] = []
    for step in steps:
        kind = step.get("type")
        keeps = step.get("behavior") == "Isolated" or (step.get("behavior") == "Removed" and step.get("invert"))
        if kind == "Split" and "Regex" in step["pattern"] and keeps:
            stages.append(step["pattern"]["Regex"])
        elif kind == "Digits":
            stages.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif kind == "ByteLevel" and not step.get("add_prefix_space"):
            stages += [PATTERNS["gpt2"]] if step.get("use_regex", True) else []
        else:
            raise UnsupportedArchitecture(
                f"this tokenizer cuts by {kind}, which has no place for phrases; it must be a byte-level BPE that cuts by "
                "regular expressions"
            )
    if base.get("model", {}).get("type") != "BPE" or not stages or base.get("normalizer"):
        raise UnsupportedArchitecture("phrases are added to a byte-level BPE that cuts words and normalises nothing")
    return stages
