"""The draft model's lane: its odds are those of reading the path alone, its cache is the text's, it reads nothing twice."""

import numpy as np
import pytest
import torch

from fewer.parts.draft_model import DraftModel, draw, likeliest
from fewer.plan import PLAIN
from fewer.sampling import Sampler, Sampling
from fewer.seams import Forward, Rewind
from fewer.testing.enumerate import distribution
from fewer.testing.harness import Naive
from fewer.testing.tiny import tiny_model
from fewer.types import EMPTY_TREE, Group, Rng, Step, Told

MODEL = tiny_model(layers=2)
TEXT = [3, 1, 4, 1, 5]


class Played:
    """Runs a lane's coroutines on a store of its own and notes what each forward fed."""

    def __init__(self) -> None:
        self.store = MODEL.new_store()
        self.seq, self.fed, self.rewound = self.store.new(), list[list[int]](), list[int]()

    def run(self, work) -> None:
        reply = None
        while True:
            try:
                ask = work.send(reply)
            except StopIteration:
                return
            reply = None
            if isinstance(ask, Rewind):
                self.store.truncate(self.seq, ask.next_pos)
                self.rewound.append(ask.next_pos)
            elif isinstance(ask, Forward):
                assert ask.model == "draft"
                self.fed.append(ask.rows.tokens.tolist())
                group = Group(self.seq, ask.rows, PLAIN, Told(0), ask.want)
                (reply,), _ = MODEL.forward(Step([group]), self.store)
                rows = ask.rows
            else:
                self.store.commit(self.seq, rows, ask.accepted)


def alone(text: list[int]) -> torch.Tensor:
    """softmax of the logits after `text`, token by token."""
    naive = Naive(MODEL)
    for token in text:
        logits = naive.feed(token)
    return torch.softmax(logits, -1)


def told(**sampling) -> Told:
    """What a request with these sampling parameters tells."""
    t = Told(len(TEXT), vocab=31)
    sampler = Sampler(Sampling(**sampling), (), TEXT, frozenset({0}), Rng(0))
    t.greedy = sampler.params.temperature == 0
    t.expect = lambda logits, path: sampler.expect(logits, t, path)
    return t


def test_odds_of_every_node_are_those_of_its_path_alone():
    played, lane, t = Played(), DraftModel(), told()
    played.run(lane.begin(TEXT, t))
    a, b = lane.add(-1, 7), lane.add(-1, 8)
    played.run(lane.expand([a, b], t))
    c, d = lane.add(b, 9), lane.add(a, 9)
    played.run(lane.expand([c, d], t))
    for node, path in ((-1, []), (a, [7]), (b, [8]), (c, [8, 9]), (d, [7, 9])):
        assert torch.allclose(lane.odds[node], alone(TEXT + path), atol=1e-9)
    assert lane.chance[c] == pytest.approx(float(lane.odds[-1][8] * lane.odds[b][9]))
    tree = lane.tree()
    assert tree.tokens.tolist() == [7, 8, 9, 9] and tree.parent.tolist() == [-1, -1, 1, 0] and tree.q is None
    drawn = lane.tree(drawn=True)
    assert torch.equal(drawn.q[2], lane.odds[b]) and drawn.chance.tolist() == [1, 1, lane.chance[b], lane.chance[a]]


def test_a_line_is_read_once_and_what_stands_of_it_is_kept():
    played, lane, t = Played(), DraftModel(), told()
    played.run(lane.begin(TEXT, t))
    tip = -1
    for token in (7, 8, 9):
        tip = lane.add(tip, token)
        if token != 9:
            played.run(lane.expand([tip], t))
    assert played.fed == [TEXT, [7], [8]] and not played.rewound
    played.run(lane.begin([*TEXT, 7, 5], t))  # 7 stands, 8 does not
    assert played.fed[-1] == [5] and played.rewound == [6]
    assert torch.allclose(lane.odds[-1], alone([*TEXT, 7, 5]), atol=1e-9)
    played.run(lane.begin([*TEXT, 7, 5, 6], t))
    assert played.fed[-1] == [6] and played.rewound == [6]


def test_a_side_branch_after_a_line_does_not_see_it():
    played, lane, t = Played(), DraftModel(), told()
    played.run(lane.begin(TEXT, t))
    a, b = lane.add(-1, 7), lane.add(-1, 8)
    played.run(lane.expand([a], t))
    played.run(lane.expand([b], t))
    assert torch.allclose(lane.odds[b], alone([*TEXT, 8]), atol=1e-9)


