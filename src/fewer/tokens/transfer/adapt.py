"""A short adaptation after the transplant: the body stays frozen, the new tokens' rows learn (objectives.py, hypernet.py).

alm, kl and text train the new rows themselves; the copied ones stay what they were. hyper trains a net that knows nothing
of the target tokenizer and then predicts its rows. The teacher is the model itself under its old tokenizer. Texts are
verses and what comes with Python (texts.py), never what the result is judged by. Not done: training the body, as the
papers do after or beside this.
"""

from __future__ import annotations

import math
import random
import time
from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch.nn.functional import cross_entropy

from fewer.errors import BadRequest
from fewer.models.decoder import Decoder
from fewer.models.layers import DenseHead
from fewer.tokens.transfer import hypernet, objectives, texts
from fewer.tokens.transfer.bits import opening
from fewer.tokens.transfer.causal import run, scores
from fewer.tokens.transfer.ends import End
from fewer.tokens.transfer.transplant import Say, Transplant

KINDS = ("alm", "kl", "text", "hyper")
BYTES = 900  # of a lesson
TEXTS = 2  # lessons a step
RATE = 0.03  # of a row's own typical size
# Of the largest row's gradient: rows with far smaller ones learn slower, or those no text uses would wander.
CALM = 1 / 16
OTHERS = 4096  # merged tokens of texts before that stand in the vocabulary of a lesson for the net


@dataclass
class Lessons:
    """What to learn by, for how long, in which languages (those there is no text in do not count; none = all there are).
    `stop()` ends it early; what has been learnt is kept."""

    kind: str
    minutes: float
    seed: int
    languages: tuple[str, ...] = ()
    steps: int = 10**9
    stopped: bool = False
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadRequest(f"--adapt {self.kind!r} is not one of {', '.join(KINDS)}")
        if not self.minutes > 0:
            raise BadRequest(f"--minutes must be more than 0, not {self.minutes}")
        self.languages = tuple(n for n in self.languages if n in texts.READ) or texts.READ

    def stop(self) -> None:
        self.stopped = True

    def share(self, step: int) -> float:
        """How much is over, 0 to 1."""
        return 1.0 if self.stopped else max((time.monotonic() - self.began) / (60 * self.minutes), step / self.steps)


def adapt(
    old: End, made: Transplant, dense: Decoder, lessons: Lessons, say: Say, corpus: list[str] | None = None
) -> tuple[Transplant, dict[str, Any]]:
    """The transplant with learnt rows, and how it went. corpus: texts to read instead of the shipped ones."""
    read = paragraphs(lessons, corpus)
    torch.manual_seed(lessons.seed)
    learner = Net(old, made, dense, lessons.seed) if lessons.kind == "hyper" else Rows(old, made, dense, lessons.kind)
    facts = train(learner, lessons, read, say)
    return replace(made, rows=learner.rows()), facts


def paragraphs(lessons: Lessons, corpus: list[str] | None = None) -> list[str]:
    """What is read, in the order of the seed. Raises BadRequest if there is nothing."""
    read = [w for t in (texts.read(lessons.languages) if corpus is None else corpus) for w in texts.cut(t, BYTES)]
    read = [t for t in read if len(t.encode()) > 40]
    random.Random(lessons.seed).shuffle(read)
    if not read:
        raise BadRequest("there is no text to adapt on")
    return read


class Learner(Protocol):
    """What can be trained: `groups` of parameters with their rates (and how `calm` rows are), and a lesson's loss and tokens."""

    def groups(self) -> list[dict[str, Any]]: ...

    def lesson(self, text: str) -> tuple[torch.Tensor, int]: ...


def train(learner: Learner, lessons: Lessons, read: list[str], say: Say) -> dict[str, Any]:
    """TEXTS lessons a step until the time is over; a short warm-up, then half a cosine."""
    lessons.began = time.monotonic()
    optimizer = torch.optim.Adam(learner.groups(), betas=(0.9, 0.98))
    rates = [g["lr"] for g in optimizer.param_groups]
    step, tokens, seen, first = 0, 0, 0.0, None
    while (share := lessons.share(step)) < 1.0:
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * share))
        optimizer.zero_grad()
        total = 0.0
        for i in range(TEXTS):
            loss, n = learner.lesson(read[(step * TEXTS + i) % len(read)])
            (loss / TEXTS).backward()
            total, tokens = total + float(loss.detach()) / TEXTS, tokens + n
        for group in optimizer.param_groups if step == 0 else ():
            if calm := group.pop("calm", None):
                largest = max(float(w.grad.pow(2).mean(-1).max().sqrt()) for w in group["params"])
                group["eps"] = max(calm * largest, 1e-8)
        optimizer.step()
        step += 1
        first = total if first is None else first
        seen += (total - seen) * max(0.05, 1 / step)
        say(f"{lessons.kind}: step {step}, {100 * share:.0f}%: loss {seen:.4g}")
    facts: dict[str, Any] = {"steps": step, "tokens": tokens, "first_loss": first, "loss": seen}
    return facts | {"minutes": lessons.minutes, "stopped": lessons.stopped, "texts": list(lessons.languages)}


