"""`fewer tokens dynamic`: what merging frequent neighbours of a batch of prompts saves at prefill, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fewer.cli import options as o
from fewer.cli.results import check, deliver, telling
from fewer.cli.tokens_shared import headed
from fewer.errors import BadRequest


def dynamic(
    model: Annotated[str, typer.Argument(help="A model: a name, a .gguf, a folder.")] = o.DEFAULT_MODEL,
    *,
    merges: Annotated[list[int], typer.Option("--merges", default_factory=list, help="Merges of a batch; repeatable.")],
    minutes: Annotated[
        float, typer.Option("--minutes", help="Train a net that composes rows for so long; 0: only means.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the training.")] = 0,
    languages: Annotated[list[str], typer.Option("--language", default_factory=list, help="Texts, as for transplant.")],
    nbytes: Annotated[int, typer.Option("--bytes", min=64, help="Bytes of each text.")] = 3000,
    threads: o.Threads = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Also keep the result as this JSON file.")] = None,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """Merge frequent neighbours of a batch at prefill (dynamic tokenisation): rows saved, bits of what follows."""
    check(keep)
    times = merges or [0, 25, 50, 100, 200, 400]
    if min(times) < 0 or minutes < 0:
        raise BadRequest("--merges and --minutes cannot be negative")
    from fewer.bench.sheets import Sheet
    from fewer.cli.session import on_interrupt
    from fewer.tokens.transfer import adapt, ends, texts
    from fewer.tokens.transfer import dynamic as work
    from fewer.tokens.transfer.composer import Composer
    from fewer.tokens.transfer.transplant import body

    with telling() as say:
        import torch

        from fewer.kernels.cpu import set_threads

        torch.set_num_threads(set_threads(threads))
        say(f"opening {model}")
        held = ends.open_model(model)
        judged = texts.judged(languages or [*texts.LANGUAGES, *texts.OTHERS], nbytes)
        dense, embed, scale = body(held), held.matrix("embed"), held.weights().spec.embed_scale
        ways = {"means": work.means(embed, scale)}
        result: dict[str, Any] = headed("tokens dynamic", seed) | {"model": model}
        if minutes:
            lessons = adapt.Lessons("hyper", minutes, seed, tuple(languages))
            net = Composer(held, dense, seed)
            with on_interrupt(lessons.stop):
                result["trained"] = adapt.train(net, lessons, adapt.paragraphs(lessons), say)
            ways["net"] = net.compose
        result["rows"] = work.measure(dense, held.tokenizer, judged, times, ways, say)
    columns = ["merges", "rows", "saved %", *ways]
    table = [[r["merges"], r["rows"], 100 * r["saved"], *(r[w] for w in ways)] for r in result["rows"]]
    note = "Rows of the prefixes; bits a byte of what follows them in plain tokens, by how merged rows are composed."
    sheet = Sheet(f"Merged prompts, {model}", note, columns, table, drawn=len(columns) - 1)
    deliver(result, as_json, None, None, keep, [sheet])
