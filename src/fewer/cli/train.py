"""`fewer train drafter kangaroo|ppd`, `judge`, `cartridge`, `butler`, `gate`, `patterns`: small parts for frozen models.

Progress goes to stderr, what the part reaches on held-out texts to stdout. What the model said is kept and used again.
The first Ctrl-C ends the training and writes what has been learnt so far; the second one ends at once and writes nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fewer.cli import options as o
from fewer.cli.console import err
from fewer.cli.inputs import read_file
from fewer.cli.session import on_interrupt, to_stdout
from fewer.errors import BadRequest

if TYPE_CHECKING:
    from fewer.train.session import Session

app = typer.Typer(help="Train small parts of methods on a frozen model.", no_args_is_help=True)
drafter = typer.Typer(help="Train a drafter.", no_args_is_help=True)
app.add_typer(drafter, name="drafter")

Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write, .safetensors; replaced in one piece.")]
Minutes = Annotated[float, typer.Option("--minutes", help="How long to take, asking the model and learning.")]
Asking = Annotated[
    float,
    typer.Option("--asking", help="Share of the time to ask the model; 0 = only what is in --data, if anything is."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the prompts and of the training.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", help="Folder for what the model says; used again if it is there. Default: fewer's cache."),
]


@drafter.command()
def kangaroo(
    ctx: typer.Context,
    output: Output,
    model: o.Model = o.DEFAULT_MODEL,
    layers: Annotated[int, typer.Option("--layers", min=1, help="Early layers that draft.")] = 3,
    minutes: Minutes = 35.0,
    asking: Asking = 0.5,
    seed: Seed = 0,
    data: Data = None,
    threads: o.Threads = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """An adapter that lets the first layers draft for the whole model."""
    from fewer.train.kangaroo import train

    _run(ctx, lambda s, c: train(s, output, layers, c))


@drafter.command()
def ppd(
    ctx: typer.Context,
    output: Output,
    model: o.Model = o.DEFAULT_MODEL,
    prompts: Annotated[
        int, typer.Option("--prompts", min=1, max=16, help="Prompt tokens: how far a guess reaches.")
    ] = 3,
    minutes: Minutes = 35.0,
    asking: Asking = 0.5,
    seed: Seed = 0,
    data: Data = None,
    threads: o.Threads = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Prompt tokens behind which the model guesses the tokens after next."""
    from fewer.train.ppd import train

    _run(ctx, lambda s, c: train(s, output, prompts, c))


@app.command()
def judge(
    ctx: typer.Context,
    output: Output,
    draft: Annotated[str, typer.Option("--draft", help="The smaller model whose mismatches are judged; as --model.")],
    model: o.Model = o.DEFAULT_MODEL,
    items: Annotated[int, typer.Option("--items", min=2, help="Problems whose answers are searched.")] = 24,
    tokens: Annotated[int, typer.Option("--tokens", min=16, help="Most tokens of an answer.")] = 200,
    minutes: Annotated[float, typer.Option("--minutes", help="After so long the search ends with what it has.")] = 60.0,
    seed: Seed = 0,
    threads: o.Threads = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """A classifier that says which of a draft's mismatches do not matter, from word problems."""
    from fewer.train.judge import train

    _run(ctx, lambda s, c: train(s, output, items, tokens, c))


@app.command()
def cartridge(
    ctx: typer.Context,
    document: Annotated[Path, typer.Argument(help="The text to learn, a UTF-8 file.", exists=True, dir_okay=False)],
    output: Output,
    model: o.Model = o.DEFAULT_MODEL,
    entries: Annotated[int, typer.Option("--entries", min=2, help="Cache entries a layer and head.")] = 64,
    lesson: Annotated[
        str, typer.Option("--lesson", help="study = by asking itself about it; plain = by its next tokens.")
    ] = "study",
    minutes: Minutes = 35.0,
    asking: Asking = 0.4,
    seed: Seed = 0,
    threads: o.Threads = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """A document as a few cache entries, learnt by self-study, for the method cartridge."""
    from fewer.train.cartridge import LESSONS, train

    if lesson not in LESSONS:
        raise BadRequest(f"--lesson {lesson!r} is none of {', '.join(LESSONS)}")
    text = read_file(str(document)).text
    _run(ctx, lambda s, c: train(s, output, text, entries, lesson, c))


@app.command()
def butler(
    ctx: typer.Context,
    output: Output,
    model: o.Model = o.DEFAULT_MODEL,
    minutes: Minutes = 35.0,
    asking: Annotated[float, typer.Option("--asking", help="Most of the time to let the model read.")] = 0.3,
    seed: Seed = 0,
    threads: o.Threads = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """A network that foretells which entries each head will want, for the method tokenbutler."""
    from fewer.train.butler import train

    _run(ctx, lambda s, c: train(s, output, c))


@app.command()
def gate(
    ctx: typer.Context,
    output: Output,
    model: o.Model = o.DEFAULT_MODEL,
    keep: Annotated[
        float, typer.Option("--keep", help="Share of a prompt's entries that the gates should keep.")
    ] = 0.3,
    minutes: Minutes = 35.0,
    asking: Annotated[float, typer.Option("--asking", help="Most of the time to let the model read.")] = 0.2,
    seed: Seed = 0,
    threads: o.Threads = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Gates that say which entries of a prompt each head must keep, for the method attention-gate."""
    from fewer.train.gate import train

    _run(ctx, lambda s, c: train(s, output, keep, c))


@app.command()
def patterns(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, .json; replaced in one piece.")],
    model: o.Model = o.DEFAULT_MODEL,
    tokens: Annotated[int, typer.Option("--tokens", min=512, help="Length of a document.")] = 3072,
    documents: Annotated[int, typer.Option("--documents", min=1, help="Documents read, and one more to judge by.")] = 3,
    room: Annotated[
        float, typer.Option("--room", min=0.01, max=1.0, help="Share of the entries that heads read on average.")
    ] = 0.15,
    minutes: Annotated[
        float, typer.Option("--minutes", help="After so long no further document or head is begun.")
    ] = 30.0,
    seed: Seed = 0,
    threads: o.Threads = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Which sparse pattern suits each attention head, for the method minference."""
    from fewer.train.patterns import train

    _run(ctx, lambda s, c: train(s, output, tokens, documents, room, c), suffix=".json")


def _run(ctx: typer.Context, train: Callable[[Session, str], dict[str, Any]], suffix: str = ".safetensors") -> None:
    """What all trainings share. ctx: the command's options, by name."""
    given, output = ctx.params, Path(ctx.params["output"])
    if output.suffix != suffix or output.is_dir() or not output.absolute().parent.is_dir():
        raise BadRequest(f"--output must be a {suffix} file in a folder that exists, not {output}")
    from fewer.train.session import LISTENING, Session, default_data

    command = "fewer " + " ".join(sys.argv[1:])
    status = err.status("starting") if err.is_terminal else None
    try:
        if status is not None:
            status.start()
        say = err.print if status is None else status.update
        session = Session(
            given["model"],
            given["minutes"],
            given["seed"],
            Path(given.get("data") or default_data(given["model"])),
            say,
            given["threads"],
            given.get("draft"),
            given.get("asking", LISTENING),
        )
        with on_interrupt(session.stop):
            report = train(session, command)
    finally:
        if status is not None:
            status.stop()
    if given["as_json"]:
        to_stdout(json.dumps({"output": str(output), **report}, ensure_ascii=False) + "\n")
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for name, value in report.items():
        table.add_row(name.replace("_", " "), str(value))
    out = Console(highlight=False)
    out.print(table)
    out.print(f"written: {output}")