class Rows:
    """The new tokens' own rows."""

    def __init__(self, old: End, made: Transplant, dense: Decoder, kind: str) -> None:
        assert isinstance(dense.head, DenseHead)
        self.old, self.made, self.dense, self.kind, self.teacher = old, made, dense, kind, dense.head
        self.new = torch.tensor(list(made.match.pieces), dtype=torch.int64)
        self.own = {n: w[self.new].clone().requires_grad_() for n, w in made.rows.items()}
        first = torch.full((made.match.size,), -1, dtype=torch.int64)
        for i, j in made.match.copied.items():
            first[i] = j
        for i, p in made.match.pieces.items():
            first[i] = p[0] if p else -1
        self.begins = first
        self.longer = torch.zeros(made.match.size, dtype=torch.bool)
        self.longer[[i for i, p in made.match.pieces.items() if len(p) > 1]] = True

    def groups(self) -> list[dict[str, Any]]:
        return [
            {"params": [w], "lr": RATE * float(self.made.rows[n].pow(2).mean().sqrt()), "calm": CALM}
            for n, w in self.own.items()
        ]

    def rows(self) -> dict[str, torch.Tensor]:
        return {n: w.index_copy(0, self.new, self.own[n].detach()) for n, w in self.made.rows.items()}

    def lesson(self, text: str) -> tuple[torch.Tensor, int]:
        made, spec = self.made, self.dense.spec
        all_rows = {n: w.index_copy(0, self.new, self.own[n]) for n, w in made.rows.items()}
        ids = made.tokenizer.encode(text, bos=False)
        x = all_rows["embed"][[opening(made.tokenizer), *ids[:-1]]] * spec.embed_scale
        z = scores(self.dense, run(self.dense, x), self.teacher.norm, all_rows.get("head", all_rows["embed"]))
        wanted = torch.tensor(ids)
        if self.kind == "text":
            return objectives.text(z, wanted), len(ids)
        before = self.old.tokenizer.encode(text, bos=False)
        with torch.no_grad():
            y = run(self.dense, self.teacher.embed(torch.tensor([opening(self.old.tokenizer), *before[:-1]])))
            taught = self.teacher.logits(y)
        a, b = objectives.common(
            objectives.borders(before, self.old.vocabulary.tokens), objectives.borders(ids, made.vocabulary.tokens)
        )
        said = torch.log_softmax(taught, -1).gather(1, torch.tensor(before)[:, None])[:, 0]
        if self.kind == "kl":
            # logits at row n foretell token n, so those behind the border of token i stand at i + 1
            inside = (a + 1 < len(before)) & (b + 1 < len(ids))
            return objectives.kl(
                taught[a[inside] + 1][:, : self.old.tokenizer.vocab_size], z[b[inside] + 1], self.begins,
                *self._coming(torch.tensor(before), wanted, objectives.chunk_sums(said, a), a, b, inside),
            ), len(ids)  # fmt: skip
        own = torch.log_softmax(z, -1).gather(1, wanted[:, None])[:, 0]
        return objectives.alm(objectives.chunk_sums(said, a), objectives.chunk_sums(own, b)), len(ids)

    def _coming(
        self,
        before: torch.Tensor,
        ids: torch.Tensor,
        likely: torch.Tensor,
        a: torch.Tensor,
        b: torch.Tensor,
        inside: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What comes behind each border that is inside: a new token whose pieces are the whole next chunk, -1 if none is, and
        the teacher's log likelihood of that chunk. before, ids: both cuts; a, b (C,): chunks' ends in them; likely (C,)."""
        chunk = (torch.nonzero(inside)[:, 0] + 1).clamp(max=len(b) - 1)
        coming, first = ids[b[inside] + 1], before[a[inside] + 1]
        alone = (b[chunk] == b[inside] + 1) & self.longer[coming] & (self.begins[coming] == first)
        return torch.where(alone, coming, -1), likely[chunk]


class Net:
    """A hypernetwork a matrix. made: whose rows it will predict."""

    def __init__(self, old: End, made: Transplant, dense: Decoder, seed: int) -> None:
        assert isinstance(dense.head, DenseHead)
        self.old, self.made, self.dense, self.norm = old, made, dense, dense.head.norm
        self.matrices = {n: old.matrix(n) for n in (("embed",) if dense.spec.tied else ("embed", "head"))}
        self.nets = {n: hypernet.for_rows(w) for n, w in self.matrices.items()}
        self.rng = random.Random(seed)
        self.others: deque[tuple[int, ...]] = deque(maxlen=OTHERS)

    def groups(self) -> list[dict[str, Any]]:
        return [{"params": list(net.parameters()), "lr": hypernet.RATE} for net in self.nets.values()]

    def rows(self) -> dict[str, torch.Tensor]:
        known = [i for i, p in self.made.match.pieces.items() if p]
        pieces = [self.made.match.pieces[i] for i in known]
        out = {}
        with torch.no_grad():
            for n, w in self.made.rows.items():
                out[n] = w.clone()
                out[n][known] = hypernet.predict(self.nets[n], self.matrices[n], pieces)
        return out

    def lesson(self, text: str) -> tuple[torch.Tensor, int]:
        spec, embed = self.dense.spec, self.matrices["embed"]
        first = opening(self.old.tokenizer)
        merged = hypernet.random_merges(self.old.tokenizer.encode(text, bos=False), self.rng)
        x = hypernet.predict(self.nets["embed"], embed, [(first,), *merged[:-1]]) * spec.embed_scale
        name = "head" if "head" in self.nets else "embed"
        own = dict.fromkeys(t for t in merged if len(t) > 1)
        kinds = list(own | dict.fromkeys(self.others))
        self.others.extend(own)
        place = {t: len(embed) + n for n, t in enumerate(kinds)}
        head = self.matrices[name]
        if kinds:
            head = torch.cat([head, hypernet.predict(self.nets[name], head, kinds)])
        z = scores(self.dense, run(self.dense, x), self.norm, head)
        wanted = torch.tensor([t[0] if len(t) == 1 else place[t] for t in merged])
        return cross_entropy(z, wanted), len(merged)
