"""`fewer run`: the main job. One prompt, a plan, the text on stdout and the ledger on stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fewer.cli import options as o
from fewer.cli.console import err, ledger_table
from fewer.cli.inputs import gather
from fewer.cli.page import write_page
from fewer.cli.session import Loading, answer, to_stdout, warm_up
from fewer.errors import BadRequest, PromptTooLong
from fewer.report import check_target
from fewer.report_figures import NamedRun

if TYPE_CHECKING:
    from fewer.engine import Engine


def run(
    question: Annotated[str | None, typer.Argument(help="What to ask. Follows the documents in the prompt.")] = None,
    *,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="The question, as an option.")] = None,
    model: o.Model = o.DEFAULT_MODEL,
    file: Annotated[
        list[str],
        typer.Option("--file", "-f", default_factory=list, help="A UTF-8 text before the question; - = stdin."),
    ],
    use: o.Use,
    draft: o.Draft = None,
    max_tokens: o.MaxTokens = None,
    temp: o.Temp = 0.0,
    top_k: o.TopK = 0,
    top_p: o.TopP = 1.0,
    min_p: o.MinP = 0.0,
    seed: o.Seed = None,
    stop: o.Stop,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template: continue the text as it stands.")] = False,
    healing: o.Healing = "none",
    guard: o.Guard = True,
    compare: Annotated[bool, typer.Option("--compare", help="Run plain first; show both ledgers.")] = False,
    dtype: o.Dtype = "auto",
    weights: o.Weights = "auto",
    activations: o.Activations = "int8",
    rope: o.Rope = None,
    scores: o.Scores = None,
    threads: o.Threads = None,
    report: Annotated[Path | None, typer.Option("--report", help="Also write an HTML report to this file.")] = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    config: o.Config = None,
    debug: o.Debug = False,
) -> None:
    """Answer a question, about files if you give some, and print what it cost."""
    if question is not None and prompt is not None:
        raise BadRequest("give the question once: as an argument or with --prompt")
    text = gather(question if prompt is None else prompt, file, raw)
    check_plan(use)
    check_healing(healing, raw)
    if report is not None:
        check_target(report)
    engine = Loading(model, dtype, weights, activations, threads, draft, rope, scores).open()
    sampling = {"max_tokens": max_tokens, "temperature": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    request = {**sampling, "seed": seed, "stop": stop, "raw": raw, "healing": healing, "guard": guard}
    request |= {"share_prefix": not compare}
    told = not (as_json or quiet)
    plain = _plain(engine, text, use, told, request) if compare else None
    if plain is not None and plain.cancelled:
        runs = [plain]
    else:
        own = answer(engine, text, plan_name(use), use, None if as_json else to_stdout, **request)
        runs = [own] if plain is None else [plain, own]
    last = runs[-1]
    if as_json:
        beside = {"plain": None if plain is None else plain.to_dict()} if compare else {}
        to_stdout(json.dumps({**last.to_dict(), **beside}, ensure_ascii=False) + "\n")
    elif last is not plain and not last.result["text"].endswith("\n"):
        to_stdout("\n")
    if told:
        for i, other in enumerate(last.result.get("drafts", ())[1:], 2):
            err.print(f"draft {i}: {other}", style="dim", markup=False, soft_wrap=True)
        err.print(ledger_table(runs))
    if report is not None:
        page = write_page(report, runs, "fewer run", model, file, question or prompt or "", text)
        err.print(f"report: {page}", soft_wrap=True)
    if last.cancelled:
        raise typer.Exit(130)


def _plain(engine: Engine, text: str, use: Sequence[str], told: bool, request: dict[str, Any]) -> NamedRun | None:
    """The run to compare with, its text on stderr; None if the prompt is too long for it and a plan will shorten it."""
    warm_up(engine)
    if told:
        err.print("plain", style="bold dim")
    try:
        plain = answer(engine, text, "plain", (), _aside if told else None, **request)
    except PromptTooLong as e:
        if not use:
            raise
        err.print(f"nothing to compare with: {e}", style="yellow", markup=False, soft_wrap=True)
        return None
    if told:
        err.print(f"\n\n{plan_name(use)}", style="bold")
    return plain


def plan_name(use: Sequence[str]) -> str:
    """The plan's methods without their knobs: the name of a column."""
    return " + ".join(u.partition(":")[0] for u in use) or "plain"


def check_plan(use: list[str]) -> None:
    """Refuse a bad plan before a model is fetched or loaded. Raises UnknownMethod, BadKnob, CannotCombine."""
    if use:
        from fewer.plan import plan

        plan(use)


def check_healing(kind: str, raw: bool) -> None:
    """Raises BadRequest for healing that is not there, or of a prompt that a chat template ends."""
    if kind not in o.HEALING:
        raise BadRequest(f"--healing {kind} is not one of {', '.join(o.HEALING)}")
    if kind != "none" and not raw:
        raise BadRequest(
            "--healing is for text that may end inside a token: add --raw, a chat prompt ends where one ends"
        )


def _aside(piece: str) -> None:
    """The plain run's text, beside the answer: on stderr."""
    err.print(piece, end="", style="dim", markup=False, soft_wrap=True)
