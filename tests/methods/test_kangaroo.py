"""Kangaroo: drafts against a naive early exit with the adapter written out, both exits, the trainer against the engine."""

import math

import numpy as np
import pytest
import torch

from fewer.errors import BadKnob, CorruptFile, WrongPart
from fewer.methods.propose.early_exit import KIND, EarlyExit, early
from fewer.parts import adapter
from fewer.parts.trained import write
from fewer.plan import plan
from fewer.testing.harness import Naive, generate, request, run
from fewer.testing.rig import Rig
from fewer.testing.tiny import VARIANTS, tiny_model
from fewer.train.kangaroo import Foresight, forward, simulate

HEARD = []
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]


def weights(model, seed=1):
    """A random adapter for a model."""
    g = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in adapter.shapes(model.spec).items():
        noise = torch.randn(shape, generator=g)
        out[name] = 1 + 0.1 * noise if len(shape) == 1 else noise / math.sqrt(shape[1])
    return out


def part(tmp_path, model, layers=1, seed=1):
    path = tmp_path / f"kangaroo-{seed}.safetensors"
    write(path, KIND, weights(model, seed), model, {"model": "tiny", "layers": layers})
    return str(path)


def rms(x, w, eps):
    return [a / math.sqrt(sum(b * b for b in x) / len(x) + eps) * g for a, g in zip(x, w)]


