"""Tokenizers that know morphemes: Turkish and Korean cut at suffixes, Turkish with one token a suffix, terms by type.

The first two are a standard tokenizer.json. The other two need what stands around a word, which no tokenizer.json sees, so
they are files of their own; all four give any bytes back.
"""

import tempfile
from pathlib import Path

from fewer.tokens.load import open_vocabulary
from fewer.tokens.train import export, hybrid, recipe, typed
from fewer.tokens.train.corpus import Corpus

work = Path(tempfile.mkdtemp())
turkish, korean = work / "tr.txt", work / "ko.txt"
turkish.write_text("Evlerde ve okullarda kitaplar var. Kitabım evde, ağaçlar bahçede.\n" * 40, encoding="utf-8")
korean.write_text("학교에서 사람들은 책을 읽는다. 우리는 학교에 간다.\n" * 40, encoding="utf-8")

for way, text, said in (("turkish", turkish, "evlerde kitaplar"), ("korean", korean, "학교에서 사람들은 책을")):
    for name in ("bpe", way):
        made = recipe.train(recipe.point(name, size=330), Corpus([text]))
        v = open_vocabulary(str(export.save(made.backend, work / f"{name}.json", made.made)))
        print(f"{name:>8}:", " | ".join(v.tokens[i].decode(errors="replace") for i in v.encode(said)))

shared = hybrid.train_hybrid(Corpus([turkish]), 420)
for said in ("Evlerde", "okullarda", "kitabım", "kitaplar"):
    names = [item if isinstance(item, str) else ["<Up>", "<UP>", *shared.forms][item] for item in shared.items(said)]
    print(f"{said:>10}:", " + ".join(names), "->", shared.decode(shared.encode(said)).decode())

base = recipe.train(recipe.point("bpe", size=300), Corpus([turkish])).backend
terms = {"metals": ["lead", "mercury", "cadmium"], "verbs": ["lead", "follow", "guide"]}
by_type = typed.Typed(base, terms)
for said in ("mercury and lead", "follow or lead"):
    print(f"{said!r}: the last token is {by_type.encode(said)[-1]}")
