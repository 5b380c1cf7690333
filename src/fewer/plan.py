"""A plan: method list -> checked bundle of seams. Anything that cannot work is refused here, by name, before a model runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from fewer.card import find
from fewer.errors import BadKnob, CannotCombine
from fewer.parts.merged import Merged
from fewer.seams import SEAMS, Accept, Codec, Method, Pack, Propose, Retain, Route, Rule, Select, Strategy, Transform

ONE_EACH = ("retain", "select", "codec", "route", "propose", "accept", "pack", "strategy")


@dataclass(frozen=True)
class Seams:
    """What one request brings to the engine. Empty = plain."""

    retain: Retain | None = None
    select: Select | None = None
    codec: Codec | None = None
    route: Route | None = None
    propose: Propose | None = None
    accept: Accept | None = None
    pack: Pack | None = None
    strategy: Strategy | None = None
    rules: tuple[Rule, ...] = ()
    transforms: tuple[Transform, ...] = ()

    def methods(self) -> list[Method]:
        """All methods, in the order they act."""
        single = [self.retain, self.select, self.codec, self.route, self.propose, self.accept, self.pack, self.strategy]
        return [*self.transforms, *self.rules, *(m for m in single if m is not None)]

    @property
    def place(self) -> bool:
        """Keys are kept unrotated and rotated by their place in the cache."""
        return self.retain is not None and self.retain.positions == "place"

    @property
    def makes_room(self) -> bool:
        """May the prompt be longer than the model's context?"""
        strategy = self.strategy is not None and self.strategy.makes_room
        return any(not t.gives for t in self.transforms) or self.place or strategy

    @property
    def pure_prefix(self) -> bool:
        """Is the cache after a prompt just the prompt's plain cache, so that others may share it?"""
        own = self.strategy is not None and not self.strategy.plain_cache
        sparse = self.select is not None and (self.select.acts == "prompt" or bool(self.select.needs))
        return not (self.retain or self.codec or self.route or self.transforms or own or sparse)

    @property
    def native_read(self) -> bool:
        """Can attention read the store as it lies?"""
        return self.select is None and self.codec is None and not self.place


PLAIN = Seams()


def parse_use(text: str) -> tuple[str, dict[str, str]]:
    """'name:key=value,key=value' -> (name, knobs). A comma that no `key=` follows belongs to the value."""
    name, _, rest = text.partition(":")
    knobs = {}
    for part in filter(None, re.split(r",(?=\s*\w+=)", rest)):
        key, eq, value = part.partition("=")
        if not eq:
            raise BadKnob(f"{text!r}: expected key=value after ':', got {part!r}")
        knobs[key.strip()] = value.strip()
    return name.strip(), knobs


def _number(text: str) -> int | float:
    value = int(text) if text.lstrip("-").isdigit() else float(text)
    if value != value:
        raise ValueError("nan")
    return value


def _convert(name: str, key: str, value: Any, kind: str) -> Any:
    """A knob's text to its declared type. Values that already have a type are checked alike."""
    kinds = {k.strip() for k in kind.split("|")}
    try:
        if isinstance(value, bool) or "bool" in kinds:
            if str(value).lower() in ("1", "true", "yes", "on"):
                return True
            if str(value).lower() in ("0", "false", "no", "off"):
                return False
            raise ValueError
        if isinstance(value, str) and "str" not in kinds:
            value = _number(value)
        if kinds == {"int"} and not isinstance(value, int):
            raise ValueError
        if kinds == {"float"}:
            value = float(value)
        return value
    except ValueError:
        raise BadKnob(f"{name}: {key}={value!r} is not of type {kind}") from None


def make(name: str, knobs: dict[str, Any]) -> Method:
    """One method with checked knobs."""
    card = find(name)
    cls = card.load()
    schema = {f.name: f for f in fields(cls)}
    values = dict(card.settings)
    for key, value in knobs.items():
        if key not in schema:
            near = difflib.get_close_matches(key, schema, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(schema) or 'none'}."
            raise BadKnob(f"{name} has no knob {key!r}: {hint}")
        values[key] = _check(name, key, _convert(name, key, value, str(schema[key].type)), schema[key].metadata)
    try:
        method = cls(**values)
    except ValueError as e:
        raise BadKnob(f"{name}: {e}") from None
    for key in knobs:  # after the method's own say, which knows its minimum
        if schema[key].metadata.get("budget"):
            _check_budget(name, key, values[key])
    object.__setattr__(method, "name", name)
    return method


def _check_budget(name: str, key: str, value: int | float) -> None:
    ok = 0 < value <= 1 if isinstance(value, float) else value >= 1
    if not ok:
        raise BadKnob(f"{name}: {key}={value} must be an integer >= 1 or a fraction in (0, 1]")


