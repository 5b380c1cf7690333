"""RASD over a draft model: what the draft model adds, what it prunes, and no worse than either alone at equal size."""

import pytest
import torch

from fewer.methods.propose.retrieval import DraftRetrieval, Fused
from fewer.parts.draft_model import DraftModel
from fewer.parts.trie import Trie
from fewer.testing.harness import Naive, generate, request, run
from fewer.testing.rig import Rig
from fewer.testing.tiny import tiny_model
from fewer.types import EMPTY_TREE, Told
from tests.methods.test_rasd_recycling import TEXT, paths

MODELS = {"main": tiny_model(seed=0), "draft": tiny_model(seed=1, layers=2)}
LOOP = [3, 1, 4, 1, 5, 9, 2, 6] * 4


def drafts(prompt, n, **knobs):
    noted = []

    class Noting(DraftRetrieval):
        def draft(self, context, limit, told, state, rng):
            tree = yield from super().draft(context, limit, told, state, rng)
            noted.append((list(context), tree))
            return tree

    r = request(prompt, [Noting(**knobs)], max_tokens=n)
    run(MODELS, [r])
    return noted, r


def test_the_draft_model_writes_a_line_with_second_choices():
    """A text in which nothing repeats: the tree is the draft model's alone."""
    noted, _ = drafts([7, 3, 11], 8, steps=2, budget=9)
    context, tree = noted[0]
    small = Naive(MODELS["draft"])
    for token in context:
        logits = small.feed(token)
    first = torch.topk(logits, 2).indices.tolist()
    second = torch.topk(small.feed(first[0]), 2).indices.tolist()
    want = {(first[0],), (first[1],), (first[0], second[0]), (first[0], second[1])}
    assert want <= set(paths(tree))
    odds = torch.softmax(logits, -1)
    assert tree.chance[paths(tree).index((first[0],))] == pytest.approx(float(odds[first[0]]))


def test_branches_the_draft_model_does_not_expect_are_pruned():
    """Only the tokens it finds likeliest first may begin a retrieved branch, unless the match is long."""
    for roots, sure in ((1, 8), (3, 8), (31, 8), (1, 0)):
        noted, _ = drafts([*TEXT, *LOOP], 12, roots=roots, sure=sure, steps=1, budget=30, reach=30)
        for context, tree in noted:
            trie = Trie(15, 1 << 15)
            trie.extend(context)
            small = Naive(MODELS["draft"])
            for token in context:
                logits = small.feed(token)
            allowed = set(torch.topk(logits, max(roots, 2)).indices.tolist())
            begins = {int(t) for t, p in zip(tree.tokens, tree.parent) if p < 0}
            if trie.matched(8) <= sure:
                assert begins <= allowed
            else:
                assert {int(t) for t in trie.branches(context, 1, 8, 30, 1).tokens} <= begins


def test_text_is_the_same_and_at_equal_size_no_worse_than_its_parts():
    """With a draft model that resembles the target (its lower layers). A stranger's pruning would only do harm."""
    models = Rig().models("llama")

    class DraftOnly(DraftRetrieval):
        def fuse(self, own, expected, context, levels, trie):
            return super().fuse(own, expected, context, levels, Trie(15, 1 << 15))

    class RetrievalOnly(Fused):
        def start(self, told):
            return self.trie()

        def guess(self, context, limit, told, state):
            return self.fuse(EMPTY_TREE, (), context, min(self.length, limit), state)

        def learn(self, context, new, told, state):
            state.extend(context, len(new))

    spent = {}
    for cls in (DraftRetrieval, DraftOnly, RetrievalOnly):
        spent[cls] = 0
        for prompt in (LOOP, TEXT, [5, 5, 6]):
            text, ledger = generate(models, prompt, use=[cls(budget=4)], max_tokens=50)
            assert text == generate(models["main"], prompt, max_tokens=50)[0]
            spent[cls] += ledger.models["main"].forwards
    assert spent[DraftRetrieval] <= min(spent.values())


def test_it_costs_the_draft_model_a_forward_a_step():
    noted, r = drafts(LOOP, 30, steps=2)
    assert r.ledger.models["draft"].forwards <= 2 * len(noted)
    assert isinstance(DraftRetrieval().start(Told(1)).lane, DraftModel)
