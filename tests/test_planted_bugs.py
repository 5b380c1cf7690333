"""The checks are checked: sound sample methods pass them all, and every planted bug is caught by the check named beside it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fewer.card import find
from fewer.methods.retain.sink_window import SinkWindow
from fewer.seams import Method
from fewer.testing import CheckFailed, Rig, Subject, check_method, from_card, from_class, run_check
from fewer.testing.checks_pairs import combination, combined, neighbours, pair
from fewer.testing.rig import one_thread
from tests import broken_parts as parts
from tests import samples
from tests.samples import EXACT, LOSSY


@pytest.fixture(autouse=True)
def alone_on_a_core():
    with one_thread():
        yield


SOUND: dict[str, Subject] = {
    s.name: s
    for s in (
        from_class(
            samples.Norms, (*LOSSY, "saves-bytes", "saves-reads"), {"budget": 1.0}, [{"budget": 0.5}, {"budget": 12}]
        ),
        from_class(
            samples.Heaviest, (*LOSSY, "saves-bytes"), {"budget": 1.0}, exceptions={"chunking": "evicts once a chunk"}
        ),
        from_class(samples.TopKeys, (*LOSSY, "saves-reads"), {"budget": 1.0}, [{"budget": 0.25}]),
        from_class(samples.Half, (*LOSSY, "saves-bytes"), {"block": 0}),
        from_class(samples.Skips, (*LOSSY, "saves-rows"), {"level": 1e9, "every": 0}),
        from_class(
            samples.EverySecond,
            (*LOSSY, "saves-bytes", "saves-rows", "saves-reads"),
            {"budget": 1.0},
            [{"budget": 0.5}],
        ),
        from_class(samples.Parrot, (*EXACT, "saves-forwards"), {"depth": 0}),
        from_class(samples.DraftModel, (*EXACT,)),
        from_class(samples.Ratio, EXACT),
    )
}
WINDOW = replace(from_card(find("streaming-llm")), name="Window", exceptions={})


def bugged(name: str, bug: str) -> Subject:
    """A sample with its bug switched on at every setting, `full` included."""
    s = SOUND[name]
    return replace(
        s, full={**s.full, "bug": bug} if s.full else {}, settings=tuple({**k, "bug": bug} for k in s.settings)
    )


def siblings(bug: str) -> Subject:
    """The product's tree of siblings, judged with a slip."""
    return from_class(parts.Siblings, EXACT, settings=[{"bug": bug}])


def on(name: str, rig: Rig) -> Subject:
    return (WINDOW if name == "Window" else SOUND[name]).on(rig)


def strategy(bug: str) -> Rig:
    return Rig(runner=parts.other_strategy(parts.sloppy(bug)))


@pytest.mark.parametrize("name", SOUND)
def test_sound_samples_pass_everything(name):
    s = SOUND[name]
    ran = check_method(type(s.make()), s.claims, s.full, s.settings, s.exceptions)
    assert len(ran) >= 10


def test_a_sound_strategy_of_another_make_passes():
    for name in ("lossless-greedy", "rollback", "positions"):
        run_check(on("Parrot", strategy("")), name)


class Eavesdrops(samples.Norms):
    """Wants attention without saying so."""

    def watch(self, *args):
        raise AssertionError("nobody declared this")


class Ignores(samples.Norms):
    """Says it needs attention and takes none."""

    needs = frozenset({"attention"})


