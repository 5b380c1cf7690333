"""Squeezed Attention: equality with a naive rewrite, fewer comparisons than keys, clusters that outlive a request."""

import math

import torch

from fewer.engine import Engine
from fewer.methods.select.prefix_clusters import PrefixClusters
from fewer.parts.clusters import ClusterTree, k_means
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.methods.selecting import Selecting, written

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2]


def test_equals_a_naive_rewrite():
    """Clusters over the first 16 keys, ranked by estimated attention; all coarse clusters are looked into."""
    model, fixed, budget = tiny_model(layers=3), 16, 18

    def choose(layer, pos, q, keys, attention):
        if pos <= budget:
            return None
        room, read = budget - (pos - fixed), []
        for h in range(2):
            mine = k_means(keys[:fixed, h], 6).tolist()
            groups = {c: [i for i in range(fixed) if mine[i] == c] for c in set(mine)}
            centre = {c: keys[at, h].mean(0) for c, at in groups.items()}
            worth = dict.fromkeys(groups, 0.0)
            for head in q[2 * h : 2 * h + 2]:
                e = {c: math.exp(float(head @ centre[c]) / math.sqrt(8)) for c in groups}
                total = sum(len(groups[c]) * e[c] for c in groups)
                for c in groups:
                    worth[c] += e[c] / total / 2
            got = []
            for c in sorted(groups, key=lambda c, worth=worth: -worth[c]):
                if len(got) + len(groups[c]) > room:
                    break
                got += groups[c]
            read.append(got + list(range(fixed, pos)))
        return read

    use = PrefixClusters(budget=budget, question=len(PROMPT) - fixed, clusters=0.375, ratio=2, reach=100.0)
    got, _ = generate(model, PROMPT, use=[use], max_tokens=10)
    assert got != generate(model, PROMPT, max_tokens=10)[0]
    assert got == written(Selecting(model, choose), PROMPT, 10)


def test_two_levels_compare_less_and_find_much_the_same():
    """Keys in 20 bunches: the hierarchy finds what a flat lookup finds, with fewer comparisons."""
    g = torch.Generator().manual_seed(1)
    bunches = torch.randn(20, 16, generator=g) * 3
    keys = bunches.repeat_interleave(50, 0) + torch.randn(1000, 16, generator=g) * 0.3
    tree, q = ClusterTree.over(keys, 0.1, 5), bunches[7][None] / 4
    flat, compared_flat = tree.find(q, 100, 1000.0)
    found, compared = tree.find(q, 100, 1.5)
    assert compared < compared_flat / 2
    strongest = set((keys @ q[0]).topk(40).indices.tolist())
    assert len(strongest & set(found.tolist())) >= 38 and len(strongest & set(flat.tolist())) >= 38


def test_clusters_outlive_a_request():
    """A second request with the same prefix makes no clusters and says what it would have said alone."""
    eng, use = Engine(tiny_model(layers=2), None), [PrefixClusters(budget=12, question=4, clusters=0.3)]
    eng.generate(PROMPT, use=use, max_tokens=4)
    saved = eng.memory.of(use[0], None)
    first = list(saved.values())
    again = eng.generate([*PROMPT[:-4], 1, 2, 3, 4], use=use, max_tokens=6)
    assert len(first) == 4 and list(saved.values()) == first
    alone = Engine(tiny_model(layers=2), None).generate([*PROMPT[:-4], 1, 2, 3, 4], use=use, max_tokens=6)
    assert again.tokens == alone.tokens
