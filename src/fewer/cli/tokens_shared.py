"""What the commands of `fewer tokens` share: the head of a result, opened tokenizers, a file's lines."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.errors import BadRequest

if TYPE_CHECKING:
    from fewer.tokens.vocabulary import Vocabulary


def headed(what: str, seed: int = 0) -> dict[str, Any]:
    """What it takes to run the present command again; its figures go beside it."""
    from fewer.bench.record import head

    return head(what, shown(shlex.join(["fewer", *sys.argv[1:]])), seed)


def shown(name: str) -> str:
    """A file's name for a result: bytes of it that are no UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def opened(sources: Sequence[str], say: Callable[[str], None]) -> list[Vocabulary]:
    """Raises as `open_vocabulary`."""
    from fewer.tokens.load import open_vocabulary

    found = []
    for source in sources:
        say(f"opening {source}")
        found.append(open_vocabulary(source))
    return found


def lines(path: Path) -> list[str]:
    """Lines that are not blank, each once, in order. Raises BadRequest for a file that is not UTF-8 or not there."""
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} cannot be read as lines of UTF-8: {error}") from None
    return [line for line in dict.fromkeys(found) if line]