NO_FULL = replace(SOUND["Norms"], full={})
BUGS = [
    # (what, which check catches it, the subject)
    ("inverse acceptance ratio", "lossless-sampled", bugged("Ratio", "inverse")),
    ("residual forgotten", "lossless-sampled", bugged("Ratio", "no residual")),
    ("bonus token from the draft", "lossless-sampled", bugged("Ratio", "bonus from the draft")),
    ("penalties and rules stand still inside a draft", "lossless-sampled", bugged("Ratio", "stale")),
    ("the last sibling is tried first", "lossless-sampled", siblings("the last sibling first")),
    ("residual forgotten", "lossless-sampled", siblings("the residual is forgotten")),
    ("bonus token from the draft", "lossless-sampled", siblings("the bonus is the draft's")),
    ("drafts drawn alike at the full ratio", "lossless-sampled", from_class(parts.Alike, EXACT)),
    ("draft model's cache not rolled back", "rollback", from_class(parts.Forgetful, EXACT)),
    ("dice of its own", "lossless-sampled", bugged("Ratio", "its own dice")),
    ("stop token inside a draft ignored", "lossless-greedy", on("Parrot", strategy("stop ignored"))),
    ("length limit inside a draft ignored", "lossless-greedy", on("Parrot", strategy("length ignored"))),
    ("a store whose commit keeps rejected rows", "rollback", on("Parrot", parts.on_store(parts.CommitsAll))),
    ("a store whose commit keeps rejected rows", "lossless-greedy", on("Parrot", parts.on_store(parts.CommitsAll))),
    ("a store whose commit keeps rejected rows", "drafts", on("TopKeys", parts.on_store(parts.CommitsAll))),
    ("draft model's cache not rolled back", "rollback", bugged("DraftModel", "no rewind")),
    ("cutting back leaves one entry", "rollback", on("DraftModel", parts.on_store(parts.ShiftsWhenCut))),
    (
        "siblings of a tree see each other",
        "lossless-greedy",
        on("Parrot", parts.on_decoder(parts.SiblingsSeeEachOther)),
    ),
    ("siblings of a tree see each other", "drafts", on("Norms", parts.on_decoder(parts.SiblingsSeeEachOther))),
    ("positions off by one after the prompt", "positions", on("Norms", parts.on_decoder(parts.OffByOne))),
    ("positions off by one after the prompt", "replay", on("Norms", parts.on_decoder(parts.OffByOne))),
    ("keys not turned again by place", "replay", on("Window", parts.on_decoder(parts.NotByPlace))),
    ("a head keeps by its neighbour's indices", "replay", on("Norms", parts.on_store(parts.WrongHead))),
    ("eviction loses the newest half", "replay", on("Norms", parts.on_store(parts.ForgetsTheTail))),
    ("eviction that only masks", "saves-bytes", on("Norms", parts.on_store(parts.OnlyMasks))),
    ("eviction that keeps everything", "saves-bytes", bugged("Norms", "keeps all")),
    ("eviction that keeps everything", "acts", bugged("Norms", "keeps all")),
    ("kept entries are charged by half", "saves-bytes", on("Norms", parts.on_store(parts.Undercharges))),
    (
        "a copy of what was evicted, in the method's state",
        "saves-bytes",
        from_class(samples.Hoards, (*LOSSY, "saves-bytes"), {"budget": 1.0}),
    ),
    ("packing that holds on to the original", "saves-bytes", bugged("Half", "keeps the original")),
    ("eviction in memory that a fork shares", "sharing", on("Norms", parts.on_store(parts.EditsInPlace))),
    ("one entry over the budget", "budget", bugged("Norms", "one too many")),
    ("kept entries out of order", "positions", bugged("Norms", "unsorted")),
    ("rows that did not attend leave entries", "positions", on("Skips", parts.on_store(parts.LeavesGhosts))),
    ("rows that did not attend leave entries", "replay", on("Skips", parts.on_store(parts.LeavesGhosts))),
    ("forced tokens are dropped", "forced", bugged("EverySecond", "ignores the forced")),
    ("a head keeps by its neighbour's indices", "float32", on("Norms", parts.on_store(parts.WrongHead))),
    ("siblings of a tree see each other", "float32", on("Parrot", parts.on_decoder(parts.SiblingsSeeEachOther))),
    ("a transform that reorders the prompt", "positions", bugged("EverySecond", "out of order")),
    ("not the identity at full", "identity", bugged("Norms", "full is not full")),
    ("a draft runs past the codec's next packing", "drafts", bugged("Half", "no horizon")),
    ("a decision that depends on the rows beside it", "chunking", bugged("Skips", "looks at the others")),
    ("a decision that depends on the rows beside it", "drafts", bugged("Skips", "looks at the others")),
    ("state in the class", "deterministic", bugged("Norms", "class state")),
    ("state in the class", "batch", bugged("Norms", "class state")),
    ("state on the object", "deterministic", from_class(samples.Remembers, LOSSY, {"budget": 1.0})),
    (
        "a decoder that remembers the last request",
        "deterministic",
        on("Norms", parts.on_decoder(parts.RemembersTheLast)),
    ),
    ("a batch mixes its requests", "batch", on("Norms", parts.on_decoder(parts.MixesRequests))),
    ("a failed request keeps its memory", "deterministic", on("Norms", Rig(runner=parts.KeepsTheDead))),
    ("layers run are under-counted", "ledger", on("Norms", parts.on_decoder(parts.Undercounts))),
    ("rows are under-counted", "ledger", on("Norms", parts.on_decoder(parts.HidesRows))),
    ("entries read are under-counted", "ledger", on("Norms", parts.on_decoder(parts.HidesReads))),
    ("attention taken but not declared", "evidence", from_class(Eavesdrops, LOSSY, {"budget": 1.0})),
    ("attention declared but not taken", "evidence", from_class(Ignores, LOSSY, {"budget": 1.0})),
    ("lossy without an identity", "card", NO_FULL),
    ("`full` names a knob that is not there", "card", replace(NO_FULL, full={"budgget": 1.0})),
    ("lossless and lossy at once", "card", replace(SOUND["Norms"], claims=frozenset({"lossy", "lossless"}))),
    ("neither lossless nor lossy", "card", replace(SOUND["Norms"], claims=frozenset({"deterministic"}))),
    ("a claim nobody knows", "card", replace(SOUND["Norms"], claims=frozenset({"lossy", "fast"}))),
    ("claims lossless, is not", "lossless-greedy", replace(SOUND["TopKeys"], claims=frozenset({"lossless"}))),
    ("claims lossless, is not", "lossless-sampled", replace(SOUND["Skips"], claims=frozenset({"lossless"}))),
    ("claims fewer rows, has none", "saves-rows", SOUND["Norms"]),
    ("claims fewer reads, has none", "saves-reads", SOUND["Half"]),
    ("claims fewer forwards, has none", "saves-forwards", replace(SOUND["Parrot"], settings=({"depth": 0},))),
    ("drafts nothing, so shows nothing", "lossless-greedy", replace(SOUND["Parrot"], settings=({"depth": 0},))),
]


