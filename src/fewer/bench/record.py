"""Where a figure comes from: machine, versions, seed; and how results are kept."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from fewer.errors import BadRequest
from fewer.kernels.cpu import processor

RESULTS = Path(__file__).parent / "results"


def versions() -> dict[str, str]:
    """Python, fewer and the packages whose speed or results matter."""
    out = {"python": platform.python_version()}
    for name in ("fewer", "torch", "numpy", "gguf", "tokenizers", "transformers", "xllamacpp", "openvino-genai"):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return out


def machine() -> dict[str, Any]:
    """CPU model, cores, memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = 0
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "system": platform.platform(),
    }


def head(what: str, command: str, seed: int) -> dict[str, Any]:
    """Everything needed to run a measurement again; its figures are put beside it."""
    return {
        "what": what,
        "command": command,
        "date": time.strftime("%Y-%m-%d"),
        "seed": seed,
        "machine": machine(),
        "versions": versions(),
    }


def save(path: Path, data: Any) -> None:
    """Write JSON in one piece. Raises BadRequest if the file cannot be written."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as e:
        raise BadRequest(f"cannot write the result {path}: {e.strerror or e}") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
