"""PPD: guesses against a plain computation with the prompt tokens written out, the tree against trying all trees."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from fewer.errors import CorruptFile, ModelError, WrongPart
from fewer.methods.propose.prompt_tokens import KIND, RANKS, PromptTokens, plant
from fewer.parts.sparse_tree import Shape, dynamic, gain, likeliest
from fewer.parts.trained import write
from fewer.plan import PLAIN
from fewer.testing.harness import generate, request, run
from fewer.testing.rig import Rig
from fewer.testing.tiny import VARIANTS, tiny_model
from fewer.train.frozen import past
from fewer.train.ppd import ask
from fewer.types import Group, Step, Told, chain, soft

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5]
HEARD = []
RATES = ((0.5, 0.2, 0.1), (0.4, 0.2, 0.05))


def part(tmp_path, model, seed=1, m=3):
    """Random prompt tokens for a model, as a file."""
    g = torch.Generator().manual_seed(seed)
    rates = torch.tensor([[0.4 * 0.5**r for r in range(RANKS)]] * m)
    path = tmp_path / f"ppd-{seed}.safetensors"
    about = {"model": "tiny", "prompts": m}
    write(path, KIND, {"prompts": torch.randn(m, model.spec.d_model, generator=g), "rates": rates}, model, about)
    return str(path)


def plain_guess(model, text, vectors):
    """Logits behind each prompt token when they simply follow the text as further rows."""
    store = model.new_store()
    seq, said = store.new(), Told(0)
    rows = chain(text, 0)
    model.forward(Step([Group(seq, rows, PLAIN, said, None)]), store)
    store.commit(seq, rows, np.arange(len(rows)))
    asked = soft(vectors, len(text))
    (out,), _ = model.forward(Step([Group(seq, asked, PLAIN, said, np.arange(len(vectors)))]), store)
    return out.logits


class Overheard(PromptTokens):
    """Writes down every tree, what was accepted of it and what it then guesses."""

    def feedback(self, tree, path, target, told, state):
        super().feedback(tree, path, target, told, state)
        HEARD.append((list(told.generated), len(path), [list(g) for g in state.guesses]))


@pytest.mark.parametrize("variant", ["llama", "mistral", "gemma3"])
def test_guesses_are_what_prompt_tokens_behind_the_text_say(variant, tmp_path):
    model = tiny_model(variant)
    method = Overheard(file=part(tmp_path, model), budget=9)
    HEARD.clear()
    mine = request(PROMPT, use=[method], max_tokens=12)
    run(model, [mine])
    vectors = mine.told.of(method).vectors.double()
    asked = 0
    for generated, _, guesses in HEARD:
        text = [*PROMPT, *generated[:-1]]  # the last token is the certain one, which prompt tokens leave room for
        logits = plain_guess(model, text, vectors[: len(guesses)]) if guesses else []
        for said, row in zip(guesses, logits):
            assert said == torch.topk(row, RANKS).indices.tolist()
            asked += 1
    assert asked > 8 and mine.tokens == generate(model, PROMPT, max_tokens=12)[0]
    assert mine.ledger.models["main"].rows > 12


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trainers_forward_is_the_engines(variant):
    """Prompt tokens at many places at once, with gradients, against the engine one place at a time."""
    model = tiny_model(variant)
    vectors = torch.randn(3, model.spec.d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    text = torch.tensor([*PROMPT, *PROMPT[::-1]])
    places = torch.tensor([2, 7, 12])
    kv = past(model, text)
    kv = type(kv)([k.double() for k in kv.keys], [v.double() for v in kv.values])
    logits = model.head.logits(ask(model, kv, places, vectors)).view(3, 3, -1)
    for row, at in zip(logits, places.tolist()):
        assert torch.allclose(row, plain_guess(model, text[: at + 1].tolist(), vectors), atol=1e-5)


def test_a_tree_is_planted_with_its_prompt_tokens():
    """Guesses 7 and 8 for the next token, 5 behind 7; one prompt token behind 8, two behind the certain token."""
    shape = Shape((-1, -1, 0), (0, 0, 1), (0, 1, 0), (0.5, 0.2, 0.2), (2, 0, 1, 0))
    vectors = torch.tensor([[1.0], [2.0]])
    tree = plant(shape, [[7, 8, 9], [5, 6, 4]], vectors)
    assert tree.tokens.tolist() == [7, 8, 5, -1, -1, -1]
    assert tree.parent.tolist() == [-1, -1, 0, -1, 3, 1]
    assert tree.embeds.flatten().tolist() == [1.0, 2.0, 1.0]
    small = plant(shape, [[7], [5]], vectors)  # a vocabulary of one: rank 1 is not there
    assert small.tokens.tolist() == [7, 5, -1, -1]


def test_the_likeliest_guesses_come_first():
    """All nodes of the full tree, sorted by chance."""
    paths = [p for n in (1, 2) for p in itertools.product(range(3), repeat=n)]
    chance = sorted((np.prod([RATES[d][r] for d, r in enumerate(p)]) for p in paths), reverse=True)
    assert likeliest(RATES, 12)[-1].chance == pytest.approx(chance)


def every_tree(state, budget, m):
    """All shapes of a state, however poor, that use likeliest guesses."""
    for shape in likeliest(RATES[:state], budget):
        room = budget - len(shape.rank)
        for prompts in itertools.product(range(m + 1), repeat=len(shape.rank) + 1):
            if sum(prompts) <= room:
                yield Shape(shape.parent, shape.depth, shape.rank, shape.chance, prompts)


@pytest.mark.parametrize("budget", [2, 3, 4])
def test_no_choice_of_trees_accepts_more(budget):
    mine = gain(dynamic(RATES, budget))
    best = max(gain(t) for t in itertools.product(*(list(every_tree(s, budget, 2)) for s in range(3))))
    assert mine == pytest.approx(best, abs=1e-6)


def test_more_rows_never_accept_less():
    gains = [gain(dynamic(RATES, b)) for b in range(1, 16)]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(gains)) and gains[-1] > gains[2] > 0


def test_the_long_run_is_what_walking_gives():
    """gain() against drawing from the shapes' own chances."""
    shapes, rng, state, won, steps = dynamic(RATES, 6), np.random.default_rng(0), 0, 0, 20_000
    for _ in range(steps):
        shape = shapes[state]
        at = rng.choice(len(shape.prompts), p=np.array(shape.ends()) / sum(shape.ends()))
        won += 0 if at == 0 else shape.depth[at - 1] + 1
        state = shape.prompts[at]
    assert won / steps == pytest.approx(gain(shapes), abs=0.02)


