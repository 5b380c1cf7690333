"""What a model under a new tokenizer is to learn from itself under the old one, on one text.

    chunks   the shortest stretches that begin and end at token borders of both cuts
    alm      Bernoulli KL between both models' likelihoods of each chunk, p^(1/t):      p log p/q + (1-p) log (1-p)/(1-q)
             (Cross-Tokenizer Distillation via Approximate Likelihood Matching)
    kl       KL between both next-token distributions at common borders; a new token counts as the old piece it begins with,
             but the one that comes next, which has the likelihood of all its pieces: without it nothing says how much of
             the first piece is the new token's
             (KL-based self-distillation for large language models, whose abstract leaves the alignment open)
    text     plain cross-entropy, for comparison

alm and kl are 0 where both models and tokenizers are the same. Not done: alm's filter of chunks by how biased their ends
are, its matching of hidden states; kl where a new token begins with no old one (that mass is left out).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

SOFTNESS = 100.0  # alm's t


def borders(ids: Sequence[int], tokens: Sequence[bytes]) -> list[int]:
    """Bytes of the text that lie behind each token."""
    out, at = [], 0
    for i in ids:
        at += len(tokens[i])
        out.append(at)
    return out


def common(a: Sequence[int], b: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in a and b (rising) that hold the same border, (C,) each."""
    place = {x: i for i, x in enumerate(a)}
    both = [(place[x], j) for j, x in enumerate(b) if x in place]
    return torch.tensor([i for i, _ in both], dtype=torch.int64), torch.tensor([j for _, j in both], dtype=torch.int64)


def chunk_sums(logp: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    """logp (T,) of tokens, ends (C,) each chunk's last token -> (C,) log likelihoods of the chunks."""
    upto = torch.cumsum(logp, 0)[ends]
    return torch.diff(upto, prepend=upto.new_zeros(1))


def alm(teacher: torch.Tensor, student: torch.Tensor, softness: float = SOFTNESS) -> torch.Tensor:
    """teacher, student (C,) log likelihoods of the same chunks."""
    p, q = (x.double().clamp(max=-1e-7) / softness for x in (teacher, student))
    not_p, not_q = torch.log(-torch.expm1(p)), torch.log(-torch.expm1(q))
    return (p.exp() * (p - q) - torch.expm1(p) * (not_p - not_q)).mean()


def kl(
    teacher: torch.Tensor,
    student: torch.Tensor,
    begins: torch.Tensor,
    coming: torch.Tensor | None = None,
    likely: torch.Tensor | None = None,
) -> torch.Tensor:
    """teacher (C, V), student (C, V') logits at common borders; begins (V',): the old token each new one begins with, -1
    for none. coming (C,): the new token of more pieces than one that is next, -1 where none is; likely (C,): the log
    likelihood of its pieces under the teacher."""
    known = torch.nonzero(begins >= 0)[:, 0]
    q = torch.softmax(student, -1)
    folded = torch.zeros_like(teacher).index_add(1, begins[known], q[:, known])
    covered = torch.zeros(teacher.shape[1], dtype=torch.bool)
    covered[begins[known]] = True
    p = torch.softmax(teacher.masked_fill(~covered, float("-inf")), -1)
    if coming is not None and likely is not None:
        at = torch.nonzero(coming >= 0)[:, 0]
        whole, first, own = likely[at].exp(), begins[coming[at]], q[at, coming[at]]
        p, folded = _apart(p, at, first, whole), _apart(folded, at, first, own)
        covered = torch.cat([covered, covered.new_ones(1)])
    p, folded = p[:, covered].clamp_min(1e-12), folded[:, covered].clamp_min(1e-12)
    return (p * (p.log() - folded.log())).sum(-1).mean()


def _apart(x: torch.Tensor, at: torch.Tensor, first: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """x (C, V) with a further column: in rows `at`, `part` of column `first` moves there."""
    column = x.new_zeros(len(x)).index_put((at,), part)
    return torch.cat([x.index_put((at, first), -part, accumulate=True), column[:, None]], 1)


def text(student: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """student (T, V') logits, ids (T,) what comes."""
    return cross_entropy(student, ids)
