"""Pages made from the catalogue, the measured results and the examples while the site is built; none is committed.

`pages()` gives all of them as Markdown. mkdocs calls on_config and on_files. Run as a script, this file writes the
table of methods into README.md, between its markers.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fewer.bench.record import RESULTS
from fewer.bench.sheets import KINDS, Sheet, cell, sheets
from fewer.card import SEAM_NAMES, Card, cards

ROOT = Path(__file__).resolve().parent.parent
SEAMS = {
    "retain": "what stays in the cache",
    "select": "what a row reads of it",
    "codec": "how it is stored",
    "route": "which rows attend and use the FFN, layer by layer",
    "propose": "drafts of the next tokens",
    "accept": "which drafted tokens stand",
    "rule": "constraints and logit shaping",
    "transform": "prompt to shorter prompt",
    "pack": "which prompts share a forward",
    "strategy": "how a request is run from prompt to end",
}
MARKERS = ("<!-- methods -->\n", "<!-- /methods -->\n")


# ---------------------------------------------------------------------- pages
def pages() -> dict[str, str]:
    """Every generated page: its path in the site -> Markdown."""
    out = {"methods/index.md": methods_index(), "measured.md": measured_page(), "gallery.md": gallery()}
    return out | {f"methods/{card.name}.md": method_page(card) for card in cards().values()}


def by_seam() -> dict[str, list[Card]]:
    """Seams that have a method -> their rows, by name."""
    rows = sorted(cards().values(), key=lambda c: c.name)
    return {s: held for s in SEAM_NAMES if (held := [c for c in rows if c.seam == s])}


def methods_index() -> str:
    """All methods, a table a seam."""
    parts = ["# Methods", "A plan is a list of methods: `--use NAME:knob=value`, or `use=[...]` in Python."]
    for seam, held in by_seam().items():
        rows = [[f"[{c.name}]({c.name}.md)", c.idea, ", ".join(c.claims)] for c in held]
        parts += [f"## {seam}: {SEAMS[seam]}", table(["method", "idea", "claims"], rows)]
    return "\n\n".join(parts) + "\n"


def method_page(card: Card) -> str:
    """One method: what it is, its knobs, what the paper leaves open, what was measured."""
    setting = f":{card.measure[0]}" if card.measure and card.measure[0] else ""
    module = "src/" + card.cls.partition(":")[0].replace(".", "/") + ".py"
    test = f"tests/methods/test_{card.name.replace('-', '_')}.py"
    full = ", ".join(f"`{k}={v}`" for k, v in card.full.items())
    facts = [
        ["paper", card.paper],
        ["seam", f"{card.seam}: {SEAMS[card.seam]}"],
        ["claims", ", ".join(card.claims)],
        ["changes nothing at", full or "any setting: the text is always the same"],
        ["code", f"`{module}`"],
        ["test", f"`{test}`"],
    ]
    command = f"fewer run 'a question' -f document.txt --use '{card.name}{setting}' --compare"
    parts = [f"# {card.name}", card.idea, table(facts[0], facts[1:]), f"```sh\n{command}\n```"]
    if knobs := card.knobs():
        rows = [[f"`{name}`", f"`{k['default']}`", k.get("doc", "")] for name, k in knobs.items()]
        parts += ["## Knobs", table(["knob", "default", "what"], rows)]
    if card.choices:
        parts += ["## Where the paper is silent", card.choices]
    if card.exceptions:
        parts += ["## Checks that cannot hold", table(["check", "why"], list(card.exceptions.items()))]
    return "\n\n".join([*parts, "## Measured", *measured(card.name)]) + "\n"


def measured(name: str) -> list[str]:
    """A method's stored results as tables, and how they were made."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return [f"Nothing yet: `fewer bench methods {name}` measures it."]
    return shown(json.loads(path.read_text(encoding="utf-8")))


def measured_page() -> str:
    """What the bench measured of the engine itself: every stored result of its own that is not a method's."""
    held = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))]
    parts = ["# Measured", "Ratios from one run on one machine; absolute figures of a shared machine mean little."]
    for result in held:
        if result["what"] in KINDS and result["what"] != "methods":
            parts += [f"## {result['what']}: {Path(result.get('model', '')).stem}", *shown(result)]
    return "\n\n".join(parts) + "\n"


def shown(result: dict[str, Any]) -> list[str]:
    """A result's tables with their notes, then command, date and machine."""
    parts = []
    for sheet in sheets(result):
        parts += [f"### {sheet.title}", sheet.note, sheet_table(sheet)]
    machine, versions = result["machine"], result["versions"]
    made = f"{result['date']}, seed {result['seed']}, {machine['cpu']}, {machine['cores']} cores"
    used = ", ".join(f"{n} {v}" for n, v in versions.items())
    return [*(p for p in parts if p), f"`{result['command']}` ({made}; {used})"]


def gallery() -> str:
    """Every example: its docstring, then its code."""
    parts = ["# Gallery", "Each of these runs as it stands; the tests run them all."]
    for path in examples():
        source = path.read_text(encoding="utf-8")
        said = ast.get_docstring(ast.parse(source)) or ""
        title, _, rest = said.partition("\n")
        code = source[source.index('"""', source.index('"""') + 3) + 3 :].strip()
        parts += [f"## {title.rstrip('.')}", rest.strip(), f"`examples/{path.name}`", f"```python\n{code}\n```"]
    return "\n\n".join(p for p in parts if p) + "\n"


def examples() -> list[Path]:
    """The example scripts, in order."""
    return sorted((ROOT / "examples").glob("*.py"))


# ---------------------------------------------------------------------- Markdown
def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; bars and line breaks in cells cannot break it."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_inside(str(c)) for c in line) + " |" for line in lines)


def sheet_table(sheet: Sheet) -> str:
    """A sheet of the bench; what a row is called is code."""
    return table(sheet.columns, [[f"`{row[0]}`", *map(cell, row[1:])] for row in sheet.rows])


def _inside(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# ---------------------------------------------------------------------- README
def readme_table() -> str:
    """The methods, one line each, for README.md."""
    rows = [[c.name, seam, c.idea] for seam, held in by_seam().items() for c in held]
    return table(["method", "seam", "idea"], rows) + "\n"


def with_table(text: str) -> str:
    """README.md with the present table between its markers."""
    before, _, rest = text.partition(MARKERS[0])
    _, _, after = rest.partition(MARKERS[1])
    return before + MARKERS[0] + readme_table() + MARKERS[1] + after


# ---------------------------------------------------------------------- mkdocs
def on_config(config: Any) -> Any:
    """Put the method pages into the navigation, a section a seam."""
    sections = [{seam: [f"methods/{c.name}.md" for c in held]} for seam, held in by_seam().items()]
    for entry in config.nav:
        if "Methods" in entry:
            entry["Methods"] = ["methods/index.md", *sections]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
