"""The standard strategy: transforms, chunked prefill, then draft -> forward -> accept -> commit until the text ends.

A coroutine over one request: it yields Forward, Commit and Rewind and never sees other requests. Without a drafter the
draft is the empty tree and this is plain decoding; nothing else differs, which is why speculation cannot drift from it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from fewer.drafting import ahead, draft, feedback, learn, listens, verified
from fewer.errors import BadRequest
from fewer.kernels.topk import likeliest
from fewer.request import Request
from fewer.seams import BEST, Commit, Forward, Work
from fewer.types import EMPTY_TREE, Out, Rows, Tree, chain, chain_then_tree, follow


def decode(req: Request, horizon: Callable[[], int | None]) -> Work:
    """Run `req` to its end. `horizon()` = tokens that may be committed before Retain or Codec acts; None = any number."""
    pending, at = yield from prefill(req)
    yield from answer(req, pending, at, horizon)


def answer(req: Request, pending: list[int], at: int, horizon: Callable[[], int | None]) -> Work:
    """Draft, forward, accept and commit until the text ends. pending: the prompt's last piece, at: its position."""
    context = list(req.kept_prompt)
    while True:
        tree = EMPTY_TREE
        if req.told.decoding:
            tree = yield from draft(req, context, horizon())
        new = yield from advance(req, pending, at, tree, ahead(req, context, tree))
        context += new
        at += len(pending) + len(new) - 1
        learn(req, context, new)
        if req.finish_reason is not None:
            return
        pending = new[-1:]


def prefill(req: Request) -> Work:
    """Transform the prompt and read it but for its last piece -> (that piece, the position of its first token)."""
    yield from transform(req)
    pending, at = req.kept_prompt[req.cached :], req.told.seen
    before = at - req.cached  # entries that transforms put in front
    if not pending:
        raise BadRequest("the prompt is empty after its transforms; nothing is left to continue.")
    while (size := piece(req, at)) < len(pending):
        rows = chain(pending[:size], at)
        out = yield Forward(rows, want=_all_rows_if_needed(req, len(rows)), stage="prefill")
        accepted = np.arange(len(rows))
        _tell_logits(req, rows, out, accepted)
        yield Commit(accepted)
        at, pending = at + size, pending[size:]
        if req.on_progress:
            req.on_progress(at - before, len(req.kept_prompt))
    return pending, at


def read(req: Request, tokens: list[int], at: int, horizon: Callable[[], int | None], stage: str = "decode") -> Work:
    """Read certain tokens into the main model's cache, no more at once than its maintenance allows -> the logits (V,)
    behind the last one. For strategies, whose main model may be behind the text."""
    while True:
        rows = chain(tokens[: horizon() if req.told.decoding else None], at)
        every = _all_rows_if_needed(req, len(rows))
        out = yield Forward(rows, want=np.array([len(rows) - 1]) if every is None else every, stage=stage)
        _tell_logits(req, rows, out, np.arange(len(rows)))
        assert out.logits is not None
        last = out.logits[-1]
        yield Commit(np.arange(len(rows)))
        at, tokens = at + len(rows), tokens[len(rows) :]
        if not tokens:
            return last


def transform(req: Request) -> Work:
    """Apply the plan's transforms in order; fills req.kept and req.kept_prompt and starts every method's state."""
    told, n = req.told, len(req.prompt)
    told.prompt_len = n
    kept = np.arange(n)
    forced = np.zeros(n, dtype=bool) if req.forced is None else req.forced
    for t in req.seams.transforms:
        told.start(t)
        tokens = [req.prompt[i] for i in kept]
        idx = yield from t.run(tokens, forced[kept], told, told.of(t))
        idx = np.asarray(idx, dtype=np.int64)
        missing = np.setdiff1d(np.flatnonzero(forced[kept]), idx)
        if len(missing):
            raise ValueError(f"{t.name or type(t).__name__} dropped {len(missing)} tokens that were forced to stay")
        kept = kept[idx]
    req.kept = kept
    req.kept_prompt = [req.prompt[i] for i in kept]
    told.prompt_len = len(kept) + told.seen - req.cached  # with what transforms put in front
    strategy = req.seams.strategy
    req.fit(told.prompt_len if strategy is None else strategy.takes(told.prompt_len))
    for m in req.seams.methods():
        if m not in req.seams.transforms:
            told.start(m)


