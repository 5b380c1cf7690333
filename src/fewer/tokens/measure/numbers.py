"""How numbers are cut, and cutting them from the right.

A tokenizer that takes three digits at a time cuts 1234567 as 123|456|7 from the left; people, and columns of a sum, go
from the right: 1|234|567. Tokenization counts (2024) found models add better on the second; Scaling Behavior for Large
Language Models regarding Numeral Systems (2024) compares one, two and three digits a token.

`chunking` asks a tokenizer; `group_digits` encodes a text so that digits are grouped from the right, without the commas
the first paper puts in: the bytes stay the same. Only ASCII digits; a token that reaches beyond a number on either side
(" 1") keeps its place and the grouping is of the digits behind it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from fewer.errors import BadRequest
from fewer.tokens.vocabulary import Vocabulary

DIGITS = re.compile(rb"[0-9]+")


def sizes(n: int, group: int, side: str) -> list[int]:
    """Chunk lengths of an n-digit number: (7, 3, "left") -> [3, 3, 1], (7, 3, "right") -> [1, 3, 3]."""
    whole, rest = divmod(n, group)
    ends = [rest] if rest else []
    return [group] * whole + ends if side == "left" else ends + [group] * whole


def pieces(vocabulary: Vocabulary, number: str) -> list[int]:
    """Digits in each of a number's tokens, tokens without digits left out."""
    found = [sum(48 <= b < 58 for b in vocabulary.tokens[i]) for i in vocabulary.encode(number)]
    return [n for n in found if n]


def chunking(vocabulary: Vocabulary, seed: int = 0, per_length: int = 20, longest: int = 12) -> dict[str, object]:
    """rule: "digit by digit", "from the left by k", "from the right by k" or "learned"; and the shares of random
    numbers, of 1 to `longest` digits, whose chunks are those of the nearest rule, and whose last chunk is whole. A
    vocabulary that drops digits has the rule "dropped"."""
    rng = random.Random(seed)
    numbers = [str(rng.randrange(10 ** (n - 1), 10**n)) for n in range(1, longest + 1) for _ in range(per_length)]
    cuts = [pieces(vocabulary, number) for number in numbers]
    if not all(cuts):
        return {"rule": "dropped", "nearest": "dropped", "follows": 0.0, "digits_per_token": 0.0}
    widest = max(max(cut) for cut in cuts)
    rules = [("digit by digit", 1, "left")]
    rules += [(f"from the {side} by {k}", k, side) for side in ("left", "right") for k in range(2, widest + 1)]
    shares = {
        name: sum(cut == sizes(len(number), k, side) for cut, number in zip(cuts, numbers)) / len(numbers)
        for name, k, side in rules
    }
    nearest = max(shares, key=lambda name: shares[name])
    tokens, digits = sum(map(len, cuts)), sum(map(len, numbers))
    return {
        "rule": nearest if shares[nearest] == 1 else "learned",
        "nearest": nearest,
        "follows": shares[nearest],
        "digits_per_token": digits / tokens,
    }


def group_digits(vocabulary: Vocabulary, text: str, group: int = 3) -> list[int]:
    """Ids of `text` with every run of digits cut into groups of `group` from the right, no token over two groups.

    decode(ids) is the text still. Raises BadRequest if group < 1 or the tokenizer does not keep the text's bytes."""
    if group < 1:
        raise BadRequest(f"digits are grouped by 1 or more, not {group}")
    ids, data = vocabulary.encode(text), text.encode()
    spelled = [vocabulary.tokens[i] for i in ids]
    extra = 1 if vocabulary.strips and b"".join(spelled) == b" " + data else 0
    if b"".join(spelled)[extra:] != data:
        raise BadRequest(f"{vocabulary.name} does not keep this text's bytes, so its digits cannot be grouped")
    starts = [-extra]
    for token in spelled:
        starts.append(starts[-1] + len(token))
    place = {start: k for k, start in enumerate(starts)}
    out: list[int] = []
    done = 0  # tokens already in `out`
    for match in DIGITS.finditer(data):
        inner = [place[b] for b in range(match.start(), match.end() + 1) if b in place]
        if len(inner) < 2:
            continue
        first, last = inner[0], inner[-1]
        out += ids[done:first]
        at = starts[first]
        for size in sizes(starts[last] - at, group, "right"):
            out += _spell(vocabulary, data[at : at + size])
            at += size
        done = last
    return out + ids[done:]


def _spell(vocabulary: Vocabulary, digits: bytes) -> Sequence[int]:
    known = vocabulary.ids.get(digits)
    return [known] if known is not None else [vocabulary.ids[digits[i : i + 1]] for i in range(len(digits))]
