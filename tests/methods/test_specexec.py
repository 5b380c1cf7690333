"""SpecExec: the likeliest paths of the draft model, the target draws along them: seeded texts are plain decoding's own."""

import pytest

from fewer.methods.propose.best_first import BestFirst
from fewer.plan import plan
from fewer.testing.harness import generate
from fewer.testing.rig import Rig
from fewer.types import Rng
from tests.methods.test_dyspec import SAMPLING, grown, likeliest_paths, paths

WORDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.mark.parametrize("width", [1, 4, 32])
def test_the_tree_holds_the_likeliest_paths_of_a_sampled_request(width):
    best = likeliest_paths(12, 3, greedy=False)
    tree, _ = grown(BestFirst(budget=12, length=3, width=width), Rng(0), **SAMPLING)
    assert set(paths(tree)) == set(best)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.9}])
def test_the_same_seed_gives_plain_decodings_text(sampling):
    models = Rig().models()
    for seed in range(2):
        plain, _ = generate(models, WORDS, max_tokens=24, seed=seed, **sampling)
        text, ledger = generate(
            models, WORDS, use=["specexec:budget=12,length=4"], max_tokens=24, seed=seed, **sampling
        )
        assert text == plain and ledger.accepted_tokens


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}])
def test_a_larger_tree_serves_for_longer(sampling):
    """Tokens a forward of the large model rise with the budget."""
    models = Rig().models(layers=2)
    forwards = []
    for budget in (1, 4, 20):
        use = [f"specexec:budget={budget},length=4"]
        runs = [generate(models, WORDS, use=use, max_tokens=16, seed=seed, **sampling)[1] for seed in range(2)]
        forwards.append(sum(r.models["main"].forwards for r in runs))
    assert forwards == sorted(forwards, reverse=True) and forwards[-1] < 0.8 * forwards[0]


def test_nothing_is_drafted_while_the_walk_stays_inside():
    """A draft model that is the target itself, and sure: every forward yields the tree's whole depth and one more."""
    model = Rig().models("cycle")["main"]
    _, ledger = generate(
        {"main": model, "draft": model}, WORDS, use=["specexec:budget=6,length=3,width=6"], max_tokens=25
    )
    main, draft = ledger.models["main"], ledger.models["draft"]
    assert main.forwards == 1 + 24 // 4
    assert draft.forwards == 3 * 6


def test_its_trees_need_no_rule():
    assert plan(["specexec"]).accept is None
