"""TokenButler: equality with a naive rewrite, scores that are learnt, recall counted by hand, the command end to end."""

import json
import math

import numpy as np
import pytest
import torch

from fewer.errors import CorruptFile, ModelError, WrongPart
from fewer.methods.select.foretold import KIND, Foretold, Lane, spread
from fewer.models.layers import rotate
from fewer.models.rope import cos_sin
from fewer.models.spec import Rope
from fewer.parts.importance import NARROW, NARROW_HEADS, SMALL, fresh, shapes
from fewer.parts.trained import write
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from fewer.train import butler, recall
from tests.cli_tiny import fewer_command  # noqa: F401  (fixtures)
from tests.cli_tiny import tiny_model as tiny_file  # noqa: F401
from tests.methods.selecting import Selecting, written

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3]


def sizes(model):
    spec = model.spec
    return shapes(spec.d_model, spec.n_layers, spec.n_heads, spec.n_kv_heads)


def turned(x, pos):
    """x (d,) rotated to a position."""
    return rotate(x[None, None], *cos_sin(Rope(dim=len(x)), torch.tensor([pos]), x.dtype))[0, 0]


class Butler:
    """The network one token at a time, on lists: hidden states behind layer 0 come in order."""

    def __init__(self, model, weights):
        self.w, self.model = {n: t.double() for n, t in weights.items()}, model
        self.past, self.asks, self.keys = [], {}, {}

    def see(self, x, pos):
        w, d = self.w, NARROW // NARROW_HEADS
        y = x / math.sqrt(float((x * x).mean()) + 1e-6)
        q, k, v = (w[n] @ (w["in"] @ y) for n in "qkv")
        heads = [slice(h * d, h * d + d) for h in range(NARROW_HEADS)]
        self.past.append(([turned(k[s], pos) for s in heads], [v[s] for s in heads]))
        out = []
        for h, s in enumerate(heads):
            z = torch.stack([turned(q[s], pos) @ old[0][h] for old in self.past]) / math.sqrt(d)
            out.append(sum(p * old[1][h] for p, old in zip(torch.softmax(z, 0), self.past)))
        o = torch.cat(out)
        o = o / math.sqrt(float((o * o).mean()) + 1e-6) * w["norm"]
        y = y + w["down"] @ torch.nn.functional.gelu(w["up"] @ o)
        for name, kept in (("ask", self.asks), ("key", self.keys)):
            flat = w[f"{name}2"] @ torch.nn.functional.silu(w[f"{name}1"] @ y)
            kept[pos] = [turned(part, pos) for part in flat.split(SMALL)]


class Watching(Selecting):
    """Hidden states behind layer 0, of every row."""

    def __init__(self, model, choose, seen):
        super().__init__(model, choose)
        self.seen = seen

    def feed_sparse(self, token, pos, everything=False):
        first = self.model.blocks[1]
        original = first.qkv

        def qkv(x, cos, sin):
            if pos not in self.seen.asks:
                self.seen.see(x[0], pos)
            return original(x, cos, sin)

        first.qkv = qkv
        try:
            return super().feed_sparse(token, pos, everything)
        finally:
            first.qkv = original


@pytest.mark.parametrize("seed", [0, 5])
def test_equals_a_naive_rewrite(seed, tmp_path):
    """Layer 0 reads all; above it each kv-head reads the 6 entries that its two query heads together are said to want."""
    model = tiny_model("llama", layers=3)
    weights = {n: t.half() for n, t in fresh(sizes(model), seed).items()}
    file = tmp_path / "b.safetensors"
    write(file, KIND, weights, model, {"model": "tiny"})
    seen = Butler(model, weights)
    kv, g = model.spec.n_kv_heads, model.spec.n_heads // model.spec.n_kv_heads

    def choose(layer, pos, q, keys, attention):
        if not layer or pos <= 6:
            return None
        out = []
        for h in range(kv):
            mass = torch.zeros(pos, dtype=torch.float64)
            for j in range(g):
                ask = seen.asks[pos][(layer - 1) * kv * g + h * g + j]
                z = torch.stack([ask @ seen.keys[i][(layer - 1) * kv + h] for i in range(pos)]) / math.sqrt(SMALL)
                mass += torch.softmax(z, 0)
            out.append(mass.topk(6).indices.tolist())
        return out

    got, ledger = generate(model, PROMPT, use=[Foretold(budget=6, file=str(file))], max_tokens=20)
    assert got == written(Watching(model, choose, seen), PROMPT, 20)
    assert got != generate(model, PROMPT, max_tokens=20)[0] and ledger.kv_bytes_scanned


def test_what_was_never_seen_is_read_first():
    mass, known = torch.tensor([0.1, 0.6, 0.3]), torch.tensor([4, 5, 7])
    assert spread(mass, known, torch.tensor([4, 5, 7], dtype=torch.int32)) is mass
    got = spread(mass, known, torch.tensor([0, 1, 5, 7], dtype=torch.int32)).tolist()
    assert got == pytest.approx([math.inf, math.inf, 0.6, 0.3])


