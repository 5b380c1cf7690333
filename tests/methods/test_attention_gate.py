"""Attention-Gate: equality with a naive rewrite, gates that keep all, what the gates learn, the command end to end."""

import json
import math

import numpy as np
import pytest
import torch

from fewer.errors import CorruptFile, ModelError, WrongPart
from fewer.methods.retain.trained_gates import KIND, TrainedGates
from fewer.parts.gates import NARROW, fresh, shapes
from fewer.parts.trained import write
from fewer.testing.harness import Naive, generate
from fewer.testing.tiny import tiny_model
from fewer.train import behind, recall
from fewer.train import gate as training
from tests.cli_tiny import fewer_command  # noqa: F401  (fixtures)
from tests.cli_tiny import tiny_model as tiny_file  # noqa: F401
from tests.matrices import PROMPT, kept


def sizes(model):
    return shapes(model.spec.d_model, model.spec.n_layers, model.spec.n_kv_heads)


def saved(file, model, **other):
    """Gates on disk as training leaves them, some tensors replaced -> what is on disk, float64."""
    weights = {**fresh(sizes(model), 7), **other}
    write(file, KIND, weights, model, {"model": "tiny"})
    return {name: t.half().double() for name, t in weights.items()}


class Noting:
    """A block that writes down what enters its layer."""

    def __init__(self, block):
        self.block, self.mlp, self.out, self.seen = block, block.mlp, block.out, []

    def qkv(self, x, cos, sin):
        self.seen.append(x[0].clone())
        return self.block.qkv(x, cos, sin)


def entering(model, tokens):
    """[layer][token]: what enters each layer, one token at a time."""
    blocks, naive = model.blocks, Naive(model)
    model.blocks = noting = [Noting(b) for b in blocks]
    for token in tokens:
        naive.feed(token)
    model.blocks = blocks
    return [n.seen for n in noting]


def naive(weights, xs, threshold):
    """Positions kept, [kv-head], of one layer's gate over what enters it, on lists."""
    w, n = weights, len(xs)
    a = [w["in"] @ (x / math.sqrt(float((x * x).mean()) + 1e-6)) for x in xs]
    half, z = NARROW // 2, []
    for t in range(n):
        seen = []
        for part in (slice(0, half), slice(half, NARROW)):
            q = (w["q"] @ a[t])[part]
            p = torch.softmax(torch.stack([q @ (w["k"] @ b)[part] for b in a]) / math.sqrt(half), 0)
            seen.append(sum(p[j] * (w["v"] @ a[j])[part] for j in range(n)))
        place = torch.tensor([math.log(1 + t), math.log(n - t)], dtype=torch.float64)
        z.append(w["read"] @ torch.cat([a[t], *seen]) + w["place"] @ place + w["bias"])
    return [[t for t in range(n) if 1 / (1 + math.exp(-float(z[t][h]))) >= threshold] for h in range(len(z[0]))]


@pytest.mark.parametrize("variant", ["llama", "gemma3"])
def test_equals_a_naive_rewrite(variant, tmp_path):
    """Whatever pieces the prompt comes in, each head of each layer keeps what its gate says of the whole of it."""
    model, file = tiny_model(variant), tmp_path / "g.safetensors"
    w = saved(file, model, place=torch.randn(sizes(model)["place"], generator=torch.Generator().manual_seed(1)))
    want = [naive({k: t[i] for k, t in w.items()}, xs, 0.7) for i, xs in enumerate(entering(model, PROMPT))]
    assert len({len(head) for layer in want for head in layer}) > 1
    for chunk in (512, 7, 1):
        assert kept(model, PROMPT, TrainedGates(threshold=0.7, file=str(file)), chunk) == want


def test_gates_that_keep_all_leave_the_logits_alone(tmp_path):
    """Bit for bit, in float32 with the native kernels too; gates that keep nothing leave the newest tokens alone."""
    for dtype in (torch.float64, torch.float32):
        model, file = tiny_model(dtype=dtype), tmp_path / "g.safetensors"
        saved(file, model, bias=torch.full(sizes(model)["bias"], 50.0))
        got, ledger = generate(model, PROMPT, use=[TrainedGates(file=str(file))], max_tokens=12, logprobs=0)
        plain, full = generate(model, PROMPT, max_tokens=12, logprobs=0)
        assert got == plain and ledger.kv_bytes_end == full.kv_bytes_end
        saved(file, model, bias=torch.full(sizes(model)["bias"], -50.0))
        got, ledger = generate(model, PROMPT, use=[TrainedGates(file=str(file))], max_tokens=12)
        assert len(got) == 12 and ledger.kv_bytes_end < full.kv_bytes_end
        assert kept(model, PROMPT, TrainedGates(file=str(file))) == [[[], []]] * 3


