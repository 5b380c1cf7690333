"""A tokenizer's training as four axes; the published ways are points in them.

    cut      where pieces end before anything is counted: cuts.py, or "chunks" (Supertokens)
    merge    what may merge: pairs within a piece, or supermerges across words (superwords.py)
    build    how the vocabulary is made: bpe, unigram, pathpiece (from a BPE that is `surplus` times larger), bytes
    segment  how a text is cut with it: by its merges, by the shortest path, by the likeliest,
             by the longest token that fits

Supertokens (Achieving Tokenizer Flexibility ... and Supertoken Learning, 2025): text is cut at random lengths before it
is counted, so that a pair may stand across words; encoding then cuts at line ends alone.
Ways that no tokenizer.json can hold are beside this: hybrid.py (shared ids of variants), typed.py (cuts by context).
Axes combine freely except where one has no meaning for another; then the error says which.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from tokenizers import Tokenizer

from fewer.errors import BadRequest
from fewer.tokens.train import bpe, cuts, export, pathpiece, utf8
from fewer.tokens.train.boundless import train_boundless
from fewer.tokens.train.corpus import Corpus
from fewer.tokens.train.words import Bounded, compiled, pieces

Say = Callable[[str], None]
AXES = {
    "merge": ("pairs", "supermerges"),
    "build": ("bpe", "unigram", "pathpiece", "bytes"),
    "segment": ("merges", "shortest", "likeliest", "longest"),
    "alphabet": ("text", "binary"),
}


@dataclass(frozen=True)
class Recipe:
    """`size`: tokens. `digits`: see cuts.DIGITS. `alphabet`: text, or binary for raw bytes of any file. `longest`: bytes
    of a token at most. `surplus`: pathpiece's start. `chunk`: characters of a random chunk, least and most."""

    size: int = 32_000
    cut: str = "words"
    digits: str = "left"
    merge: str = "pairs"
    build: str = "bpe"
    segment: str = "merges"
    alphabet: str = "text"
    longest: int | None = None
    surplus: float = 2.0
    chunk: tuple[int, int] = (8, 40)
    seed: int = 0

    def check(self) -> None:
        """Raises BadRequest for a value that does not exist or axes that do not go together."""
        for axis, values in AXES.items():
            if getattr(self, axis) not in values:
                raise BadRequest(f"{axis} is one of {', '.join(values)}, not {getattr(self, axis)!r}")
        bpe.check_size(self.size)
        own = {
            "bpe": ("merges", "shortest", "longest"),
            "unigram": ("likeliest", "shortest"),
            "pathpiece": ("shortest",),
        }
        fitting = own.get(self.build, ("merges",))
        wrong = [
            (self.segment not in fitting, f"a {self.build} vocabulary is cut by {' or by '.join(fitting)}, not {self.segment}"),
            (self.merge == "supermerges" and (self.build, self.segment) != ("bpe", "merges"), "supermerges are BPE's"),
            (self.merge == "supermerges" and self.cut in ("none", "chunks"), "supermerges need words as the cut"),
            (self.alphabet == "binary" and (self.build, self.segment, self.merge) != ("bpe", "merges", "pairs"),
             "raw bytes are trained by BPE with pairs and cut by merges"),
            (self.longest is not None and (self.build != "bpe" or self.merge != "pairs"), "`longest` is of BPE with pairs"),
            (self.cut == "chunks" and (self.build, self.segment) != ("bpe", "merges"), "chunks are for BPE"),
            (self.longest is not None and self.longest < 2, "`longest` below 2 leaves no merge; use the point utf8"),
            (self.surplus < 1, "`surplus` is at least 1"),
            (not 1 <= self.chunk[0] <= self.chunk[1], "a chunk has at least 1 character, and no more at least than at most"),
        ]  # fmt: skip
        for is_so, said in wrong:
            if is_so:
                raise BadRequest(said)


