"""Local scores: how much the tokens right behind an entry match it, InfLLM's measure of who may stand for a block.

    r_m = mean over j = 1 .. local, and over the queries of the kv-head, of q_{m+j} . k_m

By linearity that is k_m times a mean query, so a layer costs one product an entry and remembers `local` rows. Prompts come
in pieces, each taken in only once it has become cache: rows that were looked at and vanished (a retention method's study)
leave nothing. Near the prompt's end the mean is over the tokens there are. Does not: score what comes behind the prompt.
"""

from __future__ import annotations

import torch


class LocalScore:
    """One layer of one request. Scores are (H, prompt)."""

    def __init__(self, local: int) -> None:
        self.local = local
        self._keys: torch.Tensor | None = None  # (H, r, d) entries whose mean is not complete
        self._queries = torch.zeros(0)  # (H, r, d) mean query of the same tokens, and no more
        self._done: list[torch.Tensor] = []  # (H, n)
        self._all: torch.Tensor | None = None
        self._pending: tuple[int, torch.Tensor, torch.Tensor] | None = None  # tokens seen once it is cache, q, k

    def add(self, q: torch.Tensor, k: torch.Tensor, seen: int) -> None:
        """q (m, Hq, d), k (m, H, d): rows of the prompt behind the `seen` tokens that are cache."""
        self._settle(seen)
        self._pending = seen + len(q), q, k

    def close(self, seen: int) -> None:
        """The prompt is complete."""
        if self._all is None:
            self._settle(seen)
            assert self._keys is not None
            rest = self._scored(self._keys, self._queries, self._keys.shape[1])
            self._all = torch.cat([*self._done, rest], 1)
            self._keys, self._queries, self._done = None, torch.zeros(0), []

    def _settle(self, seen: int) -> None:
        """Take in the last piece if it became cache."""
        if self._pending is not None and self._pending[0] <= seen:
            self._take(*self._pending[1:])
        self._pending = None

    def _take(self, q: torch.Tensor, k: torch.Tensor) -> None:
        keys = k.transpose(0, 1).double()
        queries = q.double().unflatten(1, (k.shape[1], -1)).mean(2).transpose(0, 1)
        if self._keys is not None:
            keys, queries = torch.cat([self._keys, keys], 1), torch.cat([self._queries, queries], 1)
        ready = keys.shape[1] - self.local
        if ready > 0:
            self._done.append(self._scored(keys, queries, ready))
        left = max(0, ready)
        self._keys, self._queries = keys[:, left:].clone(), queries[:, left:].clone()

    def of(self, h: int, pos: torch.Tensor) -> torch.Tensor:
        """Once closed: scores of kv-head h at positions (...,); 0 behind the prompt."""
        assert self._all is not None
        scores = torch.nn.functional.pad(self._all[h], (0, 1))
        return scores[pos.long().clamp(max=len(scores) - 1)]

    def _scored(self, keys: torch.Tensor, queries: torch.Tensor, n: int) -> torch.Tensor:
        """(H, n): scores of the first n of r entries."""
        r = queries.shape[1]
        sums = torch.nn.functional.pad(queries.cumsum(1), (0, 0, 1, 0))
        first = torch.arange(1, n + 1)
        last = (first + self.local).clamp(max=r)
        mean = (sums[:, last] - sums[:, first]) / (last - first).clamp(min=1)[:, None]
        return (keys[:, :n] * mean).sum(-1)
