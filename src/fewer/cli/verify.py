"""`fewer verify`: run the checks that each method's claims choose, and every pair's. Exit code 1 if one fails.

`--real` compares the texts of a real model with every lossless drafter and without instead.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fewer.card import find
from fewer.cli import options as o
from fewer.cli.console import err, waiting
from fewer.cli.session import to_stdout
from fewer.report_figures import duration

if TYPE_CHECKING:
    from fewer.testing.verify import Outcome


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Methods to check. Default: all.")] = None,
    pairs: Annotated[bool, typer.Option("--pairs/--no-pairs", help="Check every pair of methods too.")] = True,
    real: Annotated[
        bool, typer.Option("--real", help="Compare greedy texts of a real model instead, drafter by drafter.")
    ] = False,
    model: o.Model = o.DEFAULT_MODEL,
    draft: Annotated[
        str | None, typer.Option("--draft", help="With --real: the second model. Default: the first layers of --model.")
    ] = None,
    prompts: Annotated[int, typer.Option("--prompts", help="With --real: prompts a drafter.")] = 20,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="With --real: tokens of each text.")] = 200,
    folder: Annotated[Path | None, typer.Option("--keep", help="With --real: keep the result as JSON here.")] = None,
    threads: o.Threads = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Show that what says lossless is lossless, and that what says it saves really saves."""
    if real:
        _real(names, model, draft, prompts, tokens, threads, folder, as_json)
        return
    for name in names or []:
        find(name)
    with waiting("loading the checks"):
        from fewer.testing.verify import verify as check
    with waiting("checking"):
        outcomes = check(names or None, pairs=pairs, progress=_say_failure)
    failed = sum(not x.ok for x in outcomes)
    if as_json:
        to_stdout(json.dumps([asdict(x) for x in outcomes], ensure_ascii=False) + "\n")
    else:
        out = Console(highlight=False)
        out.print(_table(outcomes))
        excepted = sum(x.excepted for x in outcomes)
        out.print(f"{len(outcomes) - failed} of {len(outcomes)} checks passed, {excepted} of them as exceptions.")
    if failed:
        raise typer.Exit(1)


def _real(
    names: list[str] | None,
    model: str,
    draft: str | None,
    prompts: int,
    tokens: int,
    threads: int | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    from fewer.testing.real import keep, measure

    result = measure(names, model, draft, prompts, tokens, threads, lambda text: err.print(text, markup=False))
    if folder is not None:
        keep(folder, result)
    if as_json:
        to_stdout(json.dumps(result, ensure_ascii=False) + "\n")
    else:
        Console(highlight=False).print(_real_table(result))
    for name, why in result["failed"].items():
        err.print(f"FAILED {name}: {why}", style="red", markup=False)
    if result["failed"] or any(r["same"] < r["of"] for r in result["rows"].values()):
        raise typer.Exit(1)


def _real_table(result: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("same texts", "of", "tokens", "drafts stood", "rejected"):
        table.add_column(heading, justify="right")
    for name, r in result["rows"].items():
        counts = (str(r[key]) for key in ("same", "of", "tokens", "accepted", "rejected"))
        table.add_row(name, *counts, style="red" if r["same"] < r["of"] else None)
    return table


def _say_failure(x: Outcome) -> None:
    if not x.ok:
        err.print(f"FAILED {x.name}: {x.check}: {x.message}", style="red", markup=False)


def _table(outcomes: list[Outcome]) -> Table:
    """A line a method and one for all its pairs; a failed check is named in full on stderr as it happens."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("passed", "excepted", "failed", "time"):
        table.add_column(heading, justify="right")
    table.add_column("checks", style="dim")
    groups: dict[str, list[Outcome]] = {}
    for x in outcomes:
        groups.setdefault("pairs" if x.check == "pair" else x.name, []).append(x)
    for name, held in groups.items():
        passed, excepted = sum(x.ok for x in held), sum(x.excepted for x in held)
        failed, checks = len(held) - passed, ", ".join(dict.fromkeys(x.check for x in held))
        counts = (str(passed), str(excepted or ""), str(failed or ""), duration(sum(x.seconds for x in held)))
        table.add_row(name, *counts, checks, style="red" if failed else None)
    return table
