"""Tokens of several words: supermerges and multi-word tokens, as the cut of a standard tokenizer.json.

Supermerges (Boundless Byte Pair Encoding, 2025) go over pre-token borders: two neighbours, each one token already, merge
by the same rule of the most frequent pair. In the two-phase form words are merged first, then stretches of neighbouring
one-token words. Both kinds of merge compete by count, so of V tokens the rarest word merges make room for supermerges.

Multi-word tokens (Multi-Word Tokenization for Sequence Compression, 2024) are the most frequent n-grams of words, found
from the left, the longest first.

In a tokenizer.json both are exact, by a cut that knows the words: one piece is a longest stretch of words that take part
(supermerges, whose merges then run inside it in order), or one multi-word token (taken whole). A piece ends only where a
word ends, so " of the" never reaches into " of theology". Word merges cannot cross a border in such a piece: a token of
theirs has a space in front or none, never in the middle.

A word that takes part is letters and marks with at most one space in front, and all but the first have one: languages
without spaces gain nothing. Not done: deleting left-over tokens (PickyBPE), which no tokenizer.json can say.
"""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import regex

from fewer.tokens.train.cuts import LETTER, WORD_END

TAKES_PART = regex.compile(rf" ?{LETTER}+")
Pair = tuple[bytes, bytes]


def runs(pieces: Iterable[str], token_of: Callable[[str], bytes | None]) -> Iterator[tuple[bytes, ...]]:
    """Longest stretches of two or more neighbouring words that have a token; behind the first each has its space."""
    held: list[bytes] = []
    for piece in pieces:
        token = token_of(piece)
        if token is None or piece[0] != " ":
            if len(held) > 1:
                yield tuple(held)
            held = []
        if token is not None:
            held.append(token)
    if len(held) > 1:
        yield tuple(held)


def word_token(piece: str) -> bytes | None:
    """The bytes of a piece that may be a word of a phrase."""
    return piece.encode() if TAKES_PART.fullmatch(piece) else None


def supermerges(
    stretches: Mapping[tuple[bytes, ...], int], word_merges: Sequence[int], size: int
) -> tuple[int, list[Pair]]:
    """How many word merges stay, and the supermerges in order, together `size` merges' tokens.

    `stretches`: runs and how often each comes. `word_merges`: how often each word merge was made, falling. The pair that
    comes most often is next, the smallest in bytes on a tie; a word merge goes before a supermerge of its count."""
    sequences = [list(run) for run in stretches]
    weights = list(stretches.values())
    counts: Counter[Pair] = Counter()
    where: dict[Pair, set[int]] = defaultdict(set)
    for i, sequence in enumerate(sequences):
        for pair in itertools.pairwise(sequence):
            counts[pair] += weights[i]
            where[pair].add(i)
    rising = [-n for n in word_merges]
    heap = [(-n, pair) for pair, n in counts.items()]
    heapq.heapify(heap)
    made: list[Pair] = []
    tokens: set[bytes] = set()
    while heap:
        n, best = heapq.heappop(heap)
        if counts[best] != -n:
            continue  # its count has changed since
        if n > -2 or bisect_right(rising, n) + len(tokens) >= size:
            break
        made.append(best)
        tokens.add(best[0] + best[1])
        for pair, change in _apply(best, where, sequences, weights).items():
            counts[pair] += change
            if counts[pair] > 0:
                heapq.heappush(heap, (-counts[pair], pair))
    return max(0, min(len(word_merges), size - len(tokens))), made


def _apply(
    best: Pair, where: dict[Pair, set[int]], sequences: list[list[bytes]], weights: list[int]
) -> Mapping[Pair, int]:
    """Merge `best` everywhere; returns the change of every pair's count."""
    change: Counter[Pair] = Counter()
    for i in where.pop(best):
        old = sequences[i]
        new: list[bytes] = []
        at = 0
        while at < len(old):
            if at + 1 < len(old) and (old[at], old[at + 1]) == best:
                new.append(best[0] + best[1])
                at += 2
            else:
                new.append(old[at])
                at += 1
        if len(new) == len(old):
            continue  # an earlier merge took it
        for pair in itertools.pairwise(old):
            change[pair] -= weights[i]
        for pair in itertools.pairwise(new):
            change[pair] += weights[i]
            where[pair].add(i)
        sequences[i] = new
    return {pair: n for pair, n in change.items() if n}


def ngrams(pieces: Iterable[str], most: int) -> Iterator[str]:
    """Every n-gram of 2 to `most` neighbouring words, as text."""
    for run in runs(pieces, word_token):
        words = [word.decode() for word in run]
        for n in range(2, most + 1):
            for at in range(len(words) - n + 1):
                yield "".join(words[at : at + n])


def run_pattern(words: Iterable[str]) -> str:
    """An expression for the longest stretches of `words` as `runs` finds them; nothing for no words."""
    listed = sorted(set(words))
    inner = [word for word in listed if word.startswith(" ")]
    return rf"(?:{trie(listed)}{WORD_END})(?:{trie(inner)}{WORD_END})+" if inner else ""


def phrase_pattern(phrases: Iterable[str]) -> str:
    """An expression for the longest of `phrases` that ends where a word ends; nothing for no phrases."""
    listed = sorted(set(phrases))
    return rf"{trie(listed, WORD_END)}" if listed else ""


def trie(strings: Sequence[str], end: str = "") -> str:
    """One expression for many strings, the longest first, common beginnings shared; `end` must follow a string."""
    root: dict[str, dict] = {}
    for string in strings:
        node = root
        for char in string:
            node = node.setdefault(char, {})
        node[""] = {}

    def write(node: dict[str, dict]) -> str:
        branches = [
            regex.escape(char, literal_spaces=True) + write(below) for char, below in sorted(node.items()) if char
        ]
        if "" in node:
            branches.append(end)  # last, so that a longer string is tried before
        if len(branches) == 1:
            return branches[0]
        return f"(?:{'|'.join(branches)})"

    return write(root)
