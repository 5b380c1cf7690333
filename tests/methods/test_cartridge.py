"""Cartridges: entries in front of the prompt are what a text there would have left; training moves only the entries."""

import json

import numpy as np
import pytest
import torch

from fewer.errors import CannotCombine, CorruptFile, ModelError, WrongPart
from fewer.methods.transform.given_entries import FRESH, KIND, GivenEntries
from fewer.parts.trained import write
from fewer.plan import plan
from fewer.testing.harness import generate, request, run
from fewer.testing.tiny import VARIANTS, tiny_model
from fewer.train import cartridge, study
from fewer.train.behind import gap, held, logits, states, turned
from fewer.train.cartridge import begin, line, moved
from fewer.train.frozen import distil
from tests.cli_tiny import fewer_command  # noqa: F401  (fixtures)
from tests.cli_tiny import tiny_model as tiny_file  # noqa: F401

TEXT, OTHER = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], [7, 9, 3, 2, 3, 8, 4]
PROMPT = [8, 9, 7, 9, 3]


def part(tmp_path, model, tokens, name="a"):
    """What a model holds of some tokens, as a cartridge. Half precision, as every part."""
    path = tmp_path / f"{name}.safetensors"
    keys, values = begin(model, tokens)
    write(path, KIND, {"keys": keys, "values": values}, model, {"model": "tiny", "entries": len(tokens)})
    return str(path)


def heard(model, prompt, use=(), n=8, **options):
    req = request(prompt, use=use, max_tokens=n, logprobs=1, **options)
    run(model, [req])
    return req, [t.logprob for t in req.logprobs]


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_a_text_leaves_stands_for_the_text(variant, tmp_path):
    """The prompt behind the entries is the prompt behind the text, but for the half precision of the file."""
    model = tiny_model(variant)
    req, got = heard(model, PROMPT, [GivenEntries(file=part(tmp_path, model, TEXT))], chunk=2)
    plain, want = heard(model, [*TEXT, *PROMPT])
    assert req.tokens == plain.tokens and np.allclose(got, want, atol=5e-3)
    assert req.ledger.computed_tokens == len(PROMPT) + 7 and req.told.prompt_len == len(TEXT) + len(PROMPT)
    assert heard(model, PROMPT)[1] != got


def test_an_untrained_one_is_the_first_tokens_exactly():
    model = tiny_model("qwen3")
    req, got = heard(model, PROMPT, [GivenEntries(file="untrained")])
    plain, want = heard(model, [*range(FRESH), *PROMPT])
    assert req.tokens == plain.tokens and np.allclose(got, want, atol=1e-12)


def test_two_compose(tmp_path):
    """The second stands behind the first, turned to its place: exact at layer 0, where nothing else was looked at."""
    model = tiny_model("llama", layers=1)
    files = [part(tmp_path, model, t, n) for t, n in ((TEXT, "a"), (OTHER, "b"))]
    req, got = heard(model, PROMPT, [GivenEntries(file=f) for f in files])
    plain, want = heard(model, [*TEXT, *OTHER, *PROMPT])
    assert req.tokens == plain.tokens and np.allclose(got, want, atol=5e-3)
    deep = tiny_model("llama")
    files = [part(tmp_path, deep, t, n) for t, n in ((TEXT, "c"), (OTHER, "d"))]
    req, both = heard(deep, PROMPT, [GivenEntries(file=f) for f in files])
    assert req.told.prompt_len == len(TEXT) + len(OTHER) + len(PROMPT)
    assert both != heard(deep, PROMPT, [GivenEntries(file=files[0])])[1]


def test_it_acts_behind_other_transforms_and_with_codecs_selections_and_drafts(tmp_path):
    model = tiny_model("qwen3")
    use = [GivenEntries(file=part(tmp_path, model, TEXT))]
    shorter = request(PROMPT * 8, use=[*use, "xl3m:budget=0.5,segment=4,question=4"], max_tokens=4)
    run(model, [shorter])
    assert 0 < len(shorter.kept_prompt) <= 20 and shorter.told.prompt_len == len(TEXT) + len(shorter.kept_prompt)
    want = generate(model, PROMPT, use=use, max_tokens=8)[0]
    assert generate(model, PROMPT, use=[*use, "prompt-lookup"], max_tokens=8)[0] == want
    assert generate(model, PROMPT, use=[*use, "int8:gap=4"], max_tokens=8)[0]
    assert generate(model, PROMPT, use=[*use, "quest:budget=1.0"], max_tokens=8)[0] == want
    with pytest.raises(CannotCombine, match=r"h2o and .* cannot be combined: what stays is judged by tokens"):
        plan([*use, "h2o:budget=0.5"])


def test_bytes_are_those_of_the_entries(tmp_path):
    """A document of 200 tokens as 10 entries takes a twentieth of its bytes."""
    model = tiny_model("llama")
    tokens = [i * 7 % 31 for i in range(200)]
    entries = begin(model, tokens[:10])
    assert held(model, [], entries) * 20 == held(model, tokens)


def test_the_trainers_forward_is_a_naive_one():
    """Two layers of loops: each row sees the entries and the rows before it."""
    model = tiny_model("llama", layers=2)
    g = torch.Generator().manual_seed(0)
    entries = [torch.randn(2, model.spec.n_kv_heads, 3, model.spec.head_dim, generator=g).double() for _ in range(2)]
    rotated = turned(model.spec, entries[0]), entries[1]
    z = model.head.logits(states(model, torch.tensor(PROMPT), rotated))
    assert torch.allclose(z, logits(model, PROMPT, np.arange(len(PROMPT)), tuple(entries)), atol=1e-9)


