"""Token healing: which tokens should stand for a prompt that may end inside a token.

    none    the encoder's own tokens, so a word cut short stays cut short
    plain   the last token is taken back; the next one must begin with its bytes (known as token healing)
    align   `back` tokens are taken back; each new one must match the bytes still owed, or reach beyond them:
            "Token Alignment via Character Matching for Subword Completion"
    exact   a cover of the prompt is drawn from the model's distribution given the prompt's bytes (bytes.py), so what
            follows is distributed as the model's text that begins with these bytes

Healing is a step between text and tokens, before any plan: it returns a prompt of token ids, and every method runs on
that prompt as on any other. That is why it is no method of a seam. Temperature 0 takes the likeliest token or cover.
Does not: heal messages (a chat template ends where a token ends), apply penalties or rules to the healed token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.ledger import Ledger
from fewer.plan import PLAIN
from fewer.tokens.bytes import ByteModel
from fewer.tokens.trie import Trie
from fewer.types import Group, Rng, Step, Told, chain

KINDS = ("none", "plain", "align", "exact")


@dataclass(frozen=True)
class Healed:
    """A prompt ready to run: token ids, the bytes that its last token has beyond the text, and what this cost."""

    tokens: list[int]
    beyond: bytes
    ledger: Ledger


class Healer:
    """Heals prompts of one engine; the tokenizer's tables are made once. Raises UnsupportedArchitecture for `exact` on a
    tokenizer that cannot be followed, BadRequest for an unknown kind or an engine without tokenizer."""

    def __init__(self, engine: Engine, kind: str = "exact", back: int = 3) -> None:
        if kind not in KINDS:
            raise BadRequest(f"healing {kind!r} is not one of {', '.join(KINDS)}")
        if back < 1:
            raise BadRequest(f"back={back} tokens: at least 1 must be taken back")
        if engine.tokenizer is None:
            raise BadRequest("healing needs text, and this engine has no tokenizer")
        self.engine, self.kind = engine, kind
        self.back = 1 if kind == "plain" else back
        self._bytes = ByteModel(engine) if kind == "exact" else None
        self._trie = Trie.of(engine.tokenizer) if kind in ("plain", "align") else None

    def heal(self, text: str, temperature: float = 0.0, rng: Rng | None = None, ledger: Ledger | None = None) -> Healed:
        """Tokens for `text`. Raises BadRequest for an empty text or one the tokenizer cannot spell."""
        if not text:
            raise BadRequest("the prompt is empty: there is nothing to heal")
        rng, ledger = rng or Rng(None), ledger or Ledger()
        if self._bytes is not None:
            return self._exact(text, temperature, rng, ledger)
        assert self.engine.tokenizer is not None
        ids = self.engine.tokenizer.encode(text)
        if self._trie is None:
            return Healed(ids, b"", ledger)
        return self._matched(ids, temperature, rng, ledger)

    def _exact(self, text: str, temperature: float, rng: Rng, ledger: Ledger) -> Healed:
        """Draw a cover of the text and one token more where it ends with a token; that one is left to the run."""
        assert self._bytes is not None
        with self._bytes.start(text, ledger=ledger) as state:
            top = max(o.head.known for o in state.opens)
            parts = []
            for o in state.opens:
                assert o.next is not None
                parts.append(o.next[o.node.low : o.node.high] * np.exp(o.head.known - top))
            at = _draw(np.concatenate(parts), temperature, rng)
            starts = np.cumsum([0, *map(len, parts)])
            which = int(np.searchsorted(starts, at, "right")) - 1
            chosen, trie = state.opens[which], self._bytes.rule.trie
            ids, beyond = [h.token for h in chosen.head.path()], b""
            if chosen.node.prefix:
                place = chosen.node.low + at - int(starts[which])
                ids.append(int(trie.ids[place]))
                beyond = trie.words[place][len(chosen.node.prefix) :]
            return Healed(ids, beyond, ledger)

    def _matched(self, ids: list[int], temperature: float, rng: Rng, ledger: Ledger) -> Healed:
        """Take tokens back and draw others that match their bytes, until all of these are there again."""
        engine, tokenizer, trie = self.engine, self.engine.tokenizer, self._trie
        assert tokenizer is not None and trie is not None
        first = 1 if tokenizer.bos is not None and ids[0] == tokenizer.bos else 0
        keep = max(len(ids) - self.back, first or 1)
        owed = b"".join(tokenizer.token_bytes(i) for i in ids[keep:])
        ids, told, store = ids[:keep], Told(0), engine.stores["main"]
        seq, done = engine.prefixes.take(ids) or (store.new(), 0)
        beyond = b""
        try:
            while owed:
                fits = trie.beginnings(owed) if self.kind == "align" else []
                node = trie.node(owed)
                fits += range(node.low, node.high) if node else []
                places = np.unique(np.array(fits, dtype=np.int64))
                if not len(places):
                    raise BadRequest(f"no token matches the prompt's end {owed!r}")
                rows = chain(ids[done:], done)
                (out,), (cost,) = engine.model.forward(
                    Step([Group(seq, rows, PLAIN, told, np.array([len(rows) - 1]))]), store
                )
                store.commit(seq, rows, np.arange(len(rows)))
                ledger.forward(
                    "main",
                    engine.model.spec.n_layers,
                    cost.rows,
                    cost.layers_run,
                    cost.layers_skipped,
                    cost.entries_read,
                )
                done = len(ids)
                assert out.logits is not None
                p = torch.softmax(out.logits[0].double(), -1).cpu().numpy()[trie.ids[places]]
                place = int(places[_draw(p, temperature, rng)])
                ids.append(int(trie.ids[place]))
                word = trie.words[place]
                owed, beyond = owed[len(word) :], word[len(owed) :]
            engine.prefixes.put(ids[:done], seq)
        finally:
            store.drop(seq)
        return Healed(ids, beyond, ledger)


def _draw(p: np.ndarray, temperature: float, rng: Rng) -> int:
    return int(p.argmax()) if temperature == 0 else rng.categorical(p ** (1 / temperature))
