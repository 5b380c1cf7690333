"""Superposed Decoding: the search against a naive one that recomputes everything, n-grams against counting, one text's cost."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fewer.engine import Engine
from fewer.errors import BadKnob, BadRequest, CannotCombine
from fewer.methods.strategy.superposition import SHARES, Superposition
from fewer.parts.ngrams import Ngrams
from fewer.plan import PLAIN, plan
from fewer.testing.harness import generate, request, run
from fewer.testing.tiny import tiny_model
from fewer.types import Group, Rows, Step, Told

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
CORPUS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 3, 8, 3, 2, 7] * 3


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.lists(st.integers(0, 3), max_size=6))
def test_shares_are_counted_by_hand(corpus, context):
    def count(gram):
        return sum(tuple(corpus[i : i + len(gram)]) == tuple(gram) for i in range(len(corpus)))

    shares = Ngrams(corpus, 4).shares(context, [0, 1, 2, 3])
    for n in (1, 2, 3):
        last = context[len(context) - n :] if n <= len(context) else None
        for token in range(4):
            want = count([*last, token]) / count(last) if last and count(last) else 0.0
            assert shares[n - 1, token] == pytest.approx(want)


def test_ngrams_take_twelve_bytes_each():
    rng = np.random.default_rng(0)
    corpus = rng.integers(0, 40, 5000).tolist()
    distinct = sum(len(Counter(zip(*(corpus[i:] for i in range(n))))) for n in range(1, 7))
    assert Ngrams(corpus, 6).nbytes == 12 * distinct


def logits_behind(model, vectors):
    """The model's logits behind a text of vectors (n, D), computed from scratch."""
    store, n = model.new_store(), len(vectors)
    rows = Rows(np.arange(n), np.arange(-1, n - 1), np.full(n, -1), torch.cat(vectors))
    out, _ = model.forward(Step([Group(store.new(), rows, PLAIN, Told(n), np.array([n - 1]))]), store)
    return out[0].logits[0]


def naive(model, prompt, steps, drafts, weight, sharpen, candidates, corpus):
    """Beams as lists of (tokens, score); every step reads the whole text of vectors again."""
    embed = lambda t: model.head.embed(torch.tensor([t]))  # noqa: E731
    vectors, beams, ngrams = [embed(t) for t in prompt], [([], 0.0)], Ngrams(corpus, 6)
    for _ in range(steps):
        p = torch.softmax(logits_behind(model, vectors) / sharpen, -1)
        best = sorted(range(len(p)), key=lambda t: -float(p[t]))[:candidates]
        grown = []
        for tokens, score in beams:
            shares = ngrams.shares([*prompt, *tokens], best)
            for i, t in enumerate(best):
                q = float(sum(w * s for w, s in zip(SHARES, shares[:, i]))) + (1 - sum(SHARES)) * float(p[t])
                added = math.log(p[t]) if not weight else (1 - weight) * math.log(p[t]) + weight * math.log(q)
                grown.append(([*tokens, t], score + added))
        beams = sorted(grown, key=lambda b: -b[1])[:drafts]
        total = sum(math.exp(score - beams[0][1]) for _, score in beams)
        vectors.append(sum(math.exp(s - beams[0][1]) / total * embed(t[-1]) for t, s in beams))
    return beams


@pytest.mark.parametrize(("drafts", "weight"), [(1, 0.0), (3, 0.0), (3, 0.5), (2, 1.0)])
def test_the_search_is_the_naive_one(drafts, weight, tmp_path):
    model = tiny_model(layers=2)
    (tmp_path / "c.txt").write_text("".join(map(chr, CORPUS)))
    method = Superposition(drafts=drafts, weight=weight, sharpen=0.5, text=str(tmp_path / "c.txt"))
    r = request(PROMPT, [method], max_tokens=7)
    run(model, [r])
    want = naive(model, PROMPT, 7, drafts, weight, 0.5, 3 * drafts, CORPUS)
    assert [d for d, _ in r.drafts] == [tokens for tokens, _ in want]
    assert r.tokens == want[0][0]
    assert len({tuple(d) for d, _ in r.drafts}) == drafts


