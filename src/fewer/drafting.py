"""The engine's side of a drafter: asking for a draft, telling what became of it, and keeping the time both take.

Whatever a drafter does counts as the ledger's stage "draft": its own Python and the forwards it yields, on any model.
How much is asked for and verified is the pace's business (pace.py); without one, all of every draft.
"""

from __future__ import annotations

import time
from dataclasses import replace

from fewer.request import Request
from fewer.seams import Forward, Target, Work
from fewer.types import EMPTY_TREE, Out, Tree


def draft(req: Request, context: list[int], horizon: int | None) -> Work:
    """Ask the drafter for a tree that cannot outrun the text's limit or the cache's next maintenance, nor what pays."""
    propose, pace = req.propose, req.pace
    if propose is None:
        return EMPTY_TREE
    limit = req.max_tokens - len(req.tokens) - 1
    if horizon is not None:
        limit = min(limit, horizon - 1)
    if pace is not None:
        limit = pace.levels(max(0, limit))
    if limit <= 0:
        return EMPTY_TREE
    before = req.ledger.seconds.get("draft", 0.0)
    work = propose.draft(context, limit, req.told, req.told.of(propose), req.sampler.draft_rng)
    tree = yield from aside(req, work)
    with req.ledger.clock("draft"):
        tree = tree.trimmed(limit)
        tree = tree if pace is None else pace.cut(tree)
    if pace is not None:
        pace.drafted(req.ledger.seconds["draft"] - before)
    return tree


def ahead(req: Request, context: list[int], tree: Tree) -> Work | None:
    """What the drafter does while the main model looks at `tree`; nothing if it was not asked for that draft."""
    propose, limit = req.propose, req.max_tokens - len(req.tokens) - 1
    if propose is None or limit <= 0 or (req.pace is not None and not req.pace.asked):
        return None
    work = propose.ahead(context, tree, limit, req.told, req.told.of(propose), req.sampler.draft_rng)
    if work is None:
        return None
    if req.pace is not None:
        req.pace.ran_ahead()
    return aside(req, work)


def aside(req: Request, work: Work) -> Work:
    """Run a drafter; its own time and that of its forwards are the ledger's stage "draft"."""
    out: Out | None = None
    try:
        while True:
            with req.ledger.clock("draft"):
                ask = work.send(out)  # type: ignore[arg-type]
            if isinstance(ask, Forward):
                ask = replace(ask, stage="draft")
                if req.pace is not None:
                    share = 1.0 if ask.stop is None else ask.stop / max(1, req.told.n_layers)
                    req.pace.forward(ask.model, len(ask.rows), share)
            out = yield ask
    except StopIteration as done:
        return done.value
    finally:
        work.close()


def listens(req: Request) -> bool:
    """Does the drafter hear what the model says in the next forward? One that rests does not: it would cost for nothing."""
    propose, pace = req.propose, req.pace
    return propose is not None and bool(propose.needs or propose.taps) and (pace is None or pace.listening)


def feedback(req: Request, tree: Tree, path: list[int], target: Target) -> None:
    """Tell the drafter, if it listens, what the model said about its draft."""
    propose = req.propose
    if propose is not None and listens(req):
        start = time.perf_counter()
        propose.feedback(tree, path, target, req.told, req.told.of(propose))
        _informed(req, time.perf_counter() - start)


def verified(req: Request, tree: Tree, new: list[int], out: Out) -> None:
    """Write down what became of a draft: the text goes on with `new`, one token more than stands."""
    if len(tree):
        req.ledger.draft(tree.depth()[tree.tokens >= 0].tolist(), len(new) - 1)
    if req.propose is not None and req.pace is not None and req.told.decoding:
        with req.ledger.clock("draft"):
            req.pace.heard(tree, new, out)


def learn(req: Request, context: list[int], new: list[int]) -> None:
    """Tell the drafter what was emitted."""
    propose = req.propose
    if propose is None:
        return
    start = time.perf_counter()
    propose.learn(context, new, req.told, req.told.of(propose))
    _informed(req, time.perf_counter() - start)


def _informed(req: Request, seconds: float) -> None:
    req.ledger.spend("draft", seconds)
    if req.pace is not None:
        req.pace.kept_informed(seconds)
