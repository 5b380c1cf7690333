"""Text <-> token ids: a thin, immutable wrapper over `tokenizers`, and exact bytes for every token.

Control strings are separate from text. `encode(text)` never yields a control id, whatever the text says: a string such
as "<|im_end|>" comes out as the ordinary tokens that spell it. Only `encode(text, special=True)`, meant for rendered
templates, turns it into the id. (User-defined tokens, e.g. "<tool_call>", are text and match in both.)

decode(ids) = the tokens' bytes joined, read as UTF-8, each maximal ill-formed part one U+FFFD. For well-formed text
that is what Hugging Face returns; for broken byte-fallback runs it keeps the characters around the break, which
Hugging Face drops, and so the streamed pieces always join to the decoded whole.

A byte-level vocabulary may lack bytes (SmolLM2: six control characters and unassigned planes); encoding drops these, as
the published tokenizer does.

Not done: truncation, padding, offsets, pairs; `tokenizer.model` files (fewer.tokens.load reads them); BERT's WordPiece,
which does not keep text.
"""

from __future__ import annotations

import codecs
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, Unigram, WordPiece

from fewer.errors import BadRequest, UnsupportedArchitecture
from fewer.models import tokenizer_file, tokenizer_gguf
from fewer.models.tokenizer_file import Built

if TYPE_CHECKING:
    from fewer.models.source import Source

# Besides the ids a file calls end of sequence, a model stops at these if they are control tokens of its vocabulary.
STOP_STRINGS = frozenset(
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<end_of_turn>", "<|end|>"]
)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins: a printable Latin-1 byte is its own character, the others count up from 256."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_FALLBACK = {f"<0x{b:02X}>": bytes([b]) for b in range(256)}


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """`bos`: id or None. `eos`: every id that ends an answer; `main_eos`: the one templates name. `special`: control
    ids. `unk`: the id plain text gets for characters the vocabulary cannot spell, None if it spells all. `add_bos`: the
    model's own habit. `byte_level`: tokens spell bytes in GPT-2's alphabet, else in SentencePiece's ("▁", <0xNN>).
    `strip_space`: decoding drops one leading space, which encoding added."""

    backend: Backend
    bos: int | None
    main_eos: int | None
    eos: frozenset[int]
    unk: int | None
    add_bos: bool
    special: frozenset[int]
    byte_level: bool
    strip_space: bool
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @cached_property
    def _added(self) -> frozenset[int]:
        return frozenset(self.backend.get_added_tokens_decoder())

    @cached_property
    def vocab_size(self) -> int:
        """One more than the highest id. A model's embedding may have more rows (padding)."""
        highest = max(self.backend.get_vocab().values(), default=-1)  # ids may leave holes
        return max(self.backend.get_vocab_size(), highest + 1)

    def encode(self, text: str, *, special: bool = False, bos: bool | None = None) -> list[int]:
        """Ids of `text`. `special`: control strings become control ids. `bos`: put BOS first (None: the model's habit);
        never two. Raises BadRequest for text that is not Unicode, or if BOS is asked of a model that has none."""
        with self._lock:  # `encode_special_tokens` is a switch of the shared backend
            self.backend.encode_special_tokens = not special
            try:
                (encoding,) = self.backend.encode_batch_fast([text], add_special_tokens=False)
            except (TypeError, UnicodeEncodeError) as error:
                raise BadRequest("text must be Unicode without lone surrogates; decode it as UTF-8 first") from error
        ids = encoding.ids
        if not special and not self._guarded.isdisjoint(ids):
            ids = [part for i in ids for part in (self._spell(i) if i in self._guarded else [i])]
        if bos and self.bos is None:
            raise BadRequest("this model has no BOS token; leave bos out")
        wanted = self.add_bos if bos is None else bos
        return [self.bos, *ids] if wanted and self.bos is not None and ids[:1] != [self.bos] else ids

    @cached_property
    def _guarded(self) -> frozenset[int]:
        return self.special - {self.unk}

    def _spell(self, token_id: int) -> list[int]:
        """A control token's text as single characters, for vocabularies whose merges can form a control string."""
        ids: list[int] = []
        for char in self.name(token_id):
            known = self.backend.token_to_id(char)
            parts = [known] if known is not None else [self.backend.token_to_id(f"<0x{b:02X}>") for b in char.encode()]
            ids += [part for part in parts if part is not None]
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        """Exact bytes of one token; b"" for an id no token has (a padded embedding row). Control tokens give the bytes
        of their name. Raises BadRequest for a negative id."""
        if token_id < 0:
            raise BadRequest(f"token id {token_id} is negative")
        token = self.backend.id_to_token(token_id) if token_id < 1 << 32 else None  # the backend's ids are 32 bits
        if token is None:
            return b""
        if not self.byte_level:
            return _FALLBACK.get(token) or token.replace("▁", " ").encode()
        if token_id in self._added:
            return token.encode()
        try:
            return bytes([_BYTE_OF[char] for char in token])
        except KeyError:
            return token.encode()

    def text_bytes(self, token_id: int, first: bool) -> bytes:
        """Bytes a token adds to an answer: none for a control token, and decoding may drop the leading space of the
        `first` one."""
        data = b"" if token_id in self.special else self.token_bytes(token_id)
        return data.removeprefix(b" ") if first and self.strip_space else data

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of `ids`; control tokens left out unless `skip_special` is False."""
        stream = self.stream(skip_special=skip_special)
        return "".join([stream.push(i) for i in ids]) + stream.flush()

    def stream(self, *, skip_special: bool = True) -> Detokenizer:
        """Incremental decoding of one answer."""
        return Detokenizer(self, skip_special)

    @cached_property
    def control_strings(self) -> tuple[str, ...]:
        """The texts of all control tokens, longest first."""
        return tuple(sorted({self.name(i) for i in self.special}, key=lambda s: (-len(s), s)))

    def name(self, token_id: int | None) -> str:
        """A token as the vocabulary writes it, "" for None: what templates call bos_token and eos_token."""
        return "" if token_id is None else self.backend.id_to_token(token_id) or ""

    def control(self, name: str) -> int | None:
        """The control token that the vocabulary writes so, if there is one."""
        found = self.backend.token_to_id(name)
        return found if found in self.special else None


class Detokenizer:
    """Ids of one answer -> text, piece by piece; a piece never ends inside a UTF-8 character. O(1) per token.

    "".join(push(i) for i in ids) + flush() == decode(ids).
    """

    def __init__(self, tokenizer: Tokenizer, skip_special: bool) -> None:
        self._tokenizer = tokenizer
        self._skip = tokenizer.special if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._strip = tokenizer.strip_space

    def push(self, token_id: int) -> str:
        """Text that is now certain; "" while a character is incomplete."""
        data = b"" if token_id in self._skip else self._tokenizer.token_bytes(token_id)
        if self._strip and data:
            self._strip = False
            data = data.removeprefix(b" ")
        return self._utf8.decode(data)

    def begin(self, data: bytes) -> str:
        """Text of bytes that come before the first token: what a healed prompt's last token already said."""
        self._strip = False
        return self._utf8.decode(data)

    def flush(self) -> str:
        """What is left at the end: "" or U+FFFD for an unfinished character."""
        return self._utf8.decode(b"", final=True)


