"""SnapKV: what is kept equals a naive rewrite on whole attention matrices; the question; the least budget."""

import pytest
import torch

from fewer.errors import BadKnob
from fewer.methods.retain.prompt_scores import PromptScores
from fewer.parts.pooling import best_of_neighbours, mean_over_neighbours
from fewer.plan import make
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT, highest, kept, matrices


def naive(model, context, budget, window, pool, reduce):
    """s_j = sum over the window's rows of p_ij, mean over the kv-head's queries; pooled; the best beside the window."""
    n, out = len(context), []
    for layer in matrices(model, context):
        out.append([])
        for h in range(2):
            score = [
                sum(float(layer.p[q, i, j]) for q in (2 * h, 2 * h + 1) for i in range(n - window, n)) / 2
                for j in range(n - window)
            ]
            near = [score[max(0, j - pool // 2) : j + pool // 2 + 1] for j in range(len(score))]
            best = highest([reduce(s) for s in near], budget - window)
            out[-1].append([*best, *range(n - window, n)])
    return out


def mean(values):
    return sum(values) / len(values)


@pytest.mark.parametrize(("pooling", "reduce"), [("mean", mean), ("max", max)])
def test_equals_a_naive_rewrite(pooling, reduce):
    model = tiny_model()
    method = PromptScores(budget=14, window=4, pool=5, pooling=pooling)
    want = naive(model, PROMPT, 14, 4, 5, reduce)
    for chunk in (512, 7, 1):
        assert kept(model, PROMPT, method, chunk) == want


def test_query_agnostic_the_question_is_not_seen_and_stays():
    """The choice is that of the context alone, and its rows never saw the question; the question stays whole."""
    model, question = tiny_model(), 9
    context = PROMPT[:-question]
    want = naive(model, context, 12, 4, 1, mean)
    got = kept(model, PROMPT, PromptScores(budget=12 + question, window=4, question=question), chunk=16)
    assert got == [[[*lane, *range(len(context), len(PROMPT))] for lane in layer] for layer in want]
    other = [*context, *reversed(PROMPT[-question:])]
    assert kept(model, other, PromptScores(budget=12 + question, window=4, question=question)) == got
    aware = PromptScores(budget=12 + question, window=4)
    assert kept(model, other, aware) != kept(model, PROMPT, aware)


def test_the_question_reads_what_is_left():
    """Its entries differ from those of a question that read the whole context."""
    model = tiny_model()
    agnostic, full = (
        generate(model, PROMPT, use=[PromptScores(budget=b, window=2, question=9)], max_tokens=12)[0] for b in (13, 1.0)
    )
    assert agnostic != full == generate(model, PROMPT, max_tokens=12)[0]


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"budget": "0"}, "minimum is 33"),
        ({"budget": "32"}, r"minimum is 33 \(sinks \+ window \+ question \+ 1\)"),
        ({"budget": "40", "sinks": "4", "question": "8"}, "minimum is 45"),
        ({"budget": "0.0"}, "fraction in"),
        ({"pool": "4"}, "must be odd"),
        ({"window": "0"}, "window must be at least 1"),
    ],
)
def test_budgets_that_leave_no_choice_say_the_least(knobs, says):
    with pytest.raises(BadKnob, match=says):
        make("snapkv", knobs)


def test_a_share_of_a_short_prompt_is_not_less_than_the_least():
    assert kept(tiny_model(), PROMPT[:20], PromptScores(budget=0.1, window=8)) == [
        [sorted({*lane}) for lane in layer] for layer in naive(tiny_model(), PROMPT[:20], 9, 8, 1, mean)
    ]


def test_pooling_of_nothing_and_at_the_ends():
    x = torch.tensor([[3.0, 0, 0, 6]])
    assert mean_over_neighbours(x, 3).tolist() == [[1.5, 1, 2, 3]]
    assert best_of_neighbours(x, 3).tolist() == [[3, 3, 6, 6]]
    assert mean_over_neighbours(x[:, :0], 3).shape == best_of_neighbours(x[:, :0], 3).shape == (1, 0)
