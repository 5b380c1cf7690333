"""`fewer bench speculation`: what drafting saves, kind by kind of work (kinds.py), beside plain decoding and other engines.

Every engine runs in its own process; an item goes through all modes of all engines in turn, the order changing from item
to item; fewer decodes it plainly before each of its modes, so both sides of a ratio come from the same seconds; and also
before its plain decoding: how far that ratio is from 1 is what this machine's noise adds. Reported, as medians over items
and rounds:

    speed-up            seconds a token of the same engine's plain decoding over those of the mode, for the same item
    tokens a forward    of the target model, the first token and prompt left out
    right at depth d    share of verified drafts whose first d + 1 levels stand
    beside others       tokens a second of fewer's best mode over those of the best speculative mode of all peers

and, for the plans whose methods all claim to be lossless, whether `prompts` greedy texts are plain decoding's, every
draft asked for and verified (guard off). Does not: sample, judge answers, tune a mode.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewer.bench import kinds as k
from fewer.bench.drive import Peer, launch
from fewer.bench.record import head, save
from fewer.bench.speculation_figures import OWN, PEERS, PLAIN, Answers, beside, figures, joined, mean, rate
from fewer.bench.speculators import modes, plan
from fewer.bench.speed import NEEDS, Say
from fewer.bench.tasks import Item
from fewer.card import cards, find
from fewer.errors import BadRequest
from fewer.models.chat import ChatTemplate
from fewer.models.resolve import resolve
from fewer.models.source import open_source
from fewer.models.tokenizer import from_source
from fewer.plan import parse_use
from fewer.plan import plan as checked

MODULE = "fewer.bench.speculators"
ALIKE = ("machine", "versions", "seed", "model", "draft", "threads", "items", "rounds", "tokens", "origin")


@dataclass(frozen=True)
class Ways:
    """What is measured. kinds and plans None = all; peers None = those installed; draft = a second model or None."""

    kinds: Sequence[str] | None = None
    plans: Sequence[str] | None = None
    peers: Sequence[str] | None = None
    items: int = 4
    tokens: int = 128
    rounds: int = 1
    threads: int = 2
    seed: int = 0
    draft: str | None = None
    same_prompts: int = 24
    same_tokens: int = 200


def measure(model: str = "smollm2-135m", ways: Ways | None = None, say: Say = lambda s: None) -> dict[str, Any]:
    """-> the head of record.py with "kinds": {kind: {engine: {mode: figures}}}, "mean", "beside", "same", "failed".

    Raises BadRequest, UnknownMethod, BadKnob, CannotCombine and what opening a model raises.
    """
    w = ways or Ways()
    if min(w.items, w.rounds, w.threads) < 1 or w.tokens < 8:
        raise BadRequest(
            f"items={w.items}, rounds={w.rounds}, threads={w.threads} must be at least 1, tokens={w.tokens} 8"
        )
    for name in w.peers or ():
        if name not in PEERS:
            raise BadRequest(f"no engine {name!r}: there are {', '.join(PEERS)}")
    chosen = list(w.kinds or k.KINDS)
    path, draft = resolve(model), None if w.draft is None else resolve(w.draft)
    failed: dict[str, str] = {}
    plans = list(w.plans) if w.plans is not None else drafters(draft is not None, failed)
    for p in plans:
        checked(plan(p))
    prompts = {kind: encode(path, kind, w.items + 1, w.tokens, w.seed) for kind in chosen}
    contest = Contest(w, path, draft, plans, failed, say)
    try:
        contest.open()
        seen = {kind: contest.run(kind, prompts[kind]) for kind in chosen}
        same = contest.same(plans) if w.same_prompts else {}
    finally:
        contest.close()
    found = {kind: {e: figures(by_mode) for e, by_mode in engines.items()} for kind, engines in seen.items()}
    return {
        **head("speculation", command(model, w), w.seed),
        "model": str(path),
        "draft": None if draft is None else str(draft),
        "threads": w.threads,
        "items": w.items,
        "rounds": w.rounds,
        "tokens": w.tokens,
        "origin": k.origin(),
        "engines": {p.name: {"version": p.version, "peak_mb": round(p.peak_mb, 1)} for p in contest.peers},
        "failed": failed,
        "kinds": found,
        "mean": mean(found),
        "beside": {kind: beside(f) for kind, f in found.items()},
        "same": same,
    }


def keep(folder: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON. Kinds that were measured before in the same way stay beside its own, so the six may come from
    several runs. Raises BadRequest if the file cannot be written."""
    name = Path(result["model"]).stem + (f"-{Path(result['draft']).stem}" if result["draft"] else "")
    path = folder / f"speculation-{name}.json"
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        old = {}
    if all(old.get(key) == result[key] for key in ALIKE):
        result = joined(old, result)
    save(path, result)


def drafters(second: bool, failed: dict[str, str]) -> list[str]:
    """Every drafter of the catalogue; those that run a second model only if there is one."""
    out = []
    for card in cards().values():
        if card.seam == "propose":
            if "draft" in card.load().uses and not second:
                failed[card.name] = "needs a draft model: give one with --draft"
            else:
                out.append(card.name)
    return out


def lossless(text: str) -> bool:
    """Do all methods of a plan claim it?"""
    return all("lossless" in find(parse_use(use)[0]).claims for use in plan(text))


