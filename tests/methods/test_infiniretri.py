"""InfiniRetri: what is carried equals a naive rewrite's; memory stays that of one reading, however long the text."""

import numpy as np
import pytest
import torch

import fewer
from fewer.bench.tasks import make
from fewer.methods.transform.carried_sentences import CarriedSentences, pieces, sentence_ends
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.testing.harness import generate, request, run
from fewer.testing.tiny import tiny_model
from fewer.types import Told

FULL_STOP = ord("\n")  # without a tokenizer token i is the character i
TEXT = [(5 * i * i + i) % 31 if i % 6 != 5 else FULL_STOP for i in range(60)]
TEXT = [11 if t == FULL_STOP and i % 6 != 5 else t for i, t in enumerate(TEXT)]
QUESTION = [3, 1, 4, 1]


def mass(model, tokens, question, layer):
    """Attention of the last `question` rows at `layer` to every token, summed over heads and rows, with matrices."""
    spec, n = model.spec, len(tokens)
    x, g = model.head.embed(torch.tensor(tokens)), spec.n_heads // spec.n_kv_heads
    for i in range(layer + 1):
        cos, sin = cos_sin(spec.ropes[i], torch.arange(n), x.dtype)
        q, k, v = model.blocks[i].qkv(x, torch.ones_like(cos), torch.zeros_like(sin))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin).repeat_interleave(g, 1)
        s = torch.einsum("ihd,jhd->hij", q, k) * spec.scale
        p = torch.softmax(s.masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf")), -1)
        x = model.blocks[i].mlp(model.blocks[i].out(torch.einsum("hij,jhd->ihd", p, v.repeat_interleave(g, 1)), x))
    return p[:, n - question :].sum((0, 1))


def naive(model, budget, piece, topk, phrase):
    """Sentences of six tokens, pieces of whole ones; the best tokens' sentences are carried while there is room."""
    carried: list[int] = []
    for start in range(0, 60, piece):
        context = sorted(carried) + list(range(start, start + piece))
        s = mass(model, [TEXT[i] for i in context] + QUESTION, 4, model.spec.n_layers - 1)[: len(context)]
        half = phrase // 2
        smooth = [float(s[max(0, j - half) : j + half + 1].mean()) for j in range(len(context))]
        carried = []
        for j in np.argsort(smooth)[::-1][:topk]:
            whole = range(context[j] // 6 * 6, context[j] // 6 * 6 + 6)
            if whole[0] not in carried and len(carried) + 6 <= budget - 4:
                carried += whole
    return sorted(carried)


def test_carries_what_a_naive_rewrite_carries():
    model = tiny_model()
    for budget, topk in ((18, 9), (24, 5)):
        method = CarriedSentences(budget=budget, piece=12, question=4, topk=topk, phrase=3, layer=1.0)
        r = request([*TEXT, *QUESTION], use=[method], max_tokens=5)
        run(model, [r])
        assert r.kept.tolist() == [*naive(model, budget, 12, topk, 3), 60, 61, 62, 63]
        assert r.tokens == generate(model, [(TEXT + QUESTION)[i] for i in r.kept], max_tokens=5)[0]


def test_sentences_and_pieces():
    text = "A b. C! Dddddddddd e\nf"
    told = Told(0)
    ends = sentence_ends([ord(c) for c in text], told, 8)
    assert ends.tolist() == [4, 7, 15, 21, 22]
    assert list(pieces(ends, 8)) == [(0, 7), (7, 15), (15, 22)]


def test_memory_does_not_grow_with_the_text():
    """Four times the text: the same peak, four times the rows."""
    model, rows, peaks = tiny_model(), [], []
    for times in (2, 8):
        method = CarriedSentences(budget=24, piece=24, question=4, topk=8)
        r = request([*TEXT * times, *QUESTION], use=[method], max_tokens=2)
        run(model, [r])
        rows.append(r.ledger.rows)
        peaks.append(r.ledger.kv_bytes_peak)
        assert len(r.kept) <= 24
    assert peaks[0] == peaks[1]
    assert 3.5 < rows[1] / rows[0] < 4.5


@pytest.mark.slow
def test_finds_a_needle_beyond_the_models_context():
    """A fact in a text longer than the model's context is among the sentences that are left."""
    eng = fewer.open("smollm2-135m")
    (item,) = make("needle", 1, 9000, 0, lambda text: len(eng.tokenizer.encode(text, bos=False)))
    out = eng.generate(item.prompts[0], use=["infiniretri:budget=512"], max_tokens=24)
    assert out.ledger.prompt_tokens > eng.model.spec.max_context
    assert out.ledger.kept_tokens <= 512
    assert item.value in out.text