POINTS: Mapping[str, tuple[Recipe, str]] = {
    "bpe": (Recipe(), "byte-pair encoding within words"),
    "boundless": (Recipe(merge="supermerges"), "BoundlessBPE: merges across words, in two phases"),
    "supertokens": (Recipe(cut="chunks"), "Supertokens: BPE over chunks of random length"),
    "pathpiece": (Recipe(build="pathpiece", segment="shortest"), "PathPiece: fewest tokens, vocabulary by omission"),
    "wordpiece": (Recipe(segment="longest"), "WordPiece's cut: the longest token that fits, over BPE's vocabulary"),
    "unigram": (Recipe(build="unigram", segment="likeliest"), "unigram language model"),
    "kl3m-chars": (Recipe(size=4096, longest=3), "KL3M's character-level BPE: no token over 3 bytes"),
    "binary": (Recipe(size=4096, cut="none", alphabet="binary"), "Binary BPE over executables"),
    "utf8": (Recipe(size=256, build="bytes", cut="none"), "bytes are tokens, control bytes are marks; no training"),
    "turkish": (Recipe(cut="turkish"), "BPE within Turkish stems and suffixes"),
    "korean": (Recipe(cut="korean"), "BPE within Korean stems, particles and endings"),
}


@dataclass(frozen=True)
class Trained:
    """`backend`: the tokenizer. `made`: the recipe and what there is to know about the run."""

    backend: Tokenizer
    made: dict[str, object]


def train(recipe: Recipe, corpus: Corpus | None, say: Say = lambda _: None, terms: Sequence[str] = ()) -> Trained:
    """Train by a recipe. `terms`: strings that are always one token, on top of `size` (KL3M's domain terms).

    Raises BadRequest for a recipe that does not go together, an empty corpus or one that is not UTF-8."""
    recipe.check()
    if corpus is None and recipe.build != "bytes":
        raise BadRequest("give a corpus to train on")
    made: dict[str, object] = {"recipe": asdict(recipe), "terms": list(terms)}
    backend = utf8.tokenizer() if corpus is None or recipe.build == "bytes" else _train(recipe, corpus, say, made)
    if terms:
        export.add_terms(backend, terms)
    made["tokens"] = backend.get_vocab_size()
    return Trained(backend, made)


def _train(recipe: Recipe, corpus: Corpus, say: Say, made: dict[str, object]) -> Tokenizer:
    pattern = cuts.pattern("none" if recipe.cut == "chunks" else recipe.cut, recipe.digits)
    compiled(pattern)
    if recipe.alphabet == "binary":
        say("merging bytes")
        return bpe.train_binary(corpus, recipe.size, recipe.longest)
    if recipe.merge == "supermerges":
        boundless = train_boundless(corpus, recipe.size, pattern, say)
        made |= {"supermerges": len(boundless.supermerges), "counts_too_low_by": boundless.floor}
        return boundless.backend
    if recipe.cut == "chunks":
        return _supertokens(recipe, corpus, pattern, say)
    say("training")
    if recipe.build == "unigram":
        backend = bpe.train_unigram(corpus, recipe.size, pattern)
    else:
        size = recipe.size if recipe.build == "bpe" else int(recipe.size * recipe.surplus)
        backend = bpe.train_bpe(corpus, size, pattern, recipe.longest)
    tokens = bpe.tokens_of(backend)
    if recipe.build == "pathpiece":
        say("counting words")
        words: Bounded[str] = Bounded()
        for text in corpus.stretches():
            words.add(pieces(text, compiled(pattern)))
        made["counts_too_low_by"] = words.floor
        tokens = pathpiece.build({w.encode(): n for w, n in words.counts.items()}, tokens, recipe.size, say)
    made_of = {"shortest": export.shortest, "longest": export.longest}.get(recipe.segment)
    return backend if made_of is None else made_of(tokens, pattern)


def _supertokens(recipe: Recipe, corpus: Corpus, pattern: str, say: Say) -> Tokenizer:
    say("merging within chunks")
    rng = random.Random(recipe.seed)

    def chunks() -> Iterator[str]:
        for text in corpus.stretches():
            for line in pieces(text, compiled(pattern)):
                at = 0
                while at < len(line):
                    size = rng.randint(*recipe.chunk)
                    yield line[at : at + size]
                    at += size

    return bpe.train_pieces(chunks(), recipe.size, pattern, recipe.longest)


def point(name: str, **knobs: object) -> Recipe:
    """A published point with some knobs changed (None: as published). Raises BadRequest for a name that is none."""
    if name not in POINTS:
        raise BadRequest(f"{name!r} is not a way to train; have: {', '.join(POINTS)}")
    return replace(POINTS[name][0], **{k: v for k, v in knobs.items() if v is not None})  # type: ignore[arg-type]
