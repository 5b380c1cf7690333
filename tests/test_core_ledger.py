"""The ledger adds up, and says so when it does not."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from fewer.errors import InvariantBroken
from fewer.ledger import TIMELINE_MAX, Ledger
from fewer.state_bytes import state_bytes
from fewer.testing.harness import generate
from fewer.testing.tiny import tiny_model
from tests.samples import Parrot


def test_a_plain_run():
    """5 prompt tokens in chunks of 2, 4 tokens: 3 prefill forwards and 3 more, one row each; entries read 1 + 2 + ... ."""
    model = tiny_model()
    tokens, led = generate(model, [1, 2, 3, 4, 5], max_tokens=4, chunk=2)
    layers, heads = model.spec.n_layers, model.spec.n_kv_heads
    assert (led.prompt_tokens, led.kept_tokens, led.dropped_tokens) == (5, 5, 0)
    assert (led.generated_tokens, led.computed_tokens) == (len(tokens), 8)
    assert (led.forwards, led.rows, led.layers_run, led.layers_skipped) == (6, 8, 8 * layers, 0)
    assert led.kv_entries_read == sum(range(1, 9)) * layers * heads
    assert led.kv_bytes_end == led.kv_bytes_peak == led.timeline[-1][1]
    assert set(led.seconds) >= {"prefill", "decode", "cache"}


def test_drafts_are_accounted():
    _, led = generate(tiny_model(), [1, 2, 3] * 4, use=[Parrot()], max_tokens=20)
    assert led.drafted_tokens == led.accepted_tokens + led.rejected_tokens > 0
    assert led.rows == 12 + led.drafted_tokens + led.forwards - 1
    assert led.generated_tokens == 20 == led.forwards + led.accepted_tokens


def sound() -> Ledger:
    led = Ledger(prompt_tokens=3, kept_tokens=3, computed_tokens=3)
    led.forward("main", 2, rows=3, run=6, skipped=0, entries_read=9)
    led.kv(3, 100)
    return led


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("kept_tokens", 2, "prompt 3 != kept 2"),
        ("drafted_tokens", 1, "drafted 1 != accepted 0"),
        ("kv_bytes_end", 101, "KV end 101 > peak 100"),
        ("computed_tokens", 4, "computed 4 > rows 3"),
    ],
)
def test_what_does_not_add_up_is_named(field, value, says):
    led = sound()
    led.check()
    setattr(led, field, value)
    with pytest.raises(InvariantBroken, match=says):
        led.check()


def test_rows_and_layers_must_agree():
    led = sound()
    led.models["main"].layers_run = 5
    with pytest.raises(InvariantBroken, match="rows 3 x layers 2"):
        led.check()


def test_the_timeline_is_thinned_and_bytes_peak():
    led = Ledger()
    for i in range(10 * TIMELINE_MAX):
        led.kv(i, i % 7)
    assert len(led.timeline) <= TIMELINE_MAX and led.timeline[0] == (0, 0)
    assert led.kv_bytes_peak == 6


def test_clock_counts_what_fails_too():
    led = Ledger()
    with pytest.raises(KeyError), led.clock("x"):
        raise KeyError
    assert list(led.seconds) == ["x"]


def test_plain_data():
    d = json.loads(json.dumps(sound().to_dict()))
    assert (
        d["rows"] == 3 and d["layers_run"] == 6 and d["models"]["main"]["forwards"] == 1 and d["timeline"] == [[3, 100]]
    )


@dataclass
class Remembers:
    rows: torch.Tensor
    part: torch.Tensor
    inside: dict[str, list[object]]


def test_what_methods_remember_is_found_and_counted_once():
    rows, array = torch.zeros(10, 4), np.zeros(8)
    state = Remembers(rows, rows[2:5], {"a": [array[1:], {3: torch.zeros(2, dtype=torch.float64)}, print, Remembers]})
    state.inside["b"] = [state]
    assert state_bytes([None, 3, state, state]) == 160 + 64 + 16


def test_page_bounds_are_on_the_ledger():
    """Two layers, two kv-heads: five pages, each told by its greatest and least coordinates, and the last key summarised."""
    model = tiny_model(layers=3)
    _, ledger = generate(model, list(range(1, 22)), use=["quest:budget=8,block=4,full_layers=1"], max_tokens=4)
    spec = model.spec
    bounds, last = 5 * 2 * spec.head_dim * 8, spec.head_dim * 8 + 4  # float64; an int32 position
    assert ledger.method_bytes == 2 * spec.n_kv_heads * (bounds + last)
    _, plain = generate(model, [1, 2, 3], max_tokens=4)
    assert plain.method_bytes == 0