def test_training_moves_all_entries_but_the_sink_and_nothing_else():
    """The divergence from the model that has the text in its context falls below that of the start."""
    model = tiny_model("llama")
    weights = [t.clone() for block in model.blocks for t in block.w.values()]
    said = []
    for i in range(4):
        question = [i, 5, i + 7]
        req, _ = heard(model, [*TEXT, *OTHER, *question], n=6, **{"temperature": 0.0})
        full = request([*TEXT, *OTHER, *question], max_tokens=6, logprobs=8)
        run(model, [full])
        best = [sorted(p.top, key=lambda t: t[0] != p.token) for p in full.logprobs]
        ids = torch.tensor([[t for t, _ in row] for row in best])
        logp = torch.tensor([[lp for _, lp in row] for row in best], dtype=torch.float64)
        said.append(cartridge.Spoken("question", torch.tensor([*question, *req.tokens]), len(question), ids, logp))
    start = tuple(t.double() for t in begin(model, TEXT[:4]))
    sizes = [t.pow(2).mean((1, 2, 3), keepdim=True).sqrt() for t in start]
    moves = [torch.zeros_like(t[:, :, 1:]).requires_grad_() for t in start]
    optimizer, rng = torch.optim.Adam(moves, lr=0.05), np.random.default_rng(0)
    for _ in range(25):
        optimizer.zero_grad()
        for s in said:
            keys, values = moved(start, sizes, moves)
            y = states(model, s.tokens[:-1], (turned(model.spec, keys), values))[s.start - 1 :]
            distil(y, s.ids, s.logp, model.head, rng).backward()
        optimizer.step()
    learnt = tuple(t.detach() for t in moved(start, sizes, moves))
    assert gap(model, said, learnt)["kl"] < 0.7 * gap(model, said, start)["kl"]
    assert torch.equal(learnt[0][:, :, 0], start[0][:, :, 0]) and not torch.equal(learnt[0][:, :, 1], start[0][:, :, 1])
    assert all(torch.equal(a, b) for a, b in zip(weights, (t for block in model.blocks for t in block.w.values())))


def test_divergence_is_none_from_oneself():
    model = tiny_model("llama")
    s = line(TEXT, 0)
    z = torch.log_softmax(logits(model, TEXT[:-1], np.arange(len(TEXT) - 1)), -1)
    ids = torch.cat([s.ids, z.topk(5).indices], 1)[:, :1]
    mine = cartridge.Spoken("line", s.tokens, 1, ids, z.gather(1, ids))
    assert gap(model, [mine])["kl"] == pytest.approx(0.0, abs=1e-6)
    assert gap(model, [mine])["perplexity"] == pytest.approx(float(torch.exp(-z.gather(1, ids).mean())), abs=1e-3)


@pytest.mark.parametrize("lesson", ["study", "plain"])
def test_the_command_end_to_end(fewer, tiny, tmp_path, monkeypatch, lesson):
    for name, few in (("QUESTION", 6), ("ANSWER", 6), ("TIMES", 1)):
        monkeypatch.setattr(study, name, few)
    monkeypatch.setattr(cartridge, "JUDGED", 1)
    monkeypatch.setattr(cartridge, "PIECES", 1)
    text, output = tmp_path / "text.txt", tmp_path / "c.safetensors"
    text.write_text("The lighthouse stands on a rock. " * 8)
    command = ["train", "cartridge", str(text), "-m", tiny, "-o", str(output), "--minutes=0.02"]
    done = fewer(*command, "--entries=12", f"--lesson={lesson}", "--json")
    report = json.loads(done.out)
    assert done.code == 0 and report["lesson"] == lesson and report["trained"]["kl"] >= 0
    assert report["kv_bytes_entries"] < report["kv_bytes_document"]
    used = json.loads(fewer("run", "hello", "-m", tiny, "-n", "6", "--json", "--use", f"cartridge:file={output}").out)
    plain = json.loads(fewer("run", "hello", "-m", tiny, "-n", "6", "--json").out)
    assert used["ledger"]["kept_tokens"] == plain["ledger"]["kept_tokens"] and len(used["tokens"]) == 6
    for wrong, said_so in (("--entries=9999", "give from 2 to that many"), ("--lesson=x", "is none of study, plain")):
        bad = fewer(*command, wrong)
        assert bad.code == 2 and said_so in bad.err


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    model = tiny_model()
    file = part(tmp_path, model, TEXT)

    def use(file, model=model):
        return generate(model, PROMPT, use=[GivenEntries(file=file)], max_tokens=3)

    with pytest.raises(WrongPart, match="this model has 2 layers"):
        use(file, tiny_model(layers=2))
    with pytest.raises(WrongPart, match="whose weights are others"):
        use(file, tiny_model(seed=4))
    with pytest.raises(ModelError, match=r"there is no trained cartridge 'x'.*fewer train cartridge -m MODEL DOCUMENT"):
        use("x")
    path = tmp_path / "bad.safetensors"
    write(path, KIND, {"keys": torch.zeros(3, 1, 2, 8)}, model, {"model": "tiny", "entries": 2})
    with pytest.raises(CorruptFile, match="keys must be"):
        use(str(path))
