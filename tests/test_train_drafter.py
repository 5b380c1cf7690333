"""`fewer train drafter`: on a tiny model, end to end; what was said is kept; stopping early writes what there is."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fewer.bench.tasks import MODULES
from fewer.errors import BadRequest, CorruptFile
from fewer.methods.propose.early_exit import early
from fewer.parts import adapter
from fewer.testing.harness import request, run
from fewer.testing.tiny import tiny_model as toy
from fewer.train import frozen, kangaroo, ppd, said, texts
from fewer.train.said import Spoken, collect
from fewer.train.session import Session
from tests.cli_tiny import fewer_command, tiny_model  # noqa: F401  (fixtures)


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Little to ask and to learn."""
    monkeypatch.setattr(said, "CHUNK", 6)
    monkeypatch.setattr(said, "ANSWER", 14)
    monkeypatch.setattr(texts, "QUESTION", 8)
    monkeypatch.setattr(ppd, "TEXTS", 1)


@pytest.mark.parametrize(("kind", "own"), [("kangaroo", {"layers": 1}), ("ppd", {"prompts": 2})])
def test_what_was_trained_drafts_and_changes_nothing(fewer, tiny, tmp_path, kind, own):
    output, data = tmp_path / "part.safetensors", tmp_path / "said"
    options = [f"--{k}={v}" for k, v in own.items()]
    done = fewer("train", "drafter", kind, "-m", tiny, "-o", str(output), "--minutes=0.02", f"--data={data}", *options)
    assert done.code == 0 and "written:" in done.out and "asking the model" in done.err
    plain = json.loads(fewer("run", "hello", "-m", tiny, "-n", "12", "--json").out)
    drafted = json.loads(fewer("run", "hello", "-m", tiny, "-n", "12", "--json", "--use", f"{kind}:file={output}").out)
    assert drafted["tokens"] == plain["tokens"] and drafted["ledger"]["drafted_tokens"]
    assert not list(tmp_path.rglob("*.partial"))


def test_what_was_said_is_not_asked_again(fewer, tiny, tmp_path):
    data = tmp_path / "said"
    command = ["train", "drafter", "kangaroo", "-m", tiny, "--layers=1", "--minutes=0.02", f"--data={data}", "--json"]
    first = json.loads(fewer(*command, "-o", str(tmp_path / "a.safetensors")).out)
    before = {p.name: p.stat().st_mtime_ns for p in data.iterdir()}
    second = json.loads(fewer(*command, "-o", str(tmp_path / "b.safetensors")).out)
    assert all(p.stat().st_mtime_ns == before.get(p.name, p.stat().st_mtime_ns) for p in data.iterdir())
    assert second["tokens"] >= first["tokens"] > 0 and second["agreement_untrained"] == first["agreement_untrained"]


def test_stopped_early_it_writes_what_it_has(tiny, tmp_path):
    session = Session(tiny, 60.0, 0, tmp_path / "said", lambda text: None, 1)
    session.stop()
    report = kangaroo.train(session, tmp_path / "part.safetensors", 1, "by a test")
    assert report["steps"] == 0 and (tmp_path / "part.safetensors").stat().st_size > 1000


def test_bad_input_is_refused_before_any_work(fewer, tiny, tmp_path):
    part = str(tmp_path / "part.safetensors")
    for args, said_so in (
        (["-o", str(tmp_path / "part.bin")], "must be a .safetensors file"),
        (["-o", str(tmp_path / "nowhere" / "part.safetensors")], "in a folder that exists"),
        (["-o", part, "--minutes", "0"], "--minutes must be more than 0"),
        (["-o", part, "--asking", "1"], "--asking must be a share"),
        (["-o", part, "--layers", "2"], "--layers 2: the model has 2"),
    ):
        done = fewer("train", "drafter", "kangaroo", "-m", tiny, *args)
        assert done.code == 2 and said_so in done.err
    assert not (tmp_path / "part.safetensors").exists()


