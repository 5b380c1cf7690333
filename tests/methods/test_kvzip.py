"""KVzip: equality with the formula on whole attention matrices; the study leaves no trace but the choice."""

import torch

from fewer.methods.retain.prompt_scores import PromptScores
from fewer.parts import rebuilding
from fewer.testing.harness import generate, request, run
from fewer.testing.tiny import tiny_model
from tests.matrices import PROMPT, kept, matrices


def naive(model, context, budget, sinks, piece, lead=lambda at: []):
    """Scores of every entry by the piece it is in; then the best of all layers and heads."""
    n = len(context)
    scores = [[[0.0] * n for _ in range(2)] for _ in range(3)]
    for at in range(0, n, piece):
        said = lead(at) + context[at : at + piece]
        own = list(range(at, min(at + piece, n)))
        read = [*range(min(sinks, at)), *own, *range(n, n + len(said))]
        for layer, m in enumerate(matrices(model, context + said)):
            p = torch.softmax(m.z[:, n:, read], -1)[:, :, min(sinks, at) :]
            for h in range(2):
                for i, j in enumerate(own):
                    scores[layer][h][j] = float(p[2 * h : 2 * h + 2, :, i].max())
    ranked = [
        (float("inf") if j < sinks else s, -layer, -h, -j)
        for layer in range(3)
        for h in range(2)
        for j, s in enumerate(scores[layer][h])
    ]
    out = [[[] for _ in range(2)] for _ in range(3)]
    for _, layer, h, j in sorted(ranked, reverse=True)[: budget * 6]:
        out[-layer][-h].append(-j)
    return [[sorted(lane) for lane in layer] for layer in out]


def method(budget, sinks=2, **knobs):
    return PromptScores(budget=budget, scorer="rebuild", shares="model", window=0, sinks=sinks, floor=0.0, **knobs)


def test_equals_a_naive_rewrite_in_one_piece():
    model = tiny_model()
    for chunk in (512, 9):
        assert kept(model, PROMPT, method(10), chunk) == naive(model, PROMPT, 10, 2, 512)


def test_pieces_begin_with_a_hint_and_count_for_themselves(monkeypatch):
    """Without a tokenizer there is no instruction, but a later piece is still introduced by the tokens before it."""
    monkeypatch.setattr(rebuilding, "PIECE", 16)
    monkeypatch.setattr(rebuilding, "HINT", 3)
    model = tiny_model()
    want = naive(model, PROMPT, 10, 2, 16, lambda at: PROMPT[at - 3 : at] if at else [])
    assert kept(model, PROMPT, method(10)) == want


def test_the_instruction_is_read_before_the_repetition():
    model, told = tiny_model(), request(PROMPT, [method(10)], max_tokens=1)
    said = []
    told.told.encode = lambda text: said.append(text) or [1, 2, 3]
    run(model, [told])
    assert told.ledger.rows == 2 * len(PROMPT) + 3 and len(said) == 2


def test_the_context_ends_before_the_question():
    model, question = tiny_model(), 9
    context = PROMPT[:-question]
    got = kept(model, PROMPT, method(10 + question, question=question), chunk=16)
    want = naive(model, context, 10, 2, 512)
    assert got == [[[*lane, *range(len(context), len(PROMPT))] for lane in layer] for layer in want]


def test_heads_and_layers_differ_and_bytes_are_the_budgets():
    got = kept(tiny_model(), PROMPT, method(10))
    sizes = [len(lane) for layer in got for lane in layer]
    assert len(set(sizes)) > 1 and sum(sizes) == 60
    ledger = generate(tiny_model(), PROMPT, use=[method(10)], max_tokens=1)[1]
    assert ledger.kv_bytes_end == 60 * (2 * 8 * 8 + 4)


def test_a_study_that_is_not_needed_is_not_run():
    model = tiny_model()
    for use in ([method(100)], [method(1.0)]):
        tokens, ledger = generate(model, PROMPT, use=use, max_tokens=8)
        plain = generate(model, PROMPT, max_tokens=8)
        assert tokens == plain[0] and ledger.rows == plain[1].rows
