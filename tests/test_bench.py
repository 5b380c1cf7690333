"""The bench: tasks are what they say, teacher forcing is exact, ratios are ratios, results can be shown and kept."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import fewer
from fewer.bench import handover, limits, methods, quality, record, rows, show, speed, tasks
from fewer.bench.cases import CASES
from fewer.bench.own import beside
from fewer.bench.run import run
from fewer.bench.teacher import teach
from fewer.card import find
from fewer.engine import Engine
from fewer.errors import BadRequest, UnknownMethod
from fewer.plan import parse_use
from fewer.testing.harness import Naive
from fewer.testing.tiny import tiny_model
from tests.cli_tiny import write_chat_model


def words(text: str) -> int:
    return len(text.split())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_chat_model(tmp_path_factory.mktemp("bench") / "tiny.gguf"))


@pytest.fixture(scope="module")
def engine(tiny: str) -> fewer.Engine:
    return fewer.open(tiny, dtype="float32", threads=1)


# ---------------------------------------------------------------------- tasks
@pytest.mark.parametrize("task", tasks.TASKS)
def test_items_repeat_with_their_seed(task):
    one, same, other = (
        [i.prompts for i in tasks.make(task, 3, 200, seed, words)] for seed in (0, 0, 1)
    )  # fmt: skip
    assert one == same and len({*one}) == 3
    assert other != one or task == "chat"


def test_needle_hides_the_answer_at_its_depth():
    items = tasks.make("needle", 4, 300, 0, words)
    places = []
    for item in items:
        (prompt,) = item.prompts
        assert prompt.count(item.value) == 1 and item.answer in prompt and 200 < words(prompt) <= 310
        assert item.judge(item.answer) == 1.0 and item.judge("It is 12345.") == 0.0
        places.append(prompt.index(item.value) / len(prompt))
    assert places == sorted(places) and places[0] < 0.2 and places[-1] > 0.5


def test_copy_judges_likeness_to_the_renamed_text():
    item = tasks.make("copy", 1, 200, 0, words)[0]
    source, name = next((s, n) for s, n in tasks.functions() if s in item.prompts[0])
    right = "\n".join(["", *tasks.re.sub(rf"\b{name}\b", f"the_{name}", source).split("\n")[4:]])
    assert item.judge(right) == 1.0 > item.judge(right.replace("the_", "a_")) > item.judge("no idea") >= 0.0


def test_constrained_asks_for_the_form_of_the_catalogue():
    (setting,) = find("awrs").measure
    assert parse_use(f"awrs:{setting}")[1]["regex"] == tasks.JSON_FORM
    judge = tasks.make("constrained", 1, 200, 0, words)[0].judge
    assert judge('{"name": "Aiko", "age": 30, "city": "Osaka"}') == 1.0 and judge("Aiko, 30, Osaka") == 0.0


def test_batch_has_skewed_lengths():
    (item,) = tasks.make("batch", 1, 800, 0, words)
    lengths = sorted(map(words, item.prompts))
    assert len(lengths) == 16 and lengths[-1] > 3 * lengths[8]


def test_unknown_task_is_named():
    with pytest.raises(BadRequest, match="no task 'sing'"):
        tasks.make("sing", 1, 100, 0, words)


# ---------------------------------------------------------------------- one call
def test_teacher_forcing_is_scoring(engine):
    item = tasks.Item(("Once upon a time",), 1, raw=True, answer=" there was a mill.")
    ids = engine.tokenizer.encode(item.prompts[0])
    told = engine.tokenizer.encode(item.answer, bos=False)
    wanted = engine.score([*ids, *told]).logprobs[-len(told) :]
    got = teach(engine, item)
    assert got.logprobs == pytest.approx(wanted, abs=1e-3)
    assert got.perplexity == pytest.approx(math.exp(-sum(wanted) / len(wanted)), rel=1e-4)


def test_teacher_forcing_goes_through_the_method(engine):
    (item,) = tasks.make("text", 1, 200, 0, lambda text: len(text))
    plain, identity, cut = (
        teach(engine, item, u).logprobs for u in ([], ["streaming-llm:budget=1.0"], ["streaming-llm:budget=8"])
    )
    assert identity == pytest.approx(plain, abs=1e-4) and cut != pytest.approx(plain, abs=1e-2)


def test_only_the_value_counts(engine):
    item = tasks.Item(("Where?",), 1, raw=True, answer="The code is 12345.", value="12345")
    whole = teach(engine, dataclasses.replace(item, value=""))
    assert teach(engine, item).logprobs == whole.logprobs[-7:-1]  # a space and five digits, without the full stop


def test_run_counts_what_the_ledger_counts(engine):
    item = tasks.Item(("a question " * 9,), 12)
    plain, less = run(engine, item, []), run(engine, item, ["streaming-llm:budget=16"])
    assert plain.spent["generated_tokens"] == 12 and plain.spent["forwards"] == 1.0
    assert less.spent["kv_end"] < plain.spent["kv_end"] and less.spent["reads"] < plain.spent["reads"]
    batch = run(engine, tasks.Item(("one " * 30, "two", "three"), 4), [])
    assert len(batch.tokens) == 3 and batch.spent["padded"] > 1 and batch.spent["forwards"] < 1.0


def test_agreement_is_the_share_of_equal_leading_tokens():
    assert methods.agreement([1, 2, 3, 4], [1, 2, 9, 4]) == 0.5
    assert methods.agreement([1], [1, 2]) == 0.5
    assert methods.agreement([], []) == 1.0


# ---------------------------------------------------------------------- methods
@pytest.fixture(scope="module")
def measured(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder, names = tmp_path_factory.mktemp("results"), ["streaming-llm", "lookahead", "prepacking"]
    with pytest.MonkeyPatch.context() as patch:  # on a busy machine the guard may put a drafter to rest
        patch.setattr(Engine, "_pace", lambda *_: None)
        return methods.measure(names, tiny, 2, 200, threads=1, folder=folder), folder


def test_a_row_a_setting(measured):
    result, _ = measured
    by = {(r["method"], r["setting"]): r for r in result["results"]}
    wanted = {(n, s) for n in ("streaming-llm", "lookahead", "prepacking") for s in find(n).measure}
    assert set(by) == wanted
    half = by["streaming-llm", "budget=0.5"]
    assert half["kv_end"] < 0.8 and half["reads"] < 0.8 and half["layers"] == 1.0
    assert {"quality", "quality_plain", "value_logprob", "perplexity_plain", "agreement"} <= half.keys()
    for r in result["results"]:
        if r["method"] != "streaming-llm":
            assert r["same_tokens"] and r["agreement"] == 1.0 and "perplexity" not in r
    assert by["lookahead", "budget=7"]["forwards"] < 1.0


def test_results_are_kept_one_file_a_row(measured):
    result, folder = measured
    assert sorted(p.name for p in folder.iterdir()) == ["lookahead.json", "prepacking.json", "streaming-llm.json"]
    kept = [json.loads(p.read_text()) for p in sorted(folder.iterdir())]
    assert [r for k in kept for r in k["results"]] == sorted(result["results"], key=lambda r: r["method"])
    for k in kept:
        assert k["what"] == "methods" and k["seed"] == 0 and k["machine"]["cpu"] and k["versions"]["torch"]
        assert k["command"].startswith(f"fewer bench methods {k['results'][0]['method']} ")


def test_what_cannot_run_is_reported(engine):
    card = dataclasses.replace(find("streaming-llm"), measure=("budget=0",))
    (row,) = methods.Row(engine, card, 1, 100, 0, lambda s: None).measure()
    assert "budget=0" in row["error"] and row["method"] == "streaming-llm"


def test_bad_requests_are_typed(tiny, tmp_path):
    with pytest.raises(UnknownMethod):
        methods.measure(["nothing"], tiny)
    with pytest.raises(BadRequest, match="context of 2048"):
        methods.measure(["lookahead"], tiny, tokens=5000)
    with pytest.raises(BadRequest, match="n_items=0"):
        methods.measure(["lookahead"], tiny, n_items=0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(BadRequest, match="cannot write"):
        record.save(blocked / "x.json", {})


# ---------------------------------------------------------------------- speed and quality
def test_bytes_and_operations_of_a_model():
    model = tiny_model("mistral", layers=3)  # window 6
    spec, w = model.spec, model.spec.d_model
    per_layer = (4 + 2 + 2) * 8 * w + 4 * 8 * w + 3 * w * spec.d_ff
    assert limits.row_macs(spec) == 3 * per_layer + spec.vocab * w
    assert limits.row_macs(spec, head=False) == 3 * per_layer
    assert limits.kv_bytes(model, 4) == 3 * 4 * 2 * 8 * 2 * 8 and limits.kv_bytes(model, 100) == limits.kv_bytes(
        model, 6
    )
    assert limits.weight_bytes(model) >= 8 * limits.row_macs(spec)


def test_a_figure_beside_its_ceilings():
    model = tiny_model()
    size = limits.weight_bytes(model)
    near = beside(CASES["decode short"], 900.0, model, limits.Ceilings(1000.0 * size, 1e12, 1e12))
    assert near["limited_by"] == "bandwidth" and 0.9 < near["of_memory"] < 1.2
    far = beside(CASES["decode short"], 1.0, model, limits.Ceilings(1000.0 * size, 1e12, 1e12))
    assert far["limited_by"] == "dispatch"
    products, attention = limits.row_macs(model.spec, head=False), limits.attention_macs(model, 512)
    for top in (limits.Ceilings(1e12, 10.0 * products, 1e30), limits.Ceilings(1e12, 1e30, 10.0 * attention)):
        busy = beside(CASES["prefill 1k"], 9.0, model, top)
        assert busy["limited_by"] == "compute" and busy["of_compute"] == 0.9


def test_a_batch_counts_its_prompts():
    """Where only products count: 8 prompts of 64 tokens without logits, then 8 x 48 rows with them."""
    model, case = tiny_model(), CASES["batch of 8"]
    products, head = limits.row_macs(model.spec, head=False), limits.row_macs(model.spec)
    got = beside(case, 1.0, model, limits.Ceilings(1e30, 1.0, 1e30))
    assert got["compute_limit"] == round(384 / (512 * products + 384 * head), 1)
    assert got["of_compute"] == round((512 * products + 384 * head) / 384, 3)


def test_ceilings_are_positive():
    meter = limits.Meter(1 << 20, 100)
    seen = [meter.once() for _ in range(3)]
    assert all(top.read > 0 and top.macs > 0 and top.floats > 0 for top in seen)
    assert limits.median(seen).read == sorted(top.read for top in seen)[1]


def test_the_curve_of_rows():
    got = rows.curve(tiny_model(dtype=torch.float32), [i % 31 for i in range(100)], context=40, rounds=1)
    assert list(got["times"]) == [str(m) for m in rows.ROWS] and got["times"]["1"] == 1.0


def test_quality_of_the_same_weights_is_the_same(tiny):
    got = quality.measure(tiny, nbytes=400, prompts=2, tokens=4, threads=1)
    assert got["perplexity"]["ratio"] == pytest.approx(1.0, abs=0.01) and got["answers"]["of"] == 2
    with pytest.raises(BadRequest, match="20 prompts"):
        quality.measure(tiny, prompts=21)


@pytest.mark.slow
def test_speed_of_engines_in_their_own_processes(tiny):
    said: list[str] = []
    got = speed.measure(tiny, ["no-such-engine"], ["decode short", "rows"], 1, 1, said.append)
    assert got["cases"]["decode short"]["fewer"]["fewer_is_times"] == 1.0
    assert list(got["peers"]) == ["fewer"] and got["peers"]["fewer"]["peak_mb"] > 50
    assert "KeyError" in got["failed"]["no-such-engine"]
    assert got["limits"]["decode short"]["limited_by"] and got["rows"]["times"]["1"] == 1.0 and said
    with pytest.raises(BadRequest, match="no case 'dance'"):
        speed.measure(tiny, cases=["dance"])


# ---------------------------------------------------------------------- showing
SPEED = {
    **record.head("speed", "fewer bench speed -m <b>", 0),
    "model": "x.gguf", "threads": 2, "rounds": 3, "failed": {"openvino": "<no>"}, "weight_bytes": 98_000_000,
    "peers": {n: {"version": "1", "load_seconds": 1.5, "peak_mb": 400.0} for n in ("fewer", "llama.cpp")},
    "cases": {"decode short": {"fewer": {"tokens_per_second": 80.0, "fewer_is_times": 1.0, "all": [80.0]},
                               "llama.cpp": {"tokens_per_second": 40.0, "fewer_is_times": 2.0, "all": [40.0]}}},
    "ceilings": {"read": 2e10, "macs": 1e11, "floats": 5e10},
    "limits": {"decode short": {"tokens_per_second": 80.0, "memory_limit": 200.0, "of_memory": 0.4, "compute_limit": 900.0,
                                "of_compute": 0.1, "limited_by": "bandwidth"}},
    "start": {"seconds": 2.0, "all": [2.0], "peak_mb": 300.0},
    "rows": {"context": 1024, "times": {"1": 1.0, "4": 1.1}, "seconds": {"1": 0.01, "4": 0.011},
             "limits": {m: {"of_memory": 0.5, "of_compute": 0.1, "limited_by": "bandwidth"} for m in ("1", "4")}},
}  # fmt: skip


def test_speed_is_shown(tmp_path):
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w"))
    show.print_result(SPEED, console)
    said = console.export_text()
    assert "80" in said and "bandwidth" in said and "openvino failed" in said and "1.1" in said
    show.write_csv(SPEED, tmp_path / "s.csv")
    table = list(csv.DictReader((tmp_path / "s.csv").open()))
    found = {(t["row"], t["figure"]): t["value"] for t in table}
    assert found["decode short", "x llama.cpp"] == "2.0" and found["4", "times"] == "1.1"
    show.write_html(SPEED, tmp_path / "s.html")
    page = (tmp_path / "s.html").read_text()
    assert page.count("<rect") == 4 and "&lt;no&gt;" in page and "-m &lt;b&gt;" in page
    assert "<script" not in page and page.count("http") == page.count('xmlns="http://www.w3.org/2000/svg"')


def test_methods_are_shown(measured, tmp_path):
    result, _ = measured
    result = {
        **result,
        "results": [*result["results"], {"method": "m", "setting": "", "task": "copy", "items": 1, "error": "why not"}],
    }
    console = Console(width=200, record=True, file=(tmp_path / "out").open("w"))
    show.print_result(result, console)
    said = console.export_text()
    assert "streaming-llm" in said and "KV end" in said and "why not" in said
    show.write_csv(result, tmp_path / "m.csv")
    show.write_html(json.loads(json.dumps(result)), tmp_path / "m.html")
    assert "budget=0.5" in (tmp_path / "m.csv").read_text() and "agreement" in (tmp_path / "m.html").read_text()


def test_an_unwritable_file_is_one_clear_error(tmp_path):
    for write in (show.write_csv, show.write_html):
        with pytest.raises(BadRequest, match="cannot write"):
            write(SPEED, tmp_path / "nowhere" / "x")


# ---------------------------------------------------------------------- hand-over
def test_auc_and_coverage_by_hand():
    scores, needed = np.array([0.1, 0.9, 0.4, 0.4, 0.8, 0.2]), np.array([False, True, True, False, False, False])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[needed] for b in scores[~needed]]
    assert handover.auc(scores, needed) == pytest.approx(sum(pairs) / len(pairs), abs=1e-4)
    assert handover.auc(scores, np.zeros(6, bool)) is handover.covered(scores, np.zeros(6, bool), 0.5) is None
    assert [handover.covered(scores, needed, s) for s in (1 / 6, 0.5, 1.0)] == [0.5, 1.0, 1.0]


def test_handover_looks_at_the_large_models_own_text():
    """At every position of the answer the small model is asked behind what is really written there."""
    eng = Engine(tiny_model(seed=0), None, drafts={"draft": tiny_model(seed=1, layers=2)}, chunk=5)
    answer = eng.generate(list(range(8)), max_tokens=9)
    seen = handover.look(eng, list(range(8)), answer.tokens)
    small = Naive(eng.models["draft"])
    logits = [small.feed(t) for t in [*range(8), *answer.tokens]][7:-1]
    assert seen.needed.tolist() == [int(z.argmax()) != t for z, t in zip(logits, answer.tokens)]
    p = torch.softmax(torch.stack(logits), -1)
    assert seen.unsure["top"] == pytest.approx(1 - p.max(-1).values.numpy())
    assert seen.unsure["entropy"] == pytest.approx(-(p * p.log()).sum(-1).numpy())
    got = handover.figures([seen, seen])
    assert got["positions"] == 18 and got["needed"] == pytest.approx(seen.needed.mean(), abs=1e-4)
    assert sum(got["by_fifth"]) > 0