def test_a_folder_of_another_model_or_a_damaged_one_is_named(tiny, tmp_path):
    session = Session(tiny, 1.0, 0, tmp_path, lambda text: None, 1)
    collect(session.eng, tmp_path, 1, 0.0, 0, lambda n: None)
    (chunk,) = tmp_path.glob("said-0-0000.safetensors")
    session.eng.name = "another"
    with pytest.raises(BadRequest, match=r"is what .*tiny.gguf said, not another"):
        collect(session.eng, tmp_path, 1, 0.0, 0, lambda n: None)
    chunk.write_bytes(chunk.read_bytes()[:-30])
    with pytest.raises(CorruptFile, match="delete it and it is made again"):
        collect(session.eng, tmp_path, 1, 0.0, 0, lambda n: None)


def test_texts_to_judge_by_are_kept_apart(tiny, tmp_path):
    eng = Session(tiny, 1.0, 0, tmp_path, lambda text: None, 1).eng
    learn, judge = (texts.prompts(eng, 60, 2000, 5, held) for held in (False, True))
    assert learn == texts.prompts(eng, 60, 2000, 5) and {k for k, _ in learn} == set(texts.KINDS)
    said_to = ["".join(map(str, ids)) for kind, ids in judge if kind in ("ask", "edit")]
    assert said_to and not set(said_to) & {"".join(map(str, ids)) for _, ids in learn}
    pool = [*texts.functions(), *texts.passages()]
    assert len(pool) > 1000 and 0.08 < sum(map(texts.held_out, pool)) / len(pool) < 0.17
    assert "statistics" in MODULES and not any("def _exact_ratio" in f for f in texts.functions())
    assert len({"".join(map(str, ids)) for kind, ids in learn if kind == "chat"}) > 10  # questions differ


def spoken(model, prompts, n=20):
    """What a toy model says, with its own distributions."""
    out = []
    for prompt in prompts:
        req = request(prompt, max_tokens=n, logprobs=8)
        run(model, [req])
        best = [sorted(p.top, key=lambda t: t[0] != p.token) for p in req.logprobs]
        ids = torch.tensor([[t for t, _ in row] for row in best])
        logp = torch.tensor([[lp for _, lp in row] for row in best], dtype=torch.float64)
        out.append(Spoken("prose", torch.tensor([*prompt, *req.tokens]), len(prompt), ids, logp))
    return out


PROMPTS = [[i, (i * 7) % 31, (i * 3) % 31] for i in range(6)]


def test_an_adapter_learns_to_foretell():
    model = toy()
    said_by, spec = spoken(model, PROMPTS), early(model.spec, 1)
    states = [h.double() for h in kangaroo.hidden(SimpleNamespace(model=model), said_by, 1)]
    weights = {n: t.double().requires_grad_() for n, t in adapter.fresh(model.spec).items()}
    optimizer, losses = torch.optim.Adam(weights.values(), lr=0.01), []
    for _ in range(40):
        loss = kangaroo.lesson(said_by, states, spec, weights, model.head, np.random.default_rng(0))
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_prompt_tokens_learn_to_foretell():
    model = toy()
    said_by = spoken(model, PROMPTS)
    vectors = torch.randn(2, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    eng, rng = SimpleNamespace(model=model), np.random.default_rng(0)
    optimizer, losses = torch.optim.Adam([vectors], lr=0.05), []
    for _ in range(25):
        loss = sum(ppd.lesson(eng, model, s, vectors, model.head, rng) for s in said_by)
        losses.append(float(loss))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.95 * losses[0]


def test_the_loss_is_cross_entropy_over_the_candidates():
    """With every token a candidate: minus the mean of p log q, p renormalised over what is known of it."""
    model = toy(vocab=9)
    y = torch.randn(4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 4, 8]])
    logp = torch.log(torch.tensor([[0.5, 0.3, 0.1]] * 4, dtype=torch.float64))
    loss = frozen.distil(y, ids, logp, model.head, np.random.default_rng(0))
    logq = torch.log_softmax(model.head.logits(y), -1)
    want = -sum(p / 0.9 * logq[i, t] for i in range(4) for p, t in zip((0.5, 0.3, 0.1), ids[i].tolist())) / 4
    assert float(loss) == pytest.approx(float(want))
