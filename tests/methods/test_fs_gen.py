"""Hand-over: who writes which token against a naive rewrite, what it costs, what the ledger says."""

import pytest
import torch

from fewer.errors import BadRequest
from fewer.methods.strategy.hand_over import HandOver
from fewer.testing.harness import Naive, generate, request, run
from fewer.testing.tiny import tiny_model

MODELS = {"main": tiny_model(seed=0), "draft": tiny_model(seed=1, layers=2)}
PROMPT = [3, 1, 4, 1, 5, 9]


def naive(threshold, by, n):
    """Both models read every token; the small one's certainty says whose choice counts."""
    slow, fast = Naive(MODELS["main"]), Naive(MODELS["draft"])
    for token in PROMPT:
        a, b = slow.feed(token), fast.feed(token)
    text, handed, changed = [], 0, 0
    for _ in range(n):
        best = sorted(torch.softmax(b, -1).tolist(), reverse=True)
        certain = best[0] if by == "top" else best[0] - best[1]
        over = threshold == 1 or certain < threshold
        token = int((a if over else b).argmax())
        handed, changed = handed + over, changed + (over and token != int(b.argmax()))
        text.append(token)
        a, b = slow.feed(token), fast.feed(token)
    return text, handed, changed


@pytest.mark.parametrize("by", ["top", "lead"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_the_uncertain_positions_are_the_main_models(threshold, by):
    text, handed, changed = naive(threshold, by, 20)
    r = request(PROMPT, [HandOver(threshold, by)], max_tokens=20)
    run(MODELS, [r])
    assert r.tokens == text
    assert r.ledger.notes == [f"{handed} of 20 positions were handed over to the main model, {changed} changed by it"]
    assert r.ledger.models["main"].forwards == max(1, handed + (0 if _first(threshold, by) else 1))
    assert r.ledger.models["draft"].forwards == 20


def _first(threshold, by):
    """Is the first position handed over? Then the prompt's own forward answers it."""
    return naive(threshold, by, 1)[1] == 1


def test_its_ends_are_the_two_models_own_texts():
    main, draft = (generate(MODELS[m], PROMPT, max_tokens=20)[0] for m in ("main", "draft"))
    assert main != draft
    assert generate(MODELS, PROMPT, use=["fs-gen:threshold=1"], max_tokens=20)[0] == main
    assert generate(MODELS, PROMPT, use=["fs-gen:threshold=0"], max_tokens=20)[0] == draft


def test_a_model_of_one_mind_is_never_changed():
    r = request(PROMPT, [HandOver(1.0)], max_tokens=8)
    run({"main": MODELS["main"], "draft": MODELS["main"]}, [r])
    assert r.ledger.notes[0].endswith("8 of 8 positions were handed over to the main model, 0 changed by it")


def test_the_main_model_reads_what_it_missed_in_one_forward_and_no_faster_than_its_cache_allows():
    """With an eviction after every token it reads one by one, so eviction sees the same cache as ever."""
    free, bound = (
        request(PROMPT * 4, [HandOver(0.5), *more], max_tokens=20) for more in ([], ["streaming-llm:budget=12"])
    )
    run(MODELS, [free])
    run(MODELS, [bound])
    rows, forwards = (free.ledger.models["main"].rows, free.ledger.models["main"].forwards)
    assert forwards < rows - len(PROMPT * 4) + 1
    assert bound.ledger.models["main"].forwards == bound.ledger.models["main"].rows - len(PROMPT * 4) + 1


def test_without_a_draft_model_it_says_what_is_missing():
    with pytest.raises(BadRequest, match="fs-gen needs a draft model"):
        generate(MODELS["main"], PROMPT, use=["fs-gen"])
