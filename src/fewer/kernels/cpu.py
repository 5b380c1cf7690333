"""What this machine offers the kernels: instruction set, physical cores allowed to this process, threads in use."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fewer.kernels.native import native

ISA = ("plain C", "AVX2 + FMA", "AVX-512 VNNI")


def physical_cores() -> int:
    """Cores this process may use (affinity, container quota); the hardware threads of one core count once."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = {_siblings(cpu) for cpu in os.sched_getaffinity(0)}
    return max(1, min(len(cores), _quota()))


def set_threads(n: int | None = None) -> int:
    """Threads the native kernels use, the calling one included; None = physical cores. -> the number set."""
    n = physical_cores() if n is None else n
    if native is not None:
        native.set_threads(n)
    return n


def threads() -> int:
    """Threads the native kernels use; 1 without them."""
    return 1 if native is None else native.threads()


@contextmanager
def alone() -> Iterator[None]:
    """The calling thread runs its kernels by itself, beside the pool and other threads that do the same."""
    if native is not None:
        native.alone(True)
    try:
        yield
    finally:
        if native is not None:
            native.alone(False)


def processor() -> str:
    """The processor's name, as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def features() -> dict[str, Any]:
    """For `fewer doctor`: is the extension there, what it uses, what the processor has."""
    facts: dict[str, Any] = {
        "machine": platform.machine(),
        "physical_cores": physical_cores(),
        "native": native is not None,
    }
    if native is None:
        off = os.environ.get("FEWER_NATIVE", "1") == "0"
        return {**facts, "why": "FEWER_NATIVE=0" if off else "not built: was there a C compiler at install time?"}
    used, best = native.isa()
    return {**facts, "isa": ISA[used], "best_isa": ISA[best], "threads": native.threads()}


def _siblings(cpu: int) -> str:
    path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
    try:
        return path.read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """Whole cores the cgroup grants, rounded up; a large number where there is no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return 1 << 16
