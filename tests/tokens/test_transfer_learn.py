"""What a transplant learns by: objectives are their formulas and 0 where nothing differs; rows learn, the rest stays."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

from fewer.errors import BadRequest
from fewer.tokens.transfer import adapt, bits, dynamic, ends, hypernet, objectives, starts
from fewer.tokens.transfer import transplant as work
from fewer.tokens.transfer.causal import run, scores
from fewer.tokens.transfer.composer import Composer
from tests.cli_tiny import write_chat_model
from tests.tokens.test_transfer import PAIRS, TEXT, quiet


@pytest.fixture(scope="module", name="pair")
def two_ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[ends.End, ends.End]:
    folder: Path = tmp_path_factory.mktemp("learn")
    old = write_chat_model(folder / "old.gguf", pairs=PAIRS[:24])
    return ends.open_model(str(old)), ends.open_target(str(write_chat_model(folder / "new.gguf", pairs=PAIRS)))


def test_chunks_begin_and_end_together() -> None:
    tokens = [b"a", b"b", b"c", b"ab", b"bc", b"abc"]
    a, b = objectives.common(objectives.borders([3, 2, 0, 4], tokens), objectives.borders([0, 4, 5], tokens))
    assert (a.tolist(), b.tolist()) == ([1, 3], [1, 2])  # ab c | a bc   and   a bc | abc
    sums = objectives.chunk_sums(torch.tensor([-1.0, -2.0, -4.0, -8.0]), a)
    assert sums.tolist() == [-3.0, -12.0]


def test_alm_is_its_formula() -> None:
    p, q = torch.tensor([-3.0, -12.0]), torch.tensor([-4.0, -9.0])
    a, b = torch.exp(p / 5), torch.exp(q / 5)
    wanted = (a * torch.log(a / b) + (1 - a) * torch.log((1 - a) / (1 - b))).mean()
    assert float(objectives.alm(p, q, 5.0)) == pytest.approx(float(wanted), rel=1e-5)
    assert float(objectives.alm(p, p)) == 0.0


def test_kl_folds_new_tokens_into_their_first_piece() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    student = torch.log(torch.tensor([[0.3, 0.3, 0.2, 0.2]]))  # the fourth begins with the first
    begins = torch.tensor([0, 1, 2, 0])
    assert float(objectives.kl(teacher, student, begins)) == pytest.approx(0.0, abs=1e-6)
    assert float(objectives.kl(teacher, student, torch.tensor([0, 1, 2, 1]))) > 0.05


def test_kl_takes_the_coming_token_out_of_its_first_piece() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    begins, coming, likely = torch.tensor([0, 1, 2, 0]), torch.tensor([3]), torch.log(torch.tensor([0.4]))
    shares = {0.1: 0.0, 0.3: 0.4 * math.log(0.4 / 0.2) + 0.1 * math.log(0.1 / 0.3)}  # of the first piece alone
    for alone, wanted in shares.items():
        student = torch.log(torch.tensor([[alone, 0.3, 0.2, 0.5 - alone]]))
        assert float(objectives.kl(teacher, student, begins, coming, likely)) == pytest.approx(wanted, abs=1e-6)
        assert float(objectives.kl(teacher, student, begins, torch.tensor([-1]), likely)) == pytest.approx(
            0.0, abs=1e-6
        )


def test_the_differentiable_pass_is_the_engines(pair: tuple[ends.End, ends.End]) -> None:
    old, _ = pair
    dense = work.body(old)
    ids = old.tokenizer.encode(TEXT)
    z = scores(dense, run(dense, dense.head.embed(torch.tensor(ids[:-1]))), dense.head.norm, dense.head.proj)
    mine = torch.log_softmax(z, -1)[torch.arange(len(ids) - 1), ids[1:]]
    torch.testing.assert_close(mine, bits.logprobs(dense, ids), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["alm", "kl"])
def test_nothing_is_to_learn_where_nothing_differs(pair: tuple[ends.End, ends.End], kind: str) -> None:
    old, _ = pair
    made = work.transplant(old, old, "fvt", starts.Knobs(), quiet)
    loss, n = adapt.Rows(old, made, work.body(old), kind).lesson(TEXT)
    assert abs(float(loss)) < 1e-6 and n == len(old.tokenizer.encode(TEXT))


@pytest.mark.parametrize("kind", adapt.KINDS)
def test_rows_learn_and_copied_ones_stay(pair: tuple[ends.End, ends.End], kind: str) -> None:
    old, new = pair
    dense = work.body(old)
    made = work.transplant(old, new, "mean", starts.Knobs(), quiet)
    after, facts = adapt.adapt(old, made, dense, adapt.Lessons(kind, 5.0, 0, steps=25), quiet, [TEXT])
    assert facts["steps"] == 25
    assert kind == "hyper" or facts["loss"] < facts["first_loss"]  # its lessons' vocabulary grows, see below
    copied = list(made.match.copied)
    for name, was in made.rows.items():
        assert torch.equal(after.rows[name][copied], was[copied])
        assert not torch.equal(after.rows[name], was)


def test_a_net_learns_to_foretell_merged_text(pair: tuple[ends.End, ends.End]) -> None:
    old, new = pair
    dense = work.body(old)
    net = adapt.Net(old, work.transplant(old, new, "fvt", starts.Knobs(), quiet), dense, 0)
    others = [(i, i + 1) for i in range(40, 60)]

    def judged() -> float:
        net.rng = random.Random(1)
        with torch.no_grad():
            net.others.clear()
            net.others.extend(others)
            return sum(float(net.lesson(TEXT)[0]) for _ in range(4))

    before = judged()
    adapt.train(net, adapt.Lessons("hyper", 5.0, 0, steps=40), [TEXT], quiet)
    assert judged() < before


def test_an_untrained_net_is_fast_vocabulary_transfer(pair: tuple[ends.End, ends.End]) -> None:
    old, new = pair
    w = old.matrix("embed")
    net = hypernet.Hypernet(w.shape[1], 1.0)
    made = work.transplant(old, new, "fvt", starts.Knobs(), quiet)
    known = [i for i, p in made.match.pieces.items() if p]
    rows = hypernet.predict(net, w, [made.match.pieces[i] for i in known])
    torch.testing.assert_close(rows, made.rows["embed"][known])
    torch.nn.init.normal_(net.b.weight)
    torch.testing.assert_close(hypernet.predict(net, w, [(5,), (6, 7)])[0], w[5])


def test_random_merges_keep_the_text() -> None:
    merged = hypernet.random_merges(range(200), random.Random(0))
    assert [i for t in merged for i in t] == list(range(200)) and {len(t) for t in merged} > {1, 2}


def test_lessons_refuse() -> None:
    with pytest.raises(BadRequest, match="--adapt"):
        adapt.Lessons("sft", 1.0, 0)
    with pytest.raises(BadRequest, match="--minutes"):
        adapt.Lessons("alm", 0.0, 0)


def test_merges_of_a_batch_are_the_worked_example() -> None:
    # aaabdaaabac: aa -> Z, ab -> Y, then ZY
    text = [0, 0, 0, 1, 3, 0, 0, 0, 1, 0, 2]

    def anything(a: int, b: int) -> bool:
        return True

    assert dynamic.merged([text], 0, anything) == [[(i,) for i in text]]
    (runs,) = dynamic.merged([text], 3, anything)
    assert runs == [(0, 0, 0, 1), (3,), (0, 0, 0, 1), (0,), (2,)]
    assert dynamic.merged([text], 99, anything) == [runs]  # no pair stands twice
    assert dynamic.merged([[0, 1], [0, 1]], 1, anything) == [[(0, 1)], [(0, 1)]]  # over the whole batch
    assert dynamic.merged([text], 9, lambda a, b: False) == dynamic.merged([text], 0, anything)


def test_a_merged_prefix(pair: tuple[ends.End, ends.End]) -> None:
    old, _ = pair
    dense, embed = work.body(old), old.matrix("embed")
    ids = old.tokenizer.encode(TEXT)
    joins = dynamic.inside_words(old.tokenizer)
    means = dynamic.means(embed, 1.0)
    plain = dynamic.continued(dense, [(i,) for i in ids[:40]], ids[40:], means)
    torch.testing.assert_close(plain, bits.logprobs(dense, ids)[39:], atol=1e-4, rtol=1e-4)
    (runs,) = dynamic.merged([ids[:40]], 5, joins)
    assert len(runs) < 40 and [i for run in runs for i in run] == ids[:40]
    found = dynamic.measure(dense, old.tokenizer, {"x": TEXT}, [0, 4], {"means": means}, quiet)
    assert found[0]["saved"] == 0 < found[1]["saved"] and found[0]["means"] != found[1]["means"]
    space = old.tokenizer.encode(" ")[0]
    assert not joins(space, ids[1]) and not joins(ids[0], space)


def test_a_composer_learns_what_the_model_says_behind_the_plain_prefix(pair: tuple[ends.End, ends.End]) -> None:
    old, _ = pair
    dense = work.body(old)
    same = Composer(old, dense, 0)
    same.joins = lambda a, b: False  # nothing is merged, so nothing can differ
    assert float(same.lesson(TEXT)[0].detach()) == pytest.approx(0.0, abs=1e-6)
    learner = Composer(old, dense, 0)

    def judged() -> float:
        learner.rng = random.Random(1)
        with torch.no_grad():
            return sum(float(learner.lesson(TEXT)[0]) for _ in range(8))

    before = judged()
    adapt.train(learner, adapt.Lessons("hyper", 5.0, 0, steps=60), [TEXT], quiet)
    assert 0 < judged() < before
    with torch.no_grad():
        plain = learner.compose([(5,)])[0]
    torch.testing.assert_close(plain, old.matrix("embed")[5] * dense.spec.embed_scale)
