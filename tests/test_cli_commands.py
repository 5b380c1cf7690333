"""`fewer chat`, `demo`, `methods`, `verify`, `models`, `doctor`: what each prints and how it ends."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

import fewer as package
from fewer.card import SEAM_NAMES, cards
from fewer.cli.chat import Talk, _converse
from fewer.seams import SEAMS
from fewer.testing.verify import Outcome
from tests.cli_tiny import fewer_command, tiny_model  # noqa: F401  (fixtures)


class TestChat:
    def test_piped_lines_are_turns_and_the_cache_serves_the_earlier_ones(self, fewer, tiny, tmp_path):
        saved = tmp_path / "talk.json"
        lines = f"Hello there, friend\n/ledger\nAnd again\n/ledger\n/save {saved}\n/quit\nnever\n"
        said = fewer("chat", "-m", tiny, "-n", "5", stdin=lines.encode())
        assert said.code == 0
        talk = json.loads(saved.read_text())
        assert [m["role"] for m in talk["messages"]] == ["user", "assistant", "user", "assistant"]
        assert said.out == "".join(m["content"] + "\n" for m in talk["messages"] if m["role"] == "assistant")
        asked, cached = (re.findall(rf"{word} +(\d+)", said.err) for word in ("prompt", "cached"))
        assert [int(n) for n in cached] == [int(asked[0]) + 4], "the first turn and all it said but the last token"

    def test_reset_forgets(self, fewer, tiny, tmp_path):
        lines = f"Hello\n/reset\nAgain\n/save {tmp_path / 't'}\n"
        fewer("chat", "-m", tiny, "-n", "3", stdin=lines.encode())
        assert [m["role"] for m in json.loads((tmp_path / "t").read_text())["messages"]] == ["user", "assistant"]

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("/save", "file name"),
            ("/sav x", "unknown command"),
            ("/save /none/x", "cannot write"),
            ("x" * 3000, "2048"),
        ],
    )
    def test_an_error_ends_a_piped_talk(self, fewer, tiny, line, words):
        said = fewer("chat", "-m", tiny, "-n", "3", stdin=line.encode())
        assert said.code == 2 and words in said.err

    def test_on_a_terminal_an_error_ends_the_turn_not_the_talk(self, tiny, monkeypatch, capsys):
        lines = iter(["/nonsense", "x" * 3000, "Hello"])

        def typed() -> str:
            for line in lines:
                return line
            raise EOFError

        monkeypatch.setattr("fewer.cli.chat._typed_line", typed)
        talk = Talk(package.open(tiny, threads=1), [], {"max_tokens": 3})
        _converse(talk)
        said = capsys.readouterr().err
        assert "unknown command" in said and "2048" in said and len(talk.messages) == 2

    def test_help_and_ledger_before_any_turn(self, fewer, tiny):
        said = fewer("chat", "-m", tiny, stdin=b"/help\n/ledger\n")
        assert "/reset" in said.err and "nothing has run yet" in said.err and said.out == ""


class TestMethods:
    def test_json_has_every_row_with_the_agreed_fields(self, fewer):
        rows = json.loads(fewer("methods", "--json").out)
        assert {r["name"] for r in rows} == set(cards())
        assert all(r.keys() >= {"name", "seam", "paper", "claims", "knobs"} for r in rows)

    def test_seam_filters(self, fewer):
        said = fewer("methods", "--seam", "retain")
        assert "streaming-llm" in said.out and "gemfilter" not in said.out
        assert fewer("methods", "--seam", "nonsense").code == 2

    def test_every_card_prints(self, fewer):
        for name, card in cards().items():
            said = fewer("methods", name)
            assert said.code == 0 and name in said.out
            assert all(claim in said.out for claim in card.claims)

    def test_unknown_name(self, fewer):
        said = fewer("methods", "gemfilte")
        assert said.code == 2 and "did you mean gemfilter" in said.err

    def test_the_catalogue_knows_the_seams_without_torch(self):
        assert set(SEAM_NAMES) == set(SEAMS)


class TestVerify:
    OUTCOMES = (Outcome("a", "card", True, "", 0.1), Outcome("a", "batch", True, "", 0.1, excepted=True))
    BAD = Outcome("a + b", "pair", False, "they differ", 0.2)

    @pytest.fixture
    def results(self, monkeypatch):
        asked = {}

        def use(*outcomes: Outcome) -> dict:
            def verify(names, pairs, progress):
                asked.update(names=names, pairs=pairs)
                for o in outcomes:
                    progress(o)
                return list(outcomes)

            monkeypatch.setattr("fewer.testing.verify.verify", verify)
            return asked

        return use

    def test_success(self, fewer, results):
        asked = results(*self.OUTCOMES)
        said = fewer("verify", "streaming-llm", "--no-pairs")
        assert said.code == 0 and "2 of 2 checks passed, 1 of them" in said.out
        assert asked == {"names": ["streaming-llm"], "pairs": False}

    def test_failure_is_code_1_and_named(self, fewer, results):
        results(*self.OUTCOMES, self.BAD)
        said = fewer("verify")
        assert said.code == 1 and "FAILED a + b: pair: they differ" in said.err

    def test_json(self, fewer, results):
        results(*self.OUTCOMES, self.BAD)
        said = fewer("verify", "--json")
        assert said.code == 1
        assert [o["ok"] for o in json.loads(said.out)] == [True, True, False]

    def test_unknown_name(self, fewer):
        assert fewer("verify", "nonsense").code == 2


class TestModels:
    @pytest.fixture(autouse=True)
    def own_cache(self, monkeypatch, tmp_path):
        monkeypatch.setenv("FEWER_CACHE", str(tmp_path))

    def test_list(self, fewer):
        assert "not fetched" in fewer("models", "list").out
        (row,) = json.loads(fewer("models", "list", "--json").out)
        assert row["name"] == "smollm2-135m" and row["path"] is None

    def test_path_and_rm(self, fewer, tiny):
        assert fewer("models", "path", tiny).out == f"{tiny}\n"
        assert fewer("models", "path", "smollm2-135m").code == 2
        assert fewer("models", "rm", "smollm2-135m").code == 0
        assert fewer("models", "rm", tiny).code == 2
        assert fewer("models", "get", tiny).out == f"{tiny}\n"


class TestDoctor:
    def test_text_and_json(self, fewer, monkeypatch, tmp_path):
        monkeypatch.setenv("FEWER_CACHE", str(tmp_path))
        said = fewer("doctor")
        assert said.code == 0 and "torch" in said.out and "fewer models get smollm2-135m" in said.out
        facts = json.loads(fewer("doctor", "--json").out)
        assert set(facts) == {"versions", "machine", "kernels", "models", "advice"}
        assert facts["models"]["cache folder"] == str(tmp_path)


class TestRoot:
    def test_version_and_help(self, fewer):
        assert fewer("--version").out == f"fewer {package.__version__}\n"
        assert "run" in fewer("--help").out

    @pytest.mark.parametrize("args", [["--help"], ["--version"], ["run", "--help"], ["methods"], ["bench", "--help"]])
    def test_no_torch_where_nothing_runs(self, args):
        code = f"import sys\nfrom fewer.cli.main import main\ntry: main({args!r})\nexcept SystemExit: pass\n"
        code += "sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_demo(fewer, tiny, tmp_path):
    page = tmp_path / "demo.html"
    said = fewer("demo", "-m", tiny, "--report", str(page))
    assert said.code == 0, said.err
    assert "plain" in said.out and "gemfilter" in said.out and "KV cache" in said.out and str(page) in said.out
    assert page.read_text().startswith("<!doctype html>")


def test_demo_says_at_once_where_it_cannot_write(fewer):
    said = fewer("demo", "--report", str(Path("/none/r.html")))
    assert said.code == 2 and "cannot write the report" in said.err


class TestBench:
    """The glue alone; the measurements have their own tests."""

    RESULT: ClassVar[dict] = {"what": "x", "results": []}

    @pytest.fixture
    def asked(self, monkeypatch):
        seen = {}

        def measure(*args):
            seen["args"] = args
            return self.RESULT

        monkeypatch.setattr("fewer.bench.speed.measure", measure)
        monkeypatch.setattr("fewer.bench.methods.measure", measure)
        monkeypatch.setattr("fewer.bench.quality.measure", measure)
        monkeypatch.setattr("fewer.bench.handover.measure", measure)
        monkeypatch.setattr("fewer.bench.show.print_result", lambda result, console: console.print("a table"))
        for name in ("write_csv", "write_html"):
            monkeypatch.setattr(f"fewer.bench.show.{name}", lambda result, path: path.write_text("written"))
        return seen

    @pytest.mark.parametrize("what", ["speed", "methods", "quality"])
    def test_table_json_and_files(self, fewer, asked, tmp_path, what):
        assert "a table" in fewer("bench", what).out
        said = fewer("bench", what, "--json", "--csv", str(tmp_path / "a"), "--html", str(tmp_path / "b"))
        assert json.loads(said.out) == self.RESULT
        assert (tmp_path / "a").read_text() == (tmp_path / "b").read_text() == "written"
        assert fewer("bench", what, "--csv", "/none/a").code == 2

    def test_arguments_arrive(self, fewer, asked):
        fewer("bench", "speed", "-m", "x", "--peer", "openvino", "--case", "start", "--rounds", "5", "-t", "1")
        assert asked["args"][:5] == ("x", ["openvino"], ["start"], 5, 1)
        fewer("bench", "methods", "gemfilter", "--items", "2", "--tokens", "300", "--seed", "7")
        assert asked["args"][:5] == (["gemfilter"], "smollm2-135m", 2, 300, 7)
        fewer("bench", "quality", "--weights", "int8", "--bytes", "900", "--prompts", "3", "--tokens", "5")
        assert asked["args"][:4] == ("smollm2-135m", 900, 3, 5) and asked["args"][-1] == "int8"
        fewer("bench", "handover", "-m", "large", "--draft", "small", "--items", "2", "--tokens", "100", "--seed", "7")
        assert asked["args"][:5] == ("large", "small", 2, 100, 7)


def test_a_measured_effect_is_shown(fewer, monkeypatch, tmp_path):
    row = {
        "method": "gemfilter",
        "setting": "budget=0.5",
        "kv_peak": 0.512,
        "same_tokens": False,
        "medians": {"plain": {}},
    }
    kept = {"command": "fewer bench methods", "date": "2026-01-01", "machine": {"cpu": "a cpu"}, "results": [row]}
    (tmp_path / "gemfilter.json").write_text(json.dumps(kept))
    monkeypatch.setattr("fewer.cli.measured.RESULTS", tmp_path)
    said = fewer("methods", "gemfilter")
    assert "budget=0.5" in said.out and "0.512" in said.out and "a cpu" in said.out
    assert json.loads(fewer("methods", "gemfilter", "--json").out)["measured"] == kept
