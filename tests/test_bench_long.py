"""`fewer bench long`: items hold their answers where they say, scores and divergences are right, plans run in turn."""

import json
import math
import re
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from fewer.bench.long import measure as m
from fewer.bench.long import tasks, texts
from fewer.bench.long.tables import _ranking, tables
from fewer.bench.show import write_html
from fewer.errors import BadRequest
from tests.cli_tiny import fewer_command, tiny_model  # noqa: F401  (fixtures)

SQUAD = {"data": [{"paragraphs": [
    {"context": f"Passage {i} tells that the duke of field {i} is Count{i}.",
     "qas": [{"question": f"Who is the duke of field {i}?", "answers": [{"text": f"Count{i}"}]},
             {"question": "Who knows?", "answers": []}]} for i in range(30)]}]}  # fmt: skip
HOTPOT = [{"context": [[f"Town {i}", [f"Town {i} lies on river {i}.", " It is old."]], [f"River {i}", ["It is long."]]],
           "supporting_facts": [[f"Town {i}", 0], [f"Town {i}", 1]], "question": f"Where does town {i} lie?",
           "answer": "yes" if i % 2 else f"river {i}"} for i in range(10)]  # fmt: skip


def words(text):
    return len(text.split())


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps(SQUAD))
    (tmp_path / "hotpotqa.json").write_text(json.dumps(HOTPOT))
    return tmp_path


def made(task, n=5, tokens=400, seed=0, held=None):
    return tasks.make(task, n, tokens, seed, words, held or texts.load(None))


@pytest.mark.parametrize("task", tasks.available(texts.load(None)))
def test_documents_have_their_length_hold_their_answers_and_are_the_same_again(task):
    items = made(task)
    assert items == made(task) and items != made(task, seed=1)
    for item in items:
        assert 0.85 * 400 <= words(item.document) <= 1.1 * 400
        assert all(a in item.document for a in item.answers)
        assert item.score(f"It is {', '.join(item.answers)}.".upper()) == 1.0 and item.score("No idea.") == 0.0
        assert item.score(item.answers[0]) == pytest.approx(1 / len(item.answers))


@pytest.mark.parametrize("task", ["single", "multikey"])
def test_the_answer_lies_at_the_depth_that_is_said(task):
    items = made(task, 5, 1500)
    assert [i.depth for i in items] == [0.0, 0.25, 0.5, 0.75, 1.0]
    for item in items:
        before = words(item.document[: item.document.index(item.answers[0])])
        assert before / words(item.document) == pytest.approx(item.depth, abs=0.1)


def test_variables_are_a_chain_and_another_beside_it():
    for item in made("variables"):
        lines = re.findall(r"VAR (\w+) = (?:VAR )?(\w+)", item.document)
        assigned = dict(lines)
        value = re.search(r"value (\d+)", item.question)[1]

        def ends(name, assigned=assigned):
            while name in assigned:
                name = assigned[name]
            return name

        assert {n for n in assigned if ends(n) == value} == set(item.answers) and len(assigned) == 8
        places = [item.document.index(f"VAR {n} =") for n in item.answers]
        assert places == sorted(places)  # nothing is used before it is assigned


def test_words_asked_for_are_the_most_frequent():
    for task, n in (("common", 5), ("frequent", 3)):
        for item in made(task, tokens=1500):
            best = [w for w, _ in Counter(re.findall(r"[a-z]+", item.document)).most_common(n)]
            assert set(item.answers) == set(best)


def test_a_thread_leads_to_its_end():
    for item in made("threads"):
        pairs = dict(line.split(": ") for line in item.document.split("\n"))
        key, hops = re.search(r"key (\w+)\.", item.question)[1], 0
        while key in pairs:
            key, hops = pairs[key], hops + 1
        assert (key,) == item.answers and hops == 6


