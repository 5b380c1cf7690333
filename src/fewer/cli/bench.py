"""`fewer bench`: figures beside other engines' (speed), what methods save and cost (methods), what drafting saves
(speculation), what packing costs (quality), prompts cut inside tokens (healing), long contexts (bench_long.py).

The table goes to stdout; --json prints the whole result instead, --csv and --html write files as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewer.cli import bench_long
from fewer.cli import options as o
from fewer.cli.results import Csv, Html, check, deliver, telling

app = typer.Typer(
    help="Measure speed beside other engines, each method's effect, drafting, long contexts, what packing costs.",
    no_args_is_help=True,
)


@app.command()
def speed(
    *,
    model: o.Model = o.DEFAULT_MODEL,
    peers: Annotated[
        list[str],
        typer.Option(
            "--peer",
            default_factory=list,
            show_default=False,
            help="An engine beside fewer; repeatable. Default: all installed.",
        ),
    ],
    cases: Annotated[
        list[str],
        typer.Option("--case", default_factory=list, show_default=False, help="A case; repeatable. Default: all."),
    ],
    rounds: Annotated[int, typer.Option("--rounds", help="Rounds after the warm-up; medians are reported.")] = 3,
    threads: Annotated[int, typer.Option("--threads", "-t", help="CPU threads of every engine.")] = 2,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Prefill, decode and batches, side by side with the engines that are installed."""
    check(csv, html)
    from fewer.bench.speed import measure

    with telling() as say:
        result = measure(model, peers or None, cases or None, rounds, threads, say)
    deliver(result, as_json, csv, html)


@app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Methods to measure. Default: all.")] = None,
    model: o.Model = o.DEFAULT_MODEL,
    draft: o.Draft = None,
    items: Annotated[int, typer.Option("--items", help="Prompts a method.")] = 6,
    tokens: Annotated[int, typer.Option("--tokens", help="Length of the documents.")] = 1200,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the tasks.")] = 0,
    threads: o.Threads = None,
    folder: Annotated[
        Path | None,
        typer.Option("--keep", help="Keep one JSON a method in this folder, e.g. the package's own results."),
    ] = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """What each method saves and costs on a real model, beside the plain run."""
    check(csv, html)
    from fewer.bench.methods import measure

    with telling() as say:
        result = measure(names, model, items, tokens, seed, say, threads, folder, draft)
    deliver(result, as_json, csv, html)


@app.command()
def quality(
    model: o.Model = o.DEFAULT_MODEL,
    weights: o.Weights = "auto",
    activations: o.Activations = "int8",
    nbytes: Annotated[int, typer.Option("--bytes", help="Bytes of text scored.")] = 50_000,
    prompts: Annotated[int, typer.Option("--prompts", help="Questions asked.")] = 20,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of each answer.")] = 64,
    threads: o.Threads = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """What packed weights cost: perplexity and greedy answers beside the dequantised float32 path."""
    check(csv, html)
    from fewer.bench.quality import measure

    with telling() as say:
        result = measure(model, nbytes, prompts, tokens, say, threads, weights, activations)
    deliver(result, as_json, csv, html)


@app.command()
def healing(
    model: o.Model = o.DEFAULT_MODEL,
    cuts: Annotated[int, typer.Option("--cuts", help="Prompts, each cut inside a token.")] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the cuts.")] = 0,
    threads: Annotated[int, typer.Option("--threads", "-t", help="CPU threads of every engine.")] = 2,
    timed: Annotated[int, typer.Option("--timed", help="How many of them are continued byte by byte.")] = 20,
    peer_python: Annotated[
        Path | None, typer.Option("--peer-python", help="The Python of an environment that has genlm-bytes.")
    ] = None,
    beside: Annotated[str | None, typer.Option("--with", help="A second model, mixed with the first on bytes.")] = None,
    folder: Annotated[Path | None, typer.Option("--keep", help="Keep the result as JSON in this folder.")] = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Prompts cut inside tokens: accuracy of each kind of healing; exact bytes beside genlm-bytes."""
    check(csv, html)
    from fewer.bench.healing import measure

    with telling() as say:
        result = measure(model, cuts, seed, say, threads, peer_python, timed, beside, folder)
    deliver(result, as_json, csv, html)


@app.command()
def speculation(
    *,
    model: o.Model = o.DEFAULT_MODEL,
    draft: Annotated[
        str | None, typer.Option("--draft", help="A second, smaller model, for drafters that run one.")
    ] = None,
    kinds: Annotated[
        list[str],
        typer.Option(
            "--kind", default_factory=list, show_default=False, help="A kind of task; repeatable. Default: all six."
        ),
    ],
    plans: Annotated[
        list[str],
        typer.Option(
            "--plan",
            default_factory=list,
            show_default=False,
            help='Methods joined by " + "; repeatable. Default: each drafter alone.',
        ),
    ],
    peers: Annotated[
        list[str],
        typer.Option(
            "--peer",
            default_factory=list,
            show_default=False,
            help="Another engine; repeatable. Default: all installed.",
        ),
    ],
    no_peers: Annotated[bool, typer.Option("--no-peers", help="No other engine.")] = False,
    items: Annotated[int, typer.Option("--items", help="Prompts a kind.")] = 4,
    tokens: Annotated[int, typer.Option("--tokens", "-n", help="Most tokens of an answer.")] = 128,
    rounds: Annotated[int, typer.Option("--rounds", help="Times every prompt is run.")] = 1,
    same: Annotated[int, typer.Option("--same", help="Prompts whose texts must be plain decoding's; 0 = none.")] = 24,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the tasks.")] = 0,
    threads: Annotated[int, typer.Option("--threads", "-t", help="CPU threads of every engine.")] = 2,
    folder: Annotated[
        Path | None, typer.Option("--keep", help="Keep the result as JSON in this folder, beside other kinds' figures.")
    ] = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """What drafting saves on six kinds of tasks, beside plain decoding and other engines' speculative modes."""
    check(csv, html)
    from fewer.bench.speculation import Ways, keep, measure

    chosen = [] if no_peers else peers or None
    ways = Ways(kinds or None, plans or None, chosen, items, tokens, rounds, threads, seed, draft, same_prompts=same)
    with telling() as say:
        result = measure(model, ways, say)
    if folder is not None:
        keep(folder, result)
    deliver(result, as_json, csv, html)


@app.command()
def handover(
    *,
    model: o.Model,
    draft: Annotated[str, typer.Option("--draft", help="The small model, of the same vocabulary.")],
    items: Annotated[int, typer.Option("--items", help="Prompts a task.")] = 6,
    tokens: Annotated[int, typer.Option("--tokens", help="Length of the documents.")] = 400,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the tasks.")] = 0,
    threads: o.Threads = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Which positions of a text need the large model, and whether the small one can tell."""
    check(csv, html)
    from fewer.bench.handover import measure

    with telling() as say:
        result = measure(model, draft, items, tokens, seed, say, threads)
    deliver(result, as_json, csv, html)


app.command("fill")(bench_long.fill)
app.command("prefill")(bench_long.prefill)
app.command("reach")(bench_long.reach)
app.command("endless")(bench_long.endless)
app.command("long")(bench_long.long)
