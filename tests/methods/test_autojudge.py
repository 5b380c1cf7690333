"""AutoJudge: the rule on a hand-made verdict, the search against a naive one token by token, the judge it learns."""

import json
import math

import numpy as np
import pytest
import torch

from fewer.engine import Engine
from fewer.errors import CorruptFile, WrongPart
from fewer.methods.accept.judged import KIND, TAP, Judged
from fewer.parts.trained import write
from fewer.testing.harness import Naive, generate
from fewer.testing.rig import Rig
from fewer.testing.tiny import tiny_model
from fewer.train.judge import area, fit, left_out, number
from fewer.train.mining import hidden, mine
from fewer.types import Rng, Told, Tree
from tests.cli_tiny import fewer_command, write_chat_model  # noqa: F401

PROMPTS = [[3, 1, 4, 1, 5], [9, 2, 6, 5], [7, 7, 1], [2, 8, 1, 8]]
TOKENS = 12


class Verdict:
    """A target that says token 0 for certain everywhere; its hidden states are one number, the draft's node's own."""

    seen = 9

    def __init__(self, marks: list[float], end: int = -1, forbidden: int = -1) -> None:
        self.marks, self.end, self.forbidden, self.said = torch.tensor(marks)[:, None], end, forbidden, list[int]()

    def probs(self, node: int, soft: bool = False) -> torch.Tensor:
        p = torch.full((5,), 0.1) if soft else torch.eye(5)[0]
        if soft and self.forbidden >= 0:
            p[self.forbidden] = 0
        return p

    def hidden(self, tap: str) -> torch.Tensor:
        assert tap == TAP
        return self.marks

    def ends(self, token: int) -> bool:
        return token == self.end

    def push(self, token: int) -> None:
        self.said.append(token)


def judged(threshold: float, tree: Tree, verdict: Verdict, weight: float = 1.0) -> tuple[list[int], int]:
    method = Judged(threshold=threshold, file="untrained")
    judge = type(method.start(Told(1)))(torch.tensor([weight]), 0.0)
    return method.walk(tree, verdict, Rng(0), Told(1, greedy=True), judge)


def line(*tokens: int) -> Tree:
    q = torch.zeros(len(tokens), 5)
    q[np.arange(len(tokens)), list(tokens)] = 1
    return Tree(np.array(tokens), np.arange(-1, len(tokens) - 1), q)


def test_mismatches_below_the_threshold_stand():
    """Scaled states are +1 and -1: importance 0.73 and 0.27. Row 0 is the certain token's."""
    marks = [0.0, -2.0, 3.0, -1.0]
    assert judged(0.5, line(3, 4, 2), Verdict(marks)) == ([0], 0)
    assert judged(0.9, line(3, 4, 2), Verdict(marks)) == ([0, 1, 2], 0)
    assert judged(0.0, line(3, 4, 2), Verdict(marks)) == ([], 0)
    assert judged(0.2, line(3, 4, 2), Verdict(marks)) == ([], 0)
    assert judged(0.5, line(0, 3, 4), Verdict([0.0, 5.0, -2.0, 3.0])) == (
        [0, 1],
        0,
    )  # what the target says always stands


def test_the_end_of_the_text_and_what_is_forbidden_are_never_judged():
    marks = [0.0, -2.0]
    assert judged(1.0, line(3), Verdict(marks)) == ([0], 0)
    assert judged(1.0, line(3), Verdict(marks, end=3)) == ([], 0)
    assert judged(1.0, line(3), Verdict(marks, end=0)) == ([], 0)
    assert judged(1.0, line(3), Verdict(marks, forbidden=3)) == ([], 0)


def test_of_siblings_the_first_unimportant_one_stands():
    q = torch.full((2, 5), 0.2)
    bush = Tree(np.array([3, 4]), np.array([-1, -1]), q)
    assert judged(0.5, bush, Verdict([0.0, 1.0, -1.0])) == ([1], 0)
    assert judged(0.9, bush, Verdict([0.0, 1.0, -1.0])) == ([0], 0)
    assert judged(0.5, bush, Verdict([0.0, 1.0, 1.0])) == ([], 0)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 3}])
def test_a_judge_that_lets_all_stand_takes_the_drafts_text(sampling):
    models = Rig().models()
    draft = generate(models["draft"], PROMPTS[0], max_tokens=9)[0]
    text, ledger = generate(models, PROMPTS[0], use=["autojudge:file=untrained,threshold=1"], max_tokens=27, **sampling)
    assert ledger.models["main"].forwards == 1 + math.ceil(26 / 9)
    if not sampling:
        assert text[1:9] == generate(models["draft"], [*PROMPTS[0], text[0]], max_tokens=8)[0] and draft


def naive_text(model, tokens: list[int], count: int) -> list[int]:
    """Greedy, one token after the other."""
    naive, out = Naive(model), list[int]()
    for token in tokens:
        logits = naive.feed(token)
    while len(out) < count:
        out.append(int(logits.argmax()))
        logits = naive.feed(out[-1])
    return out


def answer(tokens: list[int]) -> int | None:
    """What a nonsense text comes to: something that a changed token changes now and then. Some texts come to nothing."""
    return None if tokens[0] == 29 else sum(tokens[-3:]) % 3