def test_real_questions_lie_among_other_passages(folder):
    held = texts.load(folder)
    assert tasks.available(held) == list(tasks.TASKS)
    assert len(held.questions["squad"]) == 30 and len(held.questions["hotpotqa"]) == 5  # yes and no are no answers
    for source, tokens in (("squad", 150), ("hotpotqa", 60)):
        for item in made(source, tokens=tokens, held=held):
            assert sum(a in p for p in item.document.split("\n\n") for a in item.answers) == 1
            assert item.any_of and item.score(item.answers[-1]) == 1.0


def test_bad_input_is_named(tmp_path):
    with pytest.raises(BadRequest, match="no task 'dance'"):
        made("dance")
    with pytest.raises(BadRequest, match=r"needs --texts with a folder that holds squad\.json"):
        made("squad")
    with pytest.raises(BadRequest, match="too few for this task's 8 facts"):
        made("multikey", tokens=20)
    with pytest.raises(BadRequest, match="holds neither"):
        texts.load(tmp_path)
    (tmp_path / "squad.json").write_text('{"data": [{}]}')
    with pytest.raises(BadRequest, match="not squad's own JSON: KeyError"):
        texts.load(tmp_path)
    for wrong, said in (({"lengths": [100]}, "at least 256"), ({"protocols": ["blind"]}, "no protocol 'blind'")):
        with pytest.raises(BadRequest, match=said):
            m.measure("no-such-model", **wrong)


def done(tokens, *logits):
    run = SimpleNamespace(every=[tokens])
    return m.Done(1.0, run, [torch.log_softmax(torch.tensor(x, dtype=torch.float64), -1) for x in logits])


