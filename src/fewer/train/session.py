"""What every trainer needs: the frozen model, what it said, the clock, and what the artefact says about how it was made."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

import fewer
from fewer.bench.record import machine, versions
from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.kernels.cpu import set_threads
from fewer.models.fetch import cache_folder
from fewer.models.layers import DenseHead
from fewer.models.resolve import resolve
from fewer.models.source import Source, open_source
from fewer.train.said import Spoken, collect

TOKENS = 300_000  # answer tokens after which more teach little
LISTENING = 0.5  # share of the time for asking the model, unless told otherwise

SMOOTH = 0.02  # weight of a step in the loss that is told
TELL = 2.0  # seconds between two lines about it

Say = Callable[[str], None]


def default_data(model: str) -> Path:
    """Where what a model says is kept, unless told otherwise."""
    return cache_folder() / "said" / re.sub(r"[^\w.]+", "-", model).strip("-")


@dataclass
class Session:
    """One training. `stop()` ends it early and in order: what has been learnt is kept."""

    model: str
    minutes: float
    seed: int
    data: Path
    say: Say
    threads: int | None = None
    draft: str | None = None
    asking: float = LISTENING
    stopped: bool = False
    began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise BadRequest(f"--minutes must be more than 0, not {self.minutes}")
        if not 0 <= self.asking < 1:
            raise BadRequest(f"--asking must be a share from 0 to less than 1, not {self.asking}")
        self.say(f"loading {self.model}")
        self.eng: Engine = fewer.open(self.model, draft=self.draft, threads=self.threads)
        torch.set_num_threads(set_threads(self.threads))
        self.source: Source = open_source(resolve(self.model))

    def stop(self) -> None:
        self.stopped = True

    def over(self) -> bool:
        """Is the time for asking the model over?"""
        return self.stopped or time.monotonic() - self.began > 60 * self.minutes

    def asked(self) -> bool:
        """Is the share of the time for asking the model over?"""
        return self.stopped or time.monotonic() - self.began > 60 * self.minutes * self.asking

    def spoken(self) -> tuple[list[Spoken], list[Spoken]]:
        """What the model said: to learn from, and (the first chunk's worth of texts held out) to judge by."""

        def told(what: str) -> Callable[[int], None]:
            return lambda n: self.say(f"asking the model: {n} tokens {what}")

        judge = collect(self.eng, self.data, 1, 0.0, self.seed, told("to judge by"), held=True)
        seconds = 60 * self.minutes * self.asking - (time.monotonic() - self.began)
        learn = collect(
            self.eng, self.data, TOKENS, seconds, self.seed, told("to learn from"), over=lambda: self.stopped
        )
        return learn, judge

    def head(self) -> DenseHead:
        """The model's own head in float32."""
        names = ("embed", "norm") if self.eng.model.spec.tied else ("embed", "norm", "head")
        tensors = [self.source.raw(n).dense(torch.float32) for n in names]
        return DenseHead(self.eng.model.spec, tensors[0], tensors[1], tensors[2] if len(tensors) > 2 else None)

    def pace(self) -> Pace:
        """The clock of the training proper: what is left of the minutes, at least a tenth of them."""
        left = 60 * self.minutes - (time.monotonic() - self.began)
        return Pace(self, max(left, 6 * self.minutes))

    def descend(
        self,
        optimizer: torch.optim.Optimizer,
        rate: float,
        lessons: Callable[[float], Iterable[torch.Tensor]],
        clip: float | None = None,
        note: Callable[[], str] = str,
    ) -> Descent:
        """Train until the time is over. lessons(share of the time that is over) makes the losses of one step, each of which
        is worked off before the next is made; clip: greatest norm of a step's gradient; note(): what else to tell."""
        pace, seen, told = self.pace(), 0.0, 0.0
        parameters = [t for group in optimizer.param_groups for t in group["params"]]
        while pace.step(optimizer, rate):
            optimizer.zero_grad()
            total = 0.0
            for loss in lessons(pace.share):
                loss.backward()
                total += float(loss.detach())
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            seen += (total - seen) * max(SMOOTH, 1 / pace.steps)
            if time.monotonic() - told > TELL:
                told = time.monotonic()
                self.say(f"step {pace.steps}, {100 * pace.share:.0f}%: loss {seen:.3f}{note()}")
        return Descent(pace.steps, round(seen, 4))

    def about(self, command: str) -> dict[str, object]:
        """How it was made, for the artefact."""
        return {
            "model": self.model,
            "command": command,
            "seed": self.seed,
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "interrupted": self.stopped,
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
            "machine": machine()["cpu"],
        }


@dataclass(frozen=True)
class Descent:
    """What a training came to: steps, and the loss, a mean over the last of them."""

    steps: int
    loss: float


@dataclass
class Pace:
    """Time left for training steps, and the learning rate that goes with it: a short warm-up, then half a cosine."""

    session: Session
    seconds: float
    steps: int = 0
    began: float = field(default_factory=time.monotonic)

    @property
    def share(self) -> float:
        """How much of the time is over, 0 to 1."""
        return min(1.0, (time.monotonic() - self.began) / self.seconds)

    def step(self, optimizer: torch.optim.Optimizer, rate: float) -> bool:
        """Set the next step's learning rate; False when training is over."""
        share = self.share
        if self.session.stopped or share >= 1.0:
            return False
        self.steps += 1
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, self.steps / 30) * 0.5 * (1 + math.cos(math.pi * share))
        return True