def test_a_lane_keeps_what_stands():
    """Ten rows in steps of three of which the first and the last stand, over a buffer that grows."""
    lane, want, n = Lane(1), [], 0
    for step in range(40):
        new = torch.arange(3)[None] + 10 * step
        lane.put(n, new)
        lane.move(n, [0, 2])
        want += [10 * step, 10 * step + 2]
        n += 2
    assert lane.first(n)[0].tolist() == want


def test_behind_a_cartridge_and_with_drafts():
    """Entries in front are not foretold, and are read; drafts change nothing."""
    model, use = tiny_model("llama"), [Foretold(budget=12, file="untrained"), "cartridge:file=untrained"]
    plain = generate(model, PROMPT, use=use, max_tokens=10)[0]
    assert generate(model, PROMPT, use=[*use, "prompt-lookup"], max_tokens=10)[0] == plain


def test_training_foretells_attention():
    """On the text it learnt from, the loss falls and the recall of truly wanted entries rises above chance and untrained."""
    model = tiny_model("llama")
    text = recall.read(model, [i * 7 % 31 for i in range(96)])
    weights = {n: t.requires_grad_() for n, t in fresh(sizes(model)).items()}
    optimizer, rng, losses = torch.optim.AdamW(weights.values(), lr=3e-3), np.random.default_rng(0), []
    for _ in range(60):
        loss = butler.lesson(weights, text, model, rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    found = recall.measure({n: t.detach() for n, t in weights.items()}, [text], model)
    before = recall.measure(fresh(sizes(model)), [text], model)
    assert found["foretold"]["recall"][1] > max(0.4, before["foretold"]["recall"][1])
    assert found["accumulated"] == before["accumulated"]


def test_the_loss_is_the_mean_square_over_pairs_that_may_be_seen():
    model = tiny_model("llama")
    text, weights = recall.read(model, PROMPT), fresh(sizes(model))
    ask, key = recall.small(weights, text.x.float())
    spec, n = model.spec, len(PROMPT)
    g, gaps = spec.n_heads // spec.n_kv_heads, []
    for layer in range(spec.n_layers - 1):
        for h in range(spec.n_heads):
            for t in range(n):
                for j in range(t + 1):
                    small = ask[t, layer * spec.n_heads + h] @ key[j, layer * spec.n_kv_heads + h // g] / SMALL**0.5
                    true = text.q[layer, t, h].float() @ text.k[layer, j, h // g].float() * spec.scale
                    gaps.append(float((small - true) ** 2))
    assert float(butler.lesson(weights, text, model, np.random.default_rng(0))) == pytest.approx(
        np.mean(gaps), rel=1e-4
    )


def test_recall_and_mass_by_hand():
    """Of the two best of four, one is found, and with it 0.5 of 1.0."""
    true, worth = torch.tensor([[0.5, 0.1, 0.3, 0.1]]), torch.tensor([[9.0, 8.0, 1.0, 0.0]])
    assert recall.compare(true, worth, 0.5) == pytest.approx((0.5, 0.6))
    q, keys = torch.tensor([[[1.0, -1.0]]]), torch.zeros(1, 17, 2)
    keys[0, 3] = torch.tensor([2.0, -3.0])
    assert recall.pages(q, keys)[0, [0, 15]].tolist() == [5.0, 5.0] and recall.pages(q, keys)[0, 16] == math.inf


def test_the_command_end_to_end(fewer, tiny, tmp_path, monkeypatch):
    for where, name, few in (
        (butler, "TOKENS", 96),
        (butler, "TEXTS", 2),
        (butler, "JUDGED", 1),
        (recall, "FORCED", 4),
    ):
        monkeypatch.setattr(where, name, few)
    output = tmp_path / "b.safetensors"
    done = fewer("train", "butler", "-m", tiny, "-o", str(output), "--minutes=0.02", "--json")
    report = json.loads(done.out)
    assert done.code == 0 and report["perplexity"]["full"] > 1 and len(report["recall"]["foretold"]["recall"]) == 2
    use = f"tokenbutler:file={output},budget=0.3"
    used = json.loads(fewer("run", "hello", "-m", tiny, "-n", "6", "--json", "--use", use).out)
    plain = json.loads(fewer("run", "hello", "-m", tiny, "-n", "6", "--json").out)
    assert used["ledger"]["kv_entries_read"] < plain["ledger"]["kv_entries_read"]


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    model, file = tiny_model(), tmp_path / "b.safetensors"
    write(file, KIND, fresh(sizes(model)), model, {"model": "tiny"})

    def use(file, model=model):
        return generate(model, PROMPT, use=[Foretold(budget=6, file=str(file))], max_tokens=3)

    assert len(use(file)[0]) == 3
    with pytest.raises(WrongPart, match="this model has 2 layers"):
        use(file, tiny_model(layers=2))
    with pytest.raises(ModelError, match=r"there is no trained butler 'x'.*fewer train butler.*tokenbutler:file=FILE"):
        use("x")
    write(file, KIND, {"in": torch.zeros(2, 2)}, model, {"model": "tiny"})
    with pytest.raises(CorruptFile, match="in must be"):
        use(file)
