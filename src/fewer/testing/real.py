"""`fewer verify --real`: greedy texts of a real model with every lossless drafter and without, token by token.

Prompts are of six kinds of work (bench/kinds.py). Each row's texts are generated in one batch with the guard off, so every
draft is asked for and verified whole; the model's end is passed over, so all texts have the full length. Methods that run
a second model get the one named, else the model's own first layers. Does not: sample (the enumeration of tiny models does),
time anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import fewer
from fewer.bench import kinds
from fewer.bench.record import head, save
from fewer.card import Card, cards, find
from fewer.engine import Engine
from fewer.errors import BadRequest, FewerError
from fewer.models.beside import Beside, Side
from fewer.models.decoder import Decoder

SHARE = 3  # one layer in so many makes the model's own draft model
WORDS = 60  # tokens that a kind may want in its prompts' answers
COMMAND = "fewer verify --real"


def measure(
    names: Sequence[str] | None,
    model: str,
    draft: str | None = None,
    prompts: int = 20,
    tokens: int = 200,
    threads: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """-> the head of record.py with "rows": {name: {"same", "of", "tokens", "forwards", "accepted", "rejected"}} and "failed".

    names: rows or plans as for --use; None = every lossless drafter. Raises BadRequest, UnknownMethod, ModelError.
    """
    if prompts < 1 or tokens < 2:
        raise BadRequest(f"--prompts must be at least 1, --tokens 2, not {prompts} and {tokens}")
    rows = list(names) if names else [c.name for c in cards().values() if drafts(c)]
    for row in rows:
        if not drafts(find(row.partition(":")[0])):
            raise BadRequest(f"{row} is no lossless drafter: --real compares texts that must be plain decoding's")
    say(f"loading {model}")
    eng = fewer.open(model, draft=draft, threads=threads)
    if draft is None:
        eng = with_own_layers(eng)
    assert eng.beside is not None
    asked = ask(eng, prompts)
    options: dict[str, Any] = {"max_tokens": tokens, "ignore_eos": True, "share_prefix": False}
    say(f"{prompts} texts of {tokens} tokens: plain")
    want = [r.tokens for r in eng.generate(asked, **options)]
    found: dict[str, dict[str, int]] = {}
    failed: dict[str, str] = {}
    for row in rows:
        say(f"{prompts} texts of {tokens} tokens: {row}")
        try:
            got = eng.generate(asked, use=[row], guard=False, **options)
        except FewerError as e:
            failed[row] = str(e)
            continue
        found[row] = {
            "same": sum(r.tokens == w for r, w in zip(got, want)),
            "of": len(want),
            "tokens": sum(len(r.tokens) for r in got),
            "forwards": sum(r.ledger.models["main"].forwards for r in got),
            "accepted": sum(r.ledger.accepted_tokens for r in got),
            "rejected": sum(r.ledger.rejected_tokens for r in got),
        }
    sizes = f"-m {model} --prompts {prompts} --tokens {tokens}" + (f" --draft {draft}" if draft else "")
    return {
        **head("real", " ".join([COMMAND, *rows, sizes]), 0),
        "model": model,
        "draft": eng.beside.draft.name,
        "prompts": prompts,
        "length": tokens,
        "rows": found,
        "failed": failed,
    }


def keep(folder: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON. What was found before on the same machine, versions, models and sizes stays beside it, so
    rows may be measured in several runs. Raises BadRequest if the file cannot be written."""
    path = folder / f"real-{Path(result['model']).stem}.json"
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        old = {}
    alike = ("machine", "versions", "model", "draft", "prompts", "length")
    if all(old.get(key) == result[key] for key in alike):
        rows = {**old["rows"], **result["rows"]}
        sizes = result["command"][result["command"].index("-m ") :]
        result = {**result, "rows": rows, "command": " ".join([COMMAND, *rows, sizes])}
    save(path, result)


def drafts(card: Card) -> bool:
    return card.seam == "propose" and "lossless" in card.claims


def ask(eng: Engine, prompts: int) -> list[list[int]]:
    """So many prompts, the kinds in turn, in the model's own chat template."""
    assert eng.tokenizer is not None
    tokenizer = eng.tokenizer
    each = -(-prompts // len(kinds.KINDS))
    made = [kinds.make(k, each, WORDS, 1, lambda t: len(tokenizer.encode(t, bos=False))) for k in kinds.KINDS]
    return [_ids(eng, kind[n].prompts[0], kind[n].raw) for n in range(each) for kind in made][:prompts]


def _ids(eng: Engine, text: str, raw: bool) -> list[int]:
    assert eng.tokenizer is not None
    if raw or eng.chat is None:
        return eng.tokenizer.encode(text)
    return eng.chat.encode(eng.tokenizer, [{"role": "user", "content": text}])


def with_own_layers(eng: Engine) -> Engine:
    """The same engine with the model's own first layers as its draft model."""
    main = eng.model
    assert eng.tokenizer is not None
    n = max(1, main.spec.n_layers // SHARE)
    spec = replace(main.spec, n_layers=n, ropes=main.spec.ropes[:n], windows=main.spec.windows[:n])
    small = Decoder(spec, main.blocks[:n], main.head, main.dtype, main.device, main.kv_dtype)
    sides = Side(eng.name, main.spec, eng.tokenizer), Side(f"its own first {n} layers", spec, eng.tokenizer)
    return Engine(main, eng.tokenizer, eng.chat, {"draft": small}, Beside(*sides), name=eng.name)