def naive_adapter(spec, w, states):
    """The last of hidden states (n, D) through the adapter: plain loops over numbers."""
    layer, d, g = spec.n_layers - 1, spec.head_dim, spec.n_heads // spec.n_kv_heads
    rope = spec.ropes[layer]

    def turned(v, pos):
        out = list(v)
        for i in range(d // 2):
            a = pos / rope.base ** (2 * i / d)
            out[i] = v[i] * math.cos(a) - v[i + d // 2] * math.sin(a)
            out[i + d // 2] = v[i + d // 2] * math.cos(a) + v[i] * math.sin(a)
        return out

    def times(m, v):
        return [sum(a * b for a, b in zip(row, v)) for row in m.tolist()]

    x, n = states[-1].tolist(), len(states)
    normed = [rms(s.tolist(), w["norm"].tolist(), spec.norm_eps) for s in states]
    q, ks, vs = times(w["q"], normed[-1]), [times(w["k"], s) for s in normed], [times(w["v"], s) for s in normed]
    out = []
    for h in range(spec.n_heads):
        own = turned(q[h * d : (h + 1) * d], n - 1)
        at = h // g * d
        z = []
        for pos, k in enumerate(ks):
            s = sum(a * b for a, b in zip(own, turned(k[at : at + d], pos))) * spec.scale
            s = spec.attn_softcap * math.tanh(s / spec.attn_softcap) if spec.attn_softcap else s
            z.append(s if n - 1 - pos < (spec.windows[layer] or n) else -math.inf)
        e = [math.exp(s - max(z)) for s in z]
        out += [sum(p * v[at + i] for p, v in zip(e, vs)) / sum(e) for i in range(d)]
    y = [a + b for a, b in zip(x, times(w["o"], out))]
    return torch.tensor(rms(y, w["out_norm"].tolist(), spec.norm_eps), dtype=torch.float64)


class Layers(Naive):
    """Token by token through the first layers only: hidden states."""

    def __init__(self, model, layers):
        super().__init__(model)
        self.blocks = model.blocks[:layers]
        self.states = []

    def feed(self, token):
        model, full = self.model, self.model.blocks
        model.blocks, head = self.blocks, model.head.logits
        model.head.logits = lambda x: x
        try:
            self.states.append(super().feed(token))
        finally:
            model.blocks, model.head.logits = full, head


def naive_draft(model, w, layers, text, length, threshold):
    """Read the text, then guess on: tokens and their probabilities."""
    spec, lower = early(model.spec, layers), Layers(model, layers)
    for t in text:
        lower.feed(t)
    out = []
    while len(out) < length:
        y = naive_adapter(spec, w, torch.stack(lower.states))
        p = torch.softmax(model.head.logits(y[None])[0], 0)
        out.append((int(p.argmax()), float(p.max())))
        if out[-1][1] < threshold:
            break
        lower.feed(out[-1][0])
    return out


class Overheard(EarlyExit):
    """Writes down its drafts."""

    def draft(self, context, limit, told, state, rng):
        tree = yield from super().draft(context, limit, told, state, rng)
        HEARD.append((list(context), limit, tree))
        return tree


@pytest.mark.parametrize(("variant", "layers"), [("llama", 1), ("qwen3", 2), ("gemma3", 2)])
def test_drafts_are_a_naive_early_exit(variant, layers, tmp_path):
    model = tiny_model(variant)
    method = Overheard(file=part(tmp_path, model, layers), length=3, threshold=0.4)
    HEARD.clear()
    assert generate(model, PROMPT, use=[method], max_tokens=8)[0] == generate(model, PROMPT, max_tokens=8)[0]
    w = {name: t.half().double() for name, t in weights(model).items()}
    sizes = set()
    for context, limit, tree in HEARD:
        want = naive_draft(model, w, layers, context, min(limit, 3), 0.4)
        assert tree.tokens.tolist() == [t for t, _ in want]
        assert tree.chance.tolist() == pytest.approx(np.cumprod([p for _, p in want]).tolist())
        sizes.add(len(tree))
    assert len(sizes) > 1  # some drafts ended early, some did not


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trainers_forward_is_the_decoders(variant):
    model = tiny_model(variant)
    spec, w = early(model.spec, 2), {n: t.double() for n, t in weights(model).items()}
    x = torch.randn(2, 11, model.spec.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = forward(x, spec, w)
    for i, n in ((0, 11), (1, 4)):
        assert torch.allclose(y[i, n - 1], naive_adapter(spec, w, x[i, :n]), atol=1e-9)


def test_an_adapter_that_does_nothing_is_plain_early_exit():
    """Untrained, the draft is the head on the normed early state."""
    model = tiny_model()
    w = {n: t.double() for n, t in adapter.fresh(model.spec).items()}
    x = torch.randn(1, 5, model.spec.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = forward(x, early(model.spec, 1), w)
    assert torch.allclose(model.head.logits(y[0]), model.head.logits(x[0]), atol=1e-4)


def test_the_second_exit_saves_draft_steps():
    """An unsure draft ends behind its first token; with threshold 0 it goes on to its full length."""
    model = tiny_model()
    steps = {}
    for threshold in (0.0, 1.0):
        use = [EarlyExit(file="untrained", length=4, threshold=threshold)]
        text, ledger = generate(model, PROMPT, use=use, max_tokens=9)
        assert text == generate(model, PROMPT, max_tokens=9)[0]
        steps[threshold] = ledger.drafted_tokens / ledger.models["main"].forwards
    assert steps[1.0] < 1.01 < 2 < steps[0.0]


def test_the_draft_model_holds_what_stands_and_nothing_else():
    """After every turn its cache is as long as the text it has read, whatever was rejected."""
    model = tiny_model()
    req = request(PROMPT, use=[EarlyExit(file="untrained", threshold=0.0)], max_tokens=9)
    runner = run({"main": model}, [req])
    (name,) = set(runner.models) - {"main"}
    assert req.ledger.rejected_tokens and len(runner.models[name].blocks) == 2
    assert req.ledger.models[name].forwards > req.ledger.models["main"].forwards


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_the_simulated_run_is_the_real_one(tmp_path, threshold):
    """Forwards that training reports of an answer are those that drafting on it takes."""
    model = tiny_model()
    w = {name: t.half().double() for name, t in weights(model).items()}
    text, ledger = generate(
        model, PROMPT, use=[EarlyExit(file=part(tmp_path, model), length=2, threshold=threshold)], max_tokens=20
    )
    said = [naive_draft(model, w, 1, [*PROMPT, *text[:i]], 1, 0.0)[0] for i in range(1, 20)]
    seen = Foresight(np.array([t == u for (t, _), u in zip(said, text[1:])]), np.array([p for _, p in said]))
    assert simulate(seen, 2, threshold) == ledger.models["main"].forwards - 1  # the first token is the prompt's own


def test_random_weights_change_nothing(tmp_path):
    rig = Rig()
    file = part(tmp_path, rig.models()["main"])
    for o in ({}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}):
        plain, _ = generate(rig.models()["main"], PROMPT, max_tokens=8, **o)
        text, ledger = generate(
            rig.models()["main"], PROMPT, use=[EarlyExit(file=file, threshold=0.0)], max_tokens=8, **o
        )
        assert text == plain and ledger.rejected_tokens


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    model = tiny_model()
    file = part(tmp_path, model)
    with pytest.raises(
        WrongPart, match=r"width 32, vocabulary 31\), this model has 2 layers.*fewer train drafter kangaroo"
    ):
        generate(tiny_model(layers=2), PROMPT, use=[EarlyExit(file=file)])
    for about, match in (
        ({"layers": 3}, "layers must be between 1 and 2, found 3"),
        ({}, r"layers must be .* found None"),
    ):
        path = tmp_path / "layers.safetensors"
        write(path, KIND, weights(model), model, {"model": "tiny", **about})
        with pytest.raises(CorruptFile, match=match):
            generate(model, PROMPT, use=[EarlyExit(file=str(path))])
    path = tmp_path / "nan.safetensors"
    write(path, KIND, {**weights(model), "o": torch.full((32, 32), math.nan)}, model, {"model": "tiny", "layers": 1})
    with pytest.raises(CorruptFile, match=r"o holds values that are not finite"):
        generate(model, PROMPT, use=[EarlyExit(file=str(path))])
    with pytest.raises(BadKnob, match=r"threshold=2"):
        plan(["kangaroo:threshold=2"])
