"""Which old tokens a new one is: the same bytes, the same control token, or else a run of old pieces.

    copied[i] = j     new token i spells what old token j spells, or is the control token of that name
    pieces[i]         otherwise: the old tokens that spell it, in order; empty if the old vocabulary cannot

Control tokens that begin and end texts, or that the chat template writes, are added to the new tokenizer where it lacks
them, so that the model keeps its habits: only text is cut in another way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from fewer.errors import BadRequest
from fewer.models.tokenizer import Tokenizer
from fewer.tokens.transfer.ends import End
from fewer.tokens.vocabulary import Vocabulary

LEAST = 16  # tokens the two vocabularies must share


@dataclass(frozen=True)
class Match:
    """`size`: rows of the new model. `copied`: new id -> old id. `pieces`: new id -> old ids, for all others."""

    size: int
    copied: dict[int, int]
    pieces: dict[int, list[int]]

    def shared(self) -> tuple[torch.Tensor, torch.Tensor]:
        """New and old ids of the copied tokens, (S,) each."""
        return torch.tensor(list(self.copied)), torch.tensor(list(self.copied.values()))


def grafted(old: End, new: End, template: str | None) -> Backend:
    """The new tokenizer with the control tokens the model cannot do without. `template`: its chat template."""
    model, out = old.tokenizer, Backend.from_str(new.tokenizer.backend.to_str())
    out.encode_special_tokens = False
    kept = [i for i in sorted(model.special) if i in model.eos or i == model.bos or model.name(i) in (template or "")]
    names = [model.name(i) for i in kept]
    out.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in names if out.token_to_id(n) is None])
    return out


def match(old: End, new: Tokenizer, vocabulary: Vocabulary) -> Match:
    """`new`, `vocabulary`: the grafted tokenizer's two faces. Raises BadRequest if nothing, or next to nothing, is shared."""
    size = new.vocab_size
    specials = {old.tokenizer.name(i): i for i in old.tokenizer.special}
    copied, pieces, ordinary = dict[int, int](), dict[int, list[int]](), 0
    for i in range(size):
        data = vocabulary.tokens[i]
        if i in vocabulary.special:
            same = specials.get(new.name(i))
            if same is not None:
                copied[i] = same
                continue
        elif data and (found := old.vocabulary.ids.get(data)) is not None:
            copied[i] = found
            ordinary += len(data) > 1
            continue
        pieces[i] = [] if i in vocabulary.special or not data else spelled(old.vocabulary, data)
    if ordinary < LEAST:
        raise BadRequest(
            f"{old.name} and {vocabulary.name} share only {ordinary} tokens of more than one byte, so nothing is known of "
            "the new ones; take a tokenizer of the same kind of text"
        )
    return Match(size, copied, pieces)


def spelled(old: Vocabulary, data: bytes) -> list[int]:
    """The old tokens that spell `data`, [] if there are none."""
    try:
        if not old.strips:
            return old.encode_bytes(data)
        if data[:1] == b" " and len(data) > 1:
            return old.encode_bytes(data[1:])  # the space that encoding puts before is the token's own
        first, *rest = old.encode_bytes(data)
        bare = old.ids.get(old.tokens[first].removeprefix(b" "))
        return rest if bare is None else [bare, *rest]
    except BadRequest:
        return []