def test_training_reads_behind_a_prompt_as_the_engine_does():
    """With all kept, rows behind a prompt say what the engine said there, up to the half precision of what is kept."""
    model = tiny_model("gemma3", dtype=torch.float32)
    text, at = training.read(model, [i * 7 % 31 for i in range(96)]), slice(60, 90)
    y = behind.states(model, text.tokens[at], (text.k[:, :, :60], text.v[:, :, :60]), torch.ones(3, 2, 60))
    logp = torch.log_softmax(model.head.logits(y), -1).gather(1, text.ids[at])
    assert float((logp - text.logp[at]).abs().max()) < 0.05


def test_an_entry_without_weight_is_as_good_as_gone_but_learns():
    model, g = tiny_model(), torch.Generator().manual_seed(0)
    q, keys, values = (torch.randn(n, heads, 8, generator=g) for n, heads in ((3, 4), (10, 2), (10, 2)))
    weight = torch.ones(2, 7)
    weight[:, [1, 4]] = 0
    weight.requires_grad_()
    stays = [0, 2, 3, 5, 6, 7, 8, 9]
    got = behind.attend(model.spec, 0, q, keys, values, weight)
    want = behind.attend(model.spec, 0, q, keys[stays], values[stays])
    assert torch.allclose(got, want, atol=1e-6)
    got.square().sum().backward()
    assert (weight.grad[:, [1, 4]] != 0).all()


def test_training_keeps_the_share_and_what_is_wanted():
    """On the text it learns from, about the share that was asked for is kept, and it serves better than chance."""
    model, rng = tiny_model(dtype=torch.float32), np.random.default_rng(0)
    text = training.read(model, [i * 7 % 31 for i in range(96)])
    weights = {n: t.requires_grad_() for n, t in fresh(sizes(model)).items()}
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-2, weight_decay=0.0)
    for _ in range(120):
        said, kept_share = training.lesson(weights, text, model, model.head, rng)
        optimizer.zero_grad()
        (said + 2 * (kept_share - 0.5).abs()).backward()
        optimizer.step()
    at = slice(64, 88)

    def loss(flags):
        y = behind.states(model, text.tokens[at], (text.k[:, :, :64], text.v[:, :, :64]), flags)
        return float(training.distil(y, text.ids[at], text.logp[at], model.head, np.random.default_rng(1)))

    with torch.no_grad():
        flags = training.straight(weights, text.x[:, :64].float())
        mixed = [torch.randperm(flags.numel(), generator=torch.Generator().manual_seed(i)) for i in range(5)]
        chance = np.mean([loss(flags.flatten()[m].view_as(flags)) for m in mixed])
        assert 0.35 < float(flags.mean()) < 0.65
        assert loss(flags) < chance


def test_the_command_end_to_end(fewer, tiny, tmp_path, monkeypatch):
    for where, name, few in (
        (training, "TOKENS", 96),
        (training, "TEXTS", 2),
        (training, "JUDGED", 1),
        (training, "FORCED", 4),
        (recall, "FORCED", 4),
    ):
        monkeypatch.setattr(where, name, few)
    output = tmp_path / "g.safetensors"
    done = fewer("train", "gate", "-m", tiny, "-o", str(output), "--minutes=0.02", "--keep=0.4", "--json")
    report = json.loads(done.out)
    assert done.code == 0 and report["keep"] == 0.4 and report["steps"]
    for kind in ("plain", "said_again"):
        assert 0 <= report[kind]["kept"] <= 1 and report[kind]["full"] > 1 and report[kind]["gates"] > 1
    use = f"attention-gate:file={output},threshold=1"
    used = json.loads(fewer("run", "hello", "-m", tiny, "-n", "6", "--json", "--use", use).out)
    plain = json.loads(fewer("run", "hello", "-m", tiny, "-n", "6", "--json").out)
    assert used["ledger"]["kv_entries_read"] < plain["ledger"]["kv_entries_read"]
    assert fewer("train", "gate", "-m", tiny, "-o", str(output), "--keep=1.5").code != 0


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    model, file = tiny_model(), tmp_path / "g.safetensors"
    saved(file, model)

    def use(file, model=model):
        return generate(model, PROMPT, use=[TrainedGates(file=str(file))], max_tokens=3)

    assert len(use(file)[0]) == 3
    with pytest.raises(WrongPart, match="this model has 2 layers"):
        use(file, tiny_model(layers=2))
    with pytest.raises(ModelError, match=r"there is no trained gate 'x'.*fewer train gate.*attention-gate:file=FILE"):
        use("x")
    write(file, KIND, {"in": torch.zeros(2, 2)}, model, {"model": "tiny"})
    with pytest.raises(CorruptFile, match="in must be"):
        use(file)
