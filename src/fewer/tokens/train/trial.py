"""Every way of training at one vocabulary size, on one text in ten languages: what it makes of verses it has not seen.

Text: npm quran-json@3.1.2, 6,236 verses aligned over ten languages; every tenth is held out. Turkish is also cut by its
own morphemes, at other grains (granularity.py, hybrid.py) and judged by a lexicon (measure/lexicon.py). Korean is not
among the verses: its constitution and ten bills (PyPI konlpy@0.6.0) stand in, cut at its own grains (jamo.py too).
Executables: the native libraries of the running Python's packages, the last one by name held out, and the same packed by
gzip, in which there is nothing to find.
Small corpora (under 2 MB a language): differences between ways are meant, not figures for large vocabularies.
"""

from __future__ import annotations

import gzip
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE

from fewer.errors import BadRequest, CorruptFile
from fewer.tokens import packages
from fewer.tokens.load import open_vocabulary
from fewer.tokens.measure import counts, lexicon
from fewer.tokens.measure.shortest import Shortest
from fewer.tokens.train import cuts, export, granularity, hybrid, jamo, recipe
from fewer.tokens.train.corpus import Corpus
from fewer.tokens.vocabulary import Vocabulary

VERSES = "quran-json@3.1.2"
LANGUAGES = ("en", "es", "fr", "sv", "id", "tr", "ru", "ur", "bn", "zh", "ko")
LAWS = "konlpy@0.6.0:konlpy/data/corpus/"
KOREAN = ("kolaw/constitution.txt", *(f"kobill/{n}.txt" for n in range(1809890, 1809900)))
WAYS = ("bpe", "boundless", "supertokens", "pathpiece", "unigram", "kl3m-chars")
OWN = {"tr": ("wordpiece", "turkish"), "ko": ("wordpiece", "korean")}  # ways of one language
GRAINS = {"tr": ("characters", "words", "hybrid"), "ko": ("jamo", "characters", "morphemes", "words")}
ROUNDS = 2
LIBRARIES = 7  # spread over all there are
Say = Callable[[str], None]


def trial(languages: Sequence[str], size: int, say: Say, words: lexicon.Lexicon | None = None) -> dict[str, Any]:
    """Rows a language and way. Raises BadRequest for a language that is not there, FetchError, CorruptFile."""
    rows = []
    with tempfile.TemporaryDirectory() as work:
        for language in languages:
            train, held_out = verses(language)
            file = Path(work, f"{language}.txt")
            file.write_text(train, encoding="utf-8")
            ways: list[tuple[str, recipe.Recipe]] = [(name, recipe.point(name, size=size)) for name in WAYS]
            ways.append(("bpe, shortest", replace(recipe.point("bpe", size=size), segment="shortest")))
            ways += [(name, recipe.point(name, size=size)) for name in OWN.get(language, ())]
            made = {name: partial(_trained, wanted, [file], Path(work)) for name, wanted in ways}
            made |= {name: partial(_grain, name, file, size, Path(work)) for name in GRAINS.get(language, ())}
            for name, make in made.items():
                say(f"{language}: {name}")
                v, seconds = make()
                rows.append(
                    {"language": language, "way": name, "train_seconds": round(seconds, 2)} | _judged(v, held_out)
                )
                if language == "tr" and words is not None:
                    rows[-1]["turkish"] = lexicon.linguistic(v, held_out.splitlines(), words)
        say("speed")
        speed = _speed([Path(work, f"{language}.txt") for language in languages], size, Path(work))
        binary = _binary(size, Path(work), say)
    return {"size": size, "text": f"npm:{VERSES}", "rows": rows, "binary": binary, "speed": speed}


def verses(language: str) -> tuple[str, str]:
    """Text to train on and text held out, a verse a line."""
    if language not in LANGUAGES:
        raise BadRequest(f"{language!r} is none of the verses' languages: {', '.join(LANGUAGES)}")
    if language == "ko":
        found = [packages.pip(LAWS + name).read_text(encoding="utf-8").splitlines() for name in KOREAN]
        lines = [f"{line.strip()}\n" for text in found for line in text if line.strip()]
        return "".join(line for i, line in enumerate(lines) if i % 10), "".join(lines[::10])
    with tarfile.open(packages.npm(VERSES)) as archive:
        try:
            file = archive.extractfile(f"package/dist/quran_{language}.json")
            chapters = json.loads(file.read()) if file else []
        except (KeyError, ValueError) as error:
            raise CorruptFile(f"{VERSES} is not laid out as expected: {error}. Fetch it again.") from None
    lines = [verse["translation"].strip() + "\n" for chapter in chapters for verse in chapter["verses"]]
    return "".join(line for i, line in enumerate(lines) if i % 10), "".join(lines[::10])


