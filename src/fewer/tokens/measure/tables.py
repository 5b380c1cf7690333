"""Results of study.py as the bench's sheets: one list for the terminal, the page and the docs."""

from __future__ import annotations

from statistics import median
from typing import Any

from fewer.bench.sheets import Sheet, Value
from fewer.tokens.measure.parallel import NAMED
from fewer.tokens.measure.study import ENGLISH


def compare(r: dict[str, Any]) -> list[Sheet]:
    """The tables of a result of study.compare."""
    columns = [
        "tokenizer", "text", "bytes a token", "tokens", "a word", f"NSL to {r['reference']}", "above the fewest",
        "letters covered", "exact", "MB/s",
    ]  # fmt: skip
    rows = [
        [
            x["tokenizer"], x["text"], x["bytes_per_token"], x["tokens"], x["fertility"], x["nsl"],
            _over(x["tokens_measured"], x["fewest"]), x["coverage"], x["exact"], x["bytes_per_second"] / 1e6,
        ]
        for x in r["rows"]
    ]  # fmt: skip
    note = (
        "Above the fewest: tokens beyond the shortest path over the same vocabulary, as a share. Exact: decoding gives "
        "the text's bytes back. MB/s is the encoder used here, not the publisher's."
    )
    return [Sheet("On the texts", note, columns, rows, names=2, drawn=1), *_what_they_are(r)]


def report(r: dict[str, Any]) -> list[Sheet]:
    """The tables of a result of study.report."""
    names = [t["tokenizer"] for t in r["tokenizers"]]
    return [
        _summary(r, names),
        _prose(r, names),
        _nsl(r, names),
        _above(r, names),
        _short(r, names),
        _turkish(r),
        *_what_they_are(r),
    ]


def trial(r: dict[str, Any]) -> list[Sheet]:
    """The tables of a result of train.trial."""
    languages = list(dict.fromkeys(x["language"] for x in r["rows"]))
    ways = list(dict.fromkeys(x["way"] for x in r["rows"]))
    held = {(x["language"], x["way"]): x for x in r["rows"]}
    lengths: list[list[Value]] = []
    for way in ways:
        found = [held.get((language, way)) for language in languages]
        lengths.append(
            [way, *(x and x["tokens"] / held[language, "bpe"]["tokens"] for x, language in zip(found, languages))]
        )
    turkish: list[list[Value]] = [
        [x["way"], 100 * x["turkish"]["valid"], 100 * x["turkish"]["pure"], x["tokens"]]
        for x in r["rows"]
        if "turkish" in x
    ]
    binary: list[list[Value]] = [
        [x["size"], x["bytes_per_token"], x["packed_bytes_per_token"], x["has_elf"], x["exact"]]
        for x in (r["binary"] or {"rows": []})["rows"]
    ]
    t = r["speed"]
    speed: list[list[Value]] = [
        ["fewer", t["train"], t["encode"]],
        ["tokenizers", t["library_train"], t["library_encode"]],
    ]
    inexact = [f"{x['way']} in {x['language']}" for x in r["rows"] if not x["exact"]]
    note = f"Vocabularies of {r['size']:,}; tokens over BPE's. " + (
        f"Not exact: {', '.join(inexact)}." if inexact else ""
    )
    return [
        Sheet("Tokens of held-out verses", note, ["way", *languages], lengths),
        Sheet("Turkish, held-out verses", "%", ["way", "%TR", "%Pure", "tokens"], turkish, drawn=2),
        Sheet(
            "Executables",
            "Bytes a token.",
            ["tokens", "library", "packed", "ELF magic is a token", "exact"],
            binary,
            drawn=2,
        ),
        Sheet(
            "BPE here and by the library alone", f"{t['mb']:.1f} MB.", ["by", "seconds to train", "MB/s encoded"], speed
        ),
    ]


def premium(r: dict[str, Any], code: str, name: str) -> float:
    """Tokens of the Declaration in a language over those of the English one."""
    return r["udhr"][code]["tokens"][name] / r["udhr"][ENGLISH]["tokens"][name]


def _summary(r: dict[str, Any], names: list[str]) -> Sheet:
    rows: list[list[Value]] = []
    for t in r["tokenizers"]:
        name = t["tokenizer"]
        every = {code: premium(r, code, name) for code in r["udhr"]}
        worst = max(every, key=lambda code: every[code])
        nbytes, words = (sum(x[k] for x in r["udhr"].values()) for k in ("bytes", "words"))
        total = sum(x["tokens"][name] for x in r["udhr"].values())
        english = r["udhr"][ENGLISH]
        rows.append(
            [
                name, median(every.values()), every[worst], r["udhr"][worst]["name"], english["bytes"] / english["tokens"][name],
                nbytes / total, total / words, len(t["inexact"]),
            ]
        )  # fmt: skip
    columns = [
        "tokenizer", "median premium", "highest", "in", "English bytes a token", "all bytes a token", "tokens a word",
        "texts not kept",
    ]  # fmt: skip
    same = "; ".join(" and ".join(group) for group in r["same"])
    note = f"The Declaration in {len(r['udhr'])} languages. Premium: its tokens over those of the English text. " + (
        f"The same tokens: {same}." if same else ""
    )
    return Sheet("Languages under each tokenizer", note, columns, rows, drawn=1)


