"""`fewer chat`: a conversation. The engine's prefix cache keeps the earlier turns, so a turn costs only what is new.

Works piped too: each line of standard input is one message. Does not: edit or branch earlier turns, load a saved talk.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewer.cli import options as o
from fewer.cli.console import err, ledger_table
from fewer.cli.inputs import decode
from fewer.cli.run import check_plan, plan_name
from fewer.cli.session import Loading, answer, to_stdout
from fewer.errors import BadRequest, FewerError
from fewer.report_figures import NamedRun

if TYPE_CHECKING:
    from fewer.engine import Engine

HELP = "/reset forgets the talk, /save FILE writes it as JSON, /ledger shows the last turn's cost, /quit ends it."


@dataclass
class Talk:
    """One conversation: the messages so far and what the last turn cost."""

    engine: Engine
    use: list[str]
    options: dict[str, Any]
    messages: list[dict[str, str]] = field(default_factory=list)
    last: NamedRun | None = None

    def say(self, text: str) -> None:
        """One turn: stream the answer to stdout, remember both sides. An interrupted answer is kept as far as it got."""
        messages = [*self.messages, {"role": "user", "content": text}]
        self.last = answer(self.engine, messages, plan_name(self.use), self.use, to_stdout, **self.options)
        to_stdout("\n")
        said = self.last.result["text"]
        if said:
            self.messages = [*messages, {"role": "assistant", "content": said}]
        if self.last.cancelled:
            err.print("(stopped)", style="dim")

    def reset(self, _: str) -> None:
        self.messages, self.last = [], None

    def ledger(self, _: str) -> None:
        if self.last is None:
            err.print("nothing has run yet")
        else:
            err.print(ledger_table([self.last]))

    def save(self, where: str) -> None:
        """Write the messages as JSON. Raises BadRequest."""
        if not where:
            raise BadRequest("/save wants a file name: /save talk.json")
        text = json.dumps({"model": self.engine.name, "messages": self.messages}, ensure_ascii=False, indent=1)
        try:
            Path(where).expanduser().write_text(text + "\n", encoding="utf-8")
        except OSError as e:
            raise BadRequest(f"cannot write {where}: {e.strerror or e}") from None
        err.print(f"saved {where}")

    def help(self, _: str) -> None:
        err.print(HELP)


def chat(
    *,
    model: o.Model = o.DEFAULT_MODEL,
    use: o.Use,
    draft: o.Draft = None,
    max_tokens: o.MaxTokens = None,
    temp: o.Temp = 0.0,
    top_k: o.TopK = 0,
    top_p: o.TopP = 1.0,
    min_p: o.MinP = 0.0,
    seed: o.Seed = None,
    stop: o.Stop,
    dtype: o.Dtype = "auto",
    weights: o.Weights = "auto",
    activations: o.Activations = "int8",
    rope: o.Rope = None,
    scores: o.Scores = None,
    threads: o.Threads = None,
    config: o.Config = None,
    debug: o.Debug = False,
) -> None:
    """Talk with a model; earlier turns come from the cache. /help lists the commands."""
    check_plan(use)
    engine = Loading(model, dtype, weights, activations, threads, draft, rope, scores).open()
    sampling = {"max_tokens": max_tokens, "temperature": temp, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    talk = Talk(engine, use, {**sampling, "seed": seed, "stop": stop})
    if sys.stdin.isatty():
        err.print(f"{model}. {HELP}", style="dim")
        _converse(talk)
    else:
        for number, data in enumerate(sys.stdin.buffer, 1):
            if not _turn(talk, decode(data, f"line {number} of standard input").strip()):
                break


def _typed_line() -> str:
    """One line from the terminal, with history and line editing where Python has readline."""
    if os.name == "posix":
        import readline  # noqa: F401  (input() uses it once it is loaded)
    return input("> ")


def _converse(talk: Talk) -> None:
    """Turns until the end of input. An error ends the turn, not the talk."""
    while True:
        try:
            line = _typed_line()
        except EOFError:
            to_stdout("\n")
            return
        try:
            if not _turn(talk, line.strip()):
                return
        except FewerError as e:
            err.print(f"fewer: {e}", style="red", markup=False)


def _turn(talk: Talk, line: str) -> bool:
    """Do what one line says; False ends the talk. Raises FewerError."""
    commands = {"/reset": talk.reset, "/ledger": talk.ledger, "/save": talk.save, "/help": talk.help}
    name, _, rest = line.partition(" ")
    if name in ("/quit", "/exit"):
        return False
    if name in commands:
        commands[name](rest.strip())
    elif line.startswith("/"):
        raise BadRequest(f"unknown command {name}. {HELP}")
    elif line:
        talk.say(line)
    return True
