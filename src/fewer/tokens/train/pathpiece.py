"""PathPiece: a vocabulary made by taking tokens away, and cutting by the shortest path.

Start from a vocabulary that is larger than wanted (BPE's). Cut every word by the shortest path (measure/shortest.py) and
ask of each token in it what its loss would cost: the shortest path without it either has a border inside the token's
place [s, e), or a longer token over it:

    cost = min( min over s < k < e of F[k] + B[k],  min over tokens at [s', e') over [s, e) of F[s'] + 1 + B[e'] ) - F[n]

with F, B the fewest tokens from the left and from the right. Costs are summed over the corpus; those whose loss costs
least go, a share at a time, single bytes never. Tokenization Is More Than Compression (2024).
F and B may use the same token elsewhere in the word, so a cost can be too low where a token comes twice, as in the paper.
Not done: other starting vocabularies than BPE's; random ties.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

LONGEST = 128  # bytes of a piece that is asked: rules of dashes and the like say nothing about words
SHARE = 0.1  # of the surplus that goes at a time, and of the vocabulary at most


def build(
    words: Mapping[bytes, int], tokens: Iterable[bytes], size: int, say: Callable[[str], None] = lambda _: None
) -> list[bytes]:
    """`size` tokens out of `tokens`, bytes first, then by length and bytes. `words`: pieces and their counts."""
    vocabulary = {*tokens, *(bytes([b]) for b in range(256))}
    while len(vocabulary) > size:
        costs = costs_of_loss(words, vocabulary)
        free = sorted((t for t in vocabulary if len(t) > 1), key=lambda t: (costs[t], -len(t), t))
        surplus = len(vocabulary) - size
        step = max(1, min(surplus, int(SHARE * max(surplus, len(vocabulary)))))
        say(f"{len(vocabulary)} tokens, {step} go")
        vocabulary.difference_update(free[:step])
    return sorted(vocabulary, key=lambda t: (len(t) > 1, len(t), t))


def costs_of_loss(words: Mapping[bytes, int], vocabulary: set[bytes]) -> Counter[bytes]:
    """Token -> tokens the corpus would have more without it, as far as one word at a time can tell; 0 if unused."""
    widest = max(map(len, vocabulary))
    costs: Counter[bytes] = Counter()
    for word, times in words.items():
        if len(word) > LONGEST:
            continue
        for token, cost in _of_word(word, vocabulary, widest):
            costs[token] += times * cost
    return costs


def _of_word(word: bytes, vocabulary: set[bytes], widest: int) -> list[tuple[bytes, int]]:
    n = len(word)
    spans = [
        (s, e) for s in range(n) for e in range(s + 1, min(n, s + widest) + 1) if e == s + 1 or word[s:e] in vocabulary
    ]
    left, start = [0] + [n + 1] * n, [0] * (n + 1)
    for s, e in spans:  # by rising start: the longest last token wins a tie
        if left[s] + 1 < left[e]:
            left[e], start[e] = left[s] + 1, s
    right = [n + 1] * n + [0]
    for s, e in reversed(spans):
        right[s] = min(right[s], right[e] + 1)
    out, e = [], n
    while e:
        s = start[e]
        if e - s > 1:
            inside = [left[k] + right[k] for k in range(s + 1, e)]
            over = [left[a] + 1 + right[b] for a, b in spans if a <= s and e <= b and (a, b) != (s, e)]
            out.append((word[s:e], min(inside + over) - left[n]))
        e = s
    return out