def test_divergence_counts_while_both_say_the_same():
    plain = done([1, 2, 3], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    assert m.divergence(plain, plain) == 0.0
    far = [math.log(9.0), 0.0]
    want = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert m.divergence(plain, done([1, 5, 6], [0.0, 0.0], far, far)) == pytest.approx(want / 2)
    assert m.divergence(plain, done([1, 2, 3], far, far, far)) == pytest.approx(want)


def test_the_question_is_told_to_methods_that_can_use_it():
    way = m.Way("snapkv:budget=0.5 + int8", "agnostic")
    assert way.use(17) == ["snapkv:budget=0.5,question=17", "int8"]
    assert m.Way("snapkv").use(17) == ["snapkv"] and m.Way("plain").use(17) == []
    assert m._ways(["streaming-llm", "snapkv"], m.PROTOCOLS) == [
        m.Way("streaming-llm"), m.Way("snapkv"), m.Way("snapkv", "agnostic")]  # fmt: skip


def test_measured_shown_and_kept(fewer, tiny, tmp_path):
    kept, page = tmp_path / "long.json", tmp_path / "long.html"
    args = ["-m", tiny, "--task", "threads", "--length", "256", "--items", "2", "--plan", "snapkv:budget=0.5,window=8"]
    out = fewer("bench", "long", *args, "--json", "--keep", str(kept), "--html", str(page))
    got = json.loads(out.out)
    assert got == json.loads(kept.read_text()) and out.code == 0
    plain, aware, agnostic = got["results"]
    assert (plain["kl"], plain["kv_end"]) == (0.0, 1.0) and aware["kl"] > 0 and aware["bytes"] < plain["bytes"]
    assert [aware["protocol"], agnostic["protocol"]] == ["aware", "agnostic"]
    assert all(0.4 < x["kv_end"] < 0.7 for x in (aware, agnostic))
    assert [s.title for s in tables(got)][:3] == [
        "Plain: what the model can do", "What is kept of the score", "What it costs"]  # fmt: skip
    html = page.read_text()
    assert "Where: plain" in html and "color-mix" in html
    write_html(got, page)


PEER = """#!/usr/bin/env python3
import json, sys
script, path, threads = sys.argv[1:]
assert script.endswith("peer_kvpress.py") and path.endswith(".gguf")
print(json.dumps({"version": "9", "load": 0.1}), flush=True)
for line in sys.stdin:
    ask = json.loads(line)
    with open(__file__ + ".asked", "a") as file:
        file.write(line)
    answer = {"tokens": ask["ids"][-3:] + ask["stops"][:1], "seconds": 1.0}
    print(json.dumps({"error": "no room"} if ask["press"] == "tova" else answer), flush=True)
"""


@pytest.fixture
def peer(tmp_path):
    """A Python that runs another kvpress: it answers with the prompt's last tokens."""
    file = tmp_path / "python"
    file.write_text(PEER)
    file.chmod(0o755)
    return file


def test_kvpress_gets_the_same_tokens_and_budget(fewer, tiny, peer, tmp_path):
    args = ["-m", tiny, "--task", "threads", "--length", "256", "--items", "2", "--peer-python", str(peer)]
    plans = ["snapkv:budget=0.5", "tova:budget=64", "snapkv:budget=0.5,window=8"]
    page = tmp_path / "long.html"
    out = fewer("bench", "long", *args, *(x for p in plans for x in ("--plan", p)), "--json", "--html", str(page))
    got = json.loads(out.out)
    jobs = [json.loads(line) for line in peer.with_suffix(".asked").read_text().splitlines()]
    assert [j["press"] for j in jobs] == ["plain"] * 2 + ["snapkv"] * 4 + ["tova"]  # it is not asked after an error
    for job in jobs[2:6]:
        assert job["keep"] + job["question"] == round(0.5 * len(job["ids"]))
    assert [j["question"] > 0 for j in jobs[2:6]] == [False, False, True, True] and jobs[6]["keep"] == 64
    assert jobs[0]["keep"] == len(jobs[0]["ids"]) and jobs[0]["ids"] == jobs[2]["ids"] == jobs[4]["ids"]
    beside = got["beside"]
    assert beside["version"] == "9" and beside["failed"] == {"tova:budget=64 aware": "no room"}
    assert [(x["plan"], x["protocol"]) for x in beside["results"]] == [
        ("plain", "aware"), ("snapkv:budget=0.5", "aware"), ("snapkv:budget=0.5", "agnostic")]  # fmt: skip
    assert "Beside kvpress" in page.read_text() and "tova:budget=64 aware failed there: no room" in page.read_text()


def test_the_ranking_sets_both_sides_kept_scores_beside_each_other():
    rows = [("plain", "aware", 1.0), ("snapkv", "aware", 0.5), ("tova", "aware", 0.75), ("int8", "aware", 1.0)]
    own = [
        {"plan": p, "protocol": w, "task": "single", "tokens": 256, "score": x, "can": 4, "kept": x} for p, w, x in rows
    ]
    theirs = [{**x, "score": x["score"] / 2} for x in own[:3]]
    sheet = _ranking({"results": own, "beside": {"version": "9", "failed": {}, "results": theirs}})
    assert sheet.rows == [
        ["plain", "aware", 1.0, 0.5, 0.5, 1.0, 1.0],
        ["tova", "aware", 0.75, 0.375, 0.375, 0.75, 0.75],
        ["snapkv", "aware", 0.5, 0.25, 0.25, 0.5, 0.5],
    ]


def test_a_peer_that_cannot_run_is_named(fewer, tiny, tmp_path):
    args = ["bench", "long", "-m", tiny, "--task", "threads", "--length", "256", "--items", "1", "--plan", "tova"]
    out = fewer(*args, "--peer-python", str(tmp_path / "nothing"))
    assert out.code == 2 and "cannot run" in out.err
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no module named kvpress >&2; exit 1\n")
    broken.chmod(0o755)
    out = fewer(*args, "--peer-python", str(broken))
    assert out.code == 2 and "no module named kvpress (are kvpress and gguf installed for" in out.err


def test_a_sample_is_shown_without_running_the_model(fewer, tiny):
    out = fewer("bench", "long", "-m", tiny, "--sample", "--length", "300", "--task", "single", "--task", "threads")
    assert out.code == 0 and out.out.count("== ") == 2 and "-> " in out.out and "100% of the document" in out.out
    shown = json.loads(fewer("bench", "long", "-m", tiny, "--sample", "--task", "single", "--json").out)
    assert shown[0]["answers"][0] in shown[0]["document"]
