"""`fewer bench prefill`: long documents read whole and by methods that read prompts sparsely, then asked many questions.

Reading dominates at these lengths, so a document is read once a plan and every question starts from a fork of what was
read. Facts lie at even depths of real English; each question asks for one. The plans take turns piece by piece, so that all
meet the same hours of the machine:

    times    plain's seconds of reading / the plan's        late    the same for the last quarter of a document's pieces
    reads    entries read, of plain's                       kept    facts told, of those that plain tells
    score    facts told, of all

The question is a part of the prompt and read as the plan reads; the answer is greedy and reads all, as these methods mean it.
Does not: measure plans that keep less of the prompt, which need the question first (`fewer bench long`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fewer
from fewer.bench.long.measure import ids_of
from fewer.bench.long.tasks import LongItem, about_one_text
from fewer.bench.long.texts import load
from fewer.bench.record import head, save
from fewer.engine import Engine
from fewer.errors import BadRequest
from fewer.kv.store import Store
from fewer.plan import PLAIN, Seams, plan
from fewer.types import Group, Out, Step, Told, chain

ROOM = 160  # tokens beside the document: template, question, answer
WHOLE = "plain"


class Reader:
    """One plan's reading of the document, piece by piece, and its answers."""

    def __init__(self, eng: Engine, seams: Seams, length: int) -> None:
        """length: tokens of the document with its longest question."""
        self.eng, self.seams, self.length = eng, seams, length
        self.store: Store = eng.stores["main"]
        self.seq, self.told = self.store.new(), self._told(0)
        self.seconds: list[float] = []
        self.reads = 0  # entries, of the document alone
        self.found: list[float] = []  # a score a question

    def _told(self, seen: int) -> Told:
        spec = self.eng.model.spec
        heads = (spec.n_heads, spec.n_kv_heads)
        told = Told(self.length, spec.n_layers, spec.windows, heads, spec.vocab, seen=seen, memory=self.eng.memory)
        if self.seams.select is not None:
            told.start(self.seams.select)
        return told

    def piece(self, ids: Sequence[int]) -> None:
        """Read the next tokens of the document."""
        start = time.perf_counter()
        _, read = self._forward(self.seq, ids, self.told, self.seams, None)
        self.seconds.append(time.perf_counter() - start)
        self.reads += read

    def answer(self, question: Sequence[int], most: int, stops: frozenset[int]) -> list[int]:
        """Greedy tokens after the document and this question, without the stop token."""
        seq, told = self.store.fork(self.seq), self._told(self.told.seen)
        try:
            token, said = self._next(seq, question, told, self.seams), list[int]()
            told.decoding = True
            while token not in stops and len(said) < most:
                said.append(token)
                told.generated.append(token)
                token = self._next(seq, [token], told, PLAIN)
            return said
        finally:
            self.store.drop(seq)

    def close(self) -> None:
        """Free what was read."""
        self.store.drop(self.seq)

    def _next(self, seq: int, ids: Sequence[int], told: Told, seams: Seams) -> int:
        """The likeliest token after these, which are read."""
        out, _ = self._forward(seq, ids, told, seams, np.array([len(ids) - 1]))
        assert out.best is not None
        return int(out.best[0, 0])

    def _forward(
        self, seq: int, ids: Sequence[int], told: Told, seams: Seams, want: np.ndarray | None
    ) -> tuple[Out, int]:
        """Read and commit tokens. -> what the forward says, entries read."""
        rows = chain(list(ids), told.seen)
        (out,), spent = self.eng.model.forward(Step([Group(seq, rows, seams, told, want)], best=1), self.store)
        self.store.commit(seq, rows, np.arange(len(ids)))
        told.seen += len(ids)
        return out, sum(s.entries_read for s in spent)


