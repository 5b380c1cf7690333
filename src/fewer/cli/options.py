"""Options that several commands share, each declared once. Short flags are llama.cpp's: -m -f -p -n -t."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fewer.cli.config import apply_config

DEFAULT_MODEL = "smollm2-135m"
HEALING = ("none", "plain", "align", "exact")

Model = Annotated[
    str,
    typer.Option("--model", "-m", help="A known name, .gguf file, Hugging Face folder, or hub id org/name@revision."),
]
Draft = Annotated[
    str | None, typer.Option("--draft", help="A second, smaller model for methods that draft with one; as --model.")
]
Use = Annotated[
    list[str],
    typer.Option("--use", default_factory=list, help="A method, NAME[:knob=value,...]; repeat it to combine methods."),
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", "-n", help="Most tokens to generate. Default: what the context has left.")
]
Temp = Annotated[float, typer.Option("--temp", help="Temperature; 0 always takes the likeliest token.")]
TopK = Annotated[int, typer.Option("--top-k", help="Sample among the k likeliest tokens; 0 = off.")]
TopP = Annotated[
    float, typer.Option("--top-p", help="Sample among the likeliest tokens making up this share; 1 = off.")
]
MinP = Annotated[float, typer.Option("--min-p", help="Drop tokens below this share of the likeliest one's; 0 = off.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the draws; none = a different text each time.")]
Stop = Annotated[
    list[str], typer.Option("--stop", default_factory=list, help="End the text before this string; repeatable.")
]
Healing = Annotated[
    str,
    typer.Option(
        "--healing", help="With --raw, a prompt that ends inside a token: none; plain: one token back; align; exact."
    ),
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="auto: the file's own packed weights; float32 or bfloat16: dequantised.")
]
Weights = Annotated[str, typer.Option("--weights", help="Pack dense weights on load: int8 or int4.")]
Activations = Annotated[
    str, typer.Option("--activations", help="int8, or int16: texts as of float32 weights, at the price of speed.")
]
Rope = Annotated[
    str | None,
    typer.Option(
        "--rope",
        help="A longer context by other rotations: yarn, ntk, linear, power, truncated or random, e.g. yarn:factor=4.",
    ),
]
Scores = Annotated[
    str | None, typer.Option("--scores", help="ssmax: attention scores that grow with the logarithm of the length.")
]
Threads = Annotated[int | None, typer.Option("--threads", "-t", help="CPU threads. Default: one a physical core.")]
Guard = Annotated[
    bool, typer.Option("--guard/--no-guard", help="Draft only as much as pays, or all a drafter has to offer.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No ledger on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback with an error.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        callback=apply_config,
        is_eager=True,
        help="A YAML file whose keys are long option names; options given here win.",
    ),
]
