"""Drafts through text: two vocabularies that cut words differently, half characters, control tokens; the text stays."""

import pytest

import fewer
from fewer.parts.other_words import OtherWords, begins_a_character, incomplete
from tests.cli_tiny import write_chat_model


class Toy:
    """A vocabulary of given strings, longest match first, then single bytes; names in <> are control tokens."""

    def __init__(self, *words: str) -> None:
        self.table = [*(bytes([b]) for b in range(256)), *(w.encode() for w in words)]
        self.special = frozenset(256 + i for i, w in enumerate(words) if w.startswith("<"))
        self.order = sorted(set(range(len(self.table))) - self.special, key=lambda i: -len(self.table[i]))

    def encode(self, text, *, bos=None):
        data, out = text.encode(), []
        while data:
            out.append(next(i for i in self.order if data.startswith(self.table[i])))
            data = data[len(self.table[out[-1]]) :]
        return out

    def token_bytes(self, i):
        return self.table[i]

    def name(self, i):
        return self.table[i].decode()

    def control(self, name):
        return next((i for i in self.special if self.table[i] == name.encode()), None)

    def ids(self, *words):
        return [next(i for i, w in enumerate(self.table) if w == word.encode()) for word in words]


THEIRS = Toy("hel", "lo", " wor", "ld", "<end>", "<start>")
OWN = Toy("hello", " ", "world", " world", "wo", "<end>")


def spelled(words, ids):
    return b"".join(words.token_bytes(i) for i in ids)


def test_the_text_is_cut_anew_as_it_grows():
    both = OtherWords(THEIRS, OWN)
    text = THEIRS.ids("hel", "lo", " wor", "ld")
    assert both.hear(text[:1]) == OWN.encode("hel")
    assert both.hear(text[:2]) == OWN.ids("hello")
    assert both.hear(text) == OWN.ids("hello", " world")


def test_old_tokens_stay_as_they_are():
    both = OtherWords(THEIRS, OWN)
    before = list(both.hear(THEIRS.encode("x" * 40)))
    assert both.hear(THEIRS.encode("x" * 40 + "hello"))[:32] == before[:32]
    assert spelled(OWN, both.ids) == b"x" * 40 + b"hello"


def test_half_a_character_waits():
    both = OtherWords(THEIRS, OWN)
    data = "aé".encode()
    assert both.hear(list(data[:2])) == [ord("a")] and both.waiting == data[1:2]
    assert spelled(OWN, both.hear(list(data))) == data and both.waiting == b""
    assert both.back([*OWN.encode("b"), 0xC3]) == [ord("b")]  # a draft's own half character is left out


def test_control_tokens_go_by_name():
    both = OtherWords(THEIRS, OWN)
    (end, start), (own_end,) = THEIRS.ids("<end>", "<start>"), OWN.ids("<end>")
    assert both.hear([*THEIRS.encode("a"), end, start, *THEIRS.encode("wo")]) == [
        *OWN.encode("a"),
        own_end,
        *OWN.ids("wo"),
    ]
    assert both.back([*OWN.encode("ld"), own_end, *OWN.encode("x")]) == [*THEIRS.ids("ld"), end]
    assert OtherWords(OWN, THEIRS).back([start]) == []


def test_a_control_token_is_never_merged_across():
    both = OtherWords(THEIRS, OWN)
    both.hear([*THEIRS.encode("hel"), *THEIRS.ids("<start>")])  # OWN has no such token: nothing stands for it
    assert both.hear([*THEIRS.encode("hel"), *THEIRS.ids("<start>"), *THEIRS.encode("lo")]) == OWN.encode(
        "hel"
    ) + OWN.encode("lo")


def test_bytes_between_characters():
    e = "é€😀".encode()
    for n in range(len(e) + 1):
        assert ((e[: n - len(incomplete(e[:n]))] or b"").decode() in "é€😀" and begins_a_character(e[:n])) or n == 0
    assert incomplete(b"\x80\x80\x80\x80") == b"" and not begins_a_character(b"\x80")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two models that merge different letters."""
    folder = tmp_path_factory.mktemp("pair")
    main = write_chat_model(folder / "main.gguf", pairs=("th", "he", "in"))
    return str(main), str(write_chat_model(folder / "draft.gguf", pairs=("an",)))


def test_the_text_is_the_plain_one(pair):
    eng = fewer.open(pair[0], draft=pair[1])
    for sampling in ({}, {"temperature": 1.0, "top_k": 3, "seed": 5}):
        for prompt in ("Why then?", "in the inn"):
            got = eng.generate(prompt, use=["slem:length=4"], max_tokens=24, guard=False, **sampling)
            assert got.ledger.drafted_tokens and got.ledger.models["draft"].forwards
            if not sampling:
                assert got.tokens == eng.generate(prompt, max_tokens=24).tokens
    model = fewer.open(pair[0], draft=pair[0])
    got = model.generate("Why?", use=["slem:length=4"], max_tokens=24, guard=False)
    assert got.ledger.accepted_tokens > 12  # itself through text: nearly always right


@pytest.mark.slow
def test_smollm_drafts_for_qwen(qwen, smollm):
    """Two real families: the same answer as plain in clearly fewer forwards of the large model."""
    eng = fewer.open(qwen, draft=smollm)
    prompt = "Write a Python function that returns the sum of a list of numbers."
    plain = eng.generate(prompt, max_tokens=60)
    got = eng.generate(prompt, use=["slem"], max_tokens=60)
    assert got.tokens == plain.tokens
    assert got.ledger.models["main"].forwards < plain.ledger.models["main"].forwards
