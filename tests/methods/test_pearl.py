"""PEARL: pre-verify and post-verify as a schedule; the lanes are in the ledger; with a draft that is right nobody waits."""

import pytest

from fewer.testing.harness import generate
from fewer.testing.rig import Rig
from fewer.testing.tiny import tiny_model
from tests.methods.test_spectr import WORDS


def schedule(main: list[int], drafts, length: int, count: int) -> tuple[int, int]:
    """Forwards of the large model and rows they had, naively: drafts(text) is the small model's next token."""
    text, line, forwards, rows = [], list[int](), 0, len(WORDS)
    while len(text) < count:
        limit = count - len(text) - 1
        seen = line[:limit] if text else []
        ahead = list(line)
        while len(ahead) < min(len(line) + length, limit):
            ahead.append(drafts(text + ahead))
        forwards += 1
        rows += len(seen) + (1 if text else 0)
        right = 0
        while right < len(seen) and seen[right] == main[len(text) + right]:
            right += 1
        text += main[len(text) : len(text) + right + 1]
        stands = ahead[: right + 1] == text[len(text) - right - 1 :] and len(ahead) > right
        # what is behind the last token is known only if the small model has read that token
        line = ahead[right + 1 :] if stands and len(ahead) > right + 1 else []
    return forwards, rows


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_it_is_the_papers_schedule(length):
    models = Rig().models()
    plain, _ = generate(models, WORDS, max_tokens=30)
    known = {}

    def drafts(text):
        if tuple(text) not in known:
            known[tuple(text)] = generate(models["draft"], [*WORDS, *text], max_tokens=1)[0][0]
        return known[tuple(text)]

    got, ledger = generate(models, WORDS, use=[f"pearl:length={length}"], max_tokens=30)
    assert got == plain
    main = ledger.models["main"]
    assert (main.forwards, main.rows) == schedule(plain, drafts, length, 30)


def test_with_a_perfect_draft_model_a_round_is_its_length():
    """From the second round on, each forward of the large model gives as many tokens as were written beside it."""
    model = tiny_model(layers=2)
    for options in ({}, {"temperature": 0.9, "seed": 4}):
        _, ledger = generate({"main": model, "draft": model}, WORDS, use=["pearl:length=3"], max_tokens=19, **options)
        assert ledger.rejected_tokens == 0
        assert ledger.models["main"].forwards == 1 + 18 // 3


def test_pre_verify_wastes_no_rows():
    """A draft model that is never right: every forward has the certain token alone."""
    model, other = tiny_model(layers=2), tiny_model(layers=1, seed=9)
    plain, cost = generate(model, WORDS, max_tokens=12)
    got, ledger = generate({"main": model, "draft": other}, WORDS, use=["pearl"], max_tokens=12)
    assert got == plain
    if ledger.accepted_tokens == 0:
        assert ledger.models["main"].rows <= cost.rows + ledger.drafted_tokens


def test_both_lanes_are_in_the_ledger():
    _, ledger = generate(Rig().models(), WORDS, use=["pearl:length=2"], max_tokens=12)
    lanes = ledger.to_dict()["lanes"]
    assert {model for model, _, _ in lanes} == {"main", "draft"} and min(start for _, start, _ in lanes) == 0
    assert sum(m == "draft" for m, _, _ in lanes) == ledger.models["draft"].forwards
    assert sum(m == "main" for m, _, _ in lanes) <= ledger.models["main"].forwards
    assert all(start <= end for _, start, end in lanes)
    assert generate(Rig().models(), WORDS, max_tokens=4)[1].lanes == []
