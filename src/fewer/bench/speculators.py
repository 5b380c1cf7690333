"""One engine in one process, as peers.py, that runs a prompt in any of its speculative modes.

    python -m fewer.bench.speculators NAME MODEL.gguf THREADS [DRAFT.gguf]
    job     {"prompts": [[ids]], "new": n, "mode": m}
    answer  {"prefill": s, "decode": s, "ids": [[ids]], "accepted": n, ...}         n = drafted tokens that stand
            {"error": why} if that mode cannot run

Everything is greedy and ends where the model ends it. prefill is the time to the first token, decode the rest, both the
engine's own clock where it has one. A job of several prompts is one batch, and only its texts count.

fewer         mode = a plan, methods joined by " + ", "" = plain; "guard": false drafts always; "forget": true empties what
              methods remember of earlier jobs, but not the guard's accounts. Also: its ledger's account
llama.cpp     plain; ngram-simple, ngram-map-k, ngram-mod, ngram-cache, and draft with a second model, as shipped
transformers  plain; lookup (prompt_lookup_num_tokens = 10) and draft (assistant_model); float32
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewer.bench.peers import serve
from fewer.types import Memory

Answer = dict[str, Any]
Job = Callable[[list[list[int]], int, str, dict[str, Any]], Answer]
LOOKUP = 10  # tokens a draft of transformers' prompt lookup, as its documentation has it
LLAMA = ("ngram-simple", "ngram-map-k", "ngram-mod", "ngram-cache")
TRANSFORMERS = ("lookup",)


def modes(name: str, draft: bool) -> list[str]:
    """The modes of a peer, "" = plain."""
    own = {"llama.cpp": LLAMA, "transformers": TRANSFORMERS}[name]
    return ["", *own, *(["draft"] if draft else [])]


def plan(mode: str) -> list[str]:
    """ "a + b:knob=1" -> ["a", "b:knob=1"]."""
    return [part.strip() for part in mode.split(" + ") if part.strip()]


def fewer(path: str, threads: int, draft: str | None) -> tuple[Job, str]:
    import fewer as package

    eng = package.open(path, threads=threads, draft=draft, prefix_bytes=0)

    def job(prompts: list[list[int]], new: int, mode: str, more: dict[str, Any]) -> Answer:
        if more.pop("forget", False):
            eng.memory = Memory()
        start = time.perf_counter()
        outs = eng.generate(prompts, use=plan(mode), max_tokens=new, **more)
        total = time.perf_counter() - start
        led = outs[0].ledger
        return {
            "prefill": led.seconds["prefill"],
            "decode": total - led.seconds["prefill"],
            "ids": [o.tokens for o in outs],
            "accepted": led.accepted_tokens,
            "drafts": led.drafts,
            "by_depth": led.accepted_by_depth,
            "drafted": led.drafted_tokens,
            "drafting": led.seconds.get("draft", 0.0),
            "rests": led.guard_rests,
        }

    return job, package.__version__


def llama_cpp(path: str, threads: int, draft: str | None) -> tuple[Job, str]:
    import xllamacpp

    kinds = xllamacpp.common_speculative_type
    servers: dict[str, Any] = {}

    def server(mode: str) -> Any:
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_ctx, params.n_batch, params.n_parallel, params.verbosity = 4096, 512, 1, -1
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        if mode:
            kind = "DRAFT_SIMPLE" if mode == "draft" else mode.upper().replace("-", "_")
            params.speculative.types = [kinds[f"COMMON_SPECULATIVE_TYPE_{kind}"]]
        if mode == "draft":
            own = params.speculative.draft
            own.mparams.path = draft
            own.cpuparams.n_threads = own.cpuparams_batch.n_threads = threads
        return xllamacpp.Server(params)

    def job(prompts: list[list[int]], new: int, mode: str, more: dict[str, Any]) -> Answer:
        if mode not in servers:
            servers[mode] = server(mode)
        body = {"n_predict": new, "cache_prompt": False, "temperature": 0, "return_tokens": True}
        out = servers[mode].handle_completions({"prompt": prompts[0], **body})
        said = json.loads(out) if isinstance(out, (str, bytes)) else out
        t = said["timings"]
        ids = said.get("tokens") or [0] * t["predicted_n"]
        accepted = t.get("draft_n_accepted", 0)
        return {"prefill": t["prompt_ms"] / 1e3, "decode": t["predicted_ms"] / 1e3, "ids": [ids], "accepted": accepted}

    return job, xllamacpp.__version__


def transformers(path: str, threads: int, draft: str | None) -> tuple[Job, str]:
    import torch
    import transformers as package

    torch.set_num_threads(threads)

    def load(file: str) -> Any:
        at = Path(file).resolve()
        return package.AutoModelForCausalLM.from_pretrained(at.parent, gguf_file=at.name, dtype=torch.float32)

    model, assistant = load(path), load(draft) if draft else None
    more: dict[str, dict[str, Any]] = {"": {}, "draft": {"assistant_model": assistant}}
    more["lookup"] = {"prompt_lookup_num_tokens": LOOKUP}

    @torch.inference_mode()
    def job(prompts: list[list[int]], new: int, mode: str, _: dict[str, Any]) -> Answer:
        ids = torch.tensor(prompts)
        first: list[float] = []

        class Clock(package.StoppingCriteria):
            """Notes when the first tokens are there, and how many they are."""

            def __call__(self, tokens: Any, scores: Any, **_: Any) -> Any:
                if not first:
                    first.extend((time.perf_counter(), tokens.shape[1] - ids.shape[1]))
                return torch.zeros(len(tokens), dtype=torch.bool)

        start = time.perf_counter()
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new,
            do_sample=False,
            stopping_criteria=package.StoppingCriteriaList([Clock()]),
            **more[mode],
        )
        total, prefill = time.perf_counter() - start, first[0] - start
        return {
            "prefill": prefill,
            "decode": total - prefill,
            "ids": out[:, ids.shape[1] :].tolist(),
            "first": int(first[1]),
        }

    return job, package.__version__


ENGINES: dict[str, Callable[[str, int, str | None], tuple[Job, str]]] = {
    "fewer": fewer,
    "llama.cpp": llama_cpp,
    "transformers": transformers,
}


def open_engine(
    name: str, path: str, threads: int, draft: str | None
) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], str]:
    """One of ENGINES, answering jobs as above."""
    job, version = ENGINES[name](path, threads, draft)

    def answer(ask: dict[str, Any]) -> dict[str, Any]:
        more = {k: v for k, v in ask.items() if k not in ("prompts", "new", "mode")}
        try:
            return job(ask["prompts"], ask["new"], ask["mode"], more)
        except Exception as e:  # a mode that cannot run leaves the others alone
            return {"error": f"{type(e).__name__}: {e}"}

    return answer, version


if __name__ == "__main__":
    serve(lambda: open_engine(sys.argv[1], sys.argv[2], int(sys.argv[3]), *[*sys.argv[4:5], None][:1]))
