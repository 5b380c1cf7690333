"""A judge of mismatches without people's labels (AutoJudge): mined by a search (train/mining.py), then trained.

The judge is a logistic regression on the model's last hidden state behind the draft's token; its strength of
regularisation is chosen by the area under the curve on problems left out. Problems are GSM8K's test set where the package
that carries it is installed, else a dozen of our own; one in eight is never learned from.
"""

from __future__ import annotations

import random
import re
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from fewer.bench.kinds import origin, problems
from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.methods.accept.judged import KIND, TAP, scaled
from fewer.parts.trained import write
from fewer.train.mining import Answer, hidden, mine
from fewer.train.session import Session
from fewer.train.texts import held_out

ASK = "{problem}\nThink step by step and be brief. End with a line: The final answer is NUMBER"
STRENGTHS = (1e-3, 1e-2, 0.1, 0.3, 1.0)
FOLDS = 5
THRESHOLDS = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)


def fit(x: torch.Tensor, y: torch.Tensor, strength: float) -> tuple[torch.Tensor, torch.Tensor]:
    """weight (D,), bias (1,) of the least mean cross-entropy of y (M,) on x (M, D), ridge on standardised inputs."""
    mean, spread = x.mean(0), x.std(0).clamp_min(1e-6)
    z = (x - mean) / spread
    w, b = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True), torch.zeros(1, dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([w, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = binary_cross_entropy_with_logits(z @ w + b, y) + strength / 2 * w.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    weight = (w / spread).detach()
    return weight, (b - mean @ weight).detach()


def area(score: torch.Tensor, y: torch.Tensor) -> float:
    """Area under the curve: how often an important one has the higher score."""
    gap = score[y > 0][:, None] - score[y == 0]
    return float((gap > 0).double().mean() + (gap == 0).double().mean() / 2)


def left_out(x: torch.Tensor, y: torch.Tensor, case: torch.Tensor, strength: float) -> torch.Tensor:
    """(M,) scores of each mismatch by a judge that saw nothing of its problem's fold."""
    score = torch.zeros(len(y), dtype=x.dtype)
    for fold in range(FOLDS):
        out = case % FOLDS == fold
        if out.any() and len(set(y[~out].tolist())) == 2:
            w, b = fit(x[~out], y[~out], strength)
            score[out] = x[out] @ w + b
    return score


def train(session: Session, output: Path, items: int, tokens: int, command: str) -> dict[str, object]:
    """Mine, learn, write, and say what it reaches on problems that were held out."""
    eng = session.eng
    asked, judged = ([_prompt(eng, p) for p in ps] for ps in _problems(items, session.seed))
    text = _answer(eng)
    cases = mine(eng, asked, text, tokens, session.say, lambda: session.over())
    found = [(i, m) for i, c in enumerate(cases) for m in c.found]
    y = torch.tensor([float(m.important) for _, m in found], dtype=torch.float64)
    if len(set(y.tolist())) < 2:
        raise BadRequest(f"{len(found)} mismatches are {'all' if y.any() else 'never'} important: give more --items")
    x = torch.cat([scaled(hidden(eng.model, c, TAP).double()) for c in cases if c.found])
    group = torch.tensor([i for i, _ in found])
    scores = {s: left_out(x, y, group, s) for s in STRENGTHS}
    best = max(STRENGTHS, key=lambda s: area(scores[s], y))
    weight, bias = fit(x, y, best)
    chance = torch.sigmoid(scores[best])
    report: dict[str, object] = {
        "problems": origin()["maths"],
        "searched": len(cases),
        "mismatches": len(found),
        "important": round(float(y.mean()), 4),
        "strength": best,
        "area_left_out": round(area(scores[best], y), 4),
        "pass": {t: _passes(chance, y, t) for t in THRESHOLDS[1:-1]},
    }
    write(output, KIND, {"weight": weight, "bias": bias}, eng.model, {**session.about(command), **report})
    session.say("trying it on problems held out")
    return report | {"held_out": len(judged), "reached": _reached(eng, judged, text, tokens, output)}


def _passes(chance: torch.Tensor, y: torch.Tensor, threshold: float) -> dict[str, float]:
    """At a threshold, left out: the share of unimportant mismatches that stand, and of important ones."""
    stands = (chance < threshold).double()
    return {"unimportant": round(float(stands[y == 0].mean()), 3), "important": round(float(stands[y > 0].mean()), 3)}


def _reached(
    eng: Engine, prompts: list[list[int]], answer: Answer, tokens: int, file: Path
) -> dict[float, dict[str, float]]:
    """By threshold: tokens a forward of the model, and how many answers are those of threshold 0."""
    out: dict[float, dict[str, float]] = {}
    lossless: list[Hashable | None] = []
    for threshold in THRESHOLDS:
        use = [f"autojudge:file={file},threshold={threshold}"]
        runs = eng.generate(prompts, use=use, max_tokens=tokens, guard=False)
        answers = [answer(r.tokens) for r in runs]
        lossless = lossless or answers
        forwards = sum(r.ledger.models["main"].forwards - 1 for r in runs)
        out[threshold] = {
            "tokens_per_forward": round(sum(len(r.tokens) - 1 for r in runs) / max(1, forwards), 3),
            "same_answer": round(float(np.mean([a == b for a, b in zip(answers, lossless)])), 3),
        }
    return out


def _problems(items: int, seed: int) -> tuple[list[str], list[str]]:
    """Problems to learn from, and a third as many, never learned from, to try the judge on."""
    every = list(problems())
    random.Random(f"judge {seed}").shuffle(every)
    held = [p for p in every if held_out(p)]
    return [p for p in every if not held_out(p)][:items], (held or every)[: max(1, items // 3)]


def _prompt(eng: Engine, problem: str) -> list[int]:
    if eng.chat is None or eng.tokenizer is None:
        raise BadRequest("a judge is trained on answers to questions, and this model has no chat template")
    return eng.chat.encode(eng.tokenizer, [{"role": "user", "content": ASK.format(problem=problem)}])


def _answer(eng: Engine) -> Answer:
    assert eng.tokenizer is not None
    tokenizer = eng.tokenizer
    return lambda tokens: number(tokenizer.decode(tokens))


def number(text: str) -> float | None:
    """The number behind the last "answer is", else the last one of the text."""
    tail = text.lower().rpartition("answer is")[2]
    behind = re.findall(r"-?\d[\d,]*(?:\.\d+)?", tail)
    found = behind[:1] if tail != text.lower() and behind else re.findall(r"-?\d[\d,]*(?:\.\d+)?", text)[-1:]
    return float(found[0].replace(",", "")) if found else None
