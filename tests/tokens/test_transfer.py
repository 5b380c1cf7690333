"""Transplants: pursuit equals a naive rewrite, rows are what each formula says, folders open in fewer and transformers."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file

import fewer as library
from fewer.engine import Engine
from fewer.errors import BadRequest, ModelError
from fewer.models.families import from_hf
from fewer.models.source import open_source
from fewer.tokens.load import from_tokenizer
from fewer.tokens.train import export
from fewer.tokens.transfer import bits, ends, folder, starts
from fewer.tokens.transfer import transplant as work
from fewer.tokens.transfer.config import config
from fewer.tokens.transfer.match import spelled
from fewer.tokens.transfer.pursuit import pursue
from tests.cli_tiny import Said, fewer_command, write_chat_model  # noqa: F401
from tests.tiny_files import HF_SIZES, write_hf

LETTERS = "etaoin"
PAIRS = tuple(a + b for a, b in itertools.product(LETTERS, LETTERS))  # 36 two-letter tokens
TEXT = "a note: nine tonnes of tea into ten tin\nat one, no tie to eat; on and on it ate toe, tan, ant\n"


def quiet(said: str) -> None:
    pass


@pytest.fixture(scope="module", name="old")
def old_model(tmp_path_factory: pytest.TempPathFactory) -> ends.End:
    return ends.open_model(str(write_chat_model(tmp_path_factory.mktemp("old") / "old.gguf", pairs=PAIRS[:24])))


@pytest.fixture(scope="module", name="donor")
def donor_model(tmp_path_factory: pytest.TempPathFactory) -> ends.End:
    """Another vocabulary: 12 of its pairs are new."""
    return ends.open_target(str(write_chat_model(tmp_path_factory.mktemp("new") / "new.gguf", pairs=PAIRS)))


@pytest.fixture(scope="module", name="bare")
def bare_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ends.End:
    """The same pairs as a tokenizer.json without any control token."""
    tokens = [bytes([b]) for b in range(256)] + [p.encode() for p in PAIRS]
    backend = export.merging(tokens, [(p[:1].encode(), p[1:].encode()) for p in PAIRS], r"\s?\S+|\s")
    return ends.open_target(str(export.save(backend, tmp_path_factory.mktemp("bare") / "tokenizer.json", {})))


def naive_pursuit(x: np.ndarray, atoms: np.ndarray, k: int) -> tuple[list[int], np.ndarray]:
    chosen: list[int] = []
    rest, c = x, np.zeros(0)
    for _ in range(k):
        likeness = np.abs(atoms @ rest) / np.linalg.norm(atoms, axis=1)
        likeness[chosen] = -1
        chosen.append(int(likeness.argmax()))
        c = np.linalg.lstsq(atoms[chosen].T, x, rcond=None)[0]
        rest = x - atoms[chosen].T @ c
    return chosen, c


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_pursuit_equals_a_naive_rewrite(room: int) -> None:
    rng = np.random.default_rng(0)
    x, atoms = rng.standard_normal((13, 24)), rng.standard_normal((60, 24)) * rng.uniform(0.2, 3, (60, 1))
    chosen, c = pursue(torch.from_numpy(x), torch.from_numpy(atoms), 6, batch=4, room=room)
    for i in range(13):
        wanted, weights = naive_pursuit(x[i], atoms, 6)
        assert chosen[i].tolist() == wanted
        np.testing.assert_allclose(c[i].numpy(), weights, atol=1e-9)


def test_what_is_left_shrinks_with_k_and_a_sum_of_atoms_is_found() -> None:
    g = torch.Generator().manual_seed(1)
    atoms = torch.randn(80, 32, generator=g, dtype=torch.float64)
    x = torch.randn(5, 32, generator=g, dtype=torch.float64)

    def left(k: int) -> float:
        chosen, c = pursue(x, atoms, k)
        return float((torch.einsum("bk,bkd->bd", c, atoms[chosen]) - x).norm())

    assert left(1) > left(3) > left(8) > left(32) and left(32) < 1e-8
    made = 2 * atoms[[7]] - 0.5 * atoms[[11]]
    chosen, c = pursue(made, atoms, 5)  # three more than it needs
    assert {7, 11} <= set(chosen[0].tolist())
    torch.testing.assert_close(c @ atoms[chosen[0]], made)
    with pytest.raises(BadRequest, match="from 1 to the 80"):
        pursue(x, atoms, 81)


def test_the_same_tokenizer_gives_the_same_model(old: ends.End) -> None:
    t = work.transplant(old, old, "zero", starts.Knobs(), quiet)
    assert t.match.copied == {i: i for i in range(t.match.size)} and not t.match.pieces
    for name in ("embed", "head"):
        torch.testing.assert_close(t.rows[name], old.matrix(name))


@pytest.mark.parametrize("how", starts.HOW)
def test_rows(how: str, old: ends.End, donor: ends.End) -> None:
    k = 7
    t = work.transplant(old, donor, how, starts.Knobs(k=k), quiet)
    ids, old_ids = donor.vocabulary.ids, old.vocabulary.ids
    for name in ("embed", "head"):
        was, rows = old.matrix(name), t.rows[name]
        torch.testing.assert_close(rows[ids[PAIRS[3].encode()]], was[old_ids[PAIRS[3].encode()]])
        new = PAIRS[30]
        row, parts = rows[ids[new.encode()]], was[[old_ids[c.encode()] for c in new]]
        if how == "zero":
            assert not row.any()
        elif how == "mean":
            torch.testing.assert_close(row, was.mean(0))
        elif how == "fvt":
            torch.testing.assert_close(row, parts.mean(0))
        elif how == "omp":
            theirs = donor.matrix(name)
            new_ids, olds = t.match.shared()
            x, atoms, mine = theirs[ids[new.encode()]].numpy(), theirs[new_ids].numpy(), was[olds].numpy()
            there, here = atoms.mean(0), mine.mean(0)
            chosen, c = naive_pursuit(x - there, atoms - there, k)
            np.testing.assert_allclose(row.numpy(), here + c @ (mine - here)[chosen], atol=1e-4)
            plain = work.transplant(old, donor, how, starts.Knobs(k=k, centre=False), quiet).rows[name]
            chosen, c = naive_pursuit(x, atoms, k)
            np.testing.assert_allclose(plain[ids[new.encode()]].numpy(), c @ mine[chosen], atol=1e-4)
    assert all(
        t.tokenizer.name(i) == old.tokenizer.name(j) for i, j in zip(sorted(t.tokenizer.eos), sorted(old.tokenizer.eos))
    )


def test_tokenadapt_is_its_formula(old: ends.End, bare: ends.End) -> None:
    new = PAIRS[30].encode()
    rows = {
        mix: work.transplant(old, bare, "tokenadapt", starts.Knobs(near=2, mix=mix), quiet).rows["embed"]
        for mix in (0.0, 0.3, 1.0)
    }
    i = bare.vocabulary.ids[new]
    torch.testing.assert_close(rows[0.3][i], 0.7 * rows[0.0][i] + 0.3 * rows[1.0][i])
    was, at = old.matrix("embed"), old.vocabulary.ids
    pool = sorted(at.items(), key=lambda held: held[1])
    like = starts.letters([t for t, _ in pool]) @ starts.letters([new])[0]
    best = torch.topk(like, 2)
    far = torch.softmax(best.values / starts.SHARPNESS, 0) @ was[[pool[n][1] for n in best.indices.tolist()]]
    torch.testing.assert_close(rows[1.0][i], far)
    parts = [new[:1], new[1:]]
    weight = torch.softmax(starts.letters(parts) @ starts.letters([new])[0] / starts.SHARPNESS, 0)
    torch.testing.assert_close(rows[0.0][i], weight @ was[[at[p] for p in parts]])


def test_control_tokens_come_along(old: ends.End, bare: ends.End) -> None:
    t = work.transplant(old, bare, "fvt", starts.Knobs(), quiet)
    assert t.template is not None and t.match.size == 256 + len(PAIRS) + 3
    for name in ("<|im_start|>", "<|im_end|>"):
        i, j = t.backend.token_to_id(name), old.tokenizer.backend.token_to_id(name)
        torch.testing.assert_close(t.rows["embed"][i], old.matrix("embed")[j])
    assert t.tokenizer.name(t.tokenizer.main_eos) == "<|im_end|>"
    assert t.tokenizer.decode(t.tokenizer.encode(TEXT)) == TEXT


def test_bits_do_not_depend_on_windows_of_rows(old: ends.End) -> None:
    dense = work.body(old)
    found = bits.per_text(dense, old.tokenizer, {"x": TEXT})["x"]
    ids = old.tokenizer.encode(TEXT.rstrip("\n") + "\n")
    wanted = -sum(Engine(dense, old.tokenizer).score([bits.opening(old.tokenizer), *ids]).logprobs)
    assert found.bytes == len(TEXT.encode()) and found.tokens == len(ids) and found.exact
    assert found.bits == pytest.approx(wanted / np.log(2) / found.bytes, rel=1e-5)


@pytest.mark.parametrize("dtype", folder.DTYPES)
def test_a_folder_opens_in_fewer_and_transformers(tmp_path: Path, old: ends.End, donor: ends.End, dtype: str) -> None:
    t = work.transplant(old, donor, "fvt", starts.Knobs(), quiet)
    out = folder.write(tmp_path / "made", old, t.backend, t.rows, t.template, {"how": "fvt"}, dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    eng = library.open(out, dtype="float32")
    ids = eng.tokenizer.encode(TEXT)
    assert ids == t.tokenizer.encode(TEXT)
    mine = torch.tensor(eng.score(ids).logprobs, dtype=torch.float64)
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        z = torch.log_softmax(theirs(torch.tensor([ids])).logits[0].double(), -1)
        torch.testing.assert_close(mine, z[torch.arange(len(ids) - 1), ids[1:]], atol=2e-4, rtol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained(out)(TEXT, add_special_tokens=False)["input_ids"] == ids
    assert eng.generate("hello", max_tokens=4).text  # the chat template came along
    again = ends.open_model(str(out))  # a folder is a model as good as another
    assert config(again.weights(), 7, True, dtype, {})["vocab_size"] == 7


@pytest.mark.parametrize("family", ["gemma3", "qwen2", "qwen3", "llama"])
def test_a_config_says_the_structure(tmp_path: Path, family: str) -> None:
    kinds = {
        "gemma3": transformers.Gemma3TextConfig(**HF_SIZES, head_dim=32, query_pre_attn_scalar=48, sliding_window=5),
        "qwen2": transformers.Qwen2Config(**HF_SIZES),
        "qwen3": transformers.Qwen3Config(**HF_SIZES, head_dim=32),
        "llama": transformers.LlamaConfig(**HF_SIZES, rms_norm_eps=1e-5),
    }
    write_hf(tmp_path, kinds[family])
    source = open_source(tmp_path)
    made = config(source, 99, False, "float32", {})
    assert (made["vocab_size"], made["tie_word_embeddings"]) == (99, False)
    source.format = "gguf"  # as if it had to be made from the structure alone
    said = from_hf(config(source, 99, source.spec.tied, "float32", {}))
    assert said.ropes == source.spec.ropes and said.windows == source.spec.windows and said.scale == source.spec.scale


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, old: ends.End, donor: ends.End, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = work.transplant(old, donor, "mean", starts.Knobs(), quiet)

    def write(force: bool = False) -> Path:
        return folder.write(tmp_path / "made", old, t.backend, t.rows, t.template, {}, "float16", force)

    out = write()
    before = load_file(out / "model.safetensors")
    with pytest.raises(BadRequest, match="--force"):
        write()

    def fails(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(folder, "save_file", fails)
        with pytest.raises(KeyboardInterrupt):
            write(force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    assert all(torch.equal(w, before[n]) for n, w in load_file(out / "model.safetensors").items())
    write(force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    (tmp_path / "mine").mkdir()
    with pytest.raises(BadRequest, match="not written by"):
        folder.check_folder(tmp_path / "mine", True)
    with pytest.raises(BadRequest, match="beyond float16"):
        huge = {n: w * 1e6 for n, w in t.rows.items()}
        folder.write(tmp_path / "huge", old, t.backend, huge, t.template, {}, "float16")


def test_what_cannot_be_done_says_so(tmp_path: Path, old: ends.End, bare: ends.End) -> None:
    with pytest.raises(BadRequest, match="let --to name a model"):
        work.transplant(old, bare, "omp", starts.Knobs(), quiet)
    few = write_chat_model(tmp_path / "few.gguf", pairs=("zz", "qq"))
    with pytest.raises(BadRequest, match="share only 0 tokens"):
        work.transplant(old, ends.open_target(str(few)), "fvt", starts.Knobs(), quiet)
    with pytest.raises(ModelError):
        ends.open_target(str(tmp_path / "none.json"))
    with pytest.raises(BadRequest, match="mix from 0 to 1"):
        starts.Knobs(mix=1.5)
    with pytest.raises(ModelError, match="without a model"):
        bare.matrix("embed")


def test_pieces_where_encoding_puts_a_space_before() -> None:
    from tokenizers import Tokenizer, decoders, normalizers
    from tokenizers.models import BPE

    from fewer.models.tokenizer import wrap
    from fewer.models.tokenizer_file import Built

    vocab = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "▁b": 5}
    backend = Tokenizer(BPE(vocab, [("▁", "a"), ("▁", "b")], unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    held = from_tokenizer(wrap(Built(backend, None, None, frozenset(), False, frozenset())), "sp", "test")
    assert spelled(held, b" ab") == [4, 3]
    assert spelled(held, b"ab") == [2, 3]


def test_the_command(tmp_path: Path, old: ends.End, donor: ends.End, fewer) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    model, to = str(old.weights().path), str(donor.weights().path)
    args = ["tokens", "transplant", model, "--to", to, "--text", str(text)]
    said: Said = fewer(*args, "--how", "zero", "--how", "omp", "--k", "4", "--json")
    assert said.code == 0, said.err
    result = json.loads(said.out)
    assert list(result["ways"]) == ["zero", "omp"] and result["prefill_seconds"]["after"] > 0
    before, after = result["before"]["texts"][str(text)], result["ways"]["omp"]["texts"][str(text)]
    assert before["bytes"] == after["bytes"] and before["tokens"] > after["tokens"]
    out = tmp_path / "made"
    said = fewer(*args, "--how", "omp", "--k", "4", "-o", str(out), "--html", str(tmp_path / "page.html"))
    assert said.code == 0 and f"fewer run -m {out}" in said.out, said.err
    assert json.loads((out / folder.MARK).read_text())["how"] == "omp"
    assert "Bits a byte" in (tmp_path / "page.html").read_text()
    said = fewer(*args, "-o", str(out))
    assert said.code == 2 and "--force" in said.err
    assert fewer(*args, "--how", "best").code == 2
    assert fewer(*args, "--how", "fvt", "--how", "zero", "-o", str(tmp_path / "x")).code == 2


def test_pursuits_beside_another_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer is played by this very code in another process, so both ways must come out alike."""
    from fewer.bench import pursuits

    old, new = (
        write_chat_model(tmp_path / "old.gguf", pairs=PAIRS[:24]),
        write_chat_model(tmp_path / "n.gguf", pairs=PAIRS),
    )
    (tmp_path / "mergekit").mkdir()
    (tmp_path / "mergekit" / "__init__.py").touch()
    (tmp_path / "mergekit" / "tokensurgeon.py").write_text(
        "from fewer.tokens.transfer.pursuit import pursue as batch_omp\n"
    )
    (tmp_path / "mergekit-1.0.dist-info").mkdir()
    (tmp_path / "mergekit-1.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: mergekit\nVersion: 1.0\n"
    )
    source = Path(pursuits.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{source}")
    monkeypatch.setattr(pursuits.texts, "judged", lambda names, nbytes: {"x": TEXT[:nbytes]})
    r = pursuits.measure(str(old), str(new), 3, 60, Path(sys.executable), quiet)
    assert 0 < r["tokens"] <= 12 and r["atoms"] > 24 and r["omp"]["bits"] > 0
    assert r["omp"]["bits"] == pytest.approx(r["mergekit"]["bits"]) and r["omp, centred"]["bits"] != r["omp"]["bits"]
    monkeypatch.setenv("PYTHONPATH", str(source))
    with pytest.raises(BadRequest, match="mergekit"):
        pursuits.measure(str(old), str(new), 3, 60, Path(sys.executable), quiet)
