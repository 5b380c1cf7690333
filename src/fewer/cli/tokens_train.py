"""`fewer tokens train` and `fewer tokens phrases`: a corpus to a tokenizer.json, written in one piece when it is done.

Progress goes to stderr: a bar of the corpus on a terminal, what is being done in lines elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, TextColumn

from fewer.cli import options as o
from fewer.cli.console import _bar, err
from fewer.cli.session import to_stdout
from fewer.cli.tokens_shared import lines
from fewer.errors import BadRequest
from fewer.report import check_target

Texts = Annotated[
    list[Path],
    typer.Option("--text", default_factory=list, help="A file of the corpus; repeatable. UTF-8, or any bytes."),
]
Megabytes = Annotated[
    int | None,
    typer.Option(
        "--megabytes", min=1, help="Of a larger corpus about so many, spread evenly: bounds memory. Default: all."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where the tokenizer.json goes.")]


def train(
    point: Annotated[str, typer.Argument(help="A published way; `fewer tokens ways` lists them.")] = "bpe",
    *,
    texts: Texts,
    out: Out = Path("tokenizer.json"),
    size: Annotated[int | None, typer.Option("--size", help="Tokens of the vocabulary.")] = None,
    cut: Annotated[
        str | None, typer.Option("--cut", help="words, none, chunks, turkish, korean, or an expression.")
    ] = None,
    digits: Annotated[str | None, typer.Option("--digits", help="left, right or single.")] = None,
    merge: Annotated[str | None, typer.Option("--merge", help="pairs or supermerges.")] = None,
    build: Annotated[str | None, typer.Option("--build", help="bpe, unigram, pathpiece or bytes.")] = None,
    segment: Annotated[str | None, typer.Option("--segment", help="merges, shortest or likeliest.")] = None,
    longest: Annotated[int | None, typer.Option("--longest", help="Bytes of a token at most.")] = None,
    terms: Annotated[
        Path | None, typer.Option("--terms", help="A file of strings that stay one token, one a line.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the random chunks.")] = None,
    megabytes: Megabytes = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Train a tokenizer: a published way, with any axis changed."""
    check_target(out)
    from fewer.tokens.train import export, recipe

    wanted = recipe.point(
        point, size=size, cut=cut, digits=digits, merge=merge, build=build, segment=segment, longest=longest, seed=seed
    )
    kept = lines(terms) if terms is not None else []
    with _working(texts, megabytes) as (corpus, say):
        trained = recipe.train(wanted, corpus, say, kept)
    made = trained.made | ({} if megabytes is None else {"megabytes": megabytes})
    path = export.save(trained.backend, out, made)
    _said(path, made, as_json)


def phrases(
    base: Annotated[str, typer.Argument(help="A byte-level BPE: a tokenizer.json, or a model's own.")],
    *,
    texts: Texts,
    out: Out = Path("tokenizer.json"),
    count: Annotated[int, typer.Option("--count", help="Phrases to add.")] = 1000,
    most: Annotated[int, typer.Option("--words", help="Words of a phrase at most.")] = 3,
    megabytes: Megabytes = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Add the most frequent phrases of a corpus to a tokenizer (Multi-Word Tokenizer)."""
    check_target(out)
    from fewer.tokens.load import open_tokenizer
    from fewer.tokens.train import boundless, export

    held = json.loads(open_tokenizer(base).backend.to_str())
    with _working(texts, megabytes) as (corpus, say):
        if corpus is None:
            raise BadRequest("give a corpus the phrases are counted in: --text FILE")
        backend, found = boundless.add_phrases(held, corpus, count, most, say)
    made: dict[str, Any] = {"base": base, "phrases": found, "tokens": backend.get_vocab_size()}
    path = export.save(backend, out, made)
    _said(path, made | {"phrases": len(found)}, as_json)


def ways(as_json: o.Json = False, debug: o.Debug = False) -> None:
    """The published ways of training and their axes."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from fewer.tokens.train.recipe import POINTS

    if as_json:
        to_stdout(json.dumps({name: asdict(recipe) | {"idea": idea} for name, (recipe, idea) in POINTS.items()}) + "\n")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("way", "cut", "merge", "build", "segment", "idea"):
        table.add_column(column)
    for name, (r, idea) in POINTS.items():
        table.add_row(name, r.cut, r.merge, r.build, r.segment, idea)
    Console(highlight=False).print(table)


@contextmanager
def _working(texts: list[Path], megabytes: int | None) -> Iterator[tuple[Any, Callable[[str], None]]]:
    """The corpus (None without files), and a way to say what is being done; both show on one bar."""
    from fewer.tokens.train.corpus import Corpus

    bar = _bar(TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    task = bar.add_task("reading", total=None)
    told: list[str] = []

    def say(what: str) -> None:
        bar.update(task, description=what)
        if not err.is_terminal and what not in told[-1:]:
            told.append(what)
            err.print(what)

    with bar:
        most = None if megabytes is None else megabytes * 1_000_000
        corpus = Corpus(texts, lambda done, total: bar.update(task, completed=done, total=total), most)
        yield corpus if texts else None, say


def _said(path: Path, made: dict[str, Any], as_json: bool) -> None:
    if as_json:
        to_stdout(json.dumps({"path": str(path)} | made, ensure_ascii=False) + "\n")
    else:
        asked = made.get("recipe", {}).get("size", 0)
        short = f" of the {asked} asked for; the corpus makes no more" if made["tokens"] < asked else ""
        to_stdout(f"{path}: {made['tokens']} tokens{short}\n")