def piece(req: Request, at: int) -> int:
    """How many prompt tokens the next forward takes: a chunk, or fewer where Retain acts in the middle of the prompt."""
    retain = req.seams.retain
    moment = 0 if retain is None or retain.acts == "always" else retain.moment(req.told)
    return min(req.chunk, moment - at) if at < moment else req.chunk


class Verdict:
    """What one forward says about a draft of `seen` nodes: `Target` for the methods. `base` = output row of the certain
    token."""

    def __init__(self, req: Request, out: Out, base: int, first: int, seen: int) -> None:
        self._req, self._out, self._base, self._first, self.seen = req, out, base, first, seen

    @property
    def logits(self) -> torch.Tensor:
        assert self._out.logits is not None
        return self._out.logits[self._base :]

    @property
    def best(self) -> np.ndarray:
        if self._out.logits is None:
            assert self._out.best is not None
            return self._out.best[self._base :]
        return likeliest(self.logits, BEST).cpu().numpy()

    def hidden(self, tap: str) -> torch.Tensor:
        return self._out.hidden[tap][self._first :]

    def draw(self, node: int) -> int:
        if self._out.best is None:
            return self._req.sampler.draw(self.logits[node + 1], self._req.told)
        token = int(self._out.best[self._base + node + 1, 0])
        self.push(token)
        return token

    def ends(self, token: int) -> bool:
        return token in self._req.sampler.stops

    def probs(self, node: int, soft: bool = False) -> torch.Tensor:
        return self._req.sampler.weights(self.logits[node + 1], self._req.told, soft=soft)

    def push(self, token: int) -> None:
        self._req.sampler.push(token, self._req.told)


def advance(req: Request, pending: list[int], at: int, tree: Tree, beside: Work | None = None) -> Work:
    """One forward over the certain tokens and a draft; emits at least one token and commits what stands. beside: what
    other models do meanwhile."""
    rows = chain_then_tree(pending, tree, at)
    n, told, propose, accept = len(pending), req.told, req.propose, req.seams.accept
    if accept is not None and accept.exact and told.greedy:
        accept = None
    every = _all_rows_if_needed(req, len(rows))
    want = every if every is not None else np.arange(n - 1, len(rows))
    hears = propose if listens(req) else None
    needs = frozenset[str]() if hears is None else hears.needs
    greedy = every is None and req.sampler.plain_greedy and accept is None
    best = 0 if not greedy or "logits" in needs else BEST if "best" in needs else 1
    taps = frozenset[str]().union(*(m.taps for m in (hears, accept) if m is not None))
    stage = "decode" if told.decoding else "prefill"
    out = yield Forward(rows, want, best=best, taps=taps, stage=stage, beside=beside)
    if greedy and out.logits is not None:
        out.best = likeliest(out.logits, 1).cpu().numpy()
    verdict = Verdict(req, out, 0 if every is None else n - 1, n - 1, len(tree))
    started = len(told.generated)
    if accept is None:
        path, bonus = follow(tree, verdict.draw, verdict.ends)
    else:
        drafts = tree if propose is None or beside is None else propose.grown(tree, told, told.of(propose))
        path, bonus = accept.walk(drafts, verdict, req.sampler.rng, told, told.of(accept))
    new = [int(tree.tokens[i]) for i in path] + [bonus]
    if told.generated[started:] != new:
        raise ValueError(f"{type(accept).__name__} must push the tokens that stand, once each, in order")
    for i, token in enumerate(new):
        if out.logits is not None:
            req.note_logprob(verdict.logits[path[i - 1] + 1 if i else 0], token)
        if req.accept(token):
            new = new[: i + 1]
            break
    del told.generated[started + len(new) :]
    stand = len(new) - 1
    feedback(req, tree, path[:stand], verdict)
    req.ledger.constraint_checks = req.sampler.checks
    verified(req, tree, new, out)
    accepted = np.concatenate([np.arange(n), n + np.asarray(path[:stand], dtype=np.int64)])
    _tell_logits(req, rows, out, accepted)
    yield Commit(accepted)
    return new


def _all_rows_if_needed(req: Request, n: int) -> np.ndarray | None:
    retain = req.seams.retain
    return np.arange(n) if retain is not None and "logits" in retain.needs else None


def _tell_logits(req: Request, rows: Rows, out: Out, accepted: np.ndarray) -> None:
    retain = req.seams.retain
    if retain is None or "logits" not in retain.needs:
        return
    assert out.logits is not None
    logits = out.logits if len(accepted) == len(rows) and rows.is_chain else out.logits[torch.from_numpy(accepted)]
    retain.read_logits(rows.tokens[accepted], logits, req.told, req.told.of(retain))
