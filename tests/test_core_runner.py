"""The runner: merging, limits, failures that stay where they happen, rewinds, side models, hooks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fewer.errors import BadRequest
from fewer.models.decoder import Decoder
from fewer.runner import Runner
from fewer.seams import Commit, Forward, Pack, Rewind, Rule, Transform, Work
from fewer.testing.companions import Broken, Fails, Oracle
from fewer.testing.counted import Watched
from fewer.testing.harness import generate, request, run
from fewer.testing.rig import Rig, one_thread
from fewer.testing.tiny import tiny_model
from fewer.types import Tree, chain, follow
from tests.samples import DraftModel, Half, Norms, Parrot, TopKeys

TEXT = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(autouse=True)
def alone_on_a_core():
    with one_thread():
        yield


def watched() -> Watched:
    return Watched(tiny_model("qwen3"))


def test_requests_share_forwards():
    model = watched()
    run(model, [request(TEXT, max_tokens=6) for _ in range(5)])
    assert model.work.forwards == 6
    model = watched()
    run(model, [request(TEXT, max_tokens=6), request(TEXT * 3, max_tokens=6, chunk=8)])
    assert model.work.forwards == 8  # three pieces of the longer prompt, the first shared; then five tokens


class Letters:
    """A detokenizer: token 0 is a."""

    def push(self, token: int) -> str:
        return chr(97 + token)

    def flush(self) -> str:
        return ""


@pytest.mark.parametrize(("least", "text", "count"), [(0, "a", 3), (2, "a", 3), (3, "abca", 6), (9, "abcabcabca", 10)])
def test_a_stop_string_ends_the_text_after_min_tokens(least, text, count):
    r, shown = request([1], max_tokens=10, stop=("bc",), min_tokens=least), list[str]()
    r.detok, r.on_text = Letters(), shown.append
    while not r.accept(len(r.tokens) % 3):
        pass
    assert (r.text, len(r.tokens), "".join(shown)) == (text, count, text)
    assert r.finish_reason == ("length" if least == 9 else "stop")


def test_a_forward_has_at_most_max_rows():
    class Bounded(Decoder):
        def forward(self, step, store):
            assert step.size <= 20
            sizes.append(step.size)
            return super().forward(step, store)

    sizes: list[int] = []
    base = tiny_model()
    run(
        Bounded(base.spec, base.blocks, base.head, base.dtype),
        [request(TEXT, max_tokens=3) for _ in range(5)],
        max_rows=20,
    )
    assert max(sizes) > 8 and sum(sizes) == 5 * (8 + 2)


def test_at_most_max_live_at_once():
    runner = Runner({"main": tiny_model()}, max_live=2)
    reqs = [request(TEXT, max_tokens=n) for n in (2, 5, 3)]
    for r in reqs:
        runner.add(r)
    most = 0
    while runner.turn():
        most = max(most, len(runner.live))
    assert most == 2 and all(len(r.tokens) == n for r, n in zip(reqs, (2, 5, 3)))


def test_a_failure_stays_with_its_request():
    model = tiny_model()
    want = generate(model, TEXT, max_tokens=8)[0]
    runner = Runner({"main": model})
    good, bad = request(TEXT, max_tokens=8), request(TEXT, [Fails()], max_tokens=8)
    runner.add(good)
    runner.add(bad)
    runner.run()
    assert good.tokens == want and good.error is None
    assert type(bad.error) is Broken and bad.finish_reason == "error" and len(bad.tokens) == 2
    bad.error = None
    assert runner.stores["main"].bytes() == 0


def test_a_failure_inside_a_forward_ends_that_forward_only():
    """Nobody can say whose it was, so all requests of the forward end with it; the runner and the others go on."""

    @dataclass(frozen=True)
    class Trips(TopKeys):
        def pick(self, layer, row, q, view, told, state):
            raise Broken("inside a forward")

    runner = Runner({"main": tiny_model()}, max_rows=8)
    doomed, neighbour, later = (request(TEXT, use, max_tokens=4) for use in ([Trips()], [], []))
    for r in (doomed, neighbour, later):
        runner.add(r)
    runner.run()
    assert type(doomed.error) is Broken and doomed.finish_reason == "error"
    assert later.error is None and len(later.tokens) == 4
    doomed.error = neighbour.error = None
    assert runner.stores["main"].bytes() == 0


def test_cancelling_frees_at_once_and_keeps_what_there_is():
    runner = Runner({"main": tiny_model()}, max_live=1)
    first, second = request(TEXT, max_tokens=50), request(TEXT, max_tokens=50)
    runner.add(first)
    runner.add(second)
    for _ in range(4):
        runner.turn()
    runner.cancel(second)
    runner.cancel(first)
    assert (first.finish_reason, second.finish_reason) == ("cancelled", "cancelled")
    assert len(first.tokens) == 4 == first.ledger.generated_tokens and not second.tokens
    assert runner.stores["main"].bytes() == 0 and not runner.turn()
    first.ledger.kept_tokens = 8
    first.ledger.check()


def test_hooks():
    runner, seen = Runner({"main": tiny_model()}), []
    r = request(TEXT, max_tokens=3, chunk=3)
    r.on_progress = lambda done, all_: seen.append((done, all_))
    r.on_prefilled = lambda q: seen.append(("prefilled", runner.stores["main"].next_pos(q.seqs["main"])))
    r.on_end = lambda q: seen.append(("end", runner.stores["main"].next_pos(q.seqs["main"])))
    runner.add(r)
    runner.run()
    assert seen == [(3, 8), (6, 8), ("prefilled", 8), ("end", 10)]


@dataclass(frozen=True)
class Looks(Transform):
    """Runs the prompt through the first layer, forgets that pass, and drops the first half."""

    def run(self, tokens, forced, told, state) -> Work:
        out = yield Forward(chain(tokens, 0), stop=1, taps=frozenset({"layer.0"}), stage="transform")
        assert out.hidden["layer.0"].shape[0] == len(tokens)
        yield Commit(np.arange(len(tokens)))
        yield Rewind(0)
        kept = np.arange(len(tokens))
        return np.union1d(kept[len(tokens) // 2 :], np.flatnonzero(forced))


def test_a_transforms_pass_leaves_no_trace_but_in_the_ledger():
    model = tiny_model("qwen3")
    got, led = generate(model, TEXT, use=[Looks()], max_tokens=5)
    want, plain = generate(model, TEXT[4:], max_tokens=5)
    assert got == want
    assert (led.prompt_tokens, led.kept_tokens, led.dropped_tokens) == (8, 4, 4)
    assert led.rows == plain.rows + 8 and led.layers_run == plain.layers_run + 8
    assert led.kv_bytes_end == plain.kv_bytes_end and "transform" in led.seconds


def test_forced_tokens_stay_or_it_is_an_error():
    r = request(TEXT, [Looks()], max_tokens=2)
    r.forced = np.array([True] + [False] * 7)
    run(tiny_model(), [r])
    assert r.kept.tolist() == [0, 4, 5, 6, 7]

    class Drops(Looks):
        def run(self, tokens, forced, told, state) -> Work:
            return np.arange(1, len(tokens))
            yield

    r = request(TEXT, [Drops()], max_tokens=2)
    r.forced = np.array([True] + [False] * 7)
    with pytest.raises(ValueError, match="Drops dropped 1 tokens that were forced"):
        run(tiny_model(), [r])


def test_a_prompt_that_is_transformed_away_is_an_error():
    class Nothing(Looks):
        def run(self, tokens, forced, told, state) -> Work:
            return np.arange(0)
            yield

    with pytest.raises(BadRequest, match="empty"):
        generate(tiny_model(), TEXT, use=[Nothing()])


def test_a_side_model_has_its_own_sequence_and_line_in_the_ledger():
    models = Rig().models()
    _, led = generate(models, TEXT, use=[DraftModel()], max_tokens=8)
    assert set(led.models) == {"main", "draft"} and led.models["draft"].n_layers == 2
    assert led.computed_tokens == led.models["main"].rows


def test_drafts_stop_at_the_horizon():
    """Retain and Codec bound drafts: a codec that packs every 6 entries never sees 7."""
    model = tiny_model("qwen3")
    script = (*TEXT, *generate(model, TEXT, use=[Half()], max_tokens=20)[0])
    runner = Runner({"main": model})
    r = request(TEXT, [Half(), Oracle(script=script)], max_tokens=20)
    runner.add(r)
    most = 0
    while runner.turn():
        if runner.live and r.told.decoding:
            most = max(most, runner.stores["main"].raw_entries(r.seqs["main"], 0))
    assert r.ledger.accepted_tokens and most < 6


def test_nothing_is_drawn_behind_a_stop_token():
    """A rule that allows nothing after the end must not be asked for more, though the draft goes on."""

    @dataclass(frozen=True)
    class Ends(Rule):
        def mask(self, logits, told, state):
            logits = logits.clone()
            logits[:] = float("-inf")
            if len(told.generated) < 4:
                logits[len(told.generated)] = 0.0
            return logits

    r = request(TEXT, [Ends(), Oracle(script=(*TEXT, 0, 1, 2, 3, 4, 5), right=3)], max_tokens=9, eos=(3,))
    run(tiny_model(), [r])
    assert r.tokens == [0, 1, 2, 3] and r.finish_reason == "stop" and r.ledger.accepted_tokens


def test_follow():
    bush = Tree(np.array([5, 6, 7]), np.array([-1, -1, 1]))
    assert follow(bush, {-1: 6, 1: 7, 2: 9}.get, set().__contains__) == ([1, 2], 9)
    assert follow(bush, {-1: 6, 1: 8}.get, set().__contains__) == ([1], 8)
    assert follow(bush, {-1: 4}.get, set().__contains__) == ([], 4)
    assert follow(bush, {-1: 6}.get, {6}.__contains__) == ([], 6)


@dataclass(frozen=True)
class LargestFirst(Pack):
    """One prompt a forward, the longest first."""

    def bins(self, sizes, capacity):
        return [[i] for i in np.argsort(sizes, kind="stable")[::-1]]


def test_a_pack_method_decides_what_runs_together():
    order = []
    prompts = [TEXT, TEXT * 3, TEXT * 2]
    reqs = [request(p, [LargestFirst()], max_tokens=1) for p in prompts]
    for r in reqs:
        r.on_prefilled = lambda q: order.append(len(q.prompt))
    run(tiny_model(), reqs)
    assert order == [24, 16, 8]


def test_eviction_happens_once_or_always():
    model = tiny_model()
    r = request(TEXT * 4, [Norms(budget=10)], max_tokens=6, chunk=8)
    runner, seen = Runner({"main": model}), []
    runner.add(r)
    while runner.turn():
        if runner.live:
            seen.append(int(runner.stores["main"].entries(r.seqs["main"], 0)[0]))
    assert seen == [8, 16, 24, 10, 11, 12, 13, 14, 15]


def test_errors_name_what_a_coroutine_did_wrong():
    class Commits(Parrot):
        def draft(self, context, limit, told, state, rng) -> Work:
            yield Commit(np.arange(1))

    with pytest.raises(RuntimeError, match="Commit without a Forward"):
        generate(tiny_model(), TEXT, use=[Commits()], max_tokens=4)
