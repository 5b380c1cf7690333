"""Decoding in a filled cache: entries as predicted, plans that cannot begin there refused."""

import pytest

from fewer.bench import fill, show
from fewer.errors import BadRequest
from tests.cli_tiny import write_chat_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return str(write_chat_model(tmp_path_factory.mktemp("fill") / "tiny.gguf"))


def test_entries_read_are_predicted(tiny, tmp_path):
    """Two layers, one kv-head: plain reads all and the row; Quest the budget, less what no whole page fills."""
    use = "quest:budget=64,full_layers=0"
    got = fill.measure(tiny, [use], length=1000, steps=3)["results"]
    assert got["plain"]["entries_read"] == 2 * (1000 + 3 + 1) and got["plain"]["bytes_scanned"] == 0
    assert 2 * (64 - 15) <= got[use]["entries_read"] <= 2 * (64 + 1) and got[use]["bytes_scanned"] > 0


def test_several_requests_read_as_much_each(tiny):
    use = "quest:budget=64,full_layers=0"
    one, three = (fill.measure(tiny, [use], length=1000, steps=3, requests=n)["results"] for n in (1, 3))
    assert all(three[p]["entries_read"] == 3 * one[p]["entries_read"] for p in ("plain", use))
    assert three["plain"]["kv_bytes"] < 1.5 * one["plain"]["kv_bytes"]


def test_a_codec_packs_the_cache_first(tiny):
    got = fill.measure(tiny, ["int8", "int4"], length=1000, steps=3)["results"]
    assert got["int8"]["entries_read"] == got["plain"]["entries_read"]
    assert got["int4"]["kv_bytes"] < 0.85 * got["int8"]["kv_bytes"] < 0.7 * got["plain"]["kv_bytes"]


def test_it_is_shown(tiny, tmp_path):
    show.write_html(fill.measure(tiny, [], length=100, steps=1), tmp_path / "fill.html")
    assert "Decoding in a filled cache" in (tmp_path / "fill.html").read_text()


def test_what_cannot_begin_there(tiny):
    for use in ("snapkv:budget=64", "infllm:budget=64", "zipcache"):
        with pytest.raises(BadRequest, match="cannot begin in a filled cache"):
            fill.measure(tiny, [use], length=100)
    with pytest.raises(BadRequest, match="must fit"):
        fill.measure(tiny, [], length=5000)
