"""Checks on what is declared: the row, the knobs, the evidence."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

from fewer.card import CLAIMS
from fewer.errors import FewerError
from fewer.plan import make, parse_use
from fewer.seams import SEAMS, Method
from fewer.testing.checks_text import alone
from fewer.testing.companions import LONG
from fewer.testing.held import require
from fewer.testing.subject import Subject

TASKS = ("needle", "copy", "chat", "constrained", "batch")
EVIDENCE = {"attention": ("probe", "watch"), "queries": ("probe", "watch_queries"), "logits": ("read_logits",)}
OWN_EVIDENCE: dict[str, dict[str, tuple[str, ...]]] = {  # of seams that hear it in hooks of their own
    "propose": {"logits": ("feedback",), "best": ("feedback",)},
    "retain": {**EVIDENCE, "hidden": ("sees",)},
    "select": {"queries": ("read",), "hidden": ("sees",)},
}
CHANGES_TEXT = ("retain", "select", "codec", "route", "propose", "accept", "transform", "pack", "strategy")


def card(subject: Subject) -> None:
    """The row is complete and true to its class; claims fit together; every knob is explained; `full` can be made."""
    method = subject.make(**subject.settings[0])
    cls = type(method)
    require(issubclass(cls, SEAMS[subject.seam]), f"{cls.__name__} is not a {SEAMS[subject.seam].__name__}")
    params = getattr(cls, "__dataclass_params__", None)
    require(params is not None and params.frozen, f"{cls.__name__} must be a frozen dataclass")
    require(cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), f"{cls.__name__} has no docstring")
    unknown = subject.claims - set(CLAIMS)
    require(not unknown, f"unknown claims {sorted(unknown)}; there are {', '.join(CLAIMS)}")
    require(not {"lossless", "lossy"} <= subject.claims, "it claims to be both lossless and lossy")
    if subject.seam in CHANGES_TEXT:
        require(subject.claims & {"lossless", "lossy"}, f"a {subject.seam} method must say lossless or lossy")
    require("lossy" not in subject.claims or subject.full, "a lossy method must say in `full` when it is the identity")
    for name, about in cls.knobs().items():
        require(str(about.get("doc", "")).strip(), f"knob {name!r} is not explained")
        require(about["default"] is not None or "None" in about["type"], f"knob {name!r} has no default")
    missing = set(subject.full) - {f.name for f in fields(cls)}
    require(not missing, f"`full` names knobs that do not exist: {sorted(missing)}")
    subject.make(**subject.full)
    require(all(str(why).strip() for why in subject.exceptions.values()), "an exception without a reason")
    if subject.card is not None:
        _row(subject)


def _row(subject: Subject) -> None:
    row = subject.card
    assert row is not None
    for name in ("paper", "idea", "choices"):
        text = getattr(row, name)
        require(text and text == text.strip(), f"`{name}` is empty or has blanks around it")
    require(row.idea.endswith("."), "`idea` must be a sentence")
    require(row.task in TASKS, f"task {row.task!r} is none of {', '.join(TASKS)}")
    for text in ("", *row.measure, *row.check):
        try:
            make(*parse_use(f"{row.name}:{text}"))
        except FewerError as e:
            require(False, f"setting {text!r} is refused: {e}")
    module = inspect.getmodule(row.load())
    require(module is not None and (module.__doc__ or "").strip(), "its module has no docstring that says the idea")


def evidence(subject: Subject) -> None:
    """Evidence is declared by those who take it, and taken by those who declare it."""
    method = subject.make(**subject.settings[0])
    cls, base = type(method), SEAMS[subject.seam]
    offered: dict[str, tuple[str, ...]] = OWN_EVIDENCE.get(subject.seam, EVIDENCE)
    unknown = method.needs - set(offered)
    require(not unknown, f"it needs {sorted(unknown)}; there is {', '.join(offered)}")
    by_knobs = isinstance(
        inspect.getattr_static(cls, "needs"), property
    )  # other settings may take what this one does not
    for kind, hooks in offered.items():
        own = [h for h in hooks if getattr(cls, h, None) is not getattr(base, h, None)]
        if kind not in method.needs:
            heard = getattr(method, "taps", None) or any(offered[other] == hooks for other in method.needs)
            unused = hooks[-1] in own and not by_knobs and not heard
            require(not unused, f"it has {hooks[-1]} but does not declare that it needs {kind}, so nobody calls it")
            continue
        require(
            len(own) == len(hooks), f"it declares that it needs {kind} but has no {', '.join(set(hooks) - set(own))}"
        )
        called: list[str] = []
        alone(subject, [_listening(method, hooks[-1], called)], LONG[:40], max_tokens=6, chunk=16)
        require(called, f"it declares that it needs {kind} but never takes it")


def _listening(method: Method, hook: str, called: list[str]) -> Method:
    """The same method that also notes when `hook` is called."""
    cls: Any = type(method)

    def noted(self: Any, *args: Any) -> Any:
        called.append(hook)
        return getattr(super(twin, self), hook)(*args)

    twin: Any = type(cls.__name__, (cls,), {hook: noted})
    return twin(**{f.name: getattr(method, f.name) for f in fields(method)})
