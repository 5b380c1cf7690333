"""A vocabulary of bytes as a standard tokenizer.json, by `tokenizers`' own types, so that it is sure to load.

    merges     BPE: merges in order, over GPT-2's printable stand-ins for bytes
    shortest   the fewest tokens: unigram with one score for all, whose best path is the shortest one, and whose rule on a
               tie (the longest last token) is PathPiece-L's
    longest    the longest token that fits, and again behind it: WordPiece without its "##"
    bytes      BPE over Latin-1: character b is byte b. Hand it data.decode("latin-1"); what it decodes to, encode back

Every byte is a token, so any text comes back exactly; any bytes do through fewer.tokens.load (encode_bytes).
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece

from fewer.errors import BadRequest
from fewer.models.tokenizer import _BYTE_OF

CHAR_OF: Mapping[int, str] = {byte: char for char, byte in _BYTE_OF.items()}
BYTES = [bytes([b]) for b in range(256)]
UNKNOWN = "[UNK]"


def spelled(token: bytes) -> str:
    """A token's bytes in GPT-2's alphabet."""
    return "".join(CHAR_OF[b] for b in token)


def unspelled(token: str) -> bytes:
    """The bytes of a token in GPT-2's alphabet."""
    return bytes([_BYTE_OF[c] for c in token])


def byte_level(backend: Tokenizer, pattern: str) -> Tokenizer:
    """Put the cut, the byte alphabet and its decoder around a model. Raises BadRequest for a cut Oniguruma does not read."""
    try:
        cut = Regex(pattern)
    except Exception as error:  # `tokenizers` raises bare Exception
        raise BadRequest(f"the pattern {pattern!r} cannot stand in a tokenizer.json: {error}") from None
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(cut, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def merging(
    tokens: Sequence[bytes], merges: Sequence[tuple[bytes, bytes]], pattern: str, whole: bool = False
) -> Tokenizer:
    """`whole`: a piece that is a token is not merged."""
    vocab = {spelled(token): i for i, token in enumerate(tokens)}
    pairs = [(spelled(a), spelled(b)) for a, b in merges]
    return byte_level(Tokenizer(BPE(vocab, pairs, ignore_merges=whole)), pattern)


def shortest(tokens: Sequence[bytes], pattern: str) -> Tokenizer:
    """The fewest tokens of each piece. No token is named as the unknown one: `tokenizers` fuses neighbours of it."""
    return byte_level(
        Tokenizer(Unigram([(spelled(t), -1.0) for t in tokens], unk_id=None, byte_fallback=False)), pattern
    )


def longest(tokens: Sequence[bytes], pattern: str) -> Tokenizer:
    """The longest token that fits, from the left. One more is the unknown token the format asks for; as every byte is a
    token, no text needs it."""
    vocab = {spelled(token): i for i, token in enumerate(tokens)}
    model = WordPiece(
        vocab | {UNKNOWN: len(tokens)},
        unk_token=UNKNOWN,
        max_input_chars_per_word=1 << 40,
        continuing_subword_prefix="",
    )
    backend = byte_level(Tokenizer(model), pattern)
    backend.add_special_tokens([AddedToken(UNKNOWN, special=True, normalized=False)])
    return backend


def add_terms(backend: Tokenizer, terms: Sequence[str]) -> None:
    """Strings that are always one token, wherever they stand. Raises BadRequest for an empty one."""
    if not all(terms):
        raise BadRequest("a term is empty; give one a line")
    backend.add_tokens([AddedToken(term, normalized=False) for term in terms])


def save(backend: Tokenizer, path: Path, made: Mapping[str, object]) -> Path:
    """Write tokenizer.json, and beside it how it was made (.recipe.json); both are whole before
    either takes its place. Raises BadRequest."""
    target = path.expanduser().absolute()
    texts = {
        target.with_suffix(".recipe.json"): json.dumps(made, indent=1, ensure_ascii=False) + "\n",
        target: backend.to_str(pretty=False),
    }
    written: dict[Path, Path] = {}
    try:
        for file, text in texts.items():
            fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{file.name}.")
            written[file] = Path(name)
            with os.fdopen(fd, "w", encoding="utf-8") as out:
                out.write(text)
            Path(name).chmod(0o644)
        for file, made_of in written.items():
            made_of.replace(file)
    except OSError as error:
        raise BadRequest(f"cannot write {target}: {error.strerror or error}") from None
    finally:
        for made_of in written.values():
            made_of.unlink(missing_ok=True)
    return target
