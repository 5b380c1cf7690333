"""What goes to stderr: the console, progress bars (on a terminal only) and the ledger's table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fewer.report_figures import NamedRun, rows

err = Console(stderr=True, highlight=False)


def _bar(*columns: BarColumn | DownloadColumn | TextColumn | TimeRemainingColumn) -> Progress:
    """A bar that vanishes when done; invisible unless stderr is a terminal."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


class PromptBar:
    """How much of a long prompt is read. Starts with the first report, ends with the first text."""

    def __init__(self) -> None:
        self._bar = _bar(
            TextColumn("reading the prompt"), BarColumn(), TextColumn("{task.completed}/{task.total} tokens")
        )
        self._task: TaskID | None = None

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` prompt tokens are in the cache."""
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task("", total=total)
        self._bar.update(self._task, completed=done, total=total)

    def close(self) -> None:
        self._bar.stop()


@contextmanager
def download_bar() -> Iterator[Callable[[int, int | None], None]]:
    """A callback (bytes done, total or None) for the time of a download; shows nothing until it is called."""
    bar = _bar(TextColumn("downloading the model"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    task: list[TaskID] = []

    def report(done: int, total: int | None) -> None:
        if not task:
            bar.start()
            task.append(bar.add_task("", total=total))
        bar.update(task[0], completed=done, total=total)

    try:
        yield report
    finally:
        bar.stop()


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner with `text` on a terminal."""
    if err.is_terminal:
        with err.status(text):
            yield
    else:
        yield


def ledger_table(runs: Sequence[NamedRun]) -> Table:
    """The ledgers of one or more runs, one column a run; the last column compares the last run with the first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", style="dim")
    table.add_column("ledger")
    for run in runs:
        table.add_column(run.name, justify="right", overflow="fold")
    if len(runs) > 1:
        table.add_column("", justify="right", style="bold")
    group = ""
    for heading, label, values, versus in rows(runs):
        table.add_row(heading if heading != group else "", label, *values, *([versus] if len(runs) > 1 else []))
        group = heading
    notes = dict.fromkeys(note for run in runs for note in run.ledger.get("notes", ()))
    if notes:
        table.caption, table.caption_justify = Text("\n".join(notes), style="dim"), "left"
    return table