def from_source(source: Source) -> Tokenizer:
    """The tokenizer of an opened model: GGUF metadata, or tokenizer.json in the folder."""
    if source.format == "gguf":
        return from_gguf(source.metadata())
    folder = source.path if source.path.is_dir() else source.path.parent
    return from_file(folder / "tokenizer.json")


def from_gguf(metadata: Mapping) -> Tokenizer:
    """From GGUF key -> value. Raises UnsupportedArchitecture or CorruptFile."""
    return wrap(tokenizer_gguf.build(metadata))


def from_file(tokenizer_json: Path) -> Tokenizer:
    """From a Hugging Face tokenizer.json and the configuration files beside it. Raises ModelError if it is missing,
    CorruptFile if unreadable, UnsupportedArchitecture for a kind without exact bytes."""
    return wrap(tokenizer_file.build(tokenizer_json))


def wrap(built: Built) -> Tokenizer:
    """From a backend and what its files say. Raises UnsupportedArchitecture for a kind without exact bytes."""
    backend, model = built.backend, built.backend.model
    state = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
    steps = {step["type"]: step for step in state.get("decoders", [state] if state else [])}
    byte_level = "ByteLevel" in steps
    if type(model) not in (BPE, Unigram, WordPiece) or not (byte_level or steps.keys() & {"ByteFallback", "Metaspace"}):
        raise UnsupportedArchitecture(
            f"tokenizer {type(model).__name__} decoding by {', '.join(steps) or 'nothing'} is not supported; "
            "supported: BPE, Unigram and WordPiece decoding by ByteLevel, ByteFallback or Metaspace"
        )
    spells_all = byte_level or (model.byte_fallback if type(model) is BPE else "ByteFallback" in steps)
    unk = None if spells_all else getattr(model, "unk_token", None)
    stops = {i for s in STOP_STRINGS if (i := backend.token_to_id(s)) is not None and i in built.special}
    return Tokenizer(
        backend,
        bos=built.bos,
        main_eos=built.main_eos,
        eos=built.eos | stops,
        unk=None if unk is None else backend.token_to_id(unk),
        add_bos=built.add_bos,
        special=built.special,
        byte_level=byte_level,
        strip_space="Strip" in steps or steps.get("Metaspace", {}).get("prepend_scheme", "never") != "never",
    )