@pytest.mark.parametrize(
    ("what", "check", "subject"), BUGS, ids=[f"{check}: {what} ({s.name})" for what, check, s in BUGS]
)
def test_planted_bug_is_caught(what, check, subject):
    with pytest.raises(CheckFailed, match=f"{subject.name}: {check}: "):
        run_check(replace(subject, exceptions={}), check)


def test_a_lossless_method_that_changes_its_neighbour_is_caught():
    rig = parts.on_store(parts.CommitsAll)
    with pytest.raises(CheckFailed, match="lossless, but beside it"):
        pair(on("Parrot", rig), on("TopKeys", rig))


@pytest.mark.parametrize(
    ("one", "rig"), [("Norms", Rig()), ("TopKeys", parts.on_decoder(parts.MixesRequests))], ids=["state", "batch"]
)
def test_a_pair_that_is_another_the_second_time_is_caught(one, rig):
    first = bugged("Norms", "class state") if one == "Norms" else on(one, rig)
    with pytest.raises(CheckFailed, match="the pair again"):
        combination(first, on("Skips", rig))


def test_neighbours_that_disturb_each_other_are_caught():
    rig = parts.on_decoder(parts.MixesRequests)
    with pytest.raises(CheckFailed, match="in a batch with Half"):
        neighbours(on("Norms", rig), on("Half", rig))


@pytest.mark.parametrize("other", ["Half", "Parrot", "Skips", "TopKeys", "EverySecond"])
def test_sound_pairs_pass(other):
    pair(SOUND["Norms"], SOUND[other])
    pair(SOUND["Heaviest"], SOUND[other])


def test_a_refusal_must_name_both():
    use: list[Method] = [samples.Norms(), SinkWindow(budget=8)]
    assert combined(use, "Norms", "SinkWindow") is None
    with pytest.raises(CheckFailed, match="does not name both"):
        combined(use, "Norms", "streaming-llm")


def test_exceptions_are_strict():
    """An exception is no excuse for a check that holds, must have a reason, and must name a check."""
    with pytest.raises(CheckFailed, match="its exception must go"):
        run_check(replace(SOUND["Norms"], exceptions={"budget": "it was hard"}), "budget")
    assert run_check(replace(bugged("Norms", "one too many"), exceptions={"budget": "keeps one more"}), "budget")
    with pytest.raises(CheckFailed, match="without a reason"):
        run_check(replace(SOUND["Norms"], exceptions={"budget": " "}), "card")
    with pytest.raises(CheckFailed, match="do not exist"):
        check_method(samples.Norms, LOSSY, {"budget": 1.0}, exceptions={"bugdet": "a slip"})
