"""Knobs: the fields of a method, with the ranges that are checked when a plan is made."""

from __future__ import annotations

from dataclasses import field
from typing import Any


def knob(default: Any, doc: str, low: float | None = None, high: float | None = None, choices: tuple = ()) -> Any:
    """A dataclass field that is a knob: its range is checked when a plan is made."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices})


def budget_knob(default: int | float, what: str) -> Any:
    """The one word for what is limited: an integer counts, a fraction in (0, 1] is a share of the prompt, 1.0 is all."""
    return field(
        default=default, metadata={"doc": f"{what}: a count, or a share of the prompt in (0, 1]", "budget": True}
    )


def resolve_budget(budget: int | float, prompt_len: int) -> int | None:
    """Entries or tokens allowed for this prompt; None = no limit (the identity, 1.0)."""
    if isinstance(budget, float):
        return None if budget >= 1.0 else max(1, round(budget * prompt_len))
    return int(budget)
