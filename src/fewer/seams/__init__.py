"""The seams: what a method may be. A method subclasses one of these, is a frozen dataclass of knobs, and keeps no state.

Per-request state is made by `start(told)` and handed back at every call. Methods decide; the engine does and counts.
One file a group of seams; import them from here.
Every class says when it is called; a method overrides only what is new in its paper.
"""

from fewer.seams.asks import Commit, Forward, Given, Part, Rewind, Splice, Work
from fewer.seams.cache import Blocks, Codec, Full, Retain, Select
from fewer.seams.drafting import BEST, Accept, Propose, Target
from fewer.seams.knobs import budget_knob, knob, resolve_budget
from fewer.seams.layers import Route
from fewer.seams.method import Held, Method, Watcher
from fewer.seams.text import Pack, Rule, Strategy, Transform

__all__ = [
    "BEST",
    "SEAMS",
    "Accept",
    "Blocks",
    "Codec",
    "Commit",
    "Forward",
    "Full",
    "Given",
    "Held",
    "Method",
    "Pack",
    "Part",
    "Propose",
    "Retain",
    "Rewind",
    "Route",
    "Rule",
    "Select",
    "Splice",
    "Strategy",
    "Target",
    "Transform",
    "Watcher",
    "Work",
    "budget_knob",
    "knob",
    "resolve_budget",
]

SEAMS: dict[str, type[Method]] = {
    c.seam: c for c in (Retain, Select, Codec, Route, Propose, Accept, Rule, Transform, Pack, Strategy)
}
