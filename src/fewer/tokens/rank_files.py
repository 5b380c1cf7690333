"""Vocabularies kept as ranks: tiktoken files, whose split pattern is known by name or given, and tekken.json, which holds
its own. Both raise CorruptFile for a damaged file; tiktoken raises BadRequest where no pattern is known.

`Ranked.standard` is the same tokenizer as `tokenizers` has it: every way to halve a token into two tokens is a merge of its
rank, and a piece that is a token is taken whole.
"""

from __future__ import annotations

import base64
import binascii
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import BPE

from fewer.errors import BadRequest, CorruptFile, UnsupportedArchitecture
from fewer.models.tokenizer_file import Built
from fewer.tokens.ranks import RankCoder
from fewer.tokens.train.export import byte_level, spelled
from fewer.tokens.vocabulary import Vocabulary

_ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+{_ENDS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*{_ENDS}?"
)
PATTERNS: Mapping[str, str] = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k_base": rf"{_ENDS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}{_REST}",
    "o200k_base": rf"{_CASED}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen": rf"{_ENDS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{_REST}",
}


def tiktoken(path: Path, name: str, pattern: str) -> Ranked:
    """A .tiktoken file, gzipped or not; `pattern`: a name in PATTERNS, an expression, or "" to go by the file's name."""
    wanted = pattern or next((p for p in PATTERNS if path.name.startswith(p)), "")
    if not wanted:
        raise BadRequest(
            f"{path.name} holds ranks without a split pattern; say which: {path.name}#NAME with NAME one of "
            f"{', '.join(PATTERNS)}, or the pattern itself behind the #"
        )
    data = path.read_bytes()
    ranks: dict[bytes, int] = {}
    try:
        lines = (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()
        for number, line in enumerate(lines, 1):
            if line.strip():
                token, rank = line.split()
                if ranks.setdefault(base64.b64decode(token, validate=True), int(rank)) != int(rank):
                    raise CorruptFile(f"{path}: line {number} repeats a token; a vocabulary names each once")
    except (ValueError, binascii.Error, OSError, EOFError) as error:
        raise CorruptFile(f"{path} is not a file of tiktoken ranks: {error}. Fetch it again.") from error
    return _ranked(ranks, PATTERNS.get(wanted, wanted), name, "tiktoken", path)


def tekken(data: dict[str, Any], path: Path, name: str) -> Ranked:
    """The content of a tekken.json."""
    try:
        config = data["config"]
        n_special = config["default_num_special_tokens"]
        kept = data["vocab"][: config["default_vocab_size"] - n_special]
        ranks = {base64.b64decode(v["token_bytes"], validate=True): v["rank"] for v in kept}
        named = {s["rank"]: s["token_str"].encode() for s in data.get("special_tokens") or []}
        special = [named.get(i, f"<SPECIAL_{i}>".encode()) for i in range(n_special)]
        return _ranked(ranks, config["pattern"], name, "tekken", path, special)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"{path} is not a tekken file: {type(error).__name__} {error}. Fetch it again.") from error


@dataclass(frozen=True)
class Ranked:
    """`ranks`: token bytes -> rank. `special` tokens come before the ranks, so an id is the rank and their number."""

    name: str
    kind: str
    ranks: Mapping[bytes, int]
    pattern: str
    special: list[bytes]

    def vocabulary(self) -> Vocabulary:
        """As the lab sees it, merged by ranks here."""
        coder, n = RankCoder(self.ranks, self.pattern, len(self.special)), len(self.special)
        tokens = [*self.special, *[b""] * (max(self.ranks.values()) + 1)]
        for token, rank in self.ranks.items():
            tokens[rank + n] = token
        return Vocabulary(self.name, self.kind, "fewer", tokens, frozenset(range(n)), coder.encode, pieces=coder.pieces)

    def standard(self) -> Built:
        """As a model may be given it. Raises UnsupportedArchitecture for ranks with holes or single bytes that have none."""
        ranks, n = self.ranks, len(self.special)
        if max(ranks.values()) + 1 != len(ranks) or any(bytes([b]) not in ranks for b in range(256)):
            raise UnsupportedArchitecture(f"{self.name} leaves out ranks or bytes, so it makes no tokenizer.json")
        merges = [
            (spelled(token[:i]), spelled(token[i:]))
            for token in sorted(ranks, key=ranks.__getitem__)
            for i in range(1, len(token))
            if token[:i] in ranks and token[i:] in ranks
        ]
        vocab = {spelled(token): rank + n for token, rank in ranks.items()}
        names = [token.decode() for token in self.special]
        model = BPE(vocab | {name: i for i, name in enumerate(names)}, merges, ignore_merges=True)
        backend = byte_level(Tokenizer(model), self.pattern)
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
        return Built(backend, None, None, frozenset(), False, frozenset(range(n)))


def _ranked(
    ranks: dict[bytes, int], pattern: str, name: str, kind: str, path: Path, special: list[bytes] | None = None
) -> Ranked:
    if len(set(ranks.values())) != len(ranks) or min(ranks.values(), default=0) < 0:
        raise CorruptFile(f"{path} gives two tokens one rank, or a rank below zero. Fetch it again.")
    return Ranked(name, kind, ranks, pattern, special or [])
