"""A SentencePiece `.model` file as a `tokenizers.Tokenizer`, without the sentencepiece library.

The file is a protobuf message of which five fields matter: the pieces with score and kind, the kind of model, and of
the normaliser its compiled table, the dummy prefix and what happens to repeated spaces. Kinds are GGUF's numbers. BPE
is built as for GGUF (scores become merges); unigram by `tokenizers`' own model.
Not done: word and character models, `treat_whitespace_as_suffix`, spaces not escaped: refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import Unigram

from fewer.errors import CorruptFile, UnsupportedArchitecture
from fewer.models import tokenizer_gguf
from fewer.models.tokenizer_file import Built

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER = 1, 2, 3, 4
BYTE = 6


def build(path: Path) -> Built:
    """Raises CorruptFile for a damaged file, UnsupportedArchitecture for a kind not built here."""
    try:
        return _build(path.read_bytes())
    except (IndexError, struct.error, UnicodeDecodeError, ValueError) as error:
        raise CorruptFile(f"{path} is not a SentencePiece model: {error}. Fetch it again.") from error


def _build(data: bytes) -> Built:
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, Any] = {}
    rules: dict[int, Any] = {}
    for number, value in _fields(data):
        if number == 1:
            f = dict(_fields(value))
            pieces.append((f[1].decode(), struct.unpack("<f", f[2])[0] if 2 in f else 0.0, f.get(3, NORMAL)))
        elif number in (2, 3):
            (trainer if number == 2 else rules).update(_fields(value))
    if not pieces:
        raise ValueError("it has no pieces")
    kind = trainer.get(3, UNIGRAM)
    if kind not in (UNIGRAM, BPE) or trainer.get(24) or not rules.get(5, 1):
        raise UnsupportedArchitecture(
            "this SentencePiece model is of words or characters, or writes spaces unusually; supported: BPE, unigram"
        )
    prefix = bool(rules.get(3, 1))
    if kind == BPE:
        built = tokenizer_gguf.build(
            {
                "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.tokens": [p for p, _, _ in pieces],
                "tokenizer.ggml.scores": [s for _, s, _ in pieces],
                "tokenizer.ggml.token_type": [t for _, _, t in pieces],
                "tokenizer.ggml.unknown_token_id": trainer.get(40, 0),
                "tokenizer.ggml.add_space_prefix": prefix,
            }
        )
        steps = [built.backend.normalizer]
    else:
        built = _unigram(pieces, trainer.get(40, 0), prefix)
        steps = [*([normalizers.Prepend("▁")] if prefix else []), normalizers.Replace(" ", "▁")]
    if rules.get(4, 1):
        steps = [normalizers.Replace(Regex("^ +| +$|(?<= ) +"), ""), *steps]
    if rules.get(2):
        steps = [normalizers.Precompiled(rules[2]), *steps]
    built.backend.normalizer = normalizers.Sequence(steps)
    return built


def _unigram(pieces: list[tuple[str, float, int]], unk: int, prefix: bool) -> Built:
    kinds = [kind for _, _, kind in pieces]
    backend = Tokenizer(Unigram([(p, s) for p, s, _ in pieces], unk_id=unk, byte_fallback=BYTE in kinds))
    ends = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends])
    special = frozenset(i for i, kind in enumerate(kinds) if kind in (UNKNOWN, CONTROL))
    backend.add_special_tokens([AddedToken(pieces[i][0], special=True, normalized=False) for i in sorted(special)])
    backend.add_tokens([AddedToken(p, normalized=False) for p, _, kind in pieces if kind == USER])
    return Built(backend, None, None, frozenset(), False, special)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protobuf message: an int for a varint, bytes for the rest."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(data, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire} at byte {at}")
        if at + length > len(data):
            raise ValueError(f"field {number} ends behind the file")
        yield number, data[at : at + length]
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError(f"a number at byte {at} does not end")
