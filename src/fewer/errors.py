"""Every error a user can cause, typed. The CLI prints the message alone; the library raises the class.

A message says what was wrong and what to do. `exit_code` is what the command line returns for it.
"""

from __future__ import annotations


class FewerError(Exception):
    """Base of all errors `fewer` raises on purpose."""

    exit_code = 2


class ModelError(FewerError):
    """A model cannot be found, fetched or loaded."""


class CorruptFile(ModelError):
    """A model file is truncated, damaged or hostile: its own lengths and offsets do not add up."""


class ChecksumMismatch(ModelError):
    """A fetched file's sha256 is not the published one."""


class UnsupportedArchitecture(ModelError):
    """The file is readable but describes a structure the decoder does not have."""


class FetchError(ModelError):
    """A download failed: no network, no such package, no disk space."""


class UnknownMethod(FewerError):
    """A method name that is not in the catalogue."""


class BadKnob(FewerError):
    """A knob that a method does not have, or a value outside its range."""


class CannotCombine(FewerError):
    """Two methods of one plan exclude each other; the message names both."""


class PromptTooLong(FewerError):
    """The prompt does not fit the model's context and no method in the plan shortens it."""


class BadRequest(FewerError):
    """An empty prompt, max_tokens < 1, an impossible sampling parameter."""


class InvariantBroken(FewerError):
    """The ledger of a run does not add up: a bug in the engine or a method, never the user's."""

    exit_code = 70


class WrongPart(ModelError):
    """A trained part (a drafter's adapter, prompt tokens) was made for another method or another model."""
