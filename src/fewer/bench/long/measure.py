"""`fewer bench long`: what is left of a model's answers when a plan keeps or reads less of a long document.

Every item runs plain and under every plan, the order changing from item to item, in two protocols:

    aware      the method sees document and question before it decides
    agnostic   it decides before the question is read, so what it kept must serve any question; only for methods with a
               `question` knob (others decide as they go and run once, as "aware")

    kept       score of the plan / score of plain, over the items that plain can do at all (score above 0)
    kl         KL(plain || plan) of the next token, natural log, mean over the first tokens as long as both said the same
    kv         allocated KV bytes at the end and at the peak, over plain's        reads    KV entries a forward, over plain's
    bytes      KV bytes a forward reads while decoding                            prefill  seconds, decode  tokens a second

Decoding is timed with whole logits, which the divergence needs; both sides alike. Does not: average over models, sample.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import fewer
from fewer.bench.long import tasks
from fewer.bench.long.beside import Beside, kept
from fewer.bench.long.tasks import LongItem
from fewer.bench.long.texts import load
from fewer.bench.record import head, save
from fewer.bench.run import Run, run
from fewer.bench.tasks import Item
from fewer.bench.teacher import shared
from fewer.card import cards, find
from fewer.engine import Engine
from fewer.errors import BadRequest, FewerError
from fewer.kernels.cpu import physical_cores
from fewer.models.resolve import resolve
from fewer.plan import plan as check_plan
from fewer.seams import Rule
from fewer.types import Told

PLAIN = "plain"
PROTOCOLS = ("aware", "agnostic")
STEPS = 8  # answer tokens whose distributions are compared
FIGURES = ("kv_end", "kv_peak", "reads", "prefill", "decode")
ROOM = 160  # tokens beside a document: template, question, answer
Say = Callable[[str], None]


@dataclass(frozen=True)
class Listener(Rule):
    """Keeps the log probabilities before each of the first STEPS tokens, and changes nothing."""

    heard: list[torch.Tensor] = field(default_factory=list, compare=False)

    def mask(self, logits: torch.Tensor, told: Told, state: None) -> torch.Tensor:
        if len(told.generated) < STEPS:
            self.heard.append(torch.log_softmax(logits.double(), -1))
        return logits


@dataclass(frozen=True)
class Way:
    """A plan under a protocol. name: as given; PLAIN = no methods."""

    name: str
    protocol: str = "aware"

    def use(self, question: int) -> list[str]:
        """Its methods; agnostic: told how many of the last prompt tokens are the question."""
        if self.name == PLAIN:
            return []
        parts = [p.strip() for p in self.name.split(" + ")]
        if self.protocol == "aware":
            return parts
        return [f"{p}{',' if ':' in p else ':'}question={question}" if _asks(p) else p for p in parts]


@dataclass(frozen=True)
class Done:
    """What came of an item: its score, the run, the distributions of its first tokens."""

    score: float
    run: Run
    heard: list[torch.Tensor]


def measure(
    model: str = "smollm2-135m",
    plans: list[str] | None = None,
    names: list[str] | None = None,
    lengths: Sequence[int] = (1024, 2048),
    protocols: Sequence[str] = PROTOCOLS,
    n_items: int = 5,
    seed: int = 0,
    texts: Path | None = None,
    threads: int | None = None,
    say: Say = lambda s: None,
    keep: Path | None = None,
    peer: Path | None = None,
) -> dict[str, Any]:
    """Run plans (None = all that keep or read less, as they are measured) on tasks (None = all there are texts for).

    lengths: tokens of a document. texts: a folder, see texts.py. keep: file for the result, written after every task.
    peer: the Python of an environment with kvpress, see beside.py. -> the head of record.py, what was run, "results" (a
    dict a way, task and length), "places" (way -> [length, depth, score] of every item with a depth) and, with a peer,
    "beside" (its version, "results" and what "failed"). Raises BadRequest and what opening a model or making a plan raises.
    """
    _check(plans, lengths, protocols, n_items)
    held = load(texts)
    chosen = tasks.available(held) if names is None else names
    say(f"loading {model}")
    eng = fewer.open(model, threads=threads, prefix_bytes=0)
    tokenizer = eng.tokenizer
    if tokenizer is None:
        raise BadRequest(f"{model} has no tokenizer, so no task can be made for it")
    if max(lengths) + ROOM > eng.model.spec.max_context:
        raise BadRequest(
            f"documents of {max(lengths)} tokens and {ROOM} beside them exceed the context of {model}, "
            f"{eng.model.spec.max_context} tokens"
        )
    ways = [Way(PLAIN), *_ways(plans, protocols)]
    given = [f"--plan '{p}'" for p in plans or []] + [f"--task {t}" for t in names or []]
    given += [f"--length {n}" for n in lengths] + [f"--protocol {p}" for p in protocols if len(protocols) == 1]
    given += [f"--texts {texts}"] * (texts is not None) + [f"--peer-python {peer}"] * (peer is not None)
    out: dict[str, Any] = {
        **head("long", " ".join([f"fewer bench long -m {model} --items {n_items} --seed {seed}", *given]), seed),
        "model": model, "items": n_items, "tasks": chosen, "lengths": list(lengths),
        "ways": [[w.name, w.protocol] for w in ways], "results": [], "places": {},
    }  # fmt: skip
    with Beside(peer, resolve(model), threads or physical_cores(), say) if peer else contextlib.nullcontext() as beside:
        for tokens in lengths:
            for task in chosen:
                items = tasks.make(task, n_items, tokens, seed, lambda t: len(tokenizer.encode(t, bos=False)), held)
                prompts = [ids_of(eng, i) for i in items]
                done = _turns(eng, items, prompts, ways, f"{task} {tokens}", say)
                out["results"] += [_report(w, task, tokens, done[w], done[ways[0]], eng) for w in ways if w in done]
                for w in done:
                    places = [
                        [tokens, round(i.depth, 3), d.score] for i, d in zip(items, done[w]) if i.depth is not None
                    ]
                    out["places"].setdefault(f"{w.name} {w.protocol}", []).extend(places)
                if beside is not None:
                    theirs = beside.scores(items, prompts, [(w.name, w.protocol) for w in done], tokenizer)
                    out["beside"] = beside.report(out.get("beside"), task, tokens, theirs)
                if keep is not None:
                    save(keep, out)
    return out


def sample(model: str, names: list[str] | None, tokens: int, seed: int, texts: Path | None) -> list[LongItem]:
    """One item of each task, as it would be asked. Raises as measure()."""
    from fewer.models.source import open_source
    from fewer.models.tokenizer import from_source

    held, tokenizer = load(texts), from_source(open_source(resolve(model)))
    chosen = tasks.available(held) if names is None else names
    return [tasks.make(t, 2, tokens, seed, lambda x: len(tokenizer.encode(x, bos=False)), held)[1] for t in chosen]


# ---------------------------------------------------------------------- running
def _check(plans: list[str] | None, lengths: Sequence[int], protocols: Sequence[str], n_items: int) -> None:
    if n_items < 1 or not lengths or min(lengths) < 256:
        raise BadRequest(f"items={n_items} must be at least 1, and every length at least 256 tokens")
    for p in protocols:
        if p not in PROTOCOLS:
            raise BadRequest(f"there is no protocol {p!r}: there are {' and '.join(PROTOCOLS)}")
    for p in plans or []:
        check_plan([part.strip() for part in p.split(" + ")])


def _ways(plans: list[str] | None, protocols: Sequence[str]) -> list[Way]:
    if plans is None:
        less = [c for c in cards().values() if c.seam in ("retain", "select", "codec")]
        plans = [f"{c.name}:{s}" if s else c.name for c in less for s in c.measure[:1] or ("",)]
    asked = {p: any(_asks(part.strip()) for part in p.split(" + ")) for p in plans}
    return [Way(p, way) for p in plans for way in protocols if way == "aware" or asked[p]]


def _asks(part: str) -> bool:
    """Can this method be told where the question begins?"""
    return "question" in find(part.partition(":")[0]).knobs()


def _turns(
    eng: Engine, items: list[LongItem], prompts: list[tuple[list[int], int]], ways: list[Way], what: str, say: Say
) -> dict[Way, list[Done]]:
    """Way -> what came of every item. A way that fails is left out, and said why."""
    out: dict[Way, list[Done]] = {w: [] for w in ways}
    for i, (item, (ids, question)) in enumerate(zip(items, prompts)):
        for way in ways[i % len(ways) :] + ways[: i % len(ways)]:
            if way in out:
                say(f"{what}: {i + 1}/{len(items)} {way.name} {way.protocol}")
                try:
                    out[way].append(_once(eng, item, ids, way.use(question)))
                except FewerError as e:
                    if way.name == PLAIN:
                        raise
                    say(f"{what}: {way.name} {way.protocol} left out: {e}")
                    del out[way]
    return out


def _once(eng: Engine, item: LongItem, ids: list[int], use: list[str]) -> Done:
    listener = Listener()
    ran = run(eng, Item((item.question,), item.max_tokens), [*use, listener], ids)
    return Done(item.score(ran.texts[0]), ran, listener.heard)


def ids_of(eng: Engine, item: LongItem) -> tuple[list[int], int]:
    """Token ids of document and question, and how many of the last ones are not the document's."""
    tokenizer, chat = eng.tokenizer, eng.chat
    assert tokenizer is not None

    def ids(text: str) -> list[int]:
        if chat is None:
            return tokenizer.encode(text)
        return chat.encode(tokenizer, [{"role": "user", "content": text}])

    whole, bare = ids(f"{item.document}\n\n{item.question}"), ids(f"{item.document}\n\n")
    return whole, len(whole) - shared(whole, bare)


