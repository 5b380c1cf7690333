"""Healing, sampling, ensembles, ranking, gaps: on tiny models, against what they are defined to be."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewer.errors import BadRequest, UnsupportedArchitecture
from fewer.ledger import Ledger
from fewer.tokens.bytes import END, ByteModel
from fewer.tokens.fim import Gap, fim_tokens
from fewer.tokens.healing import Healer
from fewer.tokens.ranking import rank
from fewer.tokens.sampling import Ensemble, sample
from fewer.types import Rng
from tests.cli_tiny import Said, fewer_command, tiny_model  # noqa: F401
from tests.test_tokens_bytes import distance, next_tokens, tiny_engine, tiny_tokenizer


class Nth(Rng):
    """Draws a given index and tells the weights it was offered."""

    def __init__(self, index: int) -> None:
        self.index = index

    def categorical(self, p: np.ndarray) -> int:
        self.p = np.asarray(p) / np.sum(p)
        return self.index


def engine_and_tokenizer(seed: int = 0):
    tok = tiny_tokenizer()
    return tiny_engine(tok, tok.vocab_size, seed=seed), tok


def test_exact_healing_draws_covers_as_the_bytes_say():
    """Summed over all draws, the byte behind the prompt has exactly the next-byte distribution."""
    engine, tok = engine_and_tokenizer()
    healer, text = Healer(engine, "exact"), "ba a"
    first = Nth(0)
    healer.heal(text, 1.0, first)
    got = np.zeros(257)
    for i, p in enumerate(first.p):
        if p:
            healed = healer.heal(text, 1.0, Nth(i))
            spelled = b"".join(map(tok.token_bytes, healed.tokens))
            assert spelled == text.encode() + healed.beyond
            if healed.beyond:
                got[healed.beyond[0]] += p
    with ByteModel(engine).start(text) as state:
        want = state.next()
        inside = np.zeros(257)
        for o in state.opens:
            if o.node.prefix:
                inside[:END] += math.exp(o.head.logp) * state.model.rule.trie.next_bytes(o.node, o.next)
        share = inside.sum() / state._masses(state.opens).sum()
    assert 0 < got.sum() < 1
    assert distance(got / got.sum(), inside / inside.sum()) < 1e-9
    assert got.sum() <= share + 1e-9 or share > 0
    assert want.sum() == pytest.approx(1)


def test_plain_healing_takes_one_token_back():
    engine, tok = engine_and_tokenizer()
    ids = tok.encode("b ab")
    healed = Healer(engine, "plain").heal("b ab")
    assert healed.tokens[: len(ids) - 1] == ids[:-1]
    owed = tok.token_bytes(ids[-1])
    p = next_tokens(engine)(tuple(ids[:-1]))
    fits = [i for i in range(1, tok.vocab_size) if tok.token_bytes(i).startswith(owed)]
    assert healed.tokens[-1] == max(fits, key=lambda i: p[i])


def test_alignment_matches_characters_step_by_step():
    engine, tok = engine_and_tokenizer()
    ids = tok.encode("b ab ab")
    ledger = Ledger()
    healed = Healer(engine, "align", back=2).heal("b ab ab", ledger=ledger)
    after, want = next_tokens(engine), ids[:-2]
    owed = b"".join(map(tok.token_bytes, ids[-2:]))
    steps = 0
    while owed:
        p = after(tuple(want))
        words = {i: tok.token_bytes(i) for i in range(1, tok.vocab_size)}
        best = max((i for i, w in words.items() if w.startswith(owed) or owed.startswith(w)), key=lambda i: p[i])
        want, owed, steps = [*want, best], owed[len(words[best]) :], steps + 1
    assert healed.tokens == want
    assert ledger.forwards == steps
    assert engine.stores["main"].bytes([]) == 0


@pytest.mark.parametrize("kind", ["plain", "align", "exact"])
def test_generate_goes_on_from_the_healed_prompt(kind: str):
    engine, tok = engine_and_tokenizer()
    healed = Healer(engine, kind).heal("ba ab")
    out = engine.generate("ba ab", raw=True, healing=kind, max_tokens=4, use=["lookahead"])
    plain = engine.generate(healed.tokens, max_tokens=4)
    assert out.tokens == plain.tokens
    assert out.text == (healed.beyond + b"".join(map(tok.token_bytes, [t for t in plain.tokens if t]))).decode(
        errors="replace"
    )
    assert out.ledger.forwards > 0
    many = engine.generate("ba ab", raw=True, healing=kind, max_tokens=2, temperature=1.0, seed=3, n=3)
    assert len(many) == 3


def test_healing_says_what_is_wrong():
    engine, _ = engine_and_tokenizer()
    for kind in ("plain", "exact"):
        with pytest.raises(BadRequest, match="empty"):
            engine.generate("", raw=True, healing=kind)
    with pytest.raises(BadRequest, match="raw=True"):
        engine.generate([1, 2], healing="exact")
    with pytest.raises(BadRequest, match="none, plain, align, exact"):
        Healer(engine, "magic")


def test_sampling_byte_by_byte():
    engine, _ = engine_and_tokenizer()
    model = ByteModel(engine)
    with model.start("ba") as state:
        said = bytes(sample(state, 6))
    text = b"ba"
    for byte in said:
        with model.start(text) as fresh:
            assert int(fresh.next().argmax()) == byte
        text += bytes([byte])
    with model.start("ba") as state:
        assert bytes(sample(state, 6, temperature=1.0, seed=5)) is not None
    with model.start("ba") as state, pytest.raises(BadRequest, match="max_bytes"):
        next(sample(state, 0))


def test_an_ensemble_is_the_mean_of_its_models():
    one, _ = engine_and_tokenizer(0)
    two_tok = tiny_tokenizer(None)
    two = tiny_engine(two_tok, two_tok.vocab_size, "qwen3", 1)
    with ByteModel(one).start("ba") as a, ByteModel(two).start("ba") as b:
        both = Ensemble([a, b], [3, 1])
        assert distance(both.next(), (3 * a.next() + b.next()) / 4) < 1e-12
        p = both.next()[ord("a")]
        assert both.push(b"a") == pytest.approx(math.log(p))
        assert a.bytes == b.bytes == b"baa"
        with ByteModel(one).start("b") as c, pytest.raises(BadRequest, match="same bytes"):
            Ensemble([a, c])


def test_tree_ranking_follows_one_greedy_path():
    engine, tok = engine_and_tokenizer()
    names = [" a", " ab", "b", "ba", "bab", "'s"]
    ranked = rank(engine, "ba", names)
    assert sorted(ranked.order) == sorted(names)
    assert ranked.forwards <= max(len(tok.encode(n)) for n in names)
    prompt = tok.encode("ba")
    p = next_tokens(engine)(tuple(prompt))
    whole = {n: tok.encode("ba" + n) for n in names}
    firsts = {n: ids[2] if ids[:2] == prompt else tok.encode(n)[0] for n, ids in whole.items()}
    best = max(firsts.values(), key=lambda t: p[t])
    assert firsts[ranked.order[0]] == best
    for n in names:
        if firsts[n] != best:
            assert ranked.scores[n] == (0, pytest.approx(math.log(p[firsts[n]])))
    exact = rank(engine, "ba", names, "exact")
    assert exact.order == sorted(names, key=lambda n: -exact.scores[n][0])
    assert exact.forwards == 2
    with pytest.raises(BadRequest, match="none of them empty"):
        rank(engine, "ba", [""])


@pytest.mark.parametrize("cut", [(0, 0), (3, 9), (4, 4), (10, 31), (31, 31), (12, 13)])
def test_gaps_can_be_cut_and_put_together_anywhere(cut: tuple[int, int]):
    code = "x = 1\ndef f(a):\n    return a\n\ny"
    before, middle, after = code[: cut[0]], code[cut[0] : cut[1]], code[cut[1] :]
    gap = Gap.at(before, after)
    assert gap.before + gap.answer(middle) + gap.after == code
    assert gap.middle(gap.answer(middle)) == middle
    assert gap.before == "" or gap.before.endswith("\n")
    assert "\n" not in gap.start


def test_models_without_gap_tokens_are_refused():
    engine, _ = engine_and_tokenizer()
    with pytest.raises(UnsupportedArchitecture, match="fim_prefix"):
        fim_tokens(engine)
    with pytest.raises(BadRequest, match="begin with"):
        Gap.at("ab", "c").middle("xc")


def test_command_line(fewer, tiny: str):
    for kind in ("none", "plain", "align", "exact"):
        said: Said = fewer("run", "-m", tiny, "--raw", "--healing", kind, "-n", "4", "wit")
        assert said.code == 0, said.err
        assert said.out.strip()
    refused = fewer("run", "-m", tiny, "--healing", "exact", "wit")
    assert refused.code == 2
    assert "--raw" in refused.err
    assert fewer("run", "-m", tiny, "--raw", "--healing", "best", "wit").code == 2
