"""What can be said of a vocabulary's tokens without running the model, and of their weights.

    special      control tokens, and ids that no token has
    partial      bytes that are no whole characters, so no text is this token alone
    unreachable  the encoder spells the token's own text otherwise, alone and behind another character
    ordinary     all others

    untied   norm of the input row: gradients reach a row only where its token is read, weight decay shrinks the rest
    tied     1 - cos(output row, mean output row of `unused` tokens): training pushes all rows that are never right alike;
             a second figure does it without the rows' first principal direction, which most rows share

Low is suspicious in both. "Fishing for Magikarp: Automatically Detecting Under-trained Tokens in Large Language Models".
Which tokens are known to be unused is not in a model's files; `unused` takes, of these, the first kind there is: ids
without a token, names that say so (<unused0>) and single bytes UTF-8 has no use for; unreachable tokens; control tokens
that no template and no text of the model's needs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from fewer.errors import BadRequest
from fewer.models.tokenizer import Tokenizer

ORDINARY = "ordinary"
KINDS = (ORDINARY, "partial", "unreachable", "special")
NEVER = {*(bytes([b]) for b in (0xC0, 0xC1)), *(bytes([b]) for b in range(0xF5, 0x100))}
_SAYS_SO = re.compile(rb"[<\[|]+_?(?:unused|reserved|extra_id|dummy)[\w ]*[>\]|]+", re.IGNORECASE)
MARK = "«"


def kinds(tokenizer: Tokenizer, vocab: int) -> list[str]:
    """The kind of each of `vocab` ids."""
    words = [tokenizer.token_bytes(i) for i in range(vocab)]
    out, texts = ["special"] * vocab, dict[int, str]()
    for i, word in enumerate(words):
        if word and i not in tokenizer.special and not _SAYS_SO.fullmatch(word):
            try:
                texts[i], out[i] = word.decode(), ORDINARY
            except UnicodeDecodeError:
                out[i] = "partial"
    mark = tokenizer.encode(MARK, bos=False)
    for i, text in texts.items():
        if tokenizer.encode(text, bos=False) != [i] and tokenizer.encode(MARK + text, bos=False) != [*mark, i]:
            out[i] = "unreachable"
    return out


def unused(tokenizer: Tokenizer, found: Sequence[str], needed: str = "") -> list[int]:
    """Ids taken for never trained. `needed`: text (a chat template) whose control tokens are in use.

    Raises BadRequest if there are none."""
    words = [tokenizer.token_bytes(i) for i in range(len(found))]
    known = [i for i, w in enumerate(words) if not w or w in NEVER or _SAYS_SO.fullmatch(w)]
    idle = [
        i
        for i, kind in enumerate(found)
        if kind == "special" and i not in tokenizer.eos | {tokenizer.bos} and tokenizer.name(i) not in needed
    ]
    for some in (known, [i for i, kind in enumerate(found) if kind == "unreachable"], idle):
        if some:
            return some
    raise BadRequest("no token of this vocabulary is known to be unused; name some by id: --unused")


def distances(rows: np.ndarray, unused: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """rows (V, D), ids -> (V,), (V,): cosine distance to their mean, as it is and without the first principal direction.

    Rows of zeros are at distance 0: they were never touched."""
    plain = rows.astype(np.float64)
    centred = plain - plain.mean(0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    first = axes[:, -1]
    return _distance(plain, unused), _distance(plain - np.outer(plain @ first, first), unused)


def norms(rows: np.ndarray) -> np.ndarray:
    """rows (V, D) -> their lengths (V,)."""
    return np.linalg.norm(rows.astype(np.float64), axis=1)


def _distance(rows: np.ndarray, unused: Sequence[int]) -> np.ndarray:
    mean = rows[list(unused)].mean(0)
    lengths = norms(rows) * np.linalg.norm(mean)
    zero = lengths == 0
    return np.where(zero, 0.0, 1 - rows @ mean / np.where(zero, 1.0, lengths))


def auc(low: np.ndarray, high: np.ndarray) -> float:
    """How often a number of `low` is below one of `high`, ties counting half."""
    both = np.concatenate([low, high])
    _, place, counts = np.unique(both, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float(1 - (rank[: len(low)].sum() - len(low) * (len(low) + 1) / 2) / (len(low) * len(high)))
