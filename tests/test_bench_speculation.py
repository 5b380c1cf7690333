"""`fewer bench speculation`: prompts that repeat, figures that are what they say, engines driven mode by mode, tables."""

from __future__ import annotations

import json
import random

import pytest
from rich.console import Console

from fewer.bench import kinds, show, speculation, speculators
from fewer.bench.speculation import Ways, lossless
from fewer.bench.speculation_figures import beside, figures, mean
from fewer.card import cards, find
from fewer.errors import BadRequest, CannotCombine
from tests.cli_tiny import fewer_command, write_chat_model  # noqa: F401  (fixture)


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_chat_model(tmp_path_factory.mktemp("speculation") / "tiny.gguf"))


# ---------------------------------------------------------------------- kinds
@pytest.mark.parametrize("kind", kinds.KINDS)
def test_items_repeat_with_their_seed(kind):
    one, same = (kinds.make(kind, 3, 60, 4, words) for _ in range(2))
    assert [i.prompts for i in one] == [i.prompts for i in same] and len({i.prompts for i in one}) == 3
    assert all(i.ends and 8 <= i.max_tokens <= 60 for i in one)


def test_code_is_begun_with_the_name_changed():
    for item in kinds.make("code", 6, 500, 0, words):
        source, _, again = item.prompts[0].partition("The same code again, ")
        name = again.split(" ")[0]
        head = again.partition("```python\n")[2].rstrip("\n").split("\n")
        whole = "\n".join(source.removeprefix("```python\n").split("\n")[:3]).rstrip("\n")
        assert "\n".join(head).replace(f"the_{name}", name) == whole and f"the_{name}" in head[0]


def test_retrieval_asks_for_what_is_there():
    for item in kinds.make("retrieval", 5, 60, 0, words):
        *body, ask = item.prompts[0].split("\n\n")
        assert ask.split('"')[1] in " ".join(body)


def test_the_packages_that_carry_data(monkeypatch, tmp_path):
    """A folder as GSM8K's and HumanEval's packages have it is read; a damaged one is as good as none."""
    import gzip

    task = {"prompt": "import x\n\ndef f(a, b):\n", "canonical_solution": "    return a\n" * 12, "entry_point": "f"}
    (tmp_path / "data/gsm8k").mkdir(parents=True)
    (tmp_path / "data/gsm8k/test.jsonl").write_text(json.dumps({"question": "How many?", "answer": "4"}) + "\n")
    (tmp_path / "data/HumanEval.jsonl.gz").write_bytes(gzip.compress(json.dumps(task).encode()))
    for cached in (kinds.problems, kinds.sources):
        cached.cache_clear()
    monkeypatch.setattr(kinds, "_package", lambda name: tmp_path)
    assert kinds.problems() == ("How many?",)
    assert kinds.sources()[-1] == ("def f(a, b):\n" + ("    return a\n" * 12).rstrip(), "a")
    assert kinds.maths(random.Random(0), 7, 9, words).prompts[0].startswith("How many?")
    for cached in (kinds.problems, kinds.sources):
        cached.cache_clear()
    monkeypatch.setattr(kinds, "_package", lambda name: tmp_path / "nowhere")
    assert kinds.problems() is kinds.PROBLEMS
    kinds.problems.cache_clear()
    kinds.sources.cache_clear()


def test_unknown_kind_is_named():
    with pytest.raises(BadRequest, match="no kind 'sing'"):
        kinds.make("sing", 1, 60, 0, words)


# ---------------------------------------------------------------------- figures
def answer(
    item: int, tokens: int, decode: float, accepted: int = 0, depth: tuple[int, ...] = (), drafts: int = 0
) -> dict:
    return {
        "item": (item, 0), "prefill": 1.0, "decode": decode, "ids": [list(range(tokens))], "accepted": accepted,
        "drafts": drafts, "by_depth": list(depth), "drafted": 3 * drafts, "drafting": 0.1, "rests": 0,
    }  # fmt: skip


ANSWERS = {
    "": [answer(0, 11, 1.0), answer(1, 21, 4.0), answer(2, 11, 1.0)],
    "a": [
        answer(0, 11, 0.5, 5, (3, 2), 4),
        answer(1, 21, 1.0, 10, (4, 3, 3), 6),
        answer(2, 11, 1.0, 0, (), 0),
    ],
}


def test_figures_by_hand():
    """Plain: 10, 5 and 10 tokens a second. With drafts: 20, 20 and 10, so 2, 4 and 1 times; 40 tokens in 5 + 10 + 10 forwards."""
    got = figures(ANSWERS)
    assert got[""]["speedup"] == 1.0 and got[""]["tokens_per_second"] == 10.0 and got[""]["tokens_per_forward"] == 1.0
    a = got["a"]
    assert (a["speedup"], a["tokens_per_second"], a["tokens_per_forward"]) == (2.0, 20.0, 1.6)
    assert a["right_at_depth"] == [0.7, 0.5, 0.3] and (a["drafted"], a["accepted"]) == (30, 15)
    assert a["drafting_share"] == pytest.approx(0.3 / 2.5)


def test_an_answer_of_one_token_has_no_speed():
    got = figures({"": [answer(0, 1, 0.0)], "a": [answer(0, 1, 0.0)]})
    assert got["a"]["speedup"] is None and got["a"]["tokens_per_second"] is None


