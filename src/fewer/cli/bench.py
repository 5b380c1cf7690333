"""`fewer bench`: figures beside other engines' (speed), what methods save and cost (methods), what drafting saves
(speculation), what packing costs (quality), prompts cut inside tokens (healing).

The table goes to stdout; --json prints the whole result instead, --csv and --html write files as well.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fewer.cli import options as o
from fewer.cli.results import Csv, Html, Keep, check, deliver, telling
from fewer.cli.session import to_stdout

app = typer.Typer(
    help="Measure speed beside other engines, each method's effect, drafting, what packing costs.", no_args_is_help=True
)

Texts = Annotated[
    Path | None,
    typer.Option(
        "--texts",
        envvar="FEWER_LONG_TEXTS",
        help="Folder with squad.json and hotpotqa.json: real questions, Wikipedia as haystack.",
    ),
]


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
def fill(
    *,
    model: o.Model = o.DEFAULT_MODEL,
    plans: Annotated[
        list[str] | None,
        typer.Option("--plan", help="A selection or codec with its knobs; repeatable. Default: plain alone."),
    ] = None,
    length: Annotated[int, typer.Option("--length", help="Entries a kv-head.")] = 8000,
    steps: Annotated[int, typer.Option("--steps", help="Tokens decoded; medians are reported.")] = 12,
    requests: Annotated[int, typer.Option("--requests", help="Sequences decoded in one forward.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the keys and values.")] = 0,
    threads: o.Threads = None,
    keep: Keep = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Decoding speed of selections and codecs at a long context, beside own full attention, in a cache filled at once."""
    check(csv, html, keep)
    from fewer.bench.fill import measure

    with telling() as say:
        result = measure(model, plans or [], length, steps, seed, say, threads, requests)
    deliver(result, as_json, csv, html, keep)


@app.command()
def prefill(
    *,
    model: o.Model = o.DEFAULT_MODEL,
    plans: Annotated[
        list[str],
        typer.Option(
            "--plan",
            default_factory=lambda: ["minference:budget=0.1"],
            help="A method that reads prompts sparsely, with its knobs; repeatable.",
        ),
    ],
    length: Annotated[int, typer.Option("--length", help="Tokens of the document.")] = 4096,
    questions: Annotated[int, typer.Option("--questions", help="Facts in it, each asked for.")] = 8,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the document.")] = 0,
    texts: Texts = None,
    threads: o.Threads = None,
    keep: Keep = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """A document read whole and sparsely, piece by piece in turn: seconds, entries read, and the facts each can tell."""
    check(csv, html, keep)
    from fewer.bench.prefill import measure

    with telling() as say:
        result = measure(model, plans, length, questions, seed, say, threads, texts, keep)
    deliver(result, as_json, csv, html, keep)


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
def reach(
    model: o.Model = o.DEFAULT_MODEL,
    ways: Annotated[
        list[str] | None,
        typer.Option("--way", help="A rope such as yarn:factor=2, ssmax, or both joined by +; repeatable."),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Tokens of the text.")] = 12288,
    band: Annotated[int, typer.Option("--band", help="Positions a figure.")] = 2048,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the text.")] = 0,
    threads: o.Threads = None,
    folder: Annotated[Path | None, typer.Option("--keep", help="Keep the result as JSON in this folder.")] = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Perplexity by position, inside and beyond the trained length, with other rotations and score scales."""
    check(csv, html)
    from fewer.bench.reach import measure

    keep = None if folder is None else folder / f"reach-{Path(model).stem}.json"
    with telling() as say:
        result = measure(model, ways or None, tokens, band, seed, say, threads, keep)
    deliver(result, as_json, csv, html)


@app.command()
def endless(
    *,
    model: o.Model = o.DEFAULT_MODEL,
    plans: Annotated[
        list[str],
        typer.Option("--plan", default_factory=lambda: ["infiniretri"], help="A method that makes room; repeatable."),
    ],
    lengths: Annotated[
        list[int],
        typer.Option("--length", default_factory=lambda: [16384], help="Tokens of a text; repeatable."),
    ],
    items: Annotated[int, typer.Option("--items", help="Questions a length, each at another depth.")] = 2,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the texts.")] = 0,
    threads: o.Threads = None,
    keep: Keep = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """A needle in texts longer than the model's context: found or not, peak memory, seconds."""
    check(csv, html)
    from fewer.bench.endless import measure

    with telling() as say:
        result = measure(model, plans, lengths, items, seed, say, threads, keep)
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
def long(
    *,
    model: o.Model = o.DEFAULT_MODEL,
    plans: Annotated[
        list[str],
        typer.Option(
            "--plan",
            default_factory=list,
            show_default=False,
            help='Methods joined by " + "; repeatable. Default: all that keep, read or store less.',
        ),
    ],
    names: Annotated[
        list[str],
        typer.Option("--task", default_factory=list, show_default=False, help="A task; repeatable. Default: all."),
    ],
    lengths: Annotated[
        list[int],
        typer.Option(
            "--length",
            default_factory=lambda: [1024, 2048],
            show_default="1024 and 2048",
            help="Tokens of a document; repeatable.",
        ),
    ],
    protocols: Annotated[
        list[str],
        typer.Option(
            "--protocol",
            default_factory=lambda: ["aware", "agnostic"],
            show_default="both",
            help="aware: methods see the question before they decide; agnostic: they do not. Repeatable.",
        ),
    ],
    items: Annotated[int, typer.Option("--items", help="Documents a task and length.")] = 5,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the tasks.")] = 0,
    texts: Texts = None,
    show: Annotated[bool, typer.Option("--sample", help="Print one item of each task and stop.")] = False,
    threads: o.Threads = None,
    peer_python: Annotated[
        Path | None, typer.Option("--peer-python", help="The Python of an environment that has kvpress and gguf.")
    ] = None,
    keep: Keep = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Long documents: what is left of the answers when a plan keeps or reads less, and what it costs."""
    check(csv, html)
    from fewer.bench.long import measure as m

    if show:
        _samples(m.sample(model, names or None, lengths[0], seed, texts), as_json)
        return
    with telling() as say:
        result = m.measure(
            model, plans or None, names or None, lengths, protocols, items, seed, texts, threads, say, keep, peer_python
        )
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


def _samples(items: list[Any], as_json: bool) -> None:
    """Items of `bench long` as they would be asked."""
    if as_json:
        to_stdout(json.dumps([asdict(i) for i in items], ensure_ascii=False) + "\n")
        return
    for i in items:
        depth = "everywhere" if i.depth is None else f"at {i.depth:.0%} of the document"
        to_stdout(f"== {i.task}: the answer lies {depth}\n{i.document}\n\n{i.question}\n-> {'; '.join(i.answers)}\n\n")
