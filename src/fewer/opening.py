"""`fewer.open`: a name or path -> a loaded Engine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.kernels.cpu import set_threads
from fewer.models.beside import Beside, Side
from fewer.models.chat import ChatTemplate
from fewer.models.load import load
from fewer.models.resolve import resolve
from fewer.models.source import open_source
from fewer.models.stretch import stretched
from fewer.models.tokenizer import from_source


def open(
    model: str | Path = "smollm2-135m",
    *,
    dtype: str = "auto",
    weights: str = "auto",
    activations: str = "int8",
    rope: str | None = None,
    scores: str | None = None,
    draft: str | Path | None = None,
    device: str = "cpu",
    threads: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
    **options: Any,
) -> Engine:
    """Open a model: the default name, a local GGUF or folder, or a hub id `org/name[@rev]`.

    dtype "auto" | "float32" | "bfloat16"; weights "auto" | "int8" | "int4"; activations of packed weights
    "int8" | "int16" (as exact as float32, slower); rope "yarn:factor=4" and scores "ssmax": a longer context without
    training (models/stretch.py; not for the draft model); draft: a second, smaller model for methods that use one
    (`engine.beside.warnings` says what is odd about the pair; a vocabulary that does not match is refused when a method
    needs it to). threads: of the whole process, None = physical cores. progress(bytes done, total) reports a download.
    options go to Engine. Raises ModelError and its kinds, BadRequest.
    """
    start = time.perf_counter()
    if threads is not None and threads < 1:
        raise BadRequest(f"threads must be at least 1, not {threads}")
    pool = set_threads(threads)
    source = open_source(resolve(str(model), progress=progress))
    source = replace(source, spec=stretched(source.spec, rope, scores))  # type: ignore[type-var]  # all are dataclasses
    decoder = load(source, dtype, weights, device, activations=activations)
    # Packed layers run on the kernels' own pool: torch's would only take cores from it.
    torch.set_num_threads(1 if decoder.packed else pool)
    tokenizer = from_source(source)
    drafts, beside = {}, None
    if draft is not None:
        second = open_source(resolve(str(draft), progress=progress))
        drafts["draft"] = load(second, dtype, weights, device)
        beside = Beside(
            Side(str(model), decoder.spec, tokenizer), Side(str(draft), drafts["draft"].spec, from_source(second))
        )
    seconds = time.perf_counter() - start
    return Engine(
        decoder,
        tokenizer,
        ChatTemplate.from_source(source, tokenizer),
        drafts,
        beside,
        name=str(model),
        load_seconds=seconds,
        **options,
    )
