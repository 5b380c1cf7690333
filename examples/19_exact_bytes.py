"""Bytes instead of tokens: prompts that end inside a token, the exact next byte, two models with different tokens.

A tokenised model has never seen a word cut short, so it goes on badly from one. Exact healing asks what it says about
the bytes: every way of tokenising them counts, with its probability.
"""

import os

import fewer
from fewer.tokens.bytes import ByteModel
from fewer.tokens.ranking import rank
from fewer.tokens.sampling import Ensemble, sample

engine = fewer.open(os.environ.get("FEWER_EXAMPLE_MODEL", "smollm2-135m"))
prompt = "import numpy as np\n\ndef mean(values):\n    return np.sum(values) / le"
for healing in ("none", "plain", "align", "exact"):
    out = engine.generate(prompt, raw=True, healing=healing, max_tokens=4)
    print(f"{healing:>6}: le|{out.text!r}  ({out.ledger.forwards} forwards)")

model = ByteModel(engine)
with model.start(prompt) as state:
    p = state.next()
    best = sorted(range(257), key=lambda b: -p[b])[:4]
    print("\nnext byte:", ", ".join(f"{chr(b)!r} {p[b]:.1%}" for b in best))
    names = {"len(": b"n(", "lenient": b"nient", "left": b"ft"}
    scores = state.score(list(names.values()))
    print("log probabilities:", {n: round(s, 2) for n, s in zip(names, scores)})
    print("byte by byte:", bytes(sample(state, 12)).decode())

print("ranked:", rank(engine, prompt[:-2], ["len", "left", "max", "values", "list"]).order)

with model.start("The capital of Fr") as one, ByteModel(engine).start("The capital of Fr") as other:
    mixed = Ensemble([one, other])  # any two models: their tokenizers need not agree
    print("together:", bytes(sample(mixed, 20)).decode())
