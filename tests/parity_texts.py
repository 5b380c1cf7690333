"""Greedy texts of transformers on real files, kept beside the tests: loading those files there takes minutes.

    python -m tests.parity_texts      runs transformers on every file of NAMES and writes tests/parity_texts.json

The weights are dequantised to float32 by transformers itself. The file tells the versions and each model's checksum.
"""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data import topics
from typing import Any

FILE = Path(__file__).with_suffix(".json")
NAMES = ("qwen", "gemma")
TOKENS = 64


def prompts(tokenizer: Any) -> list[list[int]]:
    """Five continuations of real text, the last over 1,000 tokens."""
    book = topics.topics
    short = [book[k][:160] for k in ("assert", "booleans", "class", "lambda")]
    long = tokenizer.encode("\n".join(book[k] for k in ("while", "with", "yield", "try", "if")))
    return [tokenizer.encode(t) for t in short] + [long[:1010]]


def oracle(path: Path) -> Any:
    """The file as transformers has it."""
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


def write() -> None:
    """Run transformers on every file and keep what it says."""
    import torch
    import transformers

    from fewer.models.source import open_source
    from fewer.models.tokenizer import from_source
    from tests.real_models import MODELS, fetch

    made: dict[str, Any] = {"transformers": transformers.__version__, "torch": torch.__version__}
    for name in NAMES:
        path = fetch(MODELS[name])
        asks, model = prompts(from_source(open_source(path))), oracle(path)
        ours = {"max_new_tokens": TOKENS, "do_sample": False, "eos_token_id": None, "repetition_penalty": 1.0}
        texts = [
            {"prompt": ids, "text": model.generate(torch.tensor([ids]), **ours)[0, len(ids) :].tolist()} for ids in asks
        ]
        made[name] = {"sha256": MODELS[name].sha256, "texts": texts}
    FILE.write_text(json.dumps(made) + "\n")


if __name__ == "__main__":
    write()
