"""What commands that measure have in common: where results go, and saying on stderr what is under way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from fewer.cli.console import err
from fewer.cli.session import to_stdout
from fewer.report import check_target

if TYPE_CHECKING:
    from fewer.bench.sheets import Sheet

Csv = Annotated[Path | None, typer.Option("--csv", help="Also write the figures to this CSV file.")]
Html = Annotated[Path | None, typer.Option("--html", help="Also write an HTML page to this file.")]
Keep = Annotated[Path | None, typer.Option("--keep", help="Keep the result in this JSON file.")]


def check(*files: Path | None) -> None:
    """Can these be written? Asked before any work. Raises BadRequest."""
    for file in filter(None, files):
        check_target(file)


@contextmanager
def telling() -> Iterator[Callable[[str], None]]:
    """Says on stderr what is being measured: one changing line on a terminal, a line each elsewhere."""
    if err.is_terminal:
        with err.status("measuring") as status:
            yield status.update
    else:
        yield err.print


def deliver(
    result: dict[str, Any],
    as_json: bool,
    csv: Path | None,
    html: Path | None,
    keep: Path | None = None,
    tables: Sequence[Sheet] | None = None,
) -> None:
    """A result to stdout, as tables or JSON, and to the files that were asked for. tables: those to show, empty ones left
    out; None = the bench's own."""
    from fewer.bench import show
    from fewer.bench.record import save

    shown = () if tables is None else ([s for s in tables if s.rows],)
    if keep is not None:
        save(keep, result)
    if csv is not None:
        show.write_csv(result, csv)
    if html is not None:
        show.write_html(result, html, *shown)
    if as_json:
        to_stdout(json.dumps(result, ensure_ascii=False) + "\n")
    elif shown:
        show.print_sheets(result, *shown, Console(highlight=False))
    else:
        show.print_result(result, Console(highlight=False))
