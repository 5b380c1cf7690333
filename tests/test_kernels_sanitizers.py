"""The kernel tests again, on native code built with the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fewer.kernels.cpu import ISA, features

ROOT = Path(__file__).parents[1]
TESTS = [
    f"tests/test_kernels_{name}.py" for name in ("pack", "linear", "block", "attention", "dots", "ranking", "stack")
]
FLAGS = ["-std=gnu11", "-O0", "-g1", "-ffp-contract=off", "-fPIC", "-pthread", "-fno-omit-frame-pointer"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def runtime(compiler: str) -> str | None:
    """What must be loaded before Python: the address sanitizer, and libstdc++, whose exceptions it then can pass on."""
    names = [f"-print-file-name={name}" for name in ("libasan.so", "libstdc++.so.6")]
    found = [subprocess.run([compiler, n], capture_output=True, text=True).stdout.strip() for n in names]
    return " ".join(found) if all(Path(f).is_file() for f in found) else None


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_are_clean_under_sanitizers(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CC", "gcc"))
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs gcc on Linux")
    library = runtime(compiler)
    if library is None:
        pytest.skip(f"{compiler} has no shared address sanitizer")
    built = tmp_path / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
    build = [compiler, *FLAGS, f"-I{sysconfig.get_path('include')}"]
    runs_here = features().get("best_isa") == ISA[2]

    def compiled(source: Path) -> str:
        """Sanitizers make such a file take ten times as long: not where no test could run it."""
        watched = SANITIZE if runs_here or not source.stem.endswith("avx512") else []
        made = str(tmp_path / f"{source.stem}.o")
        subprocess.run([*build, *watched, "-c", str(source), "-o", made], check=True)
        return made

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compiled, (ROOT / "native").glob("*.c")))
    subprocess.run([*build, *SANITIZE, "-shared", *objects, "-o", str(built), "-lm"], check=True)
    env = os.environ | {
        "FEWER_SANITIZED": str(built),
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    run = [sys.executable, "-m", "pytest", "-o", "addopts=-q", "-p", "tests.sanitized", "-m", "not slow", "-x", *TESTS]
    result = subprocess.run(run, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
