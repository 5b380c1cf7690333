"""`fewer bench methods`: what each method of the catalogue saves and costs on a real model, beside the plain run.

For every row, its `task` and its `measure` settings: each item runs plain and with every setting, in turn, the order
changing from item to item. What is reported is the median over items of the ratio method / plain, so below 1 is less:

    kv_peak, kv_end   allocated KV bytes           reads    KV entries read a forward, after the first text
    layers            rows x layers a token        forwards a token
    prefill           seconds before decoding      decode   tokens a second after that (above 1 is faster)
    seconds           of the whole call

and, not as ratios: quality (the task's own judgement) and agreement (share of equal leading tokens with the plain
answer). Lossy rows are also teacher-forced: logprob of the true value, perplexity of the text that really follows a
document. Everything is greedy. Does not: tune a method, average over models, sample.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fewer
from fewer.bench.record import head, save
from fewer.bench.run import Run, run
from fewer.bench.tasks import Item, make
from fewer.bench.teacher import shared, teach
from fewer.card import Card, cards, find
from fewer.engine import Engine
from fewer.errors import BadRequest, FewerError

PLAIN = "plain"
RATIOS = ("kv_peak", "kv_end", "reads", "layers", "forwards", "prefill", "decode", "seconds")
Say = Callable[[str], None]


def measure(
    names: list[str] | None = None,
    model: str = "smollm2-135m",
    n_items: int = 6,
    tokens: int = 1200,
    seed: int = 0,
    say: Say = lambda s: None,
    threads: int | None = None,
    folder: Path | None = None,
    draft: str | None = None,
) -> dict[str, Any]:
    """Measure rows of the catalogue (None = all) -> {"what": "methods", ..., "results": [a dict a setting]}.

    tokens: length of the documents. folder: where one JSON a row is kept; None = nowhere. draft: a second model for rows
    that use one. Raises BadRequest, UnknownMethod and what opening a model raises; a row that cannot run is reported
    with its "error".
    """
    if n_items < 1 or tokens < 64:
        raise BadRequest(f"n_items={n_items} must be at least 1 and tokens={tokens} at least 64")
    chosen = [find(n) for n in names] if names else list(cards().values())
    say(f"loading {model}")
    eng = fewer.open(model, threads=threads, draft=draft)
    if tokens + 200 > eng.model.spec.max_context:
        raise BadRequest(
            f"{tokens} tokens and 200 beside them exceed {model}'s context of {eng.model.spec.max_context}"
        )

    def whole(what: list[str], results: list[dict[str, Any]]) -> dict[str, Any]:
        given = f"-m {model}{f' --draft {draft}' if draft else ''} --items {n_items} --tokens {tokens} --seed {seed}"
        return {**head("methods", " ".join(["fewer bench methods", *what, given]), seed), "results": results}

    rows: list[dict[str, Any]] = []
    for card in chosen:
        own = Row(eng, card, n_items, tokens, seed, say).measure()
        rows += own
        if folder is not None:
            save(folder / f"{card.name}.json", whole([card.name], own))
    return whole(names or [], rows)


class Row:
    """The measurement of one catalogue row: its plans, its items, and what every plan did with them."""

    def __init__(self, eng: Engine, card: Card, n_items: int, tokens: int, seed: int, say: Say) -> None:
        assert eng.tokenizer is not None
        encode = eng.tokenizer.encode
        self.eng, self.card, self.say = eng, card, say
        self.plans = {s: [f"{card.name}:{s}" if s else card.name] for s in card.measure or ("",)}

        def items(task: str) -> list[Item]:
            return make(task, n_items, tokens, seed, lambda text: len(encode(text, bos=False)))

        self.items = items(card.task)
        self.texts = items("text") if "lossy" in card.claims else []

    def measure(self) -> list[dict[str, Any]]:
        """A dict a setting."""
        try:
            self._warm_up()
            runs = self._turns(self.items, "items", lambda item, use: run(self.eng, item, use))
            valued = [i for i in self.items if i.value] if self.texts else []
            values = self._turns(valued, "values", lambda item, use: teach(self.eng, item, use).mean)
            logprobs = self._turns(self.texts, "texts", lambda item, use: teach(self.eng, item, use).mean)
        except FewerError as e:
            return [{**self._head(s), "error": str(e)} for s in self.plans]
        return [self._report(s, runs, values, logprobs) for s in self.plans]

    def _warm_up(self) -> None:
        for use in ([], *self.plans.values()):
            self.eng.generate("warm up", raw=True, use=use, max_tokens=2, share_prefix=False)

    def _turns(self, items: list[Item], what: str, do: Callable[[Item, list[str]], Any]) -> dict[str, list[Any]]:
        """do(item, plan) for all items and plans -> plan -> a result an item; who goes first changes from item to item."""
        everyone = [(PLAIN, []), *self.plans.items()]
        out: dict[str, list[Any]] = {name: [] for name, _ in everyone}
        for i, item in enumerate(items):
            for name, use in everyone[i % len(everyone) :] + everyone[: i % len(everyone)]:
                self.say(f"{self.card.name} {name}: {what} {i + 1}/{len(items)}")
                out[name].append(do(item, use))
        return out

    def _head(self, setting: str) -> dict[str, Any]:
        return {"method": self.card.name, "setting": setting, "task": self.card.task, "items": len(self.items)}

    def _report(
        self, s: str, runs: dict[str, list[Run]], values: dict[str, list[float]], logprobs: dict[str, list[float]]
    ) -> dict[str, Any]:
        plain, own = runs[PLAIN], runs[s]
        row = self._head(s)
        if judged := [i for i, item in enumerate(self.items) if item.judge is not None]:
            row["quality"] = _mean([self._judge(i, own[i]) for i in judged])
            row["quality_plain"] = _mean([self._judge(i, plain[i]) for i in judged])
        row["agreement"] = _mean([agreement(a, b) for p, o in zip(plain, own) for a, b in zip(p.tokens, o.tokens)])
        row["same_tokens"] = all(p.every == o.every for p, o in zip(plain, own))
        if values[s]:
            row |= {"value_logprob": _mean(values[s]), "value_logprob_plain": _mean(values[PLAIN])}
        if logprobs[s]:
            row |= {"perplexity": _perplexity(logprobs[s]), "perplexity_plain": _perplexity(logprobs[PLAIN])}
        row |= {name: r for name in RATIOS if (r := _ratio(name, own, plain)) is not None}
        row["medians"] = {PLAIN: _medians(plain), "method": _medians(own)}
        return row

    def _judge(self, i: int, done: Run) -> float:
        judge = self.items[i].judge
        assert judge is not None
        return judge(done.texts[0])


def agreement(a: Sequence[int], b: Sequence[int]) -> float:
    """Share of leading tokens that two answers have in common, of the longer one."""
    return shared(a, b) / max(len(a), len(b)) if a or b else 1.0


def _ratio(name: str, own: list[Run], plain: list[Run]) -> float | None:
    """Median over items of own / plain; None where there is nothing to compare."""
    pairs = [(o.spent.get(name, 0.0), p.spent.get(name, 0.0)) for o, p in zip(own, plain)]
    ratios = [o / p for o, p in pairs if o and p]
    return round(statistics.median(ratios), 4) if ratios else None


def _medians(runs: list[Run]) -> dict[str, float]:
    names = dict.fromkeys(name for r in runs for name in r.spent)
    return {name: round(statistics.median(r.spent[name] for r in runs if name in r.spent), 4) for name in names}


def _mean(values: list[float]) -> float:
    return round(statistics.fmean(values), 4)


def _perplexity(logprobs: list[float]) -> float:
    return round(statistics.geometric_mean([math.exp(-x) for x in logprobs]), 3)
