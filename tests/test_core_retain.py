"""Retention and memory: what a chunked prompt really allocates, and a Retain method's own forwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fewer.card import cards
from fewer.kv.segment import Meter
from fewer.plan import make
from fewer.runner import Runner
from fewer.seams import Commit, Forward, Retain
from fewer.testing.harness import generate, request
from fewer.testing.tiny import tiny_model
from fewer.types import chain
from tests.matrices import PROMPT

ENTRY = 2 * 8 * 8 + 4  # bytes of a tiny float64 entry: key, value, position
LONG = [(5 * i * i + i // 3) % 31 for i in range(1500)]
ROWS = [c.name for c in cards().values() if c.seam == "retain" and hasattr(c.load(), "budget")]


class Watched(Meter):
    """A meter that remembers the most it ever showed, whatever the engine does with `peak`."""

    most = 0

    @property
    def bytes(self) -> int:
        return self._bytes

    @bytes.setter
    def bytes(self, n: int) -> None:
        self._bytes = n
        self.most = max(self.most, n)


@pytest.mark.parametrize("name", ROWS)
def test_what_a_chunked_prompt_really_allocates(name):
    """The ledger's peak is the most that was ever allocated. Methods that always act never hold more than the budget and
    two chunks (the one just read, the one before it while it is cut); those that wait for the prompt hold it once."""
    budget, chunk = 48, 32
    method = make(name, {"budget": budget})
    runner = Runner({"main": tiny_model()})
    runner.stores["main"].meter = meter = Watched()
    req = request(LONG, [method], max_tokens=8, chunk=chunk)
    runner.add(req)
    runner.run()
    assert req.error is None
    assert req.ledger.kv_bytes_peak == meter.most
    lanes = 6 * ENTRY
    if method.acts == "always":
        assert req.ledger.kv_bytes_end <= lanes * budget + lanes * 32
        assert req.ledger.kv_bytes_peak <= lanes * (budget + 2 * chunk)
        assert req.ledger.kv_bytes_peak < 0.1 * generate(tiny_model(), LONG, max_tokens=1)[1].kv_bytes_peak
    else:
        assert req.ledger.kv_bytes_peak >= lanes * len(LONG)
        assert req.ledger.kv_bytes_end <= lanes * (budget + 8 + 32)


def test_room_for_new_tokens_is_measured_by_the_memory_held():
    """One head that keeps everything does not make the tail of all others as long as an eighth of it; packed entries count
    as what they take."""
    even, ragged = (
        generate(tiny_model(), LONG, use=[f"adakv:budget=300,shares={s},floor=0.0"], max_tokens=4)[1].kv_bytes_end
        for s in ("even", "model")
    )
    assert even == ragged
    codes = generate(tiny_model(), LONG, use=["int4"], max_tokens=4)[1].kv_bytes_end
    assert codes == 6 * (len(LONG) * 20 + 32 * ENTRY)  # the least room, where the text's own eighth would be 187 rows


@dataclass(frozen=True)
class Studies(Retain):
    """Runs a forward over the prompt's first tokens again before it keeps everything; `rows` of it are accepted."""

    acts = "prompt"
    rows: int = 0
    before: int = 0

    def start(self, told: Any) -> list[Any]:
        return []

    def moment(self, told: Any) -> int:
        return told.prompt_len - self.before

    def study(self, tokens: list[int], told: Any, state: list[Any]) -> Any:
        for piece in (tokens[:4], tokens[4:9]):
            rows = chain(piece, len(tokens))
            out = yield Forward(rows, want=np.array([len(rows) - 1]), stage="prefill")
            state.append((len(tokens), out.logits))
            yield Commit(np.arange(self.rows))

    def keep(self, held: Any, told: Any, state: list[Any]) -> None:
        state.append(("keep", int(held.entries(0)[0]), told.seen))


@pytest.mark.parametrize("chunk", [512, 7, 1])
def test_a_study_sees_the_prompt_and_leaves_no_trace(chunk):
    """Its rows stand behind the cache like any continuation would; the text is that of a plain run."""
    model = tiny_model()
    plain = generate(model, PROMPT, max_tokens=8)[0]
    for before in (0, 9):
        method = Studies(before=before)
        req = request(PROMPT, [method], max_tokens=8, chunk=chunk)
        runner = Runner({"main": model})
        runner.add(req)
        runner.add(other := request(PROMPT[:20], max_tokens=8, chunk=chunk))
        runner.run()
        assert req.tokens == plain and req.error is None
        assert other.tokens == generate(model, PROMPT[:20], max_tokens=8)[0]
        n = len(PROMPT) - before
        (_, first), (_, second), last = req.told.of(method)
        assert last == ("keep", n, n)
        for piece, logits in ((PROMPT[:4], first), (PROMPT[4:9], second)):
            again = request([*PROMPT[:n], *piece], max_tokens=1, logprobs=0)
            runner.add(again)
            runner.run()
            assert int(logits.argmax()) == again.tokens[0]
        assert req.ledger.rows == len(PROMPT) + 7 + 9


def test_a_study_may_not_leave_entries():
    req = request(PROMPT, [Studies(rows=2)], max_tokens=8)
    runner = Runner({"main": tiny_model()})
    runner.add(req)
    runner.run()
    assert "may not leave entries" in str(req.error) and runner.stores["main"].bytes() == 0
