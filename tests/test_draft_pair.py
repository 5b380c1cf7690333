"""Two models in one engine: `fewer.open(draft=...)` and `--draft`; pairs that cannot work are refused by name and size."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest

import fewer as product
from fewer.card import cards
from fewer.errors import BadKnob, BadRequest
from fewer.parts.draft_model import DraftModel, likeliest
from fewer.plan import plan
from fewer.seams import Propose, knob
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model as random_model
from tests.cli_tiny import fewer_command, tiny_model, write_chat_model  # noqa: F401  (fixtures)


@dataclass(frozen=True)
class Line(Propose):
    """A greedy line from the draft model."""

    uses: ClassVar[frozenset[str]] = frozenset({"draft"})

    budget: int = knob(3, "tokens of a draft", low=1)

    def start(self, told):
        return DraftModel()

    def draft(self, context, limit, told, state, rng):
        yield from state.begin(context, told)
        tip = -1
        for level in range(min(limit, self.budget)):
            if level:
                yield from state.expand([tip], told)
            tip = state.add(tip, likeliest(state.odds[tip], 1)[0][0])
        return state.tree()


@dataclass(frozen=True)
class Texts(Line):
    """The same, said to speak through text."""

    by_text: ClassVar[bool] = True


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A model of the same family with another vocabulary."""
    return str(write_chat_model(tmp_path_factory.mktemp("other") / "other.gguf", pairs=("he", "in"), layers=1))


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    return str(write_chat_model(tmp_path_factory.mktemp("big") / "big.gguf", layers=3))


def test_the_model_itself_drafts_everything_right(tiny):
    """Its own draft model: every draft stands, the text is the plain one, a budget of three means a quarter of the forwards."""
    eng = product.open(tiny, draft=tiny)
    plain = eng.generate("Why?", max_tokens=16)
    got = eng.generate("Why?", max_tokens=16, use=[Line()], guard=False)
    assert got.tokens == plain.tokens and not got.ledger.rejected_tokens
    assert got.ledger.models["main"].forwards < plain.ledger.forwards / 2
    assert got.ledger.models["draft"].forwards and got.ledger.seconds["draft"] > 0 and not got.ledger.notes


def test_a_method_without_its_draft_model_is_refused(tiny):
    with pytest.raises(BadRequest, match=r"Line needs a draft model.*--draft"):
        product.open(tiny).generate("Why?", max_tokens=2, use=[Line()])


def test_vocabularies_that_do_not_match_are_named_with_their_sizes(tiny, other):
    eng = product.open(tiny, draft=other)
    with pytest.raises(BadRequest) as e:
        eng.generate("Why?", max_tokens=2, use=[Line()])
    for part in ("Line", f"{other} has 261 tokens", f"{tiny} has 260 tokens", "not the same"):
        assert part in str(e.value)
    assert eng.generate("Why?", max_tokens=2).tokens  # nobody minds where nobody drafts
    assert eng.generate("Why?", max_tokens=2, use=[Texts()]).tokens


def test_a_longer_vocabulary_that_begins_alike_matches():
    class Words:
        def __init__(self, *words):
            self.words, self.vocab_size = words, len(words)

        def name(self, i):
            return self.words[i]

    from fewer.models.beside import Beside, Side

    def pair(a, b):
        return Beside(Side("a", random_model().spec, Words(*a)), Side("b", random_model().spec, Words(*b)))

    assert pair("xyz", "xy").same_vocabulary and pair("xy", "xyz").same_vocabulary
    assert not pair("xyz", "yx").same_vocabulary


def test_a_draft_model_larger_than_its_target_is_a_warning(fewer, tiny, big):
    eng = product.open(tiny, draft=big)
    (warning,) = eng.beside.warnings
    assert tiny in warning and big in warning and "larger" in warning
    assert eng.generate("Why?", max_tokens=2, use=[Line()]).ledger.notes == [warning]
    assert eng.generate("Why?", max_tokens=2).ledger.notes == []
    said = fewer("run", "Why?", "-m", tiny, "--draft", big, "-n", "2", "-q")
    assert said.code == 0 and "larger than the model it drafts for" in said.err


def test_the_command_line_opens_a_draft_model(fewer, tiny):
    plain = json.loads(fewer("run", "Why?", "-m", tiny, "-n", "6", "--json").out)
    got = json.loads(fewer("run", "Why?", "-m", tiny, "--draft", tiny, "-n", "6", "--json").out)
    assert got["tokens"] == plain["tokens"]
    assert fewer("chat", "-m", tiny, "--draft", tiny, "-n", "2", stdin=b"Why?\n").code == 0
    assert fewer("run", "Why?", "-m", tiny, "--draft", "no-such-model.gguf", "-n", "2").code == 2


def test_a_draft_larger_than_a_forward_is_refused():
    with pytest.raises(BadRequest, match=r"Line drafts up to 1024 tokens.*1024 rows"):
        generate({"main": random_model(), "draft": random_model(layers=1)}, [1, 2], use=[Line(budget=1024)])


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(BadKnob, match=r"budget=0 is outside \[1, inf\]"):
        plan(["lookahead:budget=0"])


SIZES = {"rsd-c": "branches=32,32,32", "kangaroo": "length={n},file=untrained", "ppd": "budget={n},file=untrained"}
DRAFTERS = [c for c in cards().values() if c.seam == "propose"]


@pytest.mark.parametrize("card", DRAFTERS, ids=[c.name for c in DRAFTERS])
def test_no_drafter_takes_a_tree_of_nothing_or_beyond_a_forward(card):
    size = SIZES.get(card.name, ("budget" if "budget" in card.load().knobs() else "length") + "={n}")
    with pytest.raises(BadKnob, match=r"outside|from 1 on"):
        plan([f"{card.name}:{size.replace('32', '0').format(n=0)}"])
    models = {"main": random_model(), "draft": random_model(layers=1)}
    with pytest.raises((BadRequest, BadKnob), match=r"drafts up to \d+ tokens.*1024 rows|outside"):
        generate(models, [1, 2], use=[f"{card.name}:{size.format(n=1024)}"])