# ---------------------------------------------------------------------- reporting
def _report(way: Way, task: str, tokens: int, own: list[Done], plain: list[Done], eng: Engine) -> dict[str, Any]:
    entry = 2 * eng.model.spec.head_dim * eng.stores["main"].dtype.itemsize
    row: dict[str, Any] = {"plan": way.name, "protocol": way.protocol, "task": task, "tokens": tokens}
    row |= kept([o.score for o in own], [p.score for p in plain])
    row["kl"] = _mean([divergence(p, o) for o, p in zip(own, plain)])
    row["bytes"] = round(statistics.median(o.run.spent.get("reads", 0.0) for o in own) * entry)
    for name in FIGURES:
        ratios = [o.run.spent[name] / p.run.spent[name] for o, p in zip(own, plain) if p.run.spent.get(name)]
        row[name] = round(statistics.median(ratios), 4) if ratios else None
    row["seconds"] = round(statistics.median(o.run.spent["prefill"] for o in own), 4)
    row["speed"] = round(statistics.median(o.run.spent.get("decode", 0.0) for o in own), 2)
    return row


def divergence(plain: Done, own: Done) -> float:
    """Mean KL(plain || own) over the first tokens, up to and with the first that differs."""
    same = shared(plain.run.every[0], own.run.every[0])
    pairs = list(zip(plain.heard, own.heard))[: same + 1]
    return statistics.fmean(max(0.0, float((p.exp() * (p - o)).nan_to_num(0.0).sum())) for p, o in pairs)


def _mean(values: list[float]) -> float:
    return round(math.fsum(values) / len(values), 4)