def _prose(r: dict[str, Any], names: list[str]) -> Sheet:
    rows: list[list[Value]] = [
        [language, *(premium(r, code, n) for n in names)] for language, (code, _) in _with_prose(r)
    ]
    missing = f" No translation: {', '.join(r['no_prose'])}; see the names." if r["no_prose"] else ""
    return Sheet("Premium of the Declaration", "English = 1." + missing, ["language", *names], rows)


def _nsl(r: dict[str, Any], names: list[str]) -> Sheet:
    rows: list[list[Value]] = []
    for language, (code, _) in _with_prose(r):
        found = r["udhr"][code]["nsl"]
        rows.append([language, *(found[n] for n in names), min(found, key=lambda n: found[n])])
    note = f"Mean over paragraphs of tokens over those of {r['reference']}."
    return Sheet("NSL of the Declaration", note, ["language", *names, "fewest"], rows)


def _above(r: dict[str, Any], names: list[str]) -> Sheet:
    rows: list[list[Value]] = []
    for language, (code, _) in _with_prose(r):
        x = r["udhr"][code]
        above = (_over(x["tokens"][n], x["fewest"][n]) for n in names)
        rows.append([language, *(None if a is None else 100 * a for a in above)])
    note = "% of tokens beyond the shortest path over the same vocabulary: what cutting into words and merging costs."
    return Sheet("Above the fewest possible", note, ["language", *names], rows)


def _over(tokens: int, fewest: int | None) -> float | None:
    return tokens / fewest - 1 if fewest else None


def _short(r: dict[str, Any], names: list[str]) -> Sheet:
    rows: list[list[Value]] = [
        [x["name"], x["names"], *(x["tokens"][n] / x["english"][n] for n in names)] for x in r["names"].values()
    ]
    note = "Names of countries and languages (CLDR): tokens over those of the same names in English. Few names, little sure."
    return Sheet("Premium of names", note, ["language", "names", *names], rows)


def _turkish(r: dict[str, Any]) -> Sheet:
    rows: list[list[Value]] = [
        [t["tokenizer"], 100 * t["turkish"]["valid"], 100 * t["turkish"]["pure"], t["turkish"]["distinct"]]
        for t in r["tokenizers"]
        if "turkish" in t
    ]
    note = "Of the distinct tokens of the Turkish Declaration: how many are words, how many are a root or an affix."
    return Sheet("Turkish", note, ["tokenizer", "%TR", "%Pure", "distinct tokens"], rows, drawn=2)


def _what_they_are(r: dict[str, Any]) -> list[Sheet]:
    scripts = sorted(
        {s for t in r["tokenizers"] for s in list(t["classes"]["script"])[:7]} - {"none", "several", "other"}
    )
    kinds = ["letters", "digits", "punctuation", "spaces", "control", "mixed", "fragment"]
    rows: list[list[Value]] = []
    shares: list[list[Value]] = []
    for t in r["tokenizers"]:
        c, n = t["classes"], t["numbers"]
        whole = max(1, c["size"]["ordinary"])
        start, inside = c["place"].get("start", 0), c["place"].get("inside", 0)
        rows.append(
            [
                t["tokenizer"], t["format"], whole, c["size"]["special"], 100 * c["completeness"]["fragment"] / whole,
                100 * start / max(1, start + inside), n["rule"], n["digits_per_token"],
            ]
        )  # fmt: skip
        part = [100 * c["category"].get(k, 0) / whole for k in kinds] + [
            100 * c["script"].get(s, 0) / whole for s in scripts
        ]
        shares.append([t["tokenizer"], *part])
    columns = [
        "tokenizer",
        "read from",
        "tokens",
        "special",
        "% fragments",
        "% starting a word",
        "numbers are cut",
        "digits a token",
    ]
    note = "Fragments: tokens that are no whole characters."
    return [
        Sheet("What they are", note, columns, rows, names=2),
        Sheet("What they hold", "% of the ordinary tokens.", ["tokenizer", *kinds, *scripts], shares),
    ]


def _with_prose(r: dict[str, Any]) -> list[tuple[str, tuple[str, str]]]:
    return [("English", (ENGLISH, "en")), *((n, c) for n, c in NAMED.items() if c[0] in r["udhr"])]