def test_means_and_the_best_of_each_side():
    def side(**rates: float) -> dict:
        return {
            m.replace("plain", ""): {"tokens_per_second": r, "speedup": r / rates["plain"]} for m, r in rates.items()
        }

    one = {"fewer": side(plain=100.0, a=200.0, b=50.0), "llama.cpp": side(plain=90.0, n=80.0)}
    two = {"fewer": side(plain=100.0, a=50.0, b=50.0), "transformers": side(plain=9.0, lookup=18.0)}
    assert mean({"one": one, "two": two})["fewer"] == {"": 1.0, "a": 1.0, "b": 0.5}
    assert beside(one) == {"own": ("fewer a", 200.0), "peer": ("llama.cpp n", 80.0), "times": 2.5}
    assert beside(two)["own"] == ("fewer", 100.0) and beside(two)["times"] == 5.556
    assert beside({"fewer": side(plain=1.0)}) == {"own": ("fewer", 1.0), "peer": None, "times": None}


def test_kinds_of_several_runs_are_one_result(tmp_path):
    """What was measured in the same way is joined, the newer counts, and the means are those of all kinds."""

    def result(kind: str, speedup: float, items: int = 2) -> dict:
        f = {"fewer": {"a": {"speedup": speedup, "tokens_per_second": 1.0}}}
        same = dict.fromkeys(speculation.ALIKE, 0) | {"model": "x/m.gguf", "draft": None, "items": items}
        rest = {
            "command": f"--kind {kind}",
            "mean": mean({kind: f}),
            "beside": {kind: beside(f)},
            "same": {},
            "failed": {},
            "engines": {},
        }
        return {**same, **rest, "kinds": {kind: f}}

    def kept(*results: dict) -> dict:
        for r in results:
            speculation.keep(tmp_path, r)
        return json.loads((tmp_path / "speculation-m.json").read_text())

    both = kept(result("one", 9.0), result("two", 4.0), result("one", 1.0))
    assert list(both["kinds"]) == list(both["beside"]) == ["one", "two"] and both["mean"] == {"fewer": {"a": 2.0}}
    assert both["commands"] == ["--kind one", "--kind two", "--kind one"]
    assert list(kept(result("two", 3.0, items=3))["kinds"]) == ["two"]


def test_plans_are_split_and_judged():
    assert speculators.plan("a + b:knob=1") == ["a", "b:knob=1"] and speculators.plan("") == []
    assert lossless("lookahead + lookahead:budget=3") and not lossless("lookahead + streaming-llm")
    failed: dict[str, str] = {}
    alone = speculation.drafters(False, failed)
    assert "lookahead" in alone and len(alone) + len(failed) == sum(c.seam == "propose" for c in cards().values())
    assert all("--draft" in why and find(name).load().uses for name, why in failed.items())


# ---------------------------------------------------------------------- a run
@pytest.mark.slow
def test_a_run_on_a_tiny_model(tiny, tmp_path):
    said: list[str] = []
    plans = ["lookahead", "lookahead:shortest=1 + lookahead"]
    ways = Ways(["code", "chat"], plans, [], items=1, tokens=16, threads=1, same_prompts=3, same_tokens=12)
    got = json.loads(json.dumps(speculation.measure(tiny, ways, said.append)))
    assert said and not got["failed"] and list(got["kinds"]) == ["code", "chat"]
    for kind in got["kinds"].values():
        assert sorted(kind["fewer"]) == sorted(["", *plans]) and kind["fewer"][""]["speedup"] > 0
        assert kind["fewer"]["lookahead"]["tokens_per_forward"] >= 1.0
    assert got["same"] == {p: {"same": 3, "of": 3, "tokens": 36} for p in plans}
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    show.print_result(got, console)
    text = console.export_text()
    assert "Speed-up against own plain" in text and "lookahead" in text and "3" in text
    show.write_csv(got, tmp_path / "s.csv")
    show.write_html(got, tmp_path / "s.html")
    assert "The same text" in (tmp_path / "s.csv").read_text() and "<svg" in (tmp_path / "s.html").read_text()


@pytest.mark.slow
def test_the_command(fewer, tiny):
    options = [
        "--kind",
        "code",
        "--plan",
        "lookahead",
        "--no-peers",
        "--items",
        "1",
        "-n",
        "8",
        "--same",
        "0",
        "-t",
        "1",
    ]
    said = fewer("bench", "speculation", "-m", tiny, *options, "--json")
    got = json.loads(said.out)
    assert said.code == 0 and got["same"] == {} and "--kind 'code'" in got["command"] and "--no-peers" in got["command"]


@pytest.mark.parametrize(
    ("ways", "error", "says"),
    [
        (Ways(items=0), BadRequest, "items=0"),
        (Ways(tokens=4), BadRequest, "tokens=4"),
        (Ways(["dance"], ["lookahead"], []), BadRequest, "no kind 'dance'"),
        (Ways(plans=["streaming-llm + sirllm"]), CannotCombine, "streaming-llm and sirllm"),
        (Ways(["chat"], ["lookahead"], ["vllm"]), BadRequest, "no engine 'vllm'"),
    ],
)
def test_what_cannot_be_measured(tiny, ways, error, says):
    with pytest.raises(error, match=says):
        speculation.measure(tiny, ways)
