"""`fewer inspect heads` and `fewer trace`: what goes on inside. Tables to stdout; --json, --csv and --html as in the bench."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fewer.cli import options as o
from fewer.cli.inputs import read_file
from fewer.cli.results import Csv, Html, check, deliver, telling
from fewer.cli.session import Loading
from fewer.errors import BadRequest

app = typer.Typer(help="Look inside a model.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Look inside a model."""


@app.command()
def heads(
    *,
    model: o.Model = o.DEFAULT_MODEL,
    file: Annotated[
        list[str],
        typer.Option("--file", "-f", default_factory=list, help="A text; repeatable. Default: prose and code."),
    ],
    tokens: Annotated[int, typer.Option("--tokens", min=32, help="Tokens read of each text.")] = 512,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the default texts.")] = 0,
    threads: o.Threads = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Heads that park on the first token: sink rate, value drain and residual peak, with a picture in the HTML page."""
    check(csv, html)
    given = {d.name: d.text for d in map(read_file, file)}
    engine = Loading(model, threads=threads).open()
    from fewer.inspect.heads import measure, texts

    with telling() as say:
        say(f"reading {tokens} tokens of each text")
        assert engine.tokenizer is not None
        count = engine.tokenizer.encode
        result = measure(
            engine,
            given or texts(lambda t: len(count(t, bos=False)), tokens, seed),
            min(tokens, engine.model.spec.max_context - 1),
            "fewer " + " ".join(sys.argv[1:]),
            seed,
        )
    deliver(result, as_json, csv, html)


def trace(
    question: Annotated[str, typer.Argument(help="What was asked.")],
    *,
    file: Annotated[list[str], typer.Option("--file", "-f", help="A text; blank lines separate its passages.")],
    answer: Annotated[
        str | None, typer.Option("--answer", help="The answer to trace. Default: what the model says.")
    ] = None,
    model: o.Model = o.DEFAULT_MODEL,
    topk: Annotated[int, typer.Option("--topk", help="Tokens of a passage that speak for it.")] = 5,
    samples: Annotated[int, typer.Option("--samples", help="Random subsets of the passages; 0 = all at once.")] = 8,
    share: Annotated[float, typer.Option("--share", help="Share of the passages in each subset.")] = 0.5,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", help="Most tokens of the model's answer.")] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the subsets.")] = 0,
    threads: o.Threads = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Which passages of your files an answer rests on, the first one most."""
    check(csv, html)
    from fewer.bench.record import head
    from fewer.inspect.trace import passages, trace

    parts = [p for d in map(read_file, file) for p in passages(d.text)]
    if not parts:
        raise BadRequest("the files hold no passage")
    engine = Loading(model, threads=threads).open()
    with telling() as say:
        if answer is None:
            say("answering")
            answer = engine.generate("\n\n".join([*parts, question]), max_tokens=max_tokens).text
        scores = trace(engine, parts, question, answer, topk, samples, share, seed, say)
    order = sorted(range(len(parts)), key=lambda i: -scores[i])
    result = {
        **head("trace", "fewer " + " ".join(sys.argv[1:]), seed),
        "title": "fewer trace",
        "model": model,
        "question": question,
        "answer": answer,
        "passages": [{"place": i + 1, "score": round(scores[i], 6), "text": parts[i]} for i in order],
    }
    deliver(result, as_json, csv, html)
