"""How fine to cut: characters, words, and how large a vocabulary a model of a size should have.

    share = V d / (V d + body)   so   V = share body / ((1 - share) d)

with V tokens of width d in one table beside `body` other parameters. "Impact of Tokenization on Language Models: An
Analysis for Turkish" finds a share of 0.2 best for BPE and WordPiece, 0.4 for morphemes and words. Its five grains are here
`characters`, `words`, and the points bpe, wordpiece, turkish and the hybrid. "An Empirical Study of Tokenization Strategies
for Various Korean NLP Tasks" has jamo (jamo.py), syllables (`characters`), `morphemes`, bpe, morphemes and then bpe (the
point korean) and `words`. trial.py trains them on one text. Not done: WordPiece's own choice of a vocabulary.
"""

from __future__ import annotations

from tokenizers import Tokenizer

from fewer.errors import BadRequest
from fewer.tokens.train import bpe, cuts, export
from fewer.tokens.train.corpus import Corpus
from fewer.tokens.train.words import Bounded, compiled, pieces


def vocabulary_size(body: int, width: int, share: float) -> int:
    """Tokens whose table is `share` of all parameters, the rest being `body`. Raises BadRequest."""
    if body < 1 or width < 1 or not 0 < share < 1:
        raise BadRequest(f"body={body} and width={width} must be positive, share={share} between 0 and 1")
    return round(share * body / ((1 - share) * width))


def characters(corpus: Corpus, size: int) -> Tokenizer:
    """The most frequent characters beside the bytes; rarer ones are spelled in bytes."""
    return _most_frequent(corpus, size, r"[\s\S]")


def morphemes(corpus: Corpus, size: int) -> Tokenizer:
    """The most frequent Korean stems, particles and endings; all else is spelled in bytes."""
    return _most_frequent(corpus, size, cuts.pattern("korean"))


def words(corpus: Corpus, size: int) -> Tokenizer:
    """The most frequent words, each with the space before it; all else is spelled in bytes."""
    return _most_frequent(corpus, size, cuts.pattern("words"))


def _most_frequent(corpus: Corpus, size: int, pattern: str) -> Tokenizer:
    bpe.check_size(size)
    found: Bounded[str] = Bounded()
    cut = compiled(pattern)
    for text in corpus.stretches():
        found.add(pieces(text, cut))
    ordered = (p.encode() for p, _ in sorted(found.counts.items(), key=lambda pair: (-pair[1], pair[0])))
    whole = [p for p in ordered if len(p) > 1][: size - 256]
    return export.merging([*export.BYTES, *whole], [], pattern, whole=True)
