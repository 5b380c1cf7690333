"""The catalogue: one row a method, read from catalogue.toml; lookup with "did you mean"."""

from __future__ import annotations

import difflib
import functools
import importlib
import tomllib
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from fewer.errors import UnknownMethod

if TYPE_CHECKING:
    from fewer.seams import Method

# Named here too, so that the catalogue can be listed without importing torch.
SEAM_NAMES = ("retain", "select", "codec", "route", "propose", "accept", "rule", "transform", "pack", "strategy")

CLAIMS = (
    "lossless",  # the same tokens as without it (greedy), the same distribution (sampled)
    "lossy",
    "deterministic",  # the same request gives the same tokens, whatever ran before
    "batch-invariant",  # alone = batched = any order
    "saves-bytes",  # fewer allocated KV bytes
    "saves-rows",  # fewer rows x layers computed
    "saves-forwards",  # fewer forwards a generated token
    "saves-reads",  # fewer KV entries read a step
)


@dataclass(frozen=True)
class Card:
    """One row. `full` maps knobs to the values at which the method is the identity; `settings` are the row's
    own defaults where several papers are points of one class."""

    name: str
    seam: str
    cls: str
    paper: str
    idea: str
    claims: tuple[str, ...]
    full: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)  # this row's own defaults of the class's knobs
    task: str = ""  # the bench task that shows its effect
    measure: tuple[str, ...] = ()  # knob settings `fewer bench methods` measures, e.g. "budget=0.25"
    check: tuple[
        str, ...
    ] = ()  # the same for tiny models and prompts of 20 to 200 tokens, where `measure` would not act
    exceptions: dict[str, str] = field(default_factory=dict)  # check -> why it cannot hold
    choices: str = ""  # where the paper was silent and what was chosen

    def load(self) -> type[Method]:
        """The class behind the row; imported only now."""
        module, _, attr = self.cls.partition(":")
        return getattr(importlib.import_module(module), attr)

    def to_dict(self) -> dict[str, Any]:
        """For --json: the row with its knobs."""
        return {**asdict(self), "claims": list(self.claims), "knobs": self.knobs()}

    def makes_room(self) -> bool:
        """Can it make a prompt longer than the model's context fit?"""
        if self.seam == "transform":
            return not getattr(self.load(), "gives", False)
        if self.seam == "retain":
            return getattr(self.load(), "positions", "") == "place"
        return self.seam == "strategy" and getattr(self.load(), "makes_room", False)

    def knobs(self) -> dict[str, dict[str, Any]]:
        """Knob -> {default, type, doc, ...}, with this row's defaults."""
        out = self.load().knobs()
        for key, value in self.settings.items():
            out[key]["default"] = value
        return out


@functools.cache
def cards() -> dict[str, Card]:
    """Every row, by name."""
    text = resources.files("fewer").joinpath("catalogue.toml").read_text(encoding="utf-8")
    out = {}
    for name, row in tomllib.loads(text).items():
        claims, measure, check = (tuple(row.pop(k, ())) for k in ("claims", "measure", "check"))
        card = Card(name=name, cls=row.pop("class"), claims=claims, measure=measure, check=check, **row)
        unknown = [c for c in claims if c not in CLAIMS]
        if card.seam not in SEAM_NAMES or unknown:
            raise ValueError(f"catalogue row {name}: seam {card.seam!r} or claims {unknown} are not known names")
        out[name] = card
    return out


def find(name: str) -> Card:
    """The row of a method; UnknownMethod with the nearest names otherwise."""
    rows = cards()
    if name in rows:
        return rows[name]
    near = difflib.get_close_matches(name, rows, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "`fewer methods` lists them all."
    raise UnknownMethod(f"unknown method {name!r}: {hint}")
