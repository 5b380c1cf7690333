"""`fewer tokens transplant`: a model under another tokenizer, as a folder to open, with figures before and after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer.cli import options as o
from fewer.cli.results import Html, check, deliver, telling
from fewer.cli.tokens_shared import headed, shown
from fewer.errors import BadRequest

if TYPE_CHECKING:
    from fewer.tokens.transfer.adapt import Lessons


def transplant(
    model: Annotated[str, typer.Argument(help="The model that gets another tokenizer: a name, a .gguf, a folder.")],
    *,
    to: Annotated[str, typer.Option("--to", help="A tokenizer.json, or a model whose tokenizer is taken.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder to write. Default: only measure.")] = None,
    how: Annotated[
        list[str],
        typer.Option(
            "--how", default_factory=list, help="zero, mean, fvt, tokenadapt or omp; repeatable without --out."
        ),
    ],
    k: Annotated[int, typer.Option("--k", help="omp: shared tokens that one new token is made of.")] = 16,
    atoms: Annotated[
        int | None,
        typer.Option("--atoms", min=1, help="omp: look only among so many, spread evenly. Default: all."),
    ] = None,
    centre: Annotated[
        bool,
        typer.Option("--centre/--no-centre", help="omp: spell the difference from the mean row; the paper does not."),
    ] = True,
    near: Annotated[int, typer.Option("--near", help="tokenadapt: old tokens of the global estimate.")] = 5,
    mix: Annotated[float, typer.Option("--mix", help="tokenadapt: the global estimate's share.")] = 0.3,
    adapt: Annotated[
        str | None, typer.Option("--adapt", help="Then train the rows: alm, kl, text or hyper. Default: not at all.")
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", help="How long to adapt.")] = 10.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the adaptation.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the folder: float16, bfloat16 or float32.")] = "float16",
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that this command wrote.")] = False,
    languages: Annotated[
        list[str],
        typer.Option(
            "--language",
            default_factory=list,
            help="Judge by the Declaration in these (eng fra ...), docs, code; adapt on them.",
        ),
    ],
    texts: Annotated[list[str], typer.Option("--text", default_factory=list, help="Judge by this file; repeatable.")],
    nbytes: Annotated[int, typer.Option("--bytes", min=64, help="Bytes of each text.")] = 3000,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Measure before and after.")] = True,
    threads: o.Threads = None,
    keep: Annotated[Path | None, typer.Option("--keep", help="Also keep the result as this JSON file.")] = None,
    as_json: o.Json = False,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Give a model another tokenizer, and say what it costs (bits a byte) and saves (tokens, prefill)."""
    check(html, keep)
    from fewer.tokens.transfer.folder import DTYPES, check_folder
    from fewer.tokens.transfer.starts import HOW, Knobs

    ways, knobs = how or ["fvt"], Knobs(k, near, mix, atoms, centre)
    if wrong := [w for w in ways if w not in HOW]:
        raise BadRequest(f"--how {wrong[0]!r} is not one of {', '.join(HOW)}")
    if dtype not in DTYPES:
        raise BadRequest(f"--dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if (out is not None or adapt is not None) and len(ways) > 1:
        raise BadRequest("several --how are for measuring alone: leave out --out and --adapt, or choose one")
    if out is None and not report:
        raise BadRequest("there is nothing to do: give --out FOLDER, or leave out --no-report")
    if out is not None:
        check_folder(out, force)
    from fewer.cli.session import on_interrupt
    from fewer.tokens.transfer import adapt as training
    from fewer.tokens.transfer import bits, folder
    from fewer.tokens.transfer import transplant as work
    from fewer.tokens.transfer.ends import open_model, open_target

    lessons: Lessons | None = None if adapt is None else training.Lessons(adapt, minutes, seed, tuple(languages))
    with telling() as say:
        import torch

        from fewer.kernels.cpu import set_threads

        torch.set_num_threads(set_threads(threads))
        say(f"opening {model}")
        old, new = open_model(model), open_target(to)
        held = _texts(languages, texts, nbytes) if report else {}
        result: dict[str, Any] = headed("tokens transplant", seed)
        if lessons is None and out is None:
            result |= work.report(old, new, ways, knobs, held, say)
        else:
            dense = work.body(old)
            made = work.transplant(old, new, ways[0], knobs, say)
            result |= work.about(old, new, knobs, made)
            if report:
                say("before")
                result["before"] = work.judge(dense, old.tokenizer, held)
                say("after")
                result["ways"] = {ways[0]: work.judge(made.model(dense), made.tokenizer, held)}
            if lessons is not None:
                with on_interrupt(lessons.stop):
                    made, learnt = training.adapt(old, made, dense, lessons, say)
                name = f"{ways[0]}, {adapt}"
                result["adapted"] = {name: learnt}
                if report:
                    result["ways"][name] = work.judge(made.model(dense), made.tokenizer, held)
            if report:
                say("prefill")
                pair = (dense, old.tokenizer), (made.model(dense), made.tokenizer)
                result["prefill_seconds"] = dict(zip(("before", "after"), bits.prefill_seconds(*pair, held)))
            if out is not None:
                say(f"writing {out}")
                facts = {**result, "how": ways[0]}
                result["folder"] = str(
                    folder.write(out, old, made.backend, made.rows, made.template, facts, dtype, force)
                )
    from fewer.tokens.transfer.sheets import sheets

    deliver(result, as_json, None, html, keep, sheets(result) if report else [])
    if not as_json and out is not None:
        from fewer.cli.session import to_stdout

        to_stdout(f"{result['folder']}: fewer run -m {result['folder']}\n")


def _texts(languages: list[str], files: list[str], nbytes: int) -> dict[str, str]:
    from fewer.cli.inputs import read_file
    from fewer.tokens.transfer.texts import LANGUAGES, OTHERS, judged

    names = languages or ([] if files else [*LANGUAGES, *OTHERS])
    out = judged(names, nbytes)
    for path in files:
        name, text = shown(path), read_file(path).text
        out[name] = text.encode()[:nbytes].decode(errors="ignore")
        if not out[name].strip():
            raise BadRequest(f"{path} holds no text to judge by")
    return out
