"""Text and bytes from files, a stretch at a time: what is held of the corpus does not grow with it.

A stretch ends after a line where there is one within a block, else anywhere between two characters; no pre-token goes
over its end, so a file is trained on as its lines are. Lines are kept as they are, \\r\\n too. `most` bounds what counts of
the text may grow by: stretches are then left out evenly, until so many bytes stay.
Not done: other encodings than UTF-8, compressed files.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewer.errors import BadRequest

Progress = Callable[[int, int], None]  # bytes read, bytes in all
BLOCK = 1 << 18  # `tokenizers` takes 256 stretches at a time, so 64 MB


def silent(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Corpus:
    """Files, read again at every pass; of a larger corpus about `most` bytes, spread evenly (None = all)."""

    paths: Sequence[Path]
    progress: Progress = silent
    most: int | None = None

    @property
    def size(self) -> int:
        """Bytes in all. Raises BadRequest for a file that is missing or a folder, or if all are empty."""
        total = 0
        for path in self.paths:
            if not path.is_file():
                raise BadRequest(f"{path} is not a file; name the files of the corpus one by one")
            total += path.stat().st_size
        if not total:
            raise BadRequest("the corpus is empty; give at least one file with text in it")
        return total

    def blocks(self, size: int = BLOCK) -> Iterator[bytes]:
        """Bytes as they lie, at most `size` at a time; none goes over a file's end."""
        total, done = self.size, 0
        wanted = self._evenly(total)
        for path in self.paths:
            with path.open("rb") as file:
                while block := file.read(size):
                    done += len(block)
                    self.progress(done, total)
                    if wanted(len(block)):
                        yield block

    def _evenly(self, total: int) -> Callable[[int], bool]:
        """Asked for one stretch after the other by its size: is it among those that stay?"""
        share, passed, taken = 1.0 if self.most is None else min(1.0, self.most / total), 0, 0

        def wanted(size: int) -> bool:
            nonlocal passed, taken
            passed += size
            if taken + size > share * passed + (1 - share) * size:
                return False
            taken += size
            return True

        return wanted

    def stretches(self) -> Iterator[str]:
        """Text. Raises BadRequest for ill-formed UTF-8, saying where."""
        total, done = self.size, 0
        wanted = self._evenly(total)
        for path in self.paths:
            decoder = codecs.getincrementaldecoder("utf-8")()
            held, at = "", 0
            with path.open("rb") as file:
                while True:
                    block = file.read(BLOCK)
                    try:
                        held += decoder.decode(block, final=not block)
                    except UnicodeDecodeError as error:
                        kept = len(error.object) - len(block)  # bytes of a character begun in the block before
                        raise BadRequest(
                            f"{path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset "
                            f"{at - kept + error.start} ({error.reason}). Re-encode it, or train on bytes: binary"
                        ) from None
                    at += len(block)
                    done += len(block)
                    self.progress(done, total)
                    if not block:
                        break
                    cut = held.rfind("\n") + 1 or (len(held) if len(held) >= BLOCK else 0)
                    if cut:
                        if wanted(cut):
                            yield held[:cut]
                        held = held[cut:]
            if held and wanted(len(held)):
                yield held
