"""MInference: places against naive rewrites of the three patterns, reads as counted, a file's heads, the search."""

import json
from itertools import pairwise

import pytest
import torch

from fewer.attend.full import set_right
from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.kv.segment import Meter, pack_stacked
from fewer.kv.view import View
from fewer.methods.select.prompt_patterns import PromptPatterns
from fewer.parts.patterns import HEARSAY, Pattern, Piece, diagonals, pick
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.train.head_effects import effects
from fewer.train.patterns import CANDIDATES, ROOMS, Errors, Survey, share
from fewer.types import Told

PROMPT = [(7 * i * i + 3 * i) % 31 for i in range(96)]


def a_piece(room, look=4, held=24, rows=16):
    g = torch.Generator().manual_seed(3)
    q, k = (torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((rows, 2, 8), (held + rows, 8)))
    return Piece(q, k, 8**-0.5, 8, room, look)


def naive_attention(piece):
    """Causal attention of every row, summed over the queries, with loops: row -> [weight of key j]."""
    held, out = len(piece.k) - len(piece.q), []
    for i, row in enumerate(piece.q):
        n = held + i + 1
        out.append(sum(torch.softmax(piece.k[:n] @ q * piece.scale, 0) for q in row).tolist())
    return out


def heard(piece, block):
    """The rows that find lines and what they weigh for a block, for pieces of 16 rows in blocks of 8: four rows, two each."""
    rows = naive_attention(piece)
    return [(24 + i, rows[i], 1.0 if i // 8 == block else HEARSAY) for i in (3, 7, 11, 15)]


@pytest.mark.parametrize("look", [1, 3, 4, 5, 40])
def test_rows_that_look_are_spaced_evenly_and_end_with_the_last(look):
    at = a_piece(8, look).looking.tolist()
    assert len(at) == min(look, 16) and at[-1] == 15 and at[0] >= 0
    assert len({b - a for a, b in pairwise(at)}) <= 1


def test_diagonals_are_summed_in_bands():
    piece = a_piece(8)
    got = diagonals(piece.masses, piece.looking, 8)
    for mine, (place, row, _) in zip(got, heard(piece, 0), strict=True):
        bands = [0.0] * 5
        for j, weight in enumerate(row):
            bands[(place - j) // 8] += weight
        assert mine.tolist() == pytest.approx(bands)


def test_columns_alone_are_the_heaviest_columns():
    piece = a_piece(6)
    (first, second), looked = pick(Pattern("vertical-slash", 1.0), piece)
    for block, (places, n) in enumerate(((first, 24), (second, 32))):
        column = [sum(w * row[j] for _, row, w in heard(piece, block) if j < len(row)) for j in range(40)]
        assert places.tolist() == sorted(sorted(range(n), key=lambda j: -column[j])[:6])
    assert looked == 4 * 40


def test_slashes_alone_lie_on_the_heaviest_diagonals():
    piece = a_piece(10)
    (first, second), _ = pick(Pattern("vertical-slash", 0.0), piece)
    bands = diagonals(piece.masses, piece.looking, 8)
    for block, (places, n) in enumerate(((first, 24), (second, 32))):
        weights = torch.tensor([w for _, _, w in heard(piece, block)], dtype=bands.dtype)
        best = int((weights @ bands).argmax())
        assert len(places) == 10
        on_best = set(range(max(0, n - (best + 1) * 8 + 1), min(n, n + 8 - best * 8)))
        assert set(places.tolist()) <= on_best or on_best <= set(places.tolist()) or len(on_best) > 10


def test_blocks_are_those_of_the_nearest_means():
    piece = a_piece(16)
    (first, second), _ = pick(Pattern("block-sparse"), piece)
    for i, (places, n) in enumerate(((first, 24), (second, 32))):
        q = piece.q[i * 8 : i * 8 + 8].mean(0)
        means = torch.stack([piece.k[b : b + 8].mean(0) for b in range(0, n, 8)])
        score = torch.softmax(q @ means.T * piece.scale, -1).sum(0).tolist()
        best = sorted(sorted(range(n // 8), key=lambda b: -score[b])[:2])
        assert places.tolist() == [j for b in best for j in range(8 * b, 8 * b + 8)]


def test_a_shape_is_sinks_and_the_nearest():
    (first, second), looked = pick(Pattern("a-shape"), a_piece(7))
    assert (first.tolist(), second.tolist()) == ([0, 1, 2, 3, 21, 22, 23], [0, 1, 2, 3, 29, 30, 31])
    assert looked == 0


def test_whole_is_everything_before_the_block():
    (first, second), looked = pick(Pattern("whole"), a_piece(7))
    assert (first.tolist(), second.tolist(), looked) == (list(range(24)), list(range(32)), 0)


def test_reads_fall_to_the_budget():
    """a-shape looks at nothing to decide: what is read can be counted by hand."""
    method = PromptPatterns(budget=24, block=8, whole=0, look=1, pattern="a-shape")
    _, ledger = generate(tiny_model(), PROMPT, use=[method], max_tokens=1, chunk=32)
    heads, looking = 3 * 2, 32 + 64 + 96
    first_piece = 8 * (0 + 8 + 16 + 16) + 4 * 36
    others = 2 * (4 * 8 * 16 + 4 * 36)
    assert ledger.kv_entries_read == heads * (first_piece + others + looking)


def test_rows_that_look_read_all_and_are_counted():
    eng = Engine(tiny_model(), None, chunk=32)
    plain = eng.generate(PROMPT, max_tokens=1, logprobs=2)
    budget = {"budget": 24, "block": 8, "whole": 0, "pattern": "a-shape"}
    read = {}
    for look in (1, 4, 32):
        read[look] = eng.generate(PROMPT, use=[PromptPatterns(look=look, **budget)], max_tokens=1, logprobs=2)
    assert read[32].logprobs == plain.logprobs
    assert read[1].logprobs != plain.logprobs
    heads, pieces = 3 * 2, (0, 32, 64)
    reads = {look: result.ledger.kv_entries_read for look, result in read.items()}
    assert reads[4] - reads[1] == heads * sum(n + i + 1 for n in pieces for i in (7, 15, 23))
    assert reads[32] - reads[1] == plain.ledger.kv_entries_read - heads * sum(n + 32 for n in pieces)


def test_rows_of_a_block_move_by_what_its_exact_rows_gain_on_average():
    o = torch.arange(12.0).reshape(6, 1, 2)
    got, at, true = o.clone(), torch.tensor([1, 3, 5]), torch.tensor([[[9.0, 9]], [[1, 1]], [[0, 0]]])
    set_right(got, at, true, 4)
    gained = ((true[0] - o[1]) + (true[1] - o[3])) / 2
    for row in (0, 2):
        assert torch.equal(got[row], o[row] + gained)
    assert torch.equal(got[4], o[4] + (true[2] - o[5]))
    assert torch.equal(got[at], true)


def test_a_head_has_its_share_of_the_room():
    (first, second), _ = pick(Pattern("a-shape", room=2.0), a_piece(7))
    assert (len(first), len(second)) == (14, 14)
    (first, _), _ = pick(Pattern("vertical-slash", 0.5, room=0.25), a_piece(16))
    assert len(first) == 4


def test_the_last_rows_read_all():
    """Blocks of 8 in pieces of 32: with the last 9 rows whole, two blocks of the last piece see everything before them."""
    reads = []
    for whole in (0, 9, len(PROMPT)):
        method = PromptPatterns(budget=24, block=8, whole=whole, look=1, pattern="a-shape")
        reads.append(generate(tiny_model(), PROMPT, use=[method], max_tokens=1, chunk=32)[1].kv_entries_read)
    assert reads[1] - reads[0] == 3 * 2 * 8 * ((80 - 16) + (88 - 16))
    assert reads[2] == generate(tiny_model(), PROMPT, max_tokens=1, chunk=32)[1].kv_entries_read


def test_a_file_gives_each_head_its_pattern(tmp_path):
    file = tmp_path / "p.json"
    of = [[["a-shape", 0.5, 1.0], ["block-sparse", 0.5, 1.0]]] * 3
    file.write_text(json.dumps({"patterns": of}))
    mixed = PromptPatterns(budget=24, block=8, whole=0, look=1, file=str(file))
    texts = [
        generate(tiny_model(), PROMPT, use=[m], max_tokens=1, chunk=32, logprobs=0)[1].kv_entries_read
        for m in (
            mixed,
            PromptPatterns(budget=24, block=8, whole=0, look=1, pattern="a-shape"),
            PromptPatterns(budget=24, block=8, whole=0, look=1, pattern="block-sparse"),
        )
    ]
    assert texts[1] < texts[0] < texts[2]
    file.write_text(json.dumps({"patterns": of[:2]}))
    with pytest.raises(BadRequest, match="patterns of 2 layers, the model has 3"):
        generate(tiny_model(), PROMPT, use=[mixed])
    with pytest.raises(BadRequest, match="cannot read"):
        generate(tiny_model(), PROMPT, use=[PromptPatterns(budget=24, block=8, file=str(tmp_path / "none"))])


def test_the_search_measures_how_far_answers_are_off(monkeypatch):
    """The error of a candidate is that of its answer: all candidates with all places have none, and none is negative."""
    monkeypatch.setattr("fewer.train.patterns.BLOCK", 8)
    errors = {}
    for room in (0.2, 16.0):  # of the latter the smallest share is twice all
        found = Errors()
        Engine(tiny_model(), None, chunk=32).generate(PROMPT, use=[Survey(found, room)], max_tokens=1)
        errors[room] = found.of
    assert set(errors[16.0]) == {(layer, h) for layer in range(3) for h in range(2)}
    assert all(e == pytest.approx(0, abs=1e-18) for sums in errors[16.0].values() for e in sums)
    assert all(len(sums) == len(CANDIDATES) and min(sums[:-1]) > 0 == sums[-1] for sums in errors[0.2].values())


def test_heads_share_the_room_where_it_saves_most():
    """Two heads, 1 each on average: the one that matters takes what the other can do without."""
    a_shape = [CANDIDATES.index(Pattern("a-shape", room=room)) for room in ROOMS]
    errors = {}
    for head, falls in (((0, 0), [10.0, 8.0, 6.0, 4.0, 1.0, 0.5]), ((0, 1), [0.2, 0.2, 0.1, 0.1, 0.1, 0.1])):
        errors[head] = [99.0] * (len(CANDIDATES) - 1) + [0.0]
        for i, error in zip(a_shape, falls):
            errors[head][i] = error
    assert share(errors, 0.01) == {(0, 0): Pattern("a-shape", room=1.0), (0, 1): Pattern("a-shape", room=0.5)}
    assert share(errors, 0.3)[0, 0].kind == "whole"


def test_a_head_matters_as_much_as_it_changes_what_lies_behind():
    eng = Engine(tiny_model(), None, chunk=32)
    heads = {(layer, h): Pattern("a-shape") for layer in range(3) for h in range(2)}
    said = []
    matters = effects(eng, PROMPT, heads, 12, lambda: False, said.append)
    assert matters[2, 0] == matters[2, 1] == 0.0
    assert all(matters[layer, h] > 0 for layer in range(2) for h in range(2))
    wider = effects(eng, PROMPT, heads, 90, lambda: False, said.append)
    assert max(wider.values()) == 0.0
    assert set(effects(eng, PROMPT, heads, 12, lambda: True, said.append).values()) == {1.0}
    assert said[:2] == ["head 1 of 6: layer 0, head 0", "head 2 of 6: layer 0, head 1"]


def test_an_error_is_that_of_the_worst_query_head(monkeypatch):
    """Of two query heads one looks at all alike and one at the last entry: a-shape fails the first, whatever the scale."""
    monkeypatch.setattr("fewer.train.patterns.BLOCK", 2)
    g = torch.Generator().manual_seed(0)
    k = torch.zeros(1, 40, 8, dtype=torch.float64)
    k[..., 0] = torch.arange(40)
    v = torch.randn(1, 40, 8, generator=g, dtype=torch.float64)
    q = torch.zeros(4, 2, 8, dtype=torch.float64)
    q[:, 1, 0] = 100.0
    held = pack_stacked(Meter(), k, v, torch.arange(40, dtype=torch.int32)[None])
    errors = []
    for scale in (1.0, 1e-3):
        held.v[:] = scale * v[0]
        found = Errors()
        Survey(found, 0.1).pick_blocks(0, q, View([held], 1), Told(40, windows=(None,)), None, None)
        errors.append(found.of[0, 0][CANDIDATES.index(Pattern("a-shape"))])
    off = []
    for i in (38, 39):  # places: four sinks, none nearer, and the block's own
        got, exact = v[0, [0, 1, 2, 3, *range(38, i + 1)]].mean(0), v[0, : i + 1].mean(0)
        off.append(float((got - exact).pow(2).sum() / exact.pow(2).sum()))
    assert errors == pytest.approx([sum(off) / 2] * 2)


def test_the_budget_has_a_minimum():
    with pytest.raises(ValueError, match="minimum is 132"):
        PromptPatterns(budget=60)