def test_log_probabilities_are_the_models_behind_the_mixtures():
    model = tiny_model(layers=2)
    r = request(PROMPT, [Superposition(drafts=2, weight=0.0)], max_tokens=1)
    run(model, [r])
    lp = torch.log_softmax(logits_behind(model, [model.head.embed(torch.tensor([t])) for t in PROMPT]), -1)
    assert [p for _, p in r.drafts] == pytest.approx([float(lp[d[0]]) for d, _ in r.drafts])


def test_one_draft_without_ngrams_is_plain_decoding():
    model, whole = tiny_model(), Superposition(drafts=1, weight=0.0, candidates=1000)
    for options in ({}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.8, "top_p": 0.9, "seed": 1}, {"eos": (5,)}):
        plain, _ = generate(model, PROMPT, max_tokens=20, **options)
        assert generate(model, PROMPT, use=[whole], max_tokens=20, **options)[0] == plain


def test_three_drafts_cost_the_forwards_of_one():
    model = tiny_model()
    _, cost = generate(model, PROMPT, max_tokens=12)
    _, ledger = generate(model, PROMPT, use=[Superposition(weight=0.0)], max_tokens=12)
    assert (ledger.forwards, ledger.rows) == (cost.forwards, cost.rows)


def test_the_corpus_decides_between_drafts_of_like_probability(tmp_path):
    """A corpus in which the prompt is always followed by one token pulls the first draft there."""
    model = tiny_model()
    for token in (11, 12):
        (tmp_path / "c.txt").write_text("".join(map(chr, [*PROMPT, token] * 20)))
        method = Superposition(drafts=2, weight=0.9, sharpen=1.0, candidates=31, text=str(tmp_path / "c.txt"))
        assert generate(model, PROMPT, use=[method], max_tokens=1)[0] == [token]


def test_drafts_end_each_in_its_place():
    """With stop tokens some drafts end early, keep their rank a token, and the text is the best draft's."""
    model, stops = tiny_model(), (3, 7, 13, 20, 1)
    r = request(PROMPT, [Superposition(drafts=4, weight=0.0, sharpen=1.0)], max_tokens=12, eos=stops)
    run(model, [r])
    ends = [d[-1] in stops for d, _ in r.drafts]
    assert len(r.drafts) == 4 and any(ends) and r.tokens == r.drafts[0][0]
    assert all(t not in stops for d, _ in r.drafts for t in d[:-1])
    assert all(len(d) == 12 for (d, _), end in zip(r.drafts, ends) if not end)


def test_text_comes_as_far_as_all_drafts_agree():
    model = tiny_model()
    r = request(PROMPT, [Superposition(drafts=2, weight=0.0)], max_tokens=10)
    seen = []
    r.sampler.push = lambda token, told, push=r.sampler.push: (push(token, told), seen.append(len(r.drafts[0][0])))
    run(model, [r])
    assert len(seen) == 10 and seen[0] < 10


def test_what_follows_one_text_is_refused():
    with pytest.raises(BadRequest, match="repetition_penalty follows one"):
        generate(tiny_model(), PROMPT, use=["superposed:weight=0"], repetition_penalty=1.2)
    with pytest.raises(CannotCombine, match=r"superposed and streaming-llm.*mixtures"):
        plan(["superposed", "streaming-llm"])
    with pytest.raises(CannotCombine, match=r"superposed and awrs.*several texts"):
        plan(["superposed", "awrs:regex=a*"])
    with pytest.raises(BadKnob, match="there is no text file"):
        plan(["superposed:text=nowhere"])


def test_its_cache_is_nobody_elses_prefix():
    """The rows behind the prompt are mixtures: a later prompt that begins with the text must not be built on them."""
    model = tiny_model()
    eng = Engine(model, None)
    told = eng.generate(PROMPT * 4, use=["superposed:weight=0"], max_tokens=24)
    again = eng.generate([*PROMPT * 4, *told.tokens, 7], max_tokens=8)
    assert again.ledger.cached_tokens <= len(PROMPT * 4)
    assert again.tokens == generate(model, [*PROMPT * 4, *told.tokens, 7], max_tokens=8)[0]
