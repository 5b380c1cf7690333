"""Two lanes: they really overlap, both with the same bits as in turn; what fails in one fails its request alone."""

import threading
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import fewer
from fewer import lanes as lanes_module
from fewer.kernels.cpu import alone, set_threads, threads
from fewer.kernels.native import native
from fewer.lanes import Lanes
from fewer.runner import Runner
from fewer.seams import Commit, Forward, Propose
from fewer.testing.harness import generate, request
from fewer.testing.rig import Rig
from fewer.types import chain
from tests.cli_tiny import tiny_model  # noqa: F401  (fixture)

TEXT = [3, 1, 4, 1, 5]


@pytest.fixture(name="two_threads")
def _two_threads():
    before = threads()
    set_threads(2)
    yield
    set_threads(before)


class Packed:
    packed = True


@pytest.mark.skipif(native is None, reason="needs the native kernels")
def test_the_two_run_at_the_same_time(two_threads):
    """Each waits for the other: run in turn, they would never end."""
    first, second = threading.Event(), threading.Event()

    def forward():
        first.set()
        assert second.wait(20)
        return 7

    def other():
        assert first.wait(20)
        second.set()

    (result, start, end) = Lanes([Packed(), Packed()]).run(forward, 4, other)
    assert result == 7 and start <= end


def test_in_turn_where_they_cannot(monkeypatch):
    monkeypatch.setattr(lanes_module, "threads", lambda: 1)
    order = []
    Lanes([Packed()]).run(lambda: order.append("forward"), 4, lambda: order.append("other"))
    assert order == ["forward", "other"]


def test_a_prompt_is_read_in_turn(monkeypatch):
    monkeypatch.setattr(lanes_module, "threads", lambda: 2)
    order = []
    Lanes([Packed()]).run(lambda: order.append("forward"), 100, lambda: order.append("other"))
    assert order == ["forward", "other"]


@pytest.mark.skipif(native is None, reason="needs the native kernels")
def test_what_the_other_raises_comes_when_the_forward_has_ended(two_threads):
    done = []

    def fails():
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        Lanes([Packed()]).run(lambda: done.append(1), 4, fails)
    assert done == [1]


@pytest.mark.skipif(native is None, reason="needs the native kernels")
def test_alone_has_the_same_bits(tiny, two_threads):
    """A packed model by itself, beside the pool, and in two threads at once."""
    eng = fewer.open(tiny, threads=2)

    def logits():
        return eng.score("Why is it so? Because.").logprobs

    want, got = logits(), list[list[float]]()
    with alone():
        assert threads() == 1
        got.append(logits())
    assert threads() == 2
    eng2 = fewer.open(tiny, threads=2)

    def beside():
        with alone():
            for _ in range(20):
                got.append(eng2.score("Why is it so? Because.").logprobs)

    thread = threading.Thread(target=beside)
    thread.start()
    for _ in range(20):
        got.append(logits())
    thread.join()
    assert all(g == want for g in got) and len(got) == 41


@pytest.mark.skipif(native is None, reason="needs the native kernels")
def test_an_engine_says_the_same_in_one_lane_and_in_two(tiny):
    said = []
    for n in (1, 2):
        eng = fewer.open(tiny, draft=tiny, threads=n)
        got = [
            eng.generate(p, use=["pearl"], max_tokens=20, temperature=t, seed=1).tokens
            for p in ("Why?", "What then?")
            for t in (0.0, 1.0)
        ]
        said.append([*got, *[r.tokens for r in eng.generate(["Why?", "Who?"], use=["pearl"], max_tokens=20)]])
    assert said[0] == said[1]


@dataclass(frozen=True)
class Wrong(Propose):
    """Does something it may not beside a forward."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    model: str = "draft"

    def ahead(self, context, tree, limit, told, state, rng):
        rows = chain(context[-1:], len(context) - 1 if self.model == "main" else 0)
        yield Forward(rows, model=self.model)
        if told.generated:
            raise ValueError("planted")
        yield Commit(torch.arange(0).numpy(), model=self.model)


def test_a_lane_that_fails_ends_its_own_request():
    models = Rig().models()
    runner = Runner(models)
    bad, good = request(TEXT, [Wrong()], max_tokens=6), request(TEXT, max_tokens=6)
    for r in (bad, good):
        runner.add(r)
    runner.run()
    assert isinstance(bad.error, ValueError) and bad.finish_reason == "error"
    assert good.error is None and good.tokens == generate(models, TEXT, max_tokens=6)[0]
    bad.error = None
    assert all(not s.bytes() for s in runner.stores.values())


def test_a_lane_may_not_use_the_model_it_runs_beside():
    runner = Runner(Rig().models())
    bad = request(TEXT, [Wrong(model="main")], max_tokens=6)
    runner.add(bad)
    runner.run()
    assert isinstance(bad.error, RuntimeError) and "may not ask" in str(bad.error)
