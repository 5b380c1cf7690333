"""Byte-pair encoding and unigram, trained by `tokenizers`: what comes out is what that library makes of the data.

Settings cover more than one paper. A longest token of 2 to 4 bytes gives KL3M's character-level tokenizers, whose cuts
hold still when a letter is misread; terms kept whole give its domain ones (KL3M Tokenizers, 2025). No cut and an alphabet
of raw bytes give Binary BPE (2025). The library counts distinct pre-tokens, so memory grows with these, not with the text.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE, Unigram

from fewer.errors import BadRequest
from fewer.tokens.train import export
from fewer.tokens.train.corpus import Corpus

PIECE = 2048  # bytes of a binary trained on as one piece


def train_bpe(corpus: Corpus, size: int, pattern: str, longest: int | None = None) -> Tokenizer:
    """`size` tokens, 256 bytes among them; fewer if the corpus has no more pairs. `longest`: bytes of a token at most.

    Raises BadRequest for a size below the alphabet's."""
    return train_pieces(corpus.stretches(), size, pattern, longest)


def train_pieces(texts: Iterator[str], size: int, pattern: str, longest: int | None = None) -> Tokenizer:
    """As `train_bpe`, of texts that are cut already; `pattern` cuts them further."""
    check_size(size)
    backend = export.byte_level(Tokenizer(BPE()), pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=longest,
    )
    _learn(backend, texts, trainer)
    return backend


def train_binary(corpus: Corpus, size: int, longest: int | None = None) -> Tokenizer:
    """Over raw bytes of any files, in pieces of PIECE: no text, no cut."""
    check_size(size)
    backend = Tokenizer(BPE())
    backend.decoder = decoders.Fuse()
    alphabet = [chr(b) for b in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, show_progress=False, max_token_length=longest
    )
    _learn(backend, (block.decode("latin-1") for block in corpus.blocks(PIECE)), trainer)
    return backend


def train_unigram(corpus: Corpus, size: int, pattern: str) -> Tokenizer:
    """A unigram model of the cut's pieces. Bytes it dropped are put back with the lowest score, so any text is spelled."""
    check_size(size)
    backend = export.byte_level(Tokenizer(Unigram()), pattern)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.UnigramTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    _learn(backend, corpus.stretches(), trainer)
    scored = [(token, score) for token, score in json.loads(backend.to_str())["model"]["vocab"]]
    known = {token for token, _ in scored}
    lowest = min(score for _, score in scored) - 10.0
    lacking = [(char, lowest) for char in sorted(alphabet) if char not in known]
    kept = [pair for pair in scored if len(pair[0]) == 1] + [pair for pair in scored if len(pair[0]) > 1]
    backend.model = Unigram([*lacking, *kept[: size - len(lacking)]], unk_id=None, byte_fallback=False)
    return backend


def _learn(backend: Tokenizer, texts: Iterator[str], trainer: Any) -> None:
    """The library's training, in a thread of its own: the main one goes on hearing Ctrl-C, which the library would not."""
    failed: list[BaseException] = []
    stopped = threading.Event()

    def heard() -> Iterator[str]:
        for text in texts:
            if stopped.is_set():
                return
            yield text

    def work() -> None:
        try:
            backend.train_from_iterator(heard(), trainer)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.2)
    except KeyboardInterrupt:
        stopped.set()  # while texts are read it ends at once; while pairs are merged the process ends without it
        thread.join(1.0)
        raise
    if failed:
        raise failed[0]


def merges_of(backend: Tokenizer) -> list[tuple[bytes, bytes]]:
    """A byte-level BPE's merges as bytes, in order."""
    pairs: Iterator[tuple[str, str]] = map(tuple, json.loads(backend.to_str())["model"]["merges"])
    return [(export.unspelled(a), export.unspelled(b)) for a, b in pairs]


def tokens_of(backend: Tokenizer) -> list[bytes]:
    """A byte-level model's tokens as bytes, by id, added ones left out."""
    added = set(backend.get_added_tokens_decoder())
    return [
        export.unspelled(token)
        for i in range(backend.get_vocab_size())
        if i not in added and (token := backend.id_to_token(i)) is not None
    ]


def check_size(size: int) -> None:
    """Raises BadRequest if the 256 bytes do not fit."""
    if size < 256:
        raise BadRequest(f"a vocabulary of {size} is smaller than its alphabet of 256 bytes; ask for 256 or more")