def encode(path: Path, kind: str, items: int, tokens: int, seed: int) -> list[tuple[list[int], int]]:
    """(prompt, most tokens of an answer) of each item, in this model's own tokens and chat template."""
    source = open_source(path)
    tokenizer = from_source(source)
    chat = ChatTemplate.from_source(source, tokenizer)

    def ids(item: Item) -> list[int]:
        if item.raw or chat is None:
            return tokenizer.encode(item.prompts[0])
        return chat.encode(tokenizer, [{"role": "user", "content": item.prompts[0]}])

    made = k.make(kind, items, tokens, seed, lambda text: len(tokenizer.encode(text, bos=False)))
    return [(ids(item), item.max_tokens) for item in made]


class Contest:
    """The engines and what they are asked. A mode that fails leaves; so does an engine that dies."""

    def __init__(
        self, ways: Ways, path: Path, draft: Path | None, plans: list[str], failed: dict[str, str], say: Say
    ) -> None:
        self.w, self.path, self.draft, self.failed, self.say = ways, path, draft, failed, say
        self.peers: list[Peer] = []
        self.turns: list[tuple[str, str]] = []
        self._plans = plans

    def open(self) -> None:
        """Start every engine. Raises RuntimeError only if fewer itself does not start."""
        named = self.w.peers if self.w.peers is not None else [p for p in PEERS if importlib.util.find_spec(NEEDS[p])]
        for name in [OWN, *named]:
            self.say(f"loading {name}")
            more = [] if self.draft is None else [str(self.draft)]
            try:
                self.peers.append(launch(name, self.path, self.w.threads, MODULE, more))
            except RuntimeError as e:
                if name == OWN:
                    raise
                self.failed[name] = str(e)
                continue
            own = ["", *self._plans] if name == OWN else modes(name, self.draft is not None)
            self.turns += [(name, mode) for mode in own]

    def close(self) -> None:
        for peer in self.peers:
            peer.close()

    def run(self, kind: str, prompts: list[tuple[list[int], int]]) -> dict[str, Answers]:
        """engine -> mode -> an answer an item and round. The last prompt warms up and does not count.

        Before each of fewer's modes, plain too, it decodes the same item plainly, so that a ratio comes from the same
        seconds. What methods remember is forgotten when a round begins: nobody may know an item's answer."""
        out: dict[str, Answers] = {}
        last = len(prompts) - 1
        order = [(last, -1), *((i, r) for r in range(self.w.rounds) for i in range(last))]
        for step, (i, r) in enumerate(order):
            ids, new = prompts[i]
            at, forget = step % max(1, len(self.turns)), i == 0 or r < 0
            for name, mode in self.turns[at:] + self.turns[:at]:
                label = f"{name} {mode or 'plain'}"
                if name in self.failed or label in self.failed:
                    continue
                self.say(f"{kind} {step}/{len(order) - 1}: {label}")
                plain = self._ask(name, PLAIN, f"{name} plain", ids, new) if name == OWN else None
                answer = self._ask(name, mode, label, ids, new, **({"forget": forget} if name == OWN else {}))
                forget = forget and name != OWN
                if answer is not None and r >= 0:
                    own = {} if plain is None else {"plain": rate(plain)}
                    out.setdefault(name, {}).setdefault(mode, []).append({**answer, **own, "item": (i, r)})
        return out

    def same(self, plans: list[str]) -> dict[str, dict[str, int]]:
        """plan -> {"same", "of", "tokens"}: greedy texts that are plain decoding's, in one batch, every draft verified."""
        each = -(-self.w.same_prompts // len(k.KINDS))
        prompts = [p for kind in k.KINDS for p, _ in encode(self.path, kind, each, self.w.same_tokens, self.w.seed + 1)]
        prompts, out = prompts[: self.w.same_prompts], {}
        (own,) = (p for p in self.peers if p.name == OWN)

        def texts(mode: str) -> list[list[int]]:
            self.say(f"{len(prompts)} texts of {self.w.same_tokens} tokens: {mode or 'plain'}")
            return own.ask(prompts, self.w.same_tokens, mode=mode, guard=False, ignore_eos=True)["ids"]

        wanted = texts(PLAIN)
        for mode in plans:
            if f"{OWN} {mode}" in self.failed or not lossless(mode):
                continue
            got = texts(mode)
            out[mode] = {
                "same": sum(a == b for a, b in zip(got, wanted)),
                "of": len(wanted),
                "tokens": sum(map(len, wanted)),
            }
        return out

    def _ask(self, name: str, mode: str, label: str, ids: list[int], new: int, **more: Any) -> dict[str, Any] | None:
        (peer,) = (p for p in self.peers if p.name == name)
        try:
            answer = peer.ask([ids], new, mode=mode, **more)
        except RuntimeError as e:
            self.failed[name] = f"{mode or 'plain'}: {e}"
            return None
        if "error" in answer:
            self.failed[label] = answer["error"]
            return None
        time.sleep(0.05)
        return answer


def command(model: str, w: Ways) -> str:
    """What to type to repeat it."""
    many = [("--kind", w.kinds), ("--plan", w.plans), ("--peer", w.peers)]
    parts = [f"{flag} '{v}'" for flag, values in many for v in values or ()]
    parts += ["--no-peers"] if w.peers is not None and not w.peers else []
    parts += [f"--draft {w.draft}"] if w.draft else []
    sizes = f"--items {w.items} --tokens {w.tokens} --rounds {w.rounds} --seed {w.seed} --same {w.same_prompts} -t {w.threads}"
    return " ".join(["fewer bench speculation", f"-m {model}", sizes, *parts])
