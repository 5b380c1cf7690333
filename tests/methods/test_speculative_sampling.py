"""Speculative sampling: what is drafted stands as often as the paper says, and the draft model reads nothing twice."""

import pytest
import torch

from fewer.methods.propose.drawn_lines import DrawnLines
from fewer.testing.enumerate import distribution
from fewer.testing.harness import generate
from fewer.testing.rig import Rig
from fewer.testing.tiny import tiny_model
from fewer.types import Told
from tests.two_tables import Table, lines, random_p

TEXT = [3, 1, 4, 1, 5, 9, 2, 6]
SPECULATION = ["speculative-sampling:length=3"]


def test_tokens_a_forward_are_the_papers():
    """With acceptance rate a, a forward gives (1 - a^(n + 1)) / (1 - a) tokens on average; a = sum min(p, q)."""
    p, q, n = random_p(seed=1), random_p(seed=2, sharp=2.0), 3
    a = float(torch.minimum(p, q).sum())

    def tokens(rng):
        tree = lines(lambda *path: q, 1, n)(rng)
        path, _ = DrawnLines().judge().walk(tree, Table(tree, lambda *path: p), rng, Told(1), None)
        return len(path) + 1

    mean = sum(count * chance for count, chance in distribution(tokens).items())
    assert mean == pytest.approx((1 - a ** (n + 1)) / (1 - a))


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
