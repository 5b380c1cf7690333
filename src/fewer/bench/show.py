"""Results of the bench for people: tables in a terminal, a CSV file, a self-contained HTML page with bars."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewer.bench.sheets import Sheet, cell, sheets
from fewer.errors import BadRequest
from fewer.report_svg import Bar, grouped

LONGEST = 30  # characters of a row's name shown in a terminal


def print_result(result: dict[str, Any], console: Console) -> None:
    """What a measurement of the bench found."""
    print_sheets(result, sheets(result), console)


def write_csv(result: dict[str, Any], path: Path) -> None:
    """One line a figure: table, row, figure, value. Raises BadRequest if the file cannot be written."""
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            out = csv.writer(file)
            out.writerow(["table", "row", "figure", "value"])
            for sheet in sheets(result):
                for name, figure, value in _figures(sheet):
                    out.writerow([sheet.title, name, figure, value])
    except OSError as e:
        raise _unwritable(path, e) from None


def write_html(result: dict[str, Any], path: Path, tables: Sequence[Sheet] | None = None) -> None:
    """The tables (the bench's own if none are given), and bars where figures compare, in one file without scripts,
    written in one piece. Raises BadRequest as write_csv."""
    page = resources.files("fewer").joinpath("bench", "page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    parts = [
        (s, [[cell(v) for v in row] for row in s.rows], _bars(s))
        for s in (sheets(result) if tables is None else tables)
    ]
    html = environment.from_string(page).render(what=result["what"], parts=parts, result=result)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        partial.write_text(html, encoding="utf-8")
        partial.replace(path)
    except OSError as e:
        raise _unwritable(path, e) from None


def print_sheets(result: dict[str, Any], tables: Sequence[Sheet], console: Console) -> None:
    """The given tables, and how the result was made."""
    for sheet in tables:
        table = Table(box=None, pad_edge=False)
        for i, column in enumerate(sheet.columns):
            table.add_column(column, justify="left" if i < sheet.names else "right", overflow="fold")
        for row in sheet.rows:
            table.add_row(_cut(cell(row[0])), *(Text(cell(v)) for v in row[1:]))
        console.print(sheet.title, style="bold")
        console.print(table)
        console.print(sheet.note, style="dim", markup=False)
        console.print()
    console.print(f"{result['date']}, {result['machine']['cpu']}: {result['command']}", style="dim", markup=False)


def _cut(text: str) -> Text:
    """What a row is called, short; never read as markup."""
    return Text(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def _figures(sheet: Sheet) -> list[tuple[str, str, Any]]:
    """(row, figure, value) of everything that is there."""
    out = []
    for row in sheet.rows:
        label = " ".join(str(v) for v in row[: sheet.names] if v)
        figures = zip(sheet.columns[sheet.names :], row[sheet.names :])
        out += [(label, column, value) for column, value in figures if value is not None]
    return out


def _bars(sheet: Sheet) -> str:
    """Bars of the drawn columns, a group a row; a single column is drawn in one scale, several in one a row."""
    columns = range(sheet.names, sheet.names + sheet.drawn)
    groups = []
    for row in sheet.rows:
        held = [(i, row[i]) for i in columns if row[i]]
        bars = [Bar(f"c{i - sheet.names}", float(v or 0), cell(v), sheet.columns[i]) for i, v in held]
        if bars:
            groups.append((str(row[0]), bars))
    said = "; ".join(f"{name}: {', '.join(f'{b.name} {b.text}' for b in bars)}" for name, bars in groups)
    key = sheet.title.lower().replace(" ", "-")
    return grouped(key, sheet.title, said, groups, shared=sheet.drawn == 1) if groups else ""


def _unwritable(path: Path, e: OSError) -> BadRequest:
    return BadRequest(f"cannot write {path}: {e.strerror or e}")