def measure(
    model: str = "smollm2-135m",
    plans: Sequence[str] = ("minference:budget=0.1",),
    length: int = 4096,
    questions: int = 8,
    seed: int = 0,
    say: Callable[[str], None] = lambda s: None,
    threads: int | None = None,
    texts: Path | None = None,
    keep: Path | None = None,
    documents: int = 1,
) -> dict[str, Any]:
    """{"what": "prefill", ..., "results": {plan: figures}}. questions: a document. texts: a folder, see long/texts.py. keep:
    file for the result, written anew as each document is done.

    Raises BadRequest, and what opening a model or making a plan raises."""
    seams = {WHOLE: PLAIN, **{p: plan([p]) for p in plans}}
    if wrong := next((p for p, s in seams.items() if p != WHOLE and not _sparse(s)), None):
        raise BadRequest(f"{wrong} does not read a prompt sparsely: `fewer bench long` measures such a plan")
    if min(questions, documents) < 1 or length < 1024:
        raise BadRequest(
            f"questions={questions} and documents={documents} must be at least 1, the length, {length}, at least 1024 tokens"
        )
    say(f"loading {model}")
    eng = fewer.open(model, threads=threads, prefix_bytes=0)
    if eng.tokenizer is None or length + ROOM > eng.model.spec.max_context:
        raise BadRequest(
            f"{model} needs a tokenizer and room for {length} + {ROOM} tokens, it has {eng.model.spec.max_context}"
        )
    given = "".join(f" --plan '{p}'" for p in plans) + (f" --texts {texts}" if texts else "")
    asked = f"--length {length} --questions {questions} --documents {documents} --seed {seed}"
    out: dict[str, Any] = {
        **head("prefill", f"fewer bench prefill -m {model} {asked}{given}", seed),
        "model": model,
        "chunk": eng.chunk,
    }
    encode, sources = eng.tokenizer.encode, load(texts)
    read, depths = dict[str, list[Reader]]({name: [] for name in seams}), list[float | None]()
    for i in range(documents):
        about = f"document {i + 1} of {documents}, " if documents > 1 else ""
        items = about_one_text(questions, length, seed + i, lambda t: len(encode(t, bos=False)), sources)
        _document(eng, seams, items, about, say, read)
        depths += [item.depth for item in items]
        out["results"] = {name: _figures(readers, read[WHOLE], depths) for name, readers in read.items()}
        if keep is not None:
            save(keep, out)
    return out


def _document(
    eng: Engine,
    seams: dict[str, Seams],
    items: list[LongItem],
    about: str,
    say: Callable[[str], None],
    read: dict[str, list[Reader]],
) -> None:
    """The document of `items`, read and asked by every plan; its readers are added to `read`. about: before what is said."""
    tokenizer = eng.tokenizer
    assert tokenizer is not None
    asked = [ids_of(eng, item) for item in items]
    document = asked[0][0][: min(len(ids) - n for ids, n in asked)]
    longest = max(len(ids) for ids, _ in asked)
    readers = {name: Reader(eng, s, longest) for name, s in seams.items()}
    for at in range(0, len(document), eng.chunk):
        for name, reader in readers.items():
            say(f"{about}{at:,} of {len(document):,} tokens: {name}")
            reader.piece(document[at : at + eng.chunk])
    for name, reader in readers.items():
        for i, (item, (ids, _)) in enumerate(zip(items, asked)):
            say(f"{about}question {i + 1} of {len(items)}: {name}")
            said = reader.answer(ids[len(document) :], item.max_tokens, tokenizer.eos)
            reader.found.append(item.score(tokenizer.decode(said)))
        reader.close()
        read[name].append(reader)


def _sparse(seams: Seams) -> bool:
    select = seams.select
    return select is not None and len(seams.methods()) == 1 and select.acts == "prompt"


def _figures(readers: list[Reader], whole: list[Reader], depths: list[float | None]) -> dict[str, Any]:
    """Of a plan's readers, a document each; whole: those that read all."""
    found, can = ([x for r in of for x in r.found] for of in (readers, whole))
    told = [i for i, f in enumerate(can) if f > 0]
    return {
        "seconds": round(_seconds(readers), 2),
        "times": round(_seconds(whole) / _seconds(readers), 3),
        "late": round(_seconds(whole, late=True) / _seconds(readers, late=True), 3),
        "reads": round(sum(r.reads for r in readers) / sum(r.reads for r in whole), 4),
        "score": round(sum(found) / len(found), 4),
        "can": len(told),
        "kept": round(sum(found[i] for i in told) / len(told), 4) if told else None,
        "found": found,
        "depths": depths,
        "tokens": [r.told.seen for r in readers],
        "pieces": [[round(s, 3) for s in r.seconds] for r in readers],
    }


def _seconds(readers: list[Reader], late: bool = False) -> float:
    """Of reading. late: of the last quarter of each document's pieces."""
    return sum(sum(r.seconds[-len(r.seconds) // 4 :] if late else r.seconds) for r in readers)
