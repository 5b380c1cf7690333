"""The list of checks, and which of them a subject's claims and seam choose.

    check_method(MyMethod, claims=["lossy", "deterministic"], full={"budget": 1.0}, settings=[{"budget": 0.25}])

runs them all in anybody's test suite. An exception {check: reason} is strict: the check must really fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fewer.errors import CannotCombine
from fewer.plan import plan
from fewer.seams import Method
from fewer.testing import checks_cache, checks_card, checks_ledger, checks_lossless, checks_runs, checks_text
from fewer.testing.checks_text import drafts_lossily
from fewer.testing.companions import Oracle
from fewer.testing.held import CheckFailed
from fewer.testing.rig import Rig, one_thread
from fewer.testing.subject import Knobs, Subject, from_class


@dataclass(frozen=True)
class Check:
    """run(subject) raises CheckFailed; `when` says whether a subject must pass it."""

    run: Callable[[Subject], None]
    when: Callable[[Subject], bool]


def _always(subject: Subject) -> bool:
    return True


def _claims(claim: str) -> Callable[[Subject], bool]:
    return lambda s: claim in s.claims


def _seams(*seams: str) -> Callable[[Subject], bool]:
    return lambda s: s.seam in seams


def _replayed(s: Subject) -> bool:
    """Can its decisions be carried out naively? Drafts of a lossy rule are not decisions but the text itself."""
    return s.seam in REPLAYED and not drafts_lossily(s)


def _may_meet_drafts(s: Subject) -> bool:
    """May drafts of another stand beside it? Those of a drafter with a judge of its own would be judged otherwise."""
    try:
        plan([*s.use(), Oracle()])
    except CannotCombine:
        return False
    return plan(s.use()).accept is None


REPLAYED = ("retain", "select", "codec", "route", "transform", "propose", "pack")

CHECKS: dict[str, Check] = {
    "card": Check(checks_card.card, _always),
    "evidence": Check(checks_card.evidence, _always),
    "identity": Check(checks_text.identity, lambda s: bool(s.full)),
    "identity-sampled": Check(checks_lossless.identity_sampled, lambda s: bool(s.full) and drafts_lossily(s)),
    "acts": Check(checks_text.acts, _claims("lossy")),
    "lossless-greedy": Check(checks_lossless.lossless_greedy, _claims("lossless")),
    "lossless-sampled": Check(checks_lossless.lossless_sampled, _claims("lossless")),
    "rollback": Check(checks_lossless.rollback, _seams(*checks_text.DRAFTS)),
    "replay": Check(checks_text.replay, _replayed),
    "float32": Check(checks_text.float32, _replayed),
    "drafts": Check(checks_text.drafts, _may_meet_drafts),
    "deterministic": Check(checks_runs.deterministic, _claims("deterministic")),
    "batch": Check(checks_runs.batch, _claims("batch-invariant")),
    "chunking": Check(checks_runs.chunking, _claims("batch-invariant")),
    "isolation": Check(checks_runs.isolation, _always),
    "budget": Check(checks_cache.budget, checks_cache.has_budget),
    "positions": Check(checks_cache.positions, _always),
    "sharing": Check(checks_cache.sharing, _always),
    "shared-prefix": Check(checks_cache.shared_prefix, _always),
    "forced": Check(checks_cache.forced, _seams("transform")),
    "ledger": Check(checks_ledger.ledger, _always),
    "saves-bytes": Check(checks_ledger.saves_bytes, _claims("saves-bytes")),
    "saves-rows": Check(checks_ledger.saves_rows, _claims("saves-rows")),
    "saves-reads": Check(checks_ledger.saves_reads, _claims("saves-reads")),
    "saves-forwards": Check(checks_ledger.saves_forwards, _claims("saves-forwards")),
}


def checks_for(subject: Subject) -> list[str]:
    """Names of the checks this subject must pass (or is excepted from)."""
    unknown = [name for name in subject.exceptions if name not in CHECKS]
    if unknown:
        raise CheckFailed(
            f"{subject.name}: exceptions for checks that do not exist: {unknown}; there are {', '.join(CHECKS)}"
        )
    return [name for name, check in CHECKS.items() if check.when(subject)]


def run_check(subject: Subject, name: str) -> bool:
    """Run one check. True = it failed as its exception says. Raises CheckFailed if it fails, or is excepted and passes."""
    why = subject.exceptions.get(name)
    try:
        CHECKS[name].run(subject)
    except Exception as e:
        if why is None:
            told = str(e) if isinstance(e, CheckFailed) else f"it cannot even run: {type(e).__name__}: {e}"
            raise CheckFailed(f"{subject.name}: {name}: {told}") from e
        return True
    if why is not None:
        raise CheckFailed(f"{subject.name}: {name} holds, so its exception must go: {why}")
    return False


def check_method(
    cls: type[Method],
    claims: Iterable[str],
    full: Knobs | None = None,
    settings: Iterable[Knobs] = ({},),
    exceptions: Mapping[str, str] | None = None,
    rig: Rig | None = None,
) -> list[str]:
    """Every check that the claims and the seam of `cls` choose; the names of those that ran. Raises CheckFailed.

    full: knob values at which it is the identity. settings: knob values at which it acts on prompts of 20 to 200 tokens.
    """
    subject = from_class(cls, claims, full, settings, exceptions, rig)
    names = checks_for(subject)
    with one_thread():
        for name in names:
            run_check(subject, name)
    return names
