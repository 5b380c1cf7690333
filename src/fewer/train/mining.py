"""Which mismatches of a draft model change an answer: the semi-greedy search of AutoJudge (Garipov et al. 2025).

The model answers a problem greedily. Its answer is gone through from the left: at the first place where the draft model
would have said another token, that token is put there and the model goes on greedily to the end. If the result is the
same, the mismatch does not matter, and the new text takes the old one's place; else it is important, and the old one stays.
Then the next place is looked at, in whatever the text is now. All problems are searched in step, so that their
continuations are one batch. Places where either model ends the text are passed over.
Does not: check whether answers are right (only whether they change), or run programs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from fewer.engine import Engine
from fewer.models.decoder import Decoder
from fewer.plan import PLAIN
from fewer.types import Group, Rows, Step, Told, chain

Answer = Callable[[list[int]], Hashable | None]  # what a text comes to; None = nothing that can be compared


@dataclass(frozen=True)
class Mismatch:
    """At this place of the response the draft model would have said `token`."""

    place: int
    token: int
    important: bool


@dataclass
class Case:
    """One problem: its response as it is now, what the draft model would have said at every place, and what was found."""

    prompt: list[int]
    said: list[int]
    answer: Hashable
    foretold: list[int] = field(default_factory=list)
    found: list[Mismatch] = field(default_factory=list)

    def mismatch(self, ends: frozenset[int]) -> int | None:
        """The next place to try."""
        first = self.found[-1].place + 1 if self.found else 0
        pairs = enumerate(zip(self.said[first:], self.foretold[first:]), first)
        return next((i for i, (a, b) in pairs if a != b and a not in ends and b not in ends), None)


class Reader:
    """The draft model reading responses; what did not change is not read again."""

    def __init__(self, model: Decoder) -> None:
        self._model, self._store = model, model.new_store()
        self._seqs: dict[int, int] = {}

    def foretell(self, case: Case, since: int) -> None:
        """Fill case.foretold from place `since` on; what stands before it is as it was."""
        del case.foretold[since:]
        if since >= len(case.said):
            return
        seq = self._seqs.setdefault(id(case), self._store.new())
        start = len(case.prompt) + since - 1
        at = start if since else 0
        self._store.truncate(seq, at)
        rows = chain([*case.prompt, *case.said[:-1]][at:], at)
        group = Group(seq, rows, PLAIN, Told(0), np.arange(start - at, len(rows)))
        (out,), _ = self._model.forward(Step([group], best=1), self._store)
        self._store.commit(seq, rows, np.arange(len(rows)))
        assert out.best is not None
        case.foretold += out.best[:, 0].tolist()


def mine(
    eng: Engine,
    prompts: Sequence[list[int]],
    answer: Answer,
    tokens: int,
    say: Callable[[str], None] = lambda text: None,
    over: Callable[[], bool] = lambda: False,
) -> list[Case]:
    """Search responses of at most `tokens` tokens. Problems whose own response has no answer are left out."""
    ends = eng.tokenizer.eos if eng.tokenizer else frozenset()
    said = [r.tokens for r in eng.generate(list(prompts), max_tokens=tokens)]
    cases = [Case(p, s, a) for p, s in zip(prompts, said) if (a := answer(s)) is not None]
    reader = Reader(eng.models["draft"])
    for case in cases:
        reader.foretell(case, 0)
    while not over():
        turn = [(c, place) for c in cases if (place := c.mismatch(ends)) is not None]
        if not turn:
            break
        heads = [[*c.said[:place], c.foretold[place]] for c, place in turn]
        longest = max(1, tokens - min(map(len, heads)))
        rest = eng.generate([[*c.prompt, *head] for (c, _), head in zip(turn, heads)], max_tokens=longest)
        for (case, place), head, r in zip(turn, heads, rest):
            other = [*head, *r.tokens][:tokens]
            important = answer(other) != case.answer
            case.found.append(Mismatch(place, head[-1], important))
            if not important:
                case.said = other
                reader.foretell(case, place + 1)
        found = [m for c in cases for m in c.found]
        say(f"{len(found)} mismatches, {sum(m.important for m in found)} important; {len(turn)} problems under way")
    return cases


def hidden(model: Decoder, case: Case, tap: str) -> torch.Tensor:
    """(M, D) hidden states of the model behind the draft's token at every mismatch found."""
    text, n = [*case.prompt, *case.said], len(case.prompt)
    beside = [m for m in case.found if m.important]  # the text went on without these: side branches of one token
    last = len(text)
    pos = np.array([*range(last), *(n + m.place for m in beside)])
    parent = np.array([*range(-1, last - 1), *(n + m.place - 1 for m in beside)])
    tokens = np.array([*text, *(m.token for m in beside)])
    store = model.new_store()
    group = Group(store.new(), Rows(pos, parent, tokens, is_chain=not beside), PLAIN, Told(0), None)
    (out,), _ = model.forward(Step([group], taps=frozenset({tap})), store)
    places = {m.place: last + i for i, m in enumerate(beside)}
    rows = [places.get(m.place, n + m.place) for m in case.found]
    return out.hidden[tap][rows]
