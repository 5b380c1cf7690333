"""`fewer tokens glitch` and `fewer tokens adversarial`: what a model knows about its own tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewer.cli import options as o
from fewer.cli.results import Html, check, deliver, telling
from fewer.cli.tokens_shared import headed, lines, opened

Keep = Annotated[Path | None, typer.Option("--keep", help="Also keep the result as this JSON file.")]


def glitch(
    model: Annotated[str, typer.Argument(help="As --model elsewhere.")] = o.DEFAULT_MODEL,
    *,
    count: Annotated[
        int | None, typer.Option("--count", help="Tokens asked for. Default: 2% of the vocabulary, at most 1000.")
    ] = None,
    unused: Annotated[
        list[int], typer.Option("--unused", default_factory=list, help="Id of a token known to be unused; repeatable.")
    ],
    seed: Annotated[int, typer.Option("--seed", help="Seed of the tokens drawn for comparison.")] = 0,
    threads: o.Threads = None,
    keep: Keep = None,
    as_json: o.Json = False,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Tokens the model hardly saw in training: ranked by its weights, verified by asking for them."""
    check(html, keep)
    import fewer
    from fewer.errors import BadRequest
    from fewer.models.resolve import resolve
    from fewer.models.source import open_source
    from fewer.tokens.probe import glitch as probe
    from fewer.tokens.probe import tables

    if count is not None and count < 0:
        raise BadRequest(f"--count {count}: ask for 0 tokens or more")
    with telling() as say:
        say("loading the model")
        path = resolve(model)
        engine = fewer.open(path, threads=threads)
        result = headed("tokens glitch", seed) | {"model": path.name}
        result |= probe.find(engine, open_source(path), say, count, unused, seed)
    deliver(result, as_json, None, html, keep, tables.glitch(result))


def adversarial(
    vocabulary: Annotated[str, typer.Argument(help="A tokenizer, as for compare.")] = o.DEFAULT_MODEL,
    *,
    ask: Annotated[str | None, typer.Option("--ask", help="A model to put the strings to, with any tokenizer.")] = None,
    count: Annotated[int, typer.Option("--count", help="Traps, and as many controls.")] = 200,
    words: Annotated[
        Path | None, typer.Option("--words", help="Words to pair, one a line. Default: common ones of English.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the pairs.")] = 0,
    threads: o.Threads = None,
    keep: Keep = None,
    as_json: o.Json = False,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Strings this vocabulary cuts across a word border; with --ask, what that costs a model."""
    check(html, keep)
    from fewer.errors import BadRequest
    from fewer.tokens.probe import adversarial as probe
    from fewer.tokens.probe import tables

    if count < 1:
        raise BadRequest(f"--count {count}: ask for at least one string")
    with telling() as say:
        (v,) = opened([vocabulary], say)
        traps, controls = probe.build(v, count, seed, lines(words) if words is not None else None)
        result = headed("tokens adversarial", seed) | {"vocabulary": v.name}
        if ask is not None:
            import fewer

            say(f"loading {ask}")
            engine = fewer.open(ask, threads=threads)
            result |= {"model": ask, "asked": probe.ask(engine, traps, controls, say)}
        result |= {"traps": probe.as_rows(traps), "controls": probe.as_rows(controls)}
    deliver(result, as_json, None, html, keep, tables.adversarial(result))
