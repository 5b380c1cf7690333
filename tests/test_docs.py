"""The documentation: generated pages are complete, links lead somewhere, the README's promises hold."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fewer.bench import record
from fewer.card import SEAM_NAMES, cards, find

ROOT = Path(__file__).parent.parent
WRITTEN = {p.name: p.read_text(encoding="utf-8") for p in (ROOT / "docs").glob("*.md")}
COMMANDS = (
    "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/fewer demo",
    "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest",
)


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(hooks) -> dict[str, str]:
    return WRITTEN | hooks.pages()


def test_every_method_has_a_page_that_says_what_it_is(pages):
    for card in cards().values():
        page = pages[f"methods/{card.name}.md"]
        assert page.startswith(f"# {card.name}\n") and card.idea in page and card.paper in page
        for knob in card.knobs():
            assert f"`{knob}`" in page
        assert f"]({card.name}.md)" in pages["methods/index.md"]
        assert "## Measured" in page and card.choices in page


def test_the_readme_lists_the_methods_there_are(hooks):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text == hooks.with_table(text), "run `python docs/hooks.py`"


def test_every_seam_is_explained(hooks):
    assert set(hooks.SEAMS) == set(SEAM_NAMES)


def test_code_and_tests_that_pages_name_exist(pages):
    named = re.findall(r"\| (?:code|test) \| `(\S+)` \|", "\n".join(pages.values()))
    assert len(named) == 2 * len(cards())
    assert [n for n in named if not (ROOT / n).is_file()] == []


def test_links_lead_to_pages(pages):
    for name, page in pages.items():
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page):
            there = (Path(name).parent / target).as_posix()
            assert there in pages, f"{name} links to {there}"


def test_tables_are_rectangular(pages):
    for name, page in pages.items():
        for block in re.findall(r"(?:^\|.*\|$\n?)+", page, re.M):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1, f"{name}: {block[:200]}"


def test_measured_results_become_tables(hooks, tmp_path, monkeypatch):
    row = {"method": "gemfilter", "setting": "budget=0.5|x", "task": "needle", "quality": 0.5, "kv_end": 0.251}
    result = {**record.head("methods", "fewer bench methods gemfilter", 7), "results": [row]}
    record.save(tmp_path / "gemfilter.json", result)
    monkeypatch.setattr(hooks, "RESULTS", tmp_path)
    page = hooks.method_page(find("gemfilter"))
    assert "`gemfilter:budget=0.5\\|x`" in page and "0.251" in page and "seed 7" in page and "What it saves" in page
    assert "Nothing yet" in hooks.method_page(find("lookahead"))


def test_gallery_has_every_example_with_its_docstring(hooks):
    page = hooks.gallery()
    found = hooks.examples()
    assert len(found) >= 6
    for path in found:
        source = path.read_text(encoding="utf-8")
        said = ast.get_docstring(ast.parse(source))
        assert said and "\n\n" in said and said.splitlines()[0].rstrip(".") in page and f"examples/{path.name}" in page
        assert source.strip().splitlines()[-1] in page


def test_readme_opens_with_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"```sh\n(.*?)\n```", readme, re.S)[:2] == list(COMMANDS)
    assert COMMANDS[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", readme):
        assert (ROOT / target).exists(), target


def test_readme_table_is_the_catalogues(hooks):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert hooks.with_table(hooks.with_table(readme)) == hooks.with_table(readme)
    table = readme.split(hooks.MARKERS[0])[1].split(hooks.MARKERS[1])[0]
    stale = set(table.splitlines()) - set(hooks.readme_table().splitlines())
    assert not stale, f"run: python docs/hooks.py   (these lines are out of date: {stale})"


def test_python_in_the_documents_parses():
    for name, page in {"README.md": (ROOT / "README.md").read_text(encoding="utf-8"), **WRITTEN}.items():
        for block in re.findall(r"```python\n(.*?)```", page, re.S):
            ast.parse(block, name)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is in the dev extra")
def test_the_site_builds_without_warnings(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / "site" / "methods" / name / "index.html").is_file() for name in cards())