def test_a_text_that_was_wholly_read_is_begun_again():
    played, lane, t = Played(), DraftModel(), told()
    played.run(lane.begin(TEXT, t))
    played.run(lane.expand([lane.add(-1, 7)], t))
    played.run(lane.begin([*TEXT, 7], t))
    assert torch.allclose(lane.odds[-1], alone([*TEXT, 7]), atol=1e-9)


def test_a_long_prompt_comes_in_pieces():
    played, lane = Played(), DraftModel()
    text = [i % 31 for i in range(1100)]
    played.run(lane.begin(text, told()))
    assert [len(f) for f in played.fed] == [512, 512, 76]


def test_the_requests_sampling_shapes_the_odds_along_the_path():
    """Penalties count what was drafted before; a minimum keeps the end away; the truncation is the request's."""
    t = told(temperature=0.5, top_k=3, frequency_penalty=5.0, min_tokens=2)
    played, lane = Played(), DraftModel()
    played.run(lane.begin(TEXT, t))
    assert int((lane.odds[-1] > 0).sum()) == 3 and lane.odds[-1][0] == 0
    best = int(lane.odds[-1].argmax())
    tip = lane.add(-1, best)
    played.run(lane.expand([tip], t))
    z = torch.log(alone([*TEXT, best]))
    z[best] -= 5.0
    z[0] = float("-inf")
    p = torch.softmax(z / 0.5, -1)
    kept = torch.topk(p, 3)
    assert torch.allclose(lane.odds[tip][kept.indices], kept.values / kept.values.sum(), atol=1e-9)


def test_greedy_odds_are_the_probabilities_themselves():
    played, lane = Played(), DraftModel()
    played.run(lane.begin(TEXT, told()))
    assert torch.allclose(lane.odds[-1], alone(TEXT), atol=1e-9)


def test_vocabularies_of_other_padding_are_fitted():
    for size in (20, 40):
        played, lane, t = Played(), DraftModel(), told()
        t.vocab = size
        played.run(lane.begin(TEXT, t))
        p = torch.zeros(size, dtype=torch.float64)
        p[: min(size, 31)] = alone(TEXT)[: min(size, 31)]
        assert torch.allclose(lane.odds[-1], p / p.sum(), atol=1e-9)


def test_draws_without_replacement_follow_plackett_and_luce():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0])
    got = distribution(lambda rng: tuple(draw(p, 2, Told(1), rng)))
    want = {(i, j): float(p[i] * p[j] / (1 - p[i])) for i in range(3) for j in range(3) if i != j}
    assert got == pytest.approx(want)
    assert distribution(lambda rng: len(draw(p, 9, Told(1), rng))) == pytest.approx({3: 1.0})
    assert draw(p, 2, Told(1, greedy=True), Rng(0)) == [0, 1]
    assert likeliest(p, 9) == [(0, 0.5), (1, pytest.approx(0.3)), (2, pytest.approx(0.2))]


def test_nothing_grown_is_the_empty_tree():
    assert DraftModel().tree(drawn=True) is EMPTY_TREE
    assert np.array_equal(DraftModel().tree().tokens, [])


def test_the_tree_is_kept_where_the_text_followed_it():
    """The rest of a line stays with its odds and is not read again; side branches and other texts are not kept."""
    played, lane, t = Played(), DraftModel(), told()
    assert not lane.follow(TEXT)
    played.run(lane.begin(TEXT, t))
    tip = -1
    for token in (7, 8, 9):
        tip = lane.add(tip, token)
        played.run(lane.expand([tip], t))
    last = lane.add(tip, 10)
    assert not lane.follow([*TEXT, 7, 5]) and lane.follow([*TEXT, 7])
    assert lane.tokens == [8, 9, 10] and lane.parents == [-1, 0, 1]
    for node, path in ((-1, [7]), (0, [7, 8]), (1, [7, 8, 9])):
        assert torch.allclose(lane.odds[node], alone(TEXT + path), atol=1e-9)
    fed = len(played.fed)
    played.run(lane.expand([last - 1], t))
    assert played.fed[fed:] == [[10]]
    assert torch.allclose(lane.odds[2], alone([*TEXT, 7, 8, 9, 10]), atol=1e-9)
    assert lane.follow([*TEXT, 7, 8, 9, 10]) and lane.tokens == []
    played.run(lane.begin([*TEXT, 7, 8, 9, 10, 11], t))
    assert played.fed[-1] == [11] and not played.rewound
