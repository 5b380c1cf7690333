"""kvpress on the items of `fewer bench long`: the same token ids, as many entries kept, answers scored by the same rule.

A plan has a peer where kvpress has a press of that paper (peer_kvpress.py) and nothing but the budget is set: each side
uses its own settings otherwise. `aware`: all tokens are read, then the cache is cut; `agnostic`: the question is read after
that and, as here, counts in the budget. Each side's answers are compared with its own plain ones: kvpress runs the
weights as transformers dequantises them. Does not: compare bytes (kvpress masks what AdaKV and KVzip drop) or speed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewer.bench.drive import Peer, launch_script
from fewer.bench.long.tasks import LongItem
from fewer.bench.peer_kvpress import PRESSES
from fewer.errors import BadRequest
from fewer.models.tokenizer import Tokenizer
from fewer.plan import make, parse_use
from fewer.seams import resolve_budget

NAME = "kvpress"
PLAIN = "plain"
Say = Callable[[str], None]
Scores = dict[tuple[str, str], list[float]]  # (plan, protocol) -> a score an item


def press(plan: str) -> str | None:
    """The press beside this plan, None if there is none."""
    if plan == PLAIN:
        return PLAIN
    name, knobs = parse_use(plan)
    return name if name in PRESSES and set(knobs) <= {"budget"} else None


def kept(own: list[float], plain: list[float]) -> dict[str, Any]:
    """score: the mean; can: items that plain can do at all; kept: the score over plain's on those, None without any."""
    can = [(o, p) for o, p in zip(own, plain) if p > 0]
    share = round(sum(o for o, _ in can) / sum(p for _, p in can), 4) if can else None
    return {"score": round(math.fsum(own) / len(own), 4), "can": len(can), "kept": share}


class Beside:
    """kvpress, running. failed: way -> why it was left out."""

    def __init__(self, python: Path, path: Path, threads: int, say: Say):
        """Raises BadRequest if it cannot be started."""
        say(f"loading {NAME}")
        try:
            self.peer: Peer = launch_script(NAME, python, "peer_kvpress.py", path, threads)
        except RuntimeError as e:
            raise BadRequest(f"{e} (are kvpress and gguf installed for {python}?)") from None
        self.say = say
        self.failed: dict[str, str] = {}

    def scores(
        self,
        items: list[LongItem],
        prompts: list[tuple[list[int], int]],
        ways: list[tuple[str, str]],
        tokenizer: Tokenizer,
    ) -> Scores:
        """Of the ways that have a peer. prompts: an item's ids and how many of the last are its question. A way that
        fails is left out and named in `failed`. Raises BadRequest if kvpress ends, or fails without any press."""
        out: Scores = {}
        for plan, protocol in ways:
            name = press(plan)
            if name is None:
                continue
            said: list[float] = []
            for i, (item, (ids, question)) in enumerate(zip(items, prompts)):
                self.say(f"{NAME}: {i + 1}/{len(items)} {plan} {protocol}")
                tokens = self._ask(name, plan, ids, question if protocol == "agnostic" else 0, item, tokenizer)
                if isinstance(tokens, str):
                    if plan == PLAIN:
                        raise BadRequest(f"{NAME} fails without any press: {tokens}")
                    self.say(f"{NAME}: {plan} {protocol} left out: {tokens}")
                    self.failed[f"{plan} {protocol}"] = tokens
                    break
                said.append(item.score(tokenizer.decode(tokens)))
            else:
                out[plan, protocol] = said
        return out

    def _ask(
        self, name: str, plan: str, ids: list[int], question: int, item: LongItem, tokenizer: Tokenizer
    ) -> list[int] | str:
        """The answer's tokens without the stop token, or why there are none."""
        keep = None if name == PLAIN else resolve_budget(make(*parse_use(plan)).budget, len(ids))  # type: ignore[attr-defined]
        ask: dict[str, Any] = {
            "press": name,
            "ids": ids,
            "question": question,
            "new": item.max_tokens,
            "stops": sorted(tokenizer.eos),
        }
        ask["keep"] = len(ids) if keep is None else keep - question
        if ask["keep"] < 1:
            return f"its budget of {keep} does not hold the question's {question} tokens"
        try:
            got: dict[str, Any] = self.peer.job(ask)
        except RuntimeError as e:
            raise BadRequest(str(e)) from None
        return got.get("error") or [t for t in got["tokens"] if t not in tokenizer.eos]

    def report(self, so_far: dict[str, Any] | None, task: str, tokens: int, got: Scores) -> dict[str, Any]:
        """so_far with a task's scores: {"version", "failed", "results": a dict a way, task and length}."""
        rows = [
            {"plan": plan, "protocol": protocol, "task": task, "tokens": tokens, **kept(said, got[PLAIN, "aware"])}
            for (plan, protocol), said in got.items()
        ]
        before = so_far["results"] if so_far else []
        return {"version": self.peer.version, "failed": self.failed, "results": before + rows}

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        self.peer.close()
