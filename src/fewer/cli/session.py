"""Opening an engine and running one prompt as every command does: progress on stderr, text as it comes, Ctrl-C.

The first Ctrl-C lets the forward under way finish, so that the ledger adds up; the second one ends the process.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fewer.cli.console import PromptBar, download_bar, err, waiting
from fewer.report_figures import NamedRun

if TYPE_CHECKING:
    from fewer.engine import Engine, Prompt


@dataclass(frozen=True)
class Loading:
    """Which model, and how its weights are held."""

    model: str
    dtype: str = "auto"
    weights: str = "auto"
    activations: str = "int8"
    threads: int | None = None
    draft: str | None = None
    rope: str | None = None
    scores: str | None = None

    def open(self) -> Engine:
        """Open the engine; what is odd about a pair of models is told on stderr. Raises ModelError, BadRequest."""
        with waiting(f"loading {self.model}"):
            import fewer.opening

        with download_bar() as progress:
            engine = fewer.opening.open(
                self.model,
                dtype=self.dtype,
                weights=self.weights,
                activations=self.activations,
                rope=self.rope,
                scores=self.scores,
                draft=self.draft,
                threads=self.threads,
                progress=progress,
            )
        for warning in engine.beside.warnings if engine.beside is not None else ():
            err.print(warning, style="yellow", markup=False, soft_wrap=True)
        return engine


@contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C calls `stop` once; the next one is a KeyboardInterrupt again."""

    def once(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    before = signal.signal(signal.SIGINT, once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def answer(
    engine: Engine,
    prompt: Prompt,
    name: str,
    use: Sequence[str] = (),
    write: Callable[[str], None] | None = None,
    **options: Any,
) -> NamedRun:
    """Run one prompt, handing text to `write` as it comes. A Ctrl-C ends it early with finish_reason "cancelled".

    options: those of `Engine.stream`. Raises what it raises.
    """
    start = time.perf_counter()
    first = 0.0
    bar = PromptBar()
    try:
        stream = engine.stream(prompt, use=list(use), on_progress=bar, **options)
        with on_interrupt(stream.stop):
            for piece in stream:
                first = first or time.perf_counter() - start
                bar.close()
                if write is not None:
                    write(piece)
        result = stream.result.to_dict()
    finally:
        bar.close()
    seconds = time.perf_counter() - start
    return NamedRun(name, result, seconds, first or seconds, tuple(use))


def warm_up(engine: Engine) -> None:
    """Two throw-away tokens, so that the first of two runs does not pay for pages and threads not there yet."""
    engine.generate("warm up", raw=True, max_tokens=2, share_prefix=False)


def to_stdout(text: str) -> None:
    """Write and flush: a reader of the pipe sees text as it comes."""
    sys.stdout.write(text)
    sys.stdout.flush()
