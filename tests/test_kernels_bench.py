"""The kernel micro-benchmark runs and reports ratios that make sense."""

from __future__ import annotations

import re

import pytest
import torch

from fewer.bench import kernels
from fewer.kernels.native import native

needs_native = pytest.mark.skipif(native is None, reason="fewer._native is not built")


@needs_native
def test_limits_are_measured() -> None:
    assert native is not None
    limit = kernels.limits(1)
    assert limit.read > 0 and (limit.macs > 0) == (native.isa()[0] > 0)
    memory = torch.arange(1000)
    expected = 0
    for value in memory.tolist():
        expected ^= value
    assert native.read_memory(memory.data_ptr(), memory.nbytes) == expected


@pytest.mark.slow
@needs_native
def test_a_curve_has_a_line_per_row_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "MEGABYTE", 1 << 14)
    lines = kernels.curve(64, 64, (4, 32, True), [1, 4], 2)
    assert len(lines) == 3 and re.search(r"M=1 .* 1\.00 x M=1", lines[1]) and "M=4" in lines[2]
