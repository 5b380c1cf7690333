"""The exact next-byte distribution of a tokenised model, for any bytes before it.

    P(bytes)         =  sum over covers t1..tk of the bytes:  P(t1) P(t2 | t1) ... P(tk | t1..tk-1)
    P(next | bytes)  =  P(bytes + next) / P(bytes),  and the same for the text's end

A cover (covers.py) is a token sequence the encoder could begin its output with, whose last token reaches or crosses the
end of the bytes. After each of its tokens the model's distribution is cut down to tokens that may follow and
renormalised, so every level sums to one: "Exact Byte-Level Probabilities from Tokenized Language Models for FIM-Tasks
and Model Ensembles", and with the rule LongestMatch "Understanding and Mitigating Tokenization Bias in Language Models".

The covers of a text share all but their last tokens. What they share is one committed sequence of the engine's store;
the rest is a tree that goes through the model as rows with parents, so a byte costs at most one forward and a prompt
one a chunk. Control tokens other than the ends of text are left out. Does not: sample from several texts in one
forward; drop unlikely covers.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence

import numpy as np
import torch

from fewer.engine import Engine
from fewer.errors import BadRequest, ModelError, PromptTooLong
from fewer.ledger import Ledger
from fewer.plan import PLAIN
from fewer.tokens.covers import Head, Open, log, meeting, tree, walk
from fewer.tokens.rules import BytePairs, Rule
from fewer.types import Group, Rows, Step, Told, chain

ROWS = 256  # of a forward whose logits are wanted
END = 256  # the text ends here: the last place of a next-byte distribution


class ByteModel:
    """An engine's model over bytes. rule: how text becomes tokens, by default that of the engine's own tokenizer.

    Raises UnsupportedArchitecture if the tokenizer cannot be followed exactly, ModelError if there is none."""

    def __init__(self, engine: Engine, rule: Rule | None = None) -> None:
        if rule is None and engine.tokenizer is None:
            raise ModelError("exact bytes need a tokenizer, and this engine has none: give a rule.")
        self.engine = engine
        self.rule: Rule = rule or BytePairs(engine.tokenizer)  # type: ignore[arg-type]
        self.ends = np.array(sorted(engine.tokenizer.eos if engine.tokenizer else ()), dtype=np.int64)

    def start(
        self, text: str | bytes = b"", context: Sequence[int] | None = None, ledger: Ledger | None = None
    ) -> ByteState:
        """Read `text` and stand behind it. context: token ids before the text; None = the model's habit (BOS or none).
        ledger: where forwards are entered.

        Where nothing comes before the text's first token the model cannot score it: BOS, or without one the end of
        text, is put there if the text does not settle that token. Raises BadRequest for an empty text without context,
        for bytes that no text begins with, and for bytes that the vocabulary cannot spell; PromptTooLong.
        """
        data = _checked(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        if not data and not context:
            raise BadRequest("the text is empty: give at least one byte, or context tokens to go on from")
        tokenizer = self.engine.tokenizer
        if context is None and not (tokenizer is not None and tokenizer.add_bos):
            state = ByteState(self, data, (), ledger)
            if state.certain:
                return state.ready()
            state.close()
        return ByteState(self, data, _beginning(self.engine) if context is None else context, ledger).ready()


class ByteState:
    """Some bytes, and all that is needed to go on from them. `close()` frees its cache; it is a context manager.

    ledger: forwards and rows spent so far. bytes: the text so far. opens: its covers."""

    def __init__(self, model: ByteModel, data: bytes, context: Sequence[int], ledger: Ledger | None = None) -> None:
        self.model, self.bytes, self.ledger = model, data, ledger or Ledger()
        self._engine, self._seq = model.engine, model.engine.stores["main"].new()
        self._told = Told(0)
        self._tip: Head | None = None  # the last head that is committed
        rule, at = model.rule, model.rule.sure(data)
        head: Head | None = None if context or at else Head(-1, -1, rule.start, None)
        for token in (*context, *(self._encoded(data, at) if at else ())):
            head = Head(int(token), -1, rule.start, head)
        assert head is not None
        self.opens = walk(rule, [Open(head, rule.trie.root)], data[at:])
        if not self.opens:
            raise _unspelled(rule, data)

    def __enter__(self) -> ByteState:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the cache."""
        self._engine.stores["main"].drop(self._seq)

    @property
    def certain(self) -> list[int]:
        """The tokens that every cover begins with."""
        return [h.token for h in meeting(o.head for o in self.opens).path()]

    def next(self) -> np.ndarray:
        """(257,) probabilities of the next byte; the last one is that of the text's end."""
        masses = self._masses(self.opens)
        return masses / masses.sum()

    def push(self, data: bytes) -> float:
        """Append bytes; returns the log probability that the text goes on with them. Raises BadRequest if it cannot."""
        before = self._total(self.opens)
        opens = walk(self.model.rule, self.opens, data)
        if not opens:
            raise _unspelled(self.model.rule, self.bytes + data)
        self._ask(opens, opens)
        self.opens, self.bytes = opens, self.bytes + data
        return self._total(opens) - before

    def score(self, candidates: Sequence[bytes]) -> list[float]:
        """Log probability that the text goes on with each candidate; -inf for one it cannot go on with.

        What candidates have in common is computed once, and all of it in few forwards."""
        before = self._total(self.opens)
        ways = [walk(self.model.rule, self.opens, c) for c in candidates]
        at = 0
        while at < len(ways):
            n = 1
            while at + n < len(ways) and self._size(ways[at : at + n + 1]) <= ROWS:
                n += 1
            self._ask([o for way in ways[at : at + n] for o in way], self.opens)
            at += n
        return [self._total(way) - before if way else -math.inf for way in ways]

    # ------------------------------------------------------------------ inside
    def ready(self) -> ByteState:
        """Run the prompt: what is certain becomes cache, every cover's head gets its distribution."""
        engine, base = self._engine, meeting(o.head for o in self.opens)
        sure = base.path()
        for head in sure:
            head.logp = 0.0
        ids = [h.token for h in sure]
        found = engine.prefixes.take(ids)
        done = 0
        if found is not None:
            engine.stores["main"].drop(self._seq)
            self._seq, done = found
        while len(ids) - done > engine.chunk:
            self._forward(chain(ids[done : done + engine.chunk], done), None, np.arange(engine.chunk))
            done += engine.chunk
        self._tip = sure[done - 1] if done else None
        self._ask(self.opens, self.opens)
        engine.prefixes.put(ids, self._seq)
        return self

    def _ask(self, opens: list[Open], live: list[Open]) -> None:
        """One forward gives every open its distribution; then what all of `live` have in common is committed."""
        new = [o for o in opens if o.next is None]
        if not new:
            return
        heads = list(tree((o.head for o in new), self._tip))
        number = {id(h): i for i, h in enumerate(heads)}
        asked = {id(o.head) for o in new} | {id(h.parent) for h in heads if h.logp is None}
        want = np.array([i for i, h in enumerate(heads) if id(h) in asked])
        parent = np.array([number.get(id(h.parent), -1) for h in heads])
        pos = np.array([h.at for h in heads])
        if pos.max() >= self._engine.model.spec.max_context:
            raise PromptTooLong(
                f"the text has {pos.max() + 1} tokens, the context is {self._engine.model.spec.max_context}"
            )
        in_line = bool((parent == np.arange(-1, len(heads) - 1)).all())
        rows = Rows(pos, parent, np.array([h.token for h in heads]), None, in_line)
        sure = [number[id(h)] for h in meeting(o.head for o in live).path(self._tip) if id(h) in number]
        logits = self._forward(rows, want, np.array(sure, dtype=np.int64))
        if sure:
            self._tip = heads[sure[-1]]
        after = {id(heads[i]): self._tokens(heads[i], row) for i, row in zip(want, logits)}
        for h in heads:
            if h.logp is None:
                assert h.parent is not None
                h.logp = h.parent.known + log(after[id(h.parent)][0][h.place])
        for o in new:
            o.next, o.end = after[id(o.head)]

    def _forward(self, rows: Rows, want: np.ndarray | None, sure: np.ndarray) -> torch.Tensor:
        """Run rows and commit those that are sure. Returns the logits of the wanted ones."""
        decoder, store = self._engine.model, self._engine.stores["main"]
        (out,), (cost,) = decoder.forward(Step([Group(self._seq, rows, PLAIN, self._told, want)]), store)
        store.commit(self._seq, rows, sure)
        led = self.ledger
        led.forward("main", decoder.spec.n_layers, cost.rows, cost.layers_run, cost.layers_skipped, cost.entries_read)
        self._engine.forwards["main"] += 1
        return torch.empty(0) if out.logits is None else out.logits

    def _tokens(self, head: Head, logits: torch.Tensor) -> tuple[np.ndarray, float]:
        """logits (V,) after a head -> (probabilities of the trie's tokens (N,), that of the text's end)."""
        rule, z = self.model.rule, logits.double().cpu().numpy()
        z = np.exp(z - z.max())
        p = z[rule.trie.ids] * rule.mask(head.state)
        end = float(z[self.model.ends].sum())
        total = p.sum() + end
        return p / total, end / total

    def _masses(self, opens: list[Open]) -> np.ndarray:
        """(257,) probabilities of the bytes so far and each next one, up to a common factor."""
        top = max(o.head.known for o in opens)
        out = np.zeros(257)
        for o in opens:
            assert o.next is not None
            weight = math.exp(o.head.known - top) if top > -math.inf else 0.0
            out[:END] += weight * self.model.rule.trie.next_bytes(o.node, o.next)
            out[END] += weight * o.end * (not o.node.prefix)
        return out

    def _total(self, opens: list[Open]) -> float:
        """Log probability of the bytes that `opens` cover, given what is certain."""
        top = max(o.head.known for o in opens)
        return top + log(float(self._masses(opens).sum())) if top > -math.inf else top

    def _size(self, ways: list[list[Open]]) -> int:
        return sum(1 for _ in tree((o.head for way in ways for o in way), self._tip))

    def _encoded(self, data: bytes, end: int) -> list[int]:
        """The encoder's own tokens of the first `end` bytes, as they stand in the whole text."""
        tokenizer = self._engine.tokenizer
        assert tokenizer is not None
        ids: list[int] = []
        spelled = b""
        for token in tokenizer.encode(data.decode(errors="ignore"), bos=False):
            if len(spelled) >= end:
                break
            ids.append(token)
            spelled += tokenizer.token_bytes(token)
        if spelled != data[:end]:
            raise _unspelled(self.model.rule, data)
        return ids


def _checked(data: bytes) -> bytes:
    """Raises BadRequest for bytes that no UTF-8 text begins with."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError as e:
        raise BadRequest(
            f"byte {e.start} of the text is not UTF-8 ({e.reason}): decode the text properly first"
        ) from None
    return data


def _beginning(engine: Engine) -> list[int]:
    """What stands before a text whose first token must be scored."""
    tokenizer = engine.tokenizer
    start = None if tokenizer is None else tokenizer.main_eos if tokenizer.bos is None else tokenizer.bos
    if start is None:
        raise BadRequest("the text is too short to settle its first token, and nothing comes before it: give context")
    return [start]


def _unspelled(rule: Rule, data: bytes) -> BadRequest:
    """Why there is no cover."""
    bad = next((i for i, b in enumerate(data) if b in rule.trie.missing), None)
    if bad is not None:
        return BadRequest(f"byte {bad} of the text, 0x{data[bad]:02x}, is in no token: this vocabulary cannot spell it")
    return BadRequest(
        "no encoding of a text begins with these bytes: they are not what the tokenizer makes of Unicode text"
    )
