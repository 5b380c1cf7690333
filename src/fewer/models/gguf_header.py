"""GGUF headers read with suspicion: every length is checked against the file before anything is allocated.

    "GGUF" | u32 version | u64 tensors | u64 keys | keys: name, u32 type, value | tensors: name, u32 n, n x u64 dims
    (fastest first), u32 type, u64 offset | padding | data          strings: u64 length + bytes; all little-endian

Only positions are recorded. Values are decoded when asked for, so a vocabulary of 150k strings costs one pass over
their lengths: the `gguf` package's reader makes arrays of every string, which takes 2 to 13 s on real files.
Not accepted: version 1, big-endian files, arrays of arrays (ggml refuses them too).
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass

from gguf.constants import GGMLQuantizationType, GGUFValueType

from fewer.errors import CorruptFile, UnsupportedArchitecture
from fewer.models.blocks import KINDS, row_bytes
from fewer.models.gguf_metadata import SCALARS, STRING, Metadata, Value

MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_ITEMS = 1 << 23  # in all arrays together
MAX_NAME = 1 << 12
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 20
ARRAY = int(GGUFValueType.ARRAY)
_U64 = struct.Struct("<Q")
_U32 = struct.Struct("<I")


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor's data lies: kind as in blocks.KINDS, shape in torch order, absolute byte range [at, end)."""

    kind: str
    shape: tuple[int, ...]
    at: int
    end: int


class _Cursor:
    """A position in the file that refuses to leave it."""

    def __init__(self, file: mmap.mmap) -> None:
        self.file = file
        self.size = len(file)
        self.at = 0
        self.items = 0

    def skip(self, n: int, what: str) -> int:
        """Pass n bytes; returns where they began."""
        start = self.at
        if n > self.size - start:
            raise CorruptFile(
                f"GGUF header: {what} at byte {start} reaches past the end of the file ({self.size} bytes)"
            )
        self.at += n
        return start

    def u32(self, what: str) -> int:
        return _U32.unpack_from(self.file, self.skip(4, what))[0]

    def u64(self, what: str) -> int:
        return _U64.unpack_from(self.file, self.skip(8, what))[0]

    def name(self, what: str) -> str:
        length = self.u64(what)
        if length > MAX_NAME:
            raise CorruptFile(f"GGUF header: {what} before byte {self.at} claims {length} bytes")
        start = self.skip(length, what)
        try:
            return self.file[start : self.at].decode()
        except UnicodeDecodeError:
            raise CorruptFile(f"GGUF header: {what} at byte {start} is not UTF-8") from None

    def value(self, key: str) -> Value:
        kind, count = self.u32(f"type of {key!r}"), None
        if kind == ARRAY:
            kind, count = self.u32(f"item type of {key!r}"), self.u64(f"length of {key!r}")
        value = Value(kind, self.at, count)
        items = 1 if count is None else count
        self.items += items
        if self.items > MAX_ITEMS:
            raise CorruptFile(f"GGUF header: {key!r} at byte {self.at} claims {items} items")
        if kind == STRING:
            self._skip_strings(items, key)
        elif kind in SCALARS:
            self.skip(items * SCALARS[kind].itemsize, f"value of {key!r}")
        else:
            raise CorruptFile(f"GGUF header: {key!r} at byte {self.at} has the unknown value type {kind}")
        return value

    def _skip_strings(self, count: int, key: str) -> None:
        file, at, read = self.file, self.at, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + read(file, at)[0]
        except (struct.error, OverflowError):
            at = self.size + 1
        self.skip(at - self.at, f"value of {key!r}")


def read_header(file: mmap.mmap) -> tuple[Metadata, dict[str, TensorInfo]]:
    """Metadata and tensors of a mapped GGUF file, all positions proved to lie inside it and not to overlap.

    Raises CorruptFile saying what is wrong and where, UnsupportedArchitecture for weights stored in a way fewer lacks.
    """
    cursor = _Cursor(file)
    if file[:4] != b"GGUF":
        raise CorruptFile("not a GGUF file: it does not begin with 'GGUF'; check what was downloaded")
    cursor.skip(4, "magic")
    version = cursor.u32("version")
    if version not in (2, 3):
        raise CorruptFile(f"GGUF version {version:#x} is not 2 or 3 (little-endian); convert the file anew")
    n_tensors, n_keys = cursor.u64("tensor count"), cursor.u64("key count")
    if n_tensors > MAX_TENSORS or n_keys > MAX_KEYS:
        raise CorruptFile(f"GGUF header: claims {n_tensors} tensors and {n_keys} keys")
    values: dict[str, Value] = {}
    for _ in range(n_keys):
        key = cursor.name("key")
        if key in values:
            raise CorruptFile(f"GGUF header: key {key!r} occurs twice")
        values[key] = cursor.value(key)
    metadata = Metadata(file, values)
    return metadata, _read_tensors(cursor, n_tensors, _alignment(metadata))


def _alignment(metadata: Metadata) -> int:
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise CorruptFile("GGUF header: general.alignment is not a power of two")
    return alignment


def _read_tensors(cursor: _Cursor, n: int, alignment: int) -> dict[str, TensorInfo]:
    found: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for _ in range(n):
        name = cursor.name("tensor name")
        if name in found:
            raise CorruptFile(f"GGUF header: tensor {name!r} occurs twice")
        n_dims = cursor.u32(f"dimensions of {name!r}")
        if not 1 <= n_dims <= MAX_DIMS:
            raise CorruptFile(f"GGUF header: tensor {name!r} has {n_dims} dimensions")
        shape = tuple(cursor.u64(f"dimensions of {name!r}") for _ in range(n_dims))[::-1]
        if 0 in shape:
            raise CorruptFile(f"GGUF header: tensor {name!r} has the empty shape {shape}")
        found[name] = _kind(cursor.u32(f"type of {name!r}"), name), shape, cursor.u64(f"offset of {name!r}")
    start = -(-cursor.at // alignment) * alignment
    infos: dict[str, TensorInfo] = {}
    end, previous = 0, ""
    for name, (kind, shape, offset) in sorted(found.items(), key=lambda item: item[1][2]):
        if offset % alignment:
            raise CorruptFile(f"GGUF header: tensor {name!r} is not aligned to {alignment} bytes")
        if offset < end:
            raise CorruptFile(f"GGUF header: tensors {previous!r} and {name!r} overlap")
        end, previous = offset + math.prod(shape[:-1]) * row_bytes(kind, shape[-1]), name
        if start + end > cursor.size:
            raise CorruptFile(
                f"GGUF file is cut short: tensor {name!r} should end at byte {start + end} of {cursor.size}; "
                "download it again"
            )
        infos[name] = TensorInfo(kind, shape, start + offset, start + end)
    return infos


def _kind(number: int, name: str) -> str:
    try:
        kind = GGMLQuantizationType(number).name
    except ValueError:
        raise CorruptFile(f"GGUF header: tensor {name!r} has the unknown type {number}") from None
    if kind not in KINDS:
        raise UnsupportedArchitecture(
            f"tensor {name!r} is stored as {kind}, which fewer cannot read; take a file in one of {', '.join(KINDS)}"
        )
    return kind