def test_random_prompt_tokens_change_nothing(tmp_path):
    """Vectors from a file that nobody trained: drafts are wrong, the text is not."""
    rig = Rig()
    file = part(tmp_path, rig.models()["main"])
    for prompt in (PROMPT,):
        for o in ({}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3}):
            plain, _ = generate(rig.models()["main"], prompt, max_tokens=14, **o)
            text, ledger = generate(rig.models()["main"], prompt, use=[PromptTokens(file=file)], max_tokens=14, **o)
            assert text == plain and ledger.drafted_tokens


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    model = tiny_model()
    file = part(tmp_path, model)

    def use(file, model=model):
        return generate(model, PROMPT, use=[PromptTokens(file=file)], max_tokens=3)

    assert len(use(file)[0]) == 3
    with pytest.raises(
        WrongPart, match=r"trained for tiny \(3 layers, width 32, vocabulary 31\), this model has 2 layers"
    ):
        use(file, tiny_model(layers=2))
    with pytest.raises(WrongPart, match="whose weights are others"):
        use(file, tiny_model(seed=4))
    with pytest.raises(ModelError, match=r"there is no trained ppd 'nowhere'.*fewer train drafter ppd"):
        use("nowhere")
    with pytest.raises(CorruptFile, match="prompts must be between 1 and 16, found 99"):
        path = tmp_path / "many.safetensors"
        write(path, KIND, {}, model, {"model": "tiny", "prompts": 99})
        use(str(path))
    with pytest.raises(CorruptFile, match="rates must be"):
        path = tmp_path / "no-rates.safetensors"
        write(path, KIND, {"prompts": torch.zeros(3, 32)}, model, {"model": "tiny", "prompts": 3})
        use(str(path))
    with pytest.raises(WrongPart, match="is a trained kangaroo, not a ppd"):
        path = tmp_path / "other.safetensors"
        write(path, "kangaroo", {}, model, {})
        use(str(path))


def test_a_damaged_file_is_named(tmp_path):
    model = tiny_model()
    whole = Path(part(tmp_path, model)).read_bytes()
    for name, data in (("cut", whole[:-40]), ("noise", b"\x07" * 60), ("empty", b""), ("header", whole[:20])):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(CorruptFile, match=f"{name}.safetensors is no trained ppd"):
            generate(model, PROMPT, use=[PromptTokens(file=str(path))], max_tokens=3)
