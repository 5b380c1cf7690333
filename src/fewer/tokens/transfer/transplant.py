"""A model under another tokenizer: match the vocabularies, start the new rows, adapt them if asked, and judge the result.

    t = transplant(open_model("smollm2-135m"), open_target("tokenizer.json"), "fvt", Knobs(), say)
    t.rows["embed"]                    # what folder.write puts into a folder

The body of the model is never changed. Not done: other widths, merged or pruned layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import mean
from typing import Any

import torch
from tokenizers import Tokenizer as Backend

from fewer.errors import BadRequest
from fewer.models.chat import ChatTemplate
from fewer.models.decoder import Decoder
from fewer.models.load import load
from fewer.models.tokenizer import Tokenizer, wrap
from fewer.models.tokenizer_file import Built
from fewer.tokens.load import from_tokenizer
from fewer.tokens.transfer import bits, starts
from fewer.tokens.transfer.ends import End
from fewer.tokens.transfer.match import Match, grafted, match
from fewer.tokens.vocabulary import Vocabulary

Say = Callable[[str], None]
PROBE = "The quick brown fox: 12345 naïve café, d'où?\n\tif x == 1:  # Привет, 한국어 हिन्दी 😀\n"


@dataclass(frozen=True)
class Transplant:
    """The grafted tokenizer in its three faces, how it matches the old one, and the model's new rows by name."""

    backend: Backend
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    match: Match
    template: str | None
    rows: dict[str, torch.Tensor]

    def model(self, old: Decoder) -> Decoder:
        """`old` (dense) between the new rows."""
        return bits.with_rows(old, self.rows["embed"], self.rows.get("head"))

    def facts(self) -> dict[str, Any]:
        """Sizes, for reports."""
        return {
            "tokens": self.match.size,
            "copied": len(self.match.copied),
            "new": len(self.match.pieces),
            "unspelled": sum(not p for p in self.match.pieces.values()),
            "exact": self.vocabulary.round_trips(PROBE),
        }


def transplant(old: End, new: End, how: str, knobs: starts.Knobs, say: Say) -> Transplant:
    """Raises BadRequest: vocabularies without overlap, an unknown `how`, omp without a model behind `new`."""
    if how == "omp" and new.source is None:
        raise BadRequest(
            "omp reads the target model's own embeddings: let --to name a model, or take fvt or tokenadapt"
        )
    template = ChatTemplate.from_source(old.weights(), old.tokenizer)
    text = None if template is None else template.template
    backend, model = grafted(old, new, text), old.tokenizer
    kept = model.eos if model.bos is None else model.eos | {model.bos}
    ids = {i: j for i in kept if (j := backend.token_to_id(model.name(i))) is not None}
    special = frozenset(i for i, token in backend.get_added_tokens_decoder().items() if token.special)
    built = Built(
        backend,
        None if model.bos is None else ids[model.bos],
        None if model.main_eos is None else ids[model.main_eos],
        frozenset(ids[i] for i in model.eos),
        model.add_bos,
        special,
    )
    tokenizer = wrap(built)
    vocabulary = from_tokenizer(tokenizer, new.name, "tokenizer.json")
    say("matching vocabularies")
    found = match(old, tokenizer, vocabulary)
    rows = {}
    for name in ("embed",) if old.weights().spec.tied else ("embed", "head"):
        donor = None if new.source is None else new.matrix(name)
        rows[name] = starts.rows(how, old.matrix(name), found, (old.vocabulary, vocabulary), donor, knobs, say)
    return Transplant(backend, tokenizer, vocabulary, found, text, rows)


def body(old: End) -> Decoder:
    """The model in float32, which every figure is measured with."""
    return load(old.weights(), "float32")


def judge(model: Decoder, tokenizer: Tokenizer, texts: Mapping[str, str]) -> dict[str, Any]:
    """Bits a byte and tokens by text, and their means."""
    found = bits.per_text(model, tokenizer, texts)
    return {"bits": mean(t.bits for t in found.values()), "texts": {name: asdict(t) for name, t in found.items()}}


def about(old: End, new: End, knobs: starts.Knobs, made: Transplant) -> dict[str, Any]:
    """What was put where."""
    return {"model": old.name, "target": new.name, "knobs": asdict(knobs), "target_facts": made.facts()}


def report(
    old: End, new: End, ways: Sequence[str], knobs: starts.Knobs, texts: Mapping[str, str], say: Say, timed: bool = True
) -> dict[str, Any]:
    """Before and after, for each way of starting."""
    say("before")
    dense, out = body(old), dict[str, Any]()
    out |= {"before": judge(dense, old.tokenizer, texts), "ways": {}}
    for how in ways:
        t = transplant(old, new, how, knobs, say)
        say(f"after: {how}")
        out["ways"][how] = judge(t.model(dense), t.tokenizer, texts)
        out |= about(old, new, knobs, t)
    if timed:
        say("prefill")
        seconds = bits.prefill_seconds((dense, old.tokenizer), (t.model(dense), t.tokenizer), texts)
        out["prefill_seconds"] = dict(zip(("before", "after"), seconds))
    return out
