"""`fewer bench`, long contexts: documents (long, prefill), endless text, decoding in a filled cache, positions beyond training.

The commands of bench.py, which registers them.
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

Texts = Annotated[
    Path | None,
    typer.Option(
        "--texts",
        envvar="FEWER_LONG_TEXTS",
        help="Folder with squad.json and hotpotqa.json: real questions, Wikipedia as haystack.",
    ),
]


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
    documents: Annotated[int, typer.Option("--documents", help="Documents, each of the next seed.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the document.")] = 0,
    texts: Texts = None,
    threads: o.Threads = None,
    keep: Keep = None,
    as_json: o.Json = False,
    csv: Csv = None,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Documents read whole and sparsely, piece by piece in turn: seconds, entries read, and the facts each can tell."""
    check(csv, html, keep)
    from fewer.bench.prefill import measure

    with telling() as say:
        result = measure(model, plans, length, questions, seed, say, threads, texts, keep, documents)
    deliver(result, as_json, csv, html, keep)


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
    check(csv, html, keep)
    from fewer.bench.endless import measure

    with telling() as say:
        result = measure(model, plans, lengths, items, seed, say, threads, keep)
    deliver(result, as_json, csv, html)


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
    check(csv, html, keep)
    from fewer.bench.long import measure as m

    if show:
        _samples(m.sample(model, names or None, lengths[0], seed, texts), as_json)
        return
    with telling() as say:
        result = m.measure(
            model, plans or None, names or None, lengths, protocols, items, seed, texts, threads, say, keep, peer_python
        )
    deliver(result, as_json, csv, html)


def _samples(items: list[Any], as_json: bool) -> None:
    """Items of `bench long` as they would be asked."""
    if as_json:
        to_stdout(json.dumps([asdict(i) for i in items], ensure_ascii=False) + "\n")
        return
    for i in items:
        depth = "everywhere" if i.depth is None else f"at {i.depth:.0%} of the document"
        to_stdout(f"== {i.task}: the answer lies {depth}\n{i.document}\n\n{i.question}\n-> {'; '.join(i.answers)}\n\n")
