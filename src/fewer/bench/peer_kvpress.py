"""kvpress in a process of its own, in an environment of its own (no part of fewer is imported).

    python peer_kvpress.py MODEL THREADS      MODEL: a GGUF file, which transformers dequantises, or a folder
    first line out  {"version", "load"};  job  {"press", "ids", "question", "keep", "new", "stops"}
    answer          {"tokens", "seconds"} or {"error"}

press: a name of PRESSES, or "plain". question: how many of the last tokens are read only after the cache was cut (0: all
are seen before). keep: entries a kv-head of what was read before, on average. Settings of a press are kvpress's own.
H2O's evidence needs whole attention matrices there, so that press runs with "eager" attention.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

# fewer's row -> the press that goes by its paper, made of the module and the share that is removed
PRESSES: dict[str, Callable[[Any, float], Any]] = {
    "snapkv": lambda k, r: k.SnapKVPress(r),
    "h2o": lambda k, r: k.ObservedAttentionPress(r),
    "tova": lambda k, r: k.TOVAPress(r),
    "pyramidkv": lambda k, r: k.PyramidKVPress(r),
    "adakv": lambda k, r: k.AdaKVPress(k.SnapKVPress(r)),
    "expected-attention": lambda k, r: k.ExpectedAttentionPress(r),
    "keydiff": lambda k, r: k.KeyDiffPress(r),
    "streaming-llm": lambda k, r: k.StreamingLLMPress(r),
    "kvzip": lambda k, r: k.KVzipPress(r),
}
EAGER = ("h2o",)
Job = Callable[[dict[str, Any]], list[int]]


def load(path: str, threads: int, home: str) -> tuple[Job, str]:
    """How a job is answered, and the versions. home: a folder for its tokenizer."""
    import kvpress
    import torch
    import transformers

    torch.set_num_threads(threads)
    folder, name = os.path.split(path) if Path(path).is_file() else (path, None)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    tokenizer.save_pretrained(home)  # KVzip loads it again, from where the model says it came from
    model.config._name_or_path = home

    def ahead(ids: list[int], at: int, cache: Any) -> int:
        """Read tokens at positions from `at` on; the likeliest next one."""
        positions = torch.arange(at, at + len(ids))[None]
        out = model(
            input_ids=torch.tensor([ids]),
            past_key_values=cache,
            position_ids=positions,
            logits_to_keep=1,
            use_cache=True,
        )
        return int(out.logits[0, -1].argmax())

    @torch.inference_mode()
    def job(ask: dict[str, Any]) -> list[int]:
        ids, eager = ask["ids"], ask["press"] in EAGER
        cache: Any = transformers.DynamicCache()
        context, question = ids[: len(ids) - ask["question"]], ids[len(ids) - ask["question"] :]
        removed = max(0.0, 1 - ask["keep"] / len(context))
        press = PRESSES[ask["press"]](kvpress, removed) if ask["press"] != "plain" else None
        model.set_attn_implementation("eager" if eager else "sdpa")
        for layer in model.model.layers:
            layer.self_attn.masked_key_indices = None  # of the job before
        with press(model) if press else contextlib.nullcontext():
            token = ahead(context, 0, cache)
        ragged = len({layer.keys.shape[-2] for layer in cache.layers}) > 1  # its masks are as long as the first layer
        for part in [[t] for t in question] if ragged else [question] * bool(question):
            token = ahead(part, len(context), cache)
            context = context + part
        said = [token]
        while len(said) < ask["new"] and said[-1] not in ask["stops"]:
            said.append(ahead(said[-1:], len(ids) + len(said) - 1, cache))
        return said

    return job, f"{metadata.version('kvpress')}, transformers {transformers.__version__}, float32"


def main(path: str, threads: int, home: str, say: Callable[[Any], None]) -> None:
    start = time.perf_counter()
    job, version = load(path, threads, home)
    say({"version": version, "load": time.perf_counter() - start})
    for line in sys.stdin:
        start = time.perf_counter()
        try:
            tokens = job(json.loads(line))
        except (
            ValueError,
            RuntimeError,
            AssertionError,
            IndexError,
        ) as e:  # what presses raise for prompts they cannot cut
            say({"error": f"{type(e).__name__}: {e}"})
        else:
            say({"tokens": tokens, "seconds": time.perf_counter() - start})


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # its libraries print: nothing of that may be an answer
    with tempfile.TemporaryDirectory() as folder:
        main(sys.argv[1], int(sys.argv[2]), folder, lambda data: print(json.dumps(data), file=answers, flush=True))
