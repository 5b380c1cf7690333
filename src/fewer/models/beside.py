"""A draft model beside the main one: do their vocabularies match, and is the draft really the smaller one?

Both are found out when the model is opened and told when a method wants to use it, so a plain run never minds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from fewer.errors import BadRequest
from fewer.models.spec import Spec
from fewer.plan import Seams, label

if TYPE_CHECKING:
    from fewer.ledger import Ledger
    from fewer.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class Side:
    """One of the two models."""

    name: str
    spec: Spec
    tokenizer: Tokenizer


@dataclass
class Beside:
    """The main model and the draft model of one engine."""

    main: Side
    draft: Side

    @cached_property
    def same_vocabulary(self) -> bool:
        """Does every token id that both have spell the same? One may have more tokens at the end."""
        a, b = self.main.tokenizer, self.draft.tokenizer
        shared = min(a.vocab_size, b.vocab_size)
        return all(a.name(i) == b.name(i) for i in range(shared))

    @property
    def words(self) -> dict[str, Tokenizer]:
        """Both vocabularies, by the models' names in the engine."""
        return {"main": self.main.tokenizer, "draft": self.draft.tokenizer}

    @property
    def warnings(self) -> list[str]:
        """What the user should know about the pair, a sentence each."""
        main, draft = self.main.spec.row_weights, self.draft.spec.row_weights
        if draft <= main:
            return []
        return [
            f"the draft model {self.draft.name} is larger than the model it drafts for, {self.main.name} "
            f"({draft / 1e6:.0f} against {main / 1e6:.0f} million weights a token): drafting will cost more than it saves."
        ]

    def serve(self, seams: Seams, ledger: Ledger) -> None:
        """Check a plan's use of the draft model; warnings become notes. Raises BadRequest if the vocabularies differ."""
        users = [m for m in seams.methods() if "draft" in m.uses]
        if not users:
            return
        ledger.notes += self.warnings
        for m in users:
            if not m.by_text and not self.same_vocabulary:
                sizes = [f"{s.name} has {s.tokenizer.vocab_size} tokens" for s in (self.draft, self.main)]
                raise BadRequest(
                    f"{label(m)} needs a draft model with the vocabulary of the main one: {sizes[0]}, {sizes[1]}, and they "
                    "are not the same. Open a draft model of the same family, or use a method that drafts through text."
                )
