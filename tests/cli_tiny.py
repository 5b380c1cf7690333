"""A tiny chat model in one GGUF file for command-line tests: byte-level vocabulary, random weights, quick to load.

Its text is nonsense in printable ASCII and never ends by itself; what it spends is real.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest

from fewer.cli.main import main
from fewer.models.names import GGUF, expected
from fewer.models.spec import Spec
from fewer.models.tokenizer import _BYTE_OF
from tests.tiny_files import add, neighbours

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_chat_model(path: Path, context: int = 2048, pairs: tuple[str, ...] = ("th",), layers: int = 2) -> Path:
    """Write the model; returns its path. pairs: letters that are merged to one token."""
    tokens = [*_BYTE_OF, *pairs, *CONTROL]
    spec = Spec(
        family="llama", ropes=(), windows=(), n_layers=layers, d_model=32, n_heads=2, n_kv_heads=1, head_dim=16, d_ff=48,
        vocab=len(tokens), tied=False,
    )  # fmt: skip
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {
        "llama.block_count": spec.n_layers,
        "llama.context_length": context,
        "llama.embedding_length": spec.d_model,
        "llama.feed_forward_length": spec.d_ff,
        "llama.attention.head_count": spec.n_heads,
        "llama.attention.head_count_kv": spec.n_kv_heads,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - len(CONTROL)) + [3] * len(CONTROL),
        "tokenizer.ggml.merges": [" ".join(p) for p in pairs],
        "tokenizer.ggml.bos_token_id": tokens.index(CONTROL[1]),
        "tokenizer.ggml.eos_token_id": tokens.index(CONTROL[2]),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": TEMPLATE,
    }.items():
        add(writer, key, value)
    rng = np.random.default_rng(0)
    printable = np.array([32 <= _BYTE_OF.get(t, 0) < 127 for t in tokens])
    for name, shape in expected(spec).items():
        value = rng.standard_normal(shape).astype(np.float32)
        if name == "head":
            value[~printable] = 0
        heads = {"q": spec.n_heads, "k": spec.n_kv_heads}.get(name.rsplit(".")[-1])
        writer.add_tensor(GGUF.in_file(name), neighbours(value, heads) if heads else value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@dataclass
class Said:
    code: int
    out: str
    err: str


@pytest.fixture(scope="session", name="tiny")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_chat_model(tmp_path_factory.mktemp("model") / "tiny.gguf"))


@pytest.fixture(name="fewer")
def fewer_command(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Run one command line in this process."""

    def call(*args: str, stdin: bytes = b"") -> Said:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as end:
            main([*args])
        streams = capsys.readouterr()
        return Said(end.value.code or 0, streams.out, streams.err)

    return call
