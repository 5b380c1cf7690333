"""The two sides of a transplant: the model that gets another tokenizer, and the tokenizer, with its own model if it has one.

    old = open_model("smollm2-135m")        # weights are needed
    new = open_target("tokenizer.json")     # or a model, whose embeddings OMP then reads

A target is anything fewer.tokens.load reads; tiktoken ranks, tekken and SentencePiece become a tokenizer.json in the
result. Not done: tokenizers of bytes, not text (Binary BPE), and those that are files of their own (hybrid, typed).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fewer.errors import ModelError
from fewer.models import tokenizer
from fewer.models.resolve import resolve
from fewer.models.source import Source, open_source
from fewer.models.tokenizer import Tokenizer
from fewer.tokens.load import from_tokenizer, located, open_tokenizer
from fewer.tokens.vocabulary import Vocabulary


@dataclass(frozen=True)
class End:
    """One side. `source`: the weights made for this vocabulary, None where only a tokenizer is there."""

    name: str
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    source: Source | None

    def weights(self) -> Source:
        """Raises ModelError if there are none."""
        if self.source is None:
            raise ModelError(
                f"{self.name} is a tokenizer without a model; name a model (a .gguf, a folder, a known name)"
            )
        return self.source

    def matrix(self, name: str) -> torch.Tensor:
        """(V, D) float32: "embed" or "head" (the same when tied), as many rows as the vocabulary has ids."""
        source = self.weights()
        stored = source.raw(name if source.has(name) else "embed").dense(torch.float32)
        return stored[: self.tokenizer.vocab_size]


def open_model(where: str) -> End:
    """Raises ModelError, CorruptFile, UnsupportedArchitecture."""
    return _of_model(where, open_source(resolve(where)))


def open_target(where: str) -> End:
    """A tokenizer, or a model. Raises as open_model, BadRequest for ranks without a split pattern."""
    path, _, _ = located(where)
    if (path.is_dir() and any(path.glob("*.safetensors"))) or path.suffix in (".gguf", ".safetensors"):
        return _of_model(where, open_source(path))
    return _end(where, open_tokenizer(where), None)


def _of_model(where: str, source: Source) -> End:
    return _end(where, tokenizer.from_source(source), source)


def _end(where: str, found: Tokenizer, source: Source | None) -> End:
    return End(where, found, from_tokenizer(found, where, "tokenizer"), source)
