"""genlm-bytes in a process of its own, in an environment of its own (no part of fewer is imported).

    python peer_bytes.py MODEL.gguf THREADS WIDTH
    first line out  {"version", "load"};  job  {"prompt", "rest", "new"}
    answer          {"prefill", "seconds", "cpu", "forwards", "text", "logp", "next": 257 probabilities}

The model is the GGUF as transformers dequantises it. Its key-value cache is filled with the prompt's own tokens first, so
its prefill is served from there; batching waits one millisecond instead of the twenty that are the default.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np


async def main(path: str, threads: int, width: int, say: Callable[[Any], None]) -> None:
    import torch
    from genlm.backend.llm import AsyncTransformer
    from genlm.bytes import BeamParams, ByteBeamState
    from transformers import AutoModelForCausalLM, AutoTokenizer

    start = time.perf_counter()
    torch.set_num_threads(threads)
    folder, name = os.path.split(path)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    llm = AsyncTransformer(model, tokenizer, timeout=0.001)
    forwards = [0]
    model.register_forward_pre_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1))
    eos = [tokenizer.eos_token.encode()]
    first = await ByteBeamState.initial(llm, BeamParams(K=width, eos_byte_strings=eos))
    say({"version": metadata.version("genlm-bytes"), "load": time.perf_counter() - start})

    for line in sys.stdin:
        job = json.loads(line)
        llm.clear_cache()
        start = time.perf_counter()
        ids = tokenizer.encode(job["prompt"], add_special_tokens=False)
        llm.cache_kv(ids[:-1])
        beam = await first.prefill(job["prompt"].encode())
        ready = time.perf_counter()
        logp, told = 0.0, beam
        p = np.exp((await told.logp_next()).ps)
        for byte in job["rest"].encode():
            logp += float((await told.logp_next()).ps[byte])
            told = await (told.prune() << byte)
        before, began, cpu, said, state = forwards[0], time.perf_counter(), time.process_time(), b"", beam
        for _ in range(job["new"]):
            best = int(np.argmax((await state.logp_next()).ps[:256]))
            said += bytes([best])
            state = await (state.prune() << best)
        say(
            {
                "prefill": ready - start,
                "seconds": time.perf_counter() - began,
                "cpu": time.process_time() - cpu,
                "forwards": forwards[0] - before,
                "text": said.decode("latin-1"),
                "logp": logp,
                "next": [float(x) for x in p[:256]],
            }
        )


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # its libraries print, also from threads and tasks of their own: nothing of that may be an answer

    def say(data: Any) -> None:
        print(json.dumps(data), file=answers, flush=True)

    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), say))