def _judged(v: Vocabulary, text: str) -> dict[str, Any]:
    c = counts.count(v, text)
    fewest = Shortest(v.ids).count(text.encode())
    return {
        "tokens": c.tokens,
        "bytes_per_token": c.bytes_per_token,
        "fewest": fewest,
        "used": len(set(v.encode(text))),
        "exact": c.exact,
    }


def _speed(files: Sequence[Path], size: int, work: Path) -> dict[str, float]:
    """BPE here and by `tokenizers` alone on the same files, in turn, the best of ROUNDS: seconds to train, MB/s to encode."""
    ours, theirs, fast, plain = [], [], 0.0, 0.0
    texts = [block for file in files for block in file.read_text(encoding="utf-8").splitlines()]
    mb = sum(len(t.encode()) for t in texts) / 1e6
    for _ in range(ROUNDS):
        v, seconds = _trained(recipe.point("bpe", size=size), files, work)
        ours.append(seconds)
        library = export.byte_level(Tokenizer(BPE()), cuts.pattern("words"))
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
        start = time.perf_counter()
        library.train([str(file) for file in files], trainer)
        theirs.append(time.perf_counter() - start)
        fast = max(fast, counts.speed(v, texts, 1) / 1e6)
        start = time.perf_counter()
        for text in texts:
            library.encode(text)
        plain = max(plain, mb / (time.perf_counter() - start))
    return {"mb": mb, "train": min(ours), "library_train": min(theirs), "encode": fast, "library_encode": plain}


def _binary(size: int, work: Path, say: Say) -> dict[str, Any]:
    say("executables")
    roots = [Path(p) for p in sys.path if p.endswith("site-packages")]
    found = sorted({f for root in roots for f in root.rglob("*.so") if 20_000 < f.stat().st_size < 120_000})
    if len(found) < 2:
        return {}
    *train, held_out = found[:: max(1, len(found) // LIBRARIES)][:LIBRARIES]
    data = held_out.read_bytes()
    out: dict[str, Any] = {"trained_on": [f.name for f in train], "held_out": held_out.name, "rows": []}
    for wanted in sorted({1024, size}):
        v, seconds = _trained(recipe.point("binary", size=wanted), train, work)
        packed = gzip.compress(data)
        out["rows"].append(
            {
                "size": wanted,
                "bytes_per_token": len(data) / len(v.encode_bytes(data)),
                "packed_bytes_per_token": len(packed) / len(v.encode_bytes(packed)),
                "exact": v.decode(v.encode_bytes(data)) == data,
                "has_elf": any(b"\x7fELF" in token for token in v.tokens),
                "train_seconds": round(seconds, 2),
            }
        )
    return out


def _grain(name: str, file: Path, size: int, work: Path) -> tuple[Vocabulary, float]:
    """A tokenizer of GRAINS and the seconds it took."""
    corpus, start = Corpus([file]), time.perf_counter()
    if name == "hybrid":
        made = hybrid.train_hybrid(corpus, size)
        return made.vocabulary(), time.perf_counter() - start
    if name == "jamo":
        base, _ = _grain("characters", file, size - jamo.COUNT, work)
        return jamo.Jamo(base).vocabulary(), time.perf_counter() - start
    backend = getattr(granularity, name)(corpus, size)
    seconds = time.perf_counter() - start
    return open_vocabulary(str(export.save(backend, work / f"{name}.json", {}))), seconds


def _trained(wanted: recipe.Recipe, files: Sequence[Path], work: Path) -> tuple[Vocabulary, float]:
    start = time.perf_counter()
    made = recipe.train(wanted, Corpus(files))
    seconds = time.perf_counter() - start
    return open_vocabulary(str(export.save(made.backend, work / "trial.json", made.made))), seconds
