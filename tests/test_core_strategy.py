"""The Strategy seam: a request's own coroutine, on two models, merged with plain requests."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from fewer.decode import transform
from fewer.errors import BadRequest, CannotCombine
from fewer.models.decoder import Decoder
from fewer.plan import PLAIN, plan
from fewer.seams import Commit, Forward, Propose, Strategy
from fewer.testing.harness import generate, request, run
from fewer.testing.tiny import tiny_model
from fewer.types import Group, Step, Told, Tree, chain


@dataclass(frozen=True)
class TakeTurns(Strategy):
    """The two models write alternate tokens; each is fed everything."""

    def run(self, req, horizon):
        yield from transform(req)
        fed = {"main": 0, "draft": 0}
        text = list(req.kept_prompt)
        for turn in range(10**6):
            model = ("main", "draft")[turn % 2]
            rows = chain(text[fed[model] :], fed[model])
            out = yield Forward(rows, want=np.array([len(rows) - 1]), model=model, best=1)
            yield Commit(np.arange(len(rows)), model)
            fed[model] = len(text)
            text.append(int(out.best[0, 0]))
            req.sampler.push(text[-1], req.told)
            if req.accept(text[-1]):
                return


MODELS = {"main": tiny_model(seed=0), "draft": tiny_model(seed=1, layers=2)}
PROMPT = [3, 1, 4, 1, 5]


def by_hand(n):
    text = list(PROMPT)
    for turn in range(n):
        text += generate(MODELS[("main", "draft")[turn % 2]], text, max_tokens=1)[0]
    return text[len(PROMPT) :]


def test_two_models_take_turns_in_a_batch_with_plain_requests():
    mine, plain = request(PROMPT, use=[TakeTurns()], max_tokens=9), request(PROMPT, max_tokens=9)
    runner = run(MODELS, [mine, plain])
    assert mine.tokens == by_hand(9)
    assert plain.tokens == generate(MODELS["main"], PROMPT, max_tokens=9)[0]
    assert mine.ledger.models["draft"].forwards == 4
    assert runner.forwards["main"] < mine.ledger.models["main"].forwards + plain.ledger.models["main"].forwards


def test_a_strategy_excludes_what_the_standard_one_does():
    with pytest.raises(CannotCombine, match="TakeTurns and lookahead"):
        plan([TakeTurns(), "lookahead"])


@dataclass(frozen=True)
class Tutored(Propose):
    """Drafts with a model of its own, the main one's lower layers; a soft node asks the main model about a vector."""

    needs = frozenset({"logits"})
    taps = frozenset({"last"})

    def brings(self, main):
        less = replace(main.spec, n_layers=1, ropes=main.spec.ropes[:1], windows=main.spec.windows[:1])
        return {"tutored": Decoder(less, main.blocks[:1], main.head, main.dtype)}

    def start(self, told):
        return []

    def draft(self, context, limit, told, state, rng):
        out = yield Forward(chain(context, 0), np.array([len(context) - 1]), model="tutored", best=1)
        yield Commit(np.arange(0), model="tutored")
        soft = MODELS["main"].head.embed(torch.tensor([7]))
        return Tree(np.array([int(out.best[0, 0]), -1]), np.array([-1, -1]), embeds=soft)

    def feedback(self, tree, path, target, told, state):
        assert len(target.logits) == len(target.hidden("last")) == len(tree) + 1
        state.append((tree, path, target.logits.clone(), list(told.generated)))


def test_a_drafter_brings_a_model_and_hears_the_verdict_of_soft_nodes_too():
    tutored = Tutored()
    plain, _ = generate(MODELS["main"], PROMPT, max_tokens=6)
    mine = request(PROMPT, use=[tutored], max_tokens=6)
    runner = run({"main": MODELS["main"]}, [mine])
    assert mine.tokens == plain and runner.forwards["tutored"] > 1
    heard = mine.told.of(tutored)
    assert len(heard[0][0]) == 0  # the prompt's own forward
    _, path, logits, text = heard[1]
    ask = [*PROMPT, *text[: len(text) - len(path) - 1], 7]
    again = MODELS["main"]
    store = again.new_store()
    out, _ = again.forward(Step([Group(store.new(), chain(ask, 0), PLAIN, Told(0), np.array([len(ask) - 1]))]), store)
    assert torch.allclose(logits[-1], out[0].logits[0], atol=1e-10)
    assert mine.ledger.drafted_tokens == sum(len(h[0]) - 1 for h in heard[1:] if len(h[0]))


def test_a_model_that_is_missing_is_named():
    @dataclass(frozen=True)
    class Needs(Propose):
        uses = frozenset({"draft"})

    with pytest.raises(BadRequest, match="Needs needs a draft model"):
        generate(MODELS["main"], PROMPT, use=[Needs()])
