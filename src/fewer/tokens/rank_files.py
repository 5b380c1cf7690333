"""Vocabularies kept as ranks: tiktoken files, whose split pattern is known by name or given, and tekken.json, which holds
its own. Both raise CorruptFile for a damaged file; tiktoken raises BadRequest where no pattern is known."""

from __future__ import annotations

import base64
import binascii
import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewer.errors import BadRequest, CorruptFile
from fewer.tokens.ranks import RankCoder
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


def tiktoken(path: Path, name: str, pattern: str) -> Vocabulary:
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


def tekken(data: dict[str, Any], path: Path, name: str) -> Vocabulary:
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


def _ranked(
    ranks: dict[bytes, int], pattern: str, name: str, kind: str, path: Path, special: list[bytes] | None = None
) -> Vocabulary:
    """`special` tokens come before the ranks."""
    special = special or []
    if len(set(ranks.values())) != len(ranks) or min(ranks.values(), default=0) < 0:
        raise CorruptFile(f"{path} gives two tokens one rank, or a rank below zero. Fetch it again.")
    coder = RankCoder(ranks, pattern, len(special))
    tokens = [*special, *[b""] * (max(ranks.values()) + 1)]
    for token, rank in ranks.items():
        tokens[rank + len(special)] = token
    return Vocabulary(name, kind, "fewer", tokens, frozenset(range(len(special))), coder.encode, pieces=coder.pieces)
