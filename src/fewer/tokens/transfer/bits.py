"""What a model under a tokenizer makes of a text: bits a byte, tokens, seconds of prefill.

    bits per byte = -sum log2 p(token | text before it) / bytes of the text

Tokens differ, bytes do not, so the figure compares tokenizers. Texts are scored in windows of the same bytes, each behind a
token that spells a newline (or the model's BOS, where it is used to one), so that the first bytes count too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fewer.models.decoder import Decoder
from fewer.models.layers import DenseHead
from fewer.models.tokenizer import Tokenizer
from fewer.plan import PLAIN
from fewer.tokens.transfer.texts import cut
from fewer.types import Group, Step, Told, chain

PREFILL = 384  # bytes of each text that the timed prompt takes


@dataclass(frozen=True)
class Text:
    """`bits` a byte, `tokens` and `bytes` of one text; `exact`: decoding its tokens gives its bytes back."""

    bits: float
    tokens: int
    bytes: int
    exact: bool


def opening(tokenizer: Tokenizer) -> int:
    """The token that stands before a scored text."""
    if tokenizer.add_bos and tokenizer.bos is not None:
        return tokenizer.bos
    newline = tokenizer.encode("\n", bos=False)
    if len(newline) == 1:
        return newline[0]
    return tokenizer.main_eos or 0


def per_text(model: Decoder, tokenizer: Tokenizer, texts: Mapping[str, str]) -> dict[str, Text]:
    """Each text's figures."""
    first, out = opening(tokenizer), {}
    for name, text in texts.items():
        nats, tokens, exact = 0.0, 0, True
        for window in cut(text):
            ids = tokenizer.encode(window, bos=False)
            exact = exact and tokenizer.decode(ids) == window
            nats -= float(logprobs(model, [first, *ids]).sum())
            tokens += len(ids)
        size = sum(len(w.encode()) for w in cut(text))
        out[name] = Text(nats / math.log(2) / size, tokens, size, exact)
    return out


@torch.inference_mode()
def logprobs(model: Decoder, ids: list[int]) -> torch.Tensor:
    """log p of ids[1:], each behind those before it; (n - 1,) float32."""
    hidden = states(model, ids[:-1])
    wanted = torch.tensor(ids[1:])
    parts = []
    for at in range(0, len(wanted), 64):
        z = torch.log_softmax(model.head.logits(hidden[at : at + 64]).float(), -1)
        parts.append(z.gather(1, wanted[at : at + 64, None])[:, 0])
    return torch.cat(parts) if parts else torch.zeros(0)


def states(model: Decoder, ids: list[int]) -> torch.Tensor:
    """(n, D) states behind each of `ids`, before the last norm."""
    store = model.new_store()
    seq, out = store.new(), []
    for at in range(0, len(ids), 512):
        rows = chain(ids[at : at + 512], at)
        (o,), _ = model.forward(Step([Group(seq, rows, PLAIN, Told(len(ids)), None)], taps=frozenset({"last"})), store)
        store.commit(seq, rows, np.arange(len(rows)))
        out.append(o.hidden["last"])
    store.drop(seq)
    return torch.cat(out)


def prefill_seconds(
    before: tuple[Decoder, Tokenizer], after: tuple[Decoder, Tokenizer], texts: Mapping[str, str], rounds: int = 3
) -> tuple[float, float]:
    """Seconds to read the same bytes of all texts under either; in turn, the best of `rounds`."""
    best = [math.inf, math.inf]
    for _ in range(rounds):
        for i, (model, tokenizer) in enumerate((before, after)):
            began = time.perf_counter()
            for text in texts.values():
                _prefill(model, tokenizer.encode(cut(text, PREFILL)[0], bos=False))
            best[i] = min(best[i], time.perf_counter() - began)
    return best[0], best[1]


def _prefill(model: Decoder, ids: list[int]) -> None:
    """Only the last token's scores are wanted, as before an answer."""
    store = model.new_store()
    seq, rows = store.new(), chain(ids, 0)
    model.forward(Step([Group(seq, rows, PLAIN, Told(len(ids)), np.array([len(ids) - 1]))]), store)
    store.drop(seq)


def with_rows(model: Decoder, embed: torch.Tensor, head: torch.Tensor | None) -> Decoder:
    """The same body between other ends; `model` is dense."""
    from dataclasses import replace

    assert isinstance(model.head, DenseHead)
    spec = replace(model.spec, vocab=len(embed), tied=head is None)
    ends = DenseHead(spec, embed, model.head.norm, head)
    return Decoder(spec, model.blocks, ends, model.dtype, model.device, model.kv_dtype)
