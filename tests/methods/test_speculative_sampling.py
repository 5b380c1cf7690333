"""Speculative sampling: what is drafted stands as often as the paper says, and the draft model reads nothing twice."""

import pytest
import torch

from fewer.methods.propose.drawn_lines import DrawnLines
from fewer.testing.harness import generate
from fewer.testing.rig import Rig
from fewer.testing.tiny import tiny_model

TEXT = [3, 1, 4, 1, 5, 9, 2, 6]
SPECULATION = ["speculative-sampling:length=3"]


class Head:
    """A head whose logits are one row whatever comes in: a model that always says the same."""

    def __init__(self, head, logits):
        self.head, self._row = head, logits

    def embed(self, tokens):
        return self.head.embed(tokens)

    def logits(self, x):
        return self._row.expand(len(x), -1)

    def argmax(self, x):
        return self.logits(x).argmax(-1)


def constant(logits):
    model = tiny_model(vocab=len(logits), layers=1)
    model.head = Head(model.head, torch.tensor(logits, dtype=torch.float64))
    return model


def test_tokens_a_forward_are_the_papers():
    """With acceptance rate a, a forward gives (1 - a^(n + 1)) / (1 - a) tokens on average; a = sum min(p, q)."""
    p, q, n = [0.0, 1.0, 0.5, -1.0], [1.0, 0.0, 0.5, 0.0], 3
    main, draft = constant(p), constant(q)
    a = float(torch.minimum(torch.softmax(torch.tensor(p), 0), torch.softmax(torch.tensor(q), 0)).sum())
    tokens, ledger = generate(
        {"main": main, "draft": draft}, [1, 2], use=SPECULATION, max_tokens=1500, temperature=1.0, seed=1
    )
    forwards = ledger.models["main"].forwards - 1  # the prompt's
    assert len(tokens) / forwards == pytest.approx((1 - a ** (n + 1)) / (1 - a), rel=0.05)


def test_a_perfect_draft_model_is_always_right():
    """Drawn from the same distribution every draft stands: four tokens a forward, greedy and sampled."""
    model = tiny_model(layers=2)
    for options in ({}, {"temperature": 0.8, "top_p": 0.9, "frequency_penalty": 0.5, "seed": 3}):
        tokens, ledger = generate({"main": model, "draft": model}, TEXT, use=SPECULATION, max_tokens=17, **options)
        assert len(tokens) == 17 and ledger.rejected_tokens == 0
        assert ledger.models["main"].forwards == 1 + 4


def test_the_draft_model_reads_the_prompt_and_each_token_once():
    """Chains: a forward a drafted token, and no row twice but the one draft token that was not run when all stood."""
    model = tiny_model(layers=2)
    _, ledger = generate({"main": model, "draft": model}, TEXT, use=SPECULATION, max_tokens=17)
    draft = ledger.models["draft"]
    assert draft.forwards == 4 * 3
    assert draft.rows == len(TEXT) + 16 - 1  # all but the last line's end and the bonus behind it


def test_other_drafts_another_text_of_the_same_law_greedy_the_same_text():
    models = Rig().models()
    plain, _ = generate(models, TEXT, max_tokens=12)
    got, ledger = generate(models, TEXT, use=SPECULATION, max_tokens=12)
    assert got == plain and ledger.accepted_tokens and ledger.rejected_tokens


def test_one_line_is_a_line():
    assert DrawnLines().law() == "line" and DrawnLines(lines=2).law() == "independent"
    assert DrawnLines(length=4, lines=3).most() == 12