def searched(models, prompt: list[int]) -> tuple[list[int], list[tuple[int, int, bool]]]:
    """The paper's search in the plainest way: everything is said and read anew every time."""
    said = naive_text(models["main"], prompt, TOKENS)
    wanted, found, place = answer(said), [], 0
    while place < TOKENS:
        would = naive_text(models["draft"], prompt + said[:place], 1)[0]
        if would != said[place]:
            head = [*said[:place], would]
            other = head + naive_text(models["main"], prompt + head, TOKENS - len(head))
            found.append((place, would, answer(other) != wanted))
            if answer(other) == wanted:
                said = other
        place += 1
    return said, found


def test_the_search_is_the_naive_one():
    models = Rig().models(layers=2)
    eng = Engine(models["main"], None, drafts={"draft": models["draft"]})
    cases = mine(eng, PROMPTS, answer, TOKENS)
    assert len(cases) == len(PROMPTS)
    both = set()
    for case, prompt in zip(cases, PROMPTS):
        said, found = searched(models, prompt)
        assert case.said == said
        assert [(m.place, m.token, m.important) for m in case.found] == found
        both |= {m.important for m in case.found}
    assert both == {True, False}


def test_problems_without_an_answer_are_left_out_and_the_search_can_be_stopped():
    models = Rig().models(layers=2)
    eng = Engine(models["main"], None, drafts={"draft": models["draft"]})
    assert mine(eng, PROMPTS, lambda tokens: None, TOKENS) == []
    assert all(not c.found for c in mine(eng, PROMPTS, answer, TOKENS, over=lambda: True))


def test_hidden_states_are_those_of_the_text_with_the_drafts_token():
    models = Rig().models(layers=2)
    eng = Engine(models["main"], None, drafts={"draft": models["draft"]})
    case = mine(eng, PROMPTS[:1], answer, TOKENS)[0]
    got = hidden(eng.model, case, TAP)
    assert len(got) == len(case.found) > 1
    for row, m in zip(got, case.found):
        text = [*case.prompt, *case.said[: m.place], m.token]
        alone = type(case)(text, [], None, [], [type(m)(-1, text[-1], False)])
        assert torch.allclose(row, hidden(eng.model, alone, TAP)[0], atol=1e-9)


def test_the_fit_is_stationary_and_finds_what_separates():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=g, dtype=torch.float64) * torch.tensor([1, 2, 3, 4, 5, 6.0]) + 1
    y = (x[:, 2] - 0.5 * x[:, 0] + torch.randn(200, generator=g, dtype=torch.float64) > 1).double()
    w, b = fit(x, y, 0.01)
    p, spread = torch.sigmoid(x @ w + b), x.std(0)
    gradient = ((x - x.mean(0)) / spread * (p - y)[:, None]).mean(0) + 0.01 * w * spread
    assert gradient.abs().max() < 1e-5 and abs(float((p - y).mean())) < 1e-5
    groups = torch.arange(200) // 4
    assert area(left_out(x, y, groups, 0.01), y) > 0.9
    shuffled = y[torch.randperm(200, generator=g)]
    assert abs(area(left_out(x, shuffled, groups, 0.01), shuffled) - 0.5) < 0.15


def test_area_under_the_curve():
    score, y = torch.tensor([0.1, 0.4, 0.4, 0.8]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert area(score, y) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 = 5. The final answer is 5.", 5.0),
        ("The final answer is $1,250.50 or so, not 3", 1250.5),
        ("first 4, then -7", -7.0),
        ("The final answer is unknown, perhaps 3 or 4", 3.0),
        ("nothing", None),
    ],
)
def test_numbers(text, value):
    assert number(text) == value


def test_a_judge_of_another_model_is_refused(tmp_path):
    model, path = tiny_model(), tmp_path / "judge.safetensors"
    use = [f"autojudge:file={path}"]
    write(path, KIND, {"weight": torch.zeros(32), "bias": torch.zeros(1)}, model, {"model": "tiny"})
    pair = {"main": model, "draft": tiny_model(layers=1)}
    assert len(generate(pair, PROMPTS[0], use=use, max_tokens=4)[0]) == 4
    with pytest.raises(WrongPart, match=r"fewer train judge -m MODEL --draft MODEL -o FILE.*autojudge:file=FILE"):
        generate({**pair, "main": tiny_model(layers=2)}, PROMPTS[0], use=use, max_tokens=4)
    write(path, KIND, {"weight": torch.zeros(31), "bias": torch.zeros(1)}, model, {"model": "tiny"})
    with pytest.raises(CorruptFile, match="weight must be"):
        generate(pair, PROMPTS[0], use=use, max_tokens=4)


def test_the_command_trains_a_judge_that_can_be_used(fewer, tmp_path):
    """On models that speak nonsense: the numbers in it change now and then."""
    main, draft = write_chat_model(tmp_path / "main.gguf"), write_chat_model(tmp_path / "draft.gguf", layers=1)
    output = tmp_path / "judge.safetensors"
    args = ["train", "judge", "-m", main, "--draft", draft, "--items", 4, "--tokens", 16, "-o", output, "--json"]
    done = fewer(*map(str, args))
    report = json.loads(done.out)
    assert output.exists() and 0 < report["important"] < 1
    assert report["reached"]["0.0"]["same_answer"] == 1.0
    assert report["reached"]["1.0"]["tokens_per_forward"] >= report["reached"]["0.0"]["tokens_per_forward"]
