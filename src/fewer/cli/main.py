"""`fewer`: the command line. Results go to stdout, everything else to stderr.

This is the one place where an error becomes a line on stderr and an exit code: 2 for what the caller can mend, 70 for a
bug in fewer, 130 for Ctrl-C, 1 for a failed check. `--debug` anywhere adds the traceback. Nothing here imports torch:
each command does so when it needs an engine.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated

import typer

import fewer
from fewer.cli import bench, chat, demo, doctor, inspect, methods, models, run, tokens, train, verify
from fewer.errors import FewerError

REPORT = "This is a bug in fewer: run it again with --debug and please report what it prints."

app = typer.Typer(
    name="fewer",
    help="A token-efficient LLM engine and method library: one engine, one ledger, every saving proved.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fewer {fewer.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of `fewer` itself."""


app.command("run")(run.run)
app.command("chat")(chat.chat)
app.command("demo")(demo.demo)
app.command("methods")(methods.methods)
app.command("verify")(verify.verify)
app.command("trace")(inspect.trace)
app.add_typer(inspect.app, name="inspect")
app.add_typer(bench.app, name="bench")
app.add_typer(models.app, name="models")
app.add_typer(tokens.app, name="tokens")
app.add_typer(train.app, name="train")
app.command("doctor")(doctor.doctor)


def main(argv: list[str] | None = None) -> None:
    """Run one command line (sys.argv by default). Always ends in SystemExit."""
    args = sys.argv[1:] if argv is None else argv
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character gets "?", not an error
    try:
        app(args, prog_name="fewer")
    except KeyboardInterrupt:
        code = 130
    except FewerError as e:
        code = e.exit_code
        _explain(e, f"fewer: {e}", "--debug" in args)
    except Exception as e:
        code = 70
        _explain(e, f"fewer: unexpected {type(e).__name__}: {e}. {REPORT}", "--debug" in args)
    sys.exit(code)


def _explain(error: Exception, line: str, debug: bool) -> None:
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    print(" ".join(line.split()), file=sys.stderr)


if __name__ == "__main__":
    main()
