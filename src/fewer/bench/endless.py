"""`fewer bench endless`: a needle in texts longer than the model's context, for methods that make them fit.

Each text hides facts as the task `needle` does (tasks.py), the one asked for at another depth each time. Reported an item:
was the value in the answer, was its sentence among the tokens that were left, KV bytes at the peak, rows, seconds. Bounded
memory shows as a peak that stays while the length grows.
Does not: run plain beside it, which cannot; make new text beyond Python's own, which repeats after about 170k tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fewer
from fewer.bench.record import head, save
from fewer.bench.tasks import make
from fewer.errors import BadRequest
from fewer.plan import plan

Say = Callable[[str], None]


def measure(
    model: str = "smollm2-135m",
    plans: Sequence[str] = ("infiniretri",),
    lengths: Sequence[int] = (16384,),
    n_items: int = 2,
    seed: int = 0,
    say: Say = lambda s: None,
    threads: int | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Ask `n_items` questions of each plan at each length. keep: file for the result, written after every answer.

    Raises BadRequest, and what opening a model or making a plan raises."""
    if n_items < 1 or min(lengths) < 1024:
        raise BadRequest(f"items={n_items} must be at least 1, and every length at least 1024 tokens")
    for p in plans:
        if not plan([p]).makes_room:
            raise BadRequest(f"{p} does not make a longer text fit: use a transform or a window")
    say(f"loading {model}")
    eng = fewer.open(model, threads=threads)
    assert eng.tokenizer is not None
    encode, decode = eng.tokenizer.encode, eng.tokenizer.decode
    given = "".join(f" --plan {p}" for p in plans) + "".join(f" --length {n}" for n in lengths)
    out: dict[str, Any] = {
        **head("endless", f"fewer bench endless -m {model} --items {n_items} --seed {seed}{given}", seed),
        "model": model,
        "context": eng.model.spec.max_context,
        "results": [],
    }
    for tokens in lengths:
        for i, item in enumerate(make("needle", n_items, tokens, seed, lambda text: len(encode(text, bos=False)))):
            for use in plans:
                say(f"{use}: {tokens} tokens, item {i + 1} of {n_items}")
                began = time.perf_counter()
                stream = eng.stream(item.prompts[0], use=[use], max_tokens=item.max_tokens)
                for _ in stream:
                    pass
                led, said = stream.result.ledger, stream.result.text
                kept = decode(stream.kept)
                out["results"].append(
                    {
                        "plan": use,
                        "tokens": led.prompt_tokens,
                        "depth": round(i / n_items, 3),
                        "found": item.value in said,
                        "kept": item.value in kept,
                        "kept_tokens": led.kept_tokens,
                        "kv_peak": led.kv_bytes_peak,
                        "layers_a_token": round(led.layers_run / led.prompt_tokens, 2),
                        "seconds": round(time.perf_counter() - began, 1),
                    }
                )
                if keep is not None:
                    save(keep, out)
    return out
