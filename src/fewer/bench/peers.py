"""One engine in one process: reads a job a line on stdin, answers a JSON line a job on stdout.

    python -m fewer.bench.peers NAME MODEL.gguf THREADS
    job    {"prompts": [[ids]], "new": n}       answer  {"prefill": s, "decode": s, "tokens": n, "first": s}

prefill is the time to the first token, decode the rest; both are the engine's own clock where it has one. A batch reports
its whole time as decode. Prompts differ from job to job, so no engine can serve one from its prefix cache.
Peers: fewer, fewer-float32, llama.cpp (xllamacpp), openvino (openvino-genai), transformers (float32).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Job = Callable[[list[list[int]], int], dict[str, float]]


def fewer(path: str, threads: int, dtype: str = "auto") -> tuple[Job, str]:
    import fewer as package

    eng = package.open(path, threads=threads, dtype=dtype, prefix_bytes=0)

    def job(prompts: list[list[int]], new: int) -> dict[str, float]:
        start = time.perf_counter()
        outs = eng.generate(prompts, max_tokens=new, ignore_eos=True)
        total = time.perf_counter() - start
        n = sum(len(o.tokens) for o in outs)
        if len(prompts) > 1:
            return {"prefill": 0.0, "decode": total, "tokens": n}
        s = outs[0].ledger.seconds
        prefill = s["prefill"]
        return {"prefill": prefill, "decode": total - prefill, "tokens": n}

    return job, package.__version__


def fewer_float32(path: str, threads: int) -> tuple[Job, str]:
    return fewer(path, threads, "float32")


def llama_cpp(path: str, threads: int) -> tuple[Job, str]:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_batch, params.n_parallel = 8192 * 4, 2048, 16
    params.kv_unified = True  # one pool for all slots, so that one long prompt may use it
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    server = xllamacpp.Server(params)

    def one(ids: list[int], new: int) -> Any:
        body = {"prompt": ids, "n_predict": new, "ignore_eos": True, "cache_prompt": False, "temperature": 0}
        out = server.handle_completions(body)
        return json.loads(out) if isinstance(out, (str, bytes)) else out

    def job(prompts: list[list[int]], new: int) -> dict[str, float]:
        if len(prompts) == 1:
            t = one(prompts[0], new)["timings"]
            return {"prefill": t["prompt_ms"] / 1e3, "decode": t["predicted_ms"] / 1e3, "tokens": t["predicted_n"]}
        from concurrent.futures import ThreadPoolExecutor

        start = time.perf_counter()
        with ThreadPoolExecutor(len(prompts)) as pool:
            done = list(pool.map(lambda p: one(p, new), prompts))
        return {
            "prefill": 0.0,
            "decode": time.perf_counter() - start,
            "tokens": sum(d["timings"]["predicted_n"] for d in done),
        }

    return job, xllamacpp.__version__


def openvino(path: str, threads: int) -> tuple[Job, str]:
    import numpy as np
    import openvino as ov
    import openvino_genai as genai

    pipe = genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)

    def job(prompts: list[list[int]], new: int) -> dict[str, float]:
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = new, True, False
        width = max(len(p) for p in prompts)
        ids = np.zeros((len(prompts), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for i, p in enumerate(prompts):
            ids[i, width - len(p) :], mask[i, width - len(p) :] = p, 1
        start = time.perf_counter()
        out = pipe.generate(genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(mask)), config)
        total = time.perf_counter() - start
        n = sum(len(t) for t in out.tokens)
        first = out.perf_metrics.get_ttft().mean / 1e3 if len(prompts) == 1 else 0.0
        return {"prefill": first, "decode": total - first, "tokens": n}

    return job, genai.__version__


def transformers(path: str, threads: int) -> tuple[Job, str]:
    import torch
    import transformers as package

    torch.set_num_threads(threads)
    folder, name = os.path.split(path)
    model = package.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)

    @torch.inference_mode()
    def job(prompts: list[list[int]], new: int) -> dict[str, float]:
        width = max(len(p) for p in prompts)
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        start = time.perf_counter()
        out = model(ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
        token = out.logits[:, -1:].argmax(-1)
        first = time.perf_counter() - start
        for _ in range(new - 1):
            mask = torch.cat([mask, torch.ones_like(token)], 1)
            out = model(token, attention_mask=mask, past_key_values=out.past_key_values, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
        total = time.perf_counter() - start
        prefill = first if len(prompts) == 1 else 0.0
        return {"prefill": prefill, "decode": total - prefill, "tokens": new * len(prompts)}

    return job, package.__version__


PEERS: dict[str, Callable[[str, int], tuple[Job, str]]] = {
    "fewer": fewer,
    "fewer-float32": fewer_float32,
    "llama.cpp": llama_cpp,
    "openvino": openvino,
    "transformers": transformers,
}


def serve(make: Callable[[], tuple[Callable[[dict[str, Any]], dict[str, Any]], str]]) -> None:
    """Answer jobs until stdin ends. make() loads the engine: (how a job is answered, version). The engine's own chatter
    on stdout is kept away from the answers."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        job, version = make()
        loaded = time.perf_counter() - start
        print(json.dumps({"version": version, "load": loaded}), file=answers, flush=True)
        for line in sys.stdin:
            out = job(json.loads(line))
            out["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            print(json.dumps(out), file=answers, flush=True)


def open_peer(name: str, path: str, threads: int) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], str]:
    """One of PEERS, answering jobs as above."""
    job, version = PEERS[name](path, threads)
    return lambda ask: job(ask["prompts"], ask["new"]), version


if __name__ == "__main__":
    serve(lambda: open_peer(sys.argv[1], sys.argv[2], int(sys.argv[3])))
