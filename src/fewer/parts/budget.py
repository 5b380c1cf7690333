"""Budgets: how many entries or tokens a method may use, the least that makes sense, and what a plain window would keep."""

from __future__ import annotations

import torch

from fewer.seams import resolve_budget


def sinks_and_recent(n: int, sinks: int, budget: int) -> torch.Tensor:
    """Ascending places of the first `sinks` and the newest of n entries, `budget` in all."""
    if n <= budget:
        return torch.arange(n)
    sinks = min(sinks, budget)
    return torch.cat([torch.arange(sinks), torch.arange(n - (budget - sinks), n)])


def require_least(budget: int | float, least: int, why: str) -> None:
    """Raise ValueError, saying the minimum, for a count below `least`. Shares are known only with a prompt: see `limit`."""
    if not isinstance(budget, float) and budget < least:
        raise ValueError(f"budget={budget} is too small: the minimum is {least} ({why})")


def limit(budget: int | float, prompt_len: int, least: int) -> int | None:
    """Entries allowed for this prompt, None = no limit. A share of a short prompt is never less than `least`."""
    n = resolve_budget(budget, prompt_len)
    return None if n is None else max(n, least)