def _check(name: str, key: str, value: Any, meta: Any) -> Any:
    low, high, choices = meta.get("low"), meta.get("high"), meta.get("choices")
    if (low is not None and value < low) or (high is not None and value > high):
        raise BadKnob(f"{name}: {key}={value} is outside [{low}, {'inf' if high is None else high}]")
    if choices and value not in choices:
        raise BadKnob(f"{name}: {key}={value!r} is not one of {', '.join(map(str, choices))}")
    return value


def plan(use: Sequence[str | Method]) -> Seams:
    """Methods (by 'name:knob=value' or as objects) -> Seams; several drafters become one. Raises UnknownMethod, BadKnob,
    CannotCombine."""
    methods = [make(*parse_use(u)) if isinstance(u, str) else u for u in use]
    slots: dict[str, list[Any]] = {s: [] for s in SEAMS}
    for m in methods:
        slots[m.seam].append(m)
    if len(slots["propose"]) > 1:
        _mergeable(slots["propose"])
        slots["propose"] = [Merged(parts=tuple(slots["propose"]))]
    for seam in ONE_EACH:
        if len(slots[seam]) > 1:
            a, b = slots[seam][:2]
            raise CannotCombine(f"{label(a)} and {label(b)} cannot be combined: a plan has one {seam} method.")
    _complete(slots)
    bundle = Seams(
        **{s: slots[s][0] for s in ONE_EACH if slots[s]},
        rules=tuple(slots["rule"]),
        transforms=tuple(sorted(slots["transform"], key=lambda t: t.gives)),
    )
    _refuse(bundle)
    return bundle


def _mergeable(parts: list[Propose]) -> None:
    """Refuse drafters that cannot become one: two that keep the cache of one model, or one whose text is its rule's."""
    for i, a in enumerate(parts):
        for b in parts[:i] + parts[i + 1 :]:
            judge, shared = a.judge(), a.uses & b.uses
            why = ""
            if shared:
                why = f"both keep the cache of the {min(shared)} model."
            elif judge is not None and not judge.exact:
                why = f"what stands of {label(a)}'s drafts is for its own rule to say, which cannot judge the other's."
            if why:
                raise CannotCombine(f"{label(a)} and {label(b)} cannot be combined: {why}")


def _complete(slots: dict[str, list[Any]]) -> None:
    """A rule without drafts brings its drafter; a drafter without a rule brings its judge, unless a rule draws itself."""
    propose, accept = slots["propose"], slots["accept"]
    if accept and not propose:
        _bring(propose, accept[0], accept[0].drafter())
    elif propose and not accept and not any(r.black_box for r in slots["rule"]):
        _bring(accept, propose[0], propose[0].judge())


def _bring(slot: list[Any], owner: Method, companion: Method | None) -> None:
    """Put a method's companion beside it, under the same name."""
    if companion is not None:
        object.__setattr__(companion, "name", label(owner))
        slot.append(companion)


def label(m: Method) -> str:
    """A method's catalogue name, or its class for one made outside the catalogue."""
    return m.name or type(m).__name__


def _refuse(s: Seams) -> None:
    """Pairs that exclude each other by what they declare, never by who they are."""

    def no(a: Method, b: Method, why: str) -> None:
        raise CannotCombine(f"{label(a)} and {label(b)} cannot be combined: {why}")

    if s.strategy:
        for other in (s.accept, s.propose, *s.transforms):
            if other is not None:
                no(s.strategy, other, "it runs the request itself, from prompt to end.")
        for m in s.methods():
            if m.seam in s.strategy.excludes:
                no(s.strategy, m, s.strategy.excludes[m.seam])
    if s.retain:
        for giver in (t for t in s.transforms if t.gives):
            no(
                s.retain,
                giver,
                "what stays is judged by tokens of the prompt, and what stands in front of it has none.",
            )
    black = [r for r in s.rules if r.black_box]
    if len(black) > 1:
        no(black[0], black[1], "both draw the token themselves.")
    if s.retain and s.codec and s.retain.acts == "always":
        no(s.retain, s.codec, "packed entries cannot be evicted one by one.")
    if s.retain and s.codec and not s.codec.per_head:
        no(s.retain, s.codec, "it packs a token's heads together, but heads keep entries of different tokens.")
    if s.retain and s.route and s.retain.positions == "place" and s.route.missing_kv == "absent":
        no(s.retain, s.route, "positions by place need the same entries in every layer.")
    if s.retain and s.select and s.retain.positions == "place":
        no(s.retain, s.select, "a selection needs rotated keys, positions by place keep them unrotated.")
    if s.route and s.propose and not s.route.row_local:
        no(s.route, s.propose, "its decisions depend on the other rows of a step, so drafts would change the text.")
    if s.accept and s.propose and s.accept.laws is not None and s.propose.law() not in s.accept.laws:
        ways = " or ".join(sorted(s.accept.laws))
        no(
            s.accept,
            s.propose,
            f"it compares drafts with the distribution they were drawn from, in a way called {ways}.",
        )
    if s.accept and black:
        no(s.accept, black[0], "a rule that draws tokens itself has no distribution to compare drafts with.")
