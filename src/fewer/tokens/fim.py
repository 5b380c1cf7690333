"""Filling a gap at any byte: prompts for models with fill-in-the-middle tokens.

    infill   <prefix> before <suffix> after <middle> [start]: the unfinished last line of `before` is moved behind the
             middle token and read as bytes, so the answer goes on from the exact byte where the gap begins
    FIM-SE   <prefix> whole lines <suffix> whole lines <START> unfinished line <END> unfinished line <middle>, whose
             answer is whole lines that begin with START's text and end with END's: "Empowering Character-level Text
             Infilling by Eliminating Sub-Tokens"

FIM-SE's two marks are tokens of its fine-tuned models; for others any two strings serve, or none. Does not: train.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewer.engine import Engine
from fewer.errors import BadRequest, UnsupportedArchitecture
from fewer.tokens.bytes import ByteModel
from fewer.tokens.sampling import sample

NAMES = (  # prefix, suffix, middle: Qwen2.5-Coder; StarCoder; CodeLlama
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)


@dataclass(frozen=True)
class Gap:
    """Text around a gap, cut into whole lines and the unfinished lines next to the gap."""

    before: str  # whole lines
    start: str  # the line the gap begins in, up to the gap
    end: str  # the rest of the line the gap ends in, with its newline
    after: str  # whole lines

    @classmethod
    def at(cls, before: str, after: str) -> Gap:
        """Cut at the last newline before the gap and the first one after it."""
        line = before.rfind("\n") + 1
        rest = after.find("\n") + 1 or len(after)
        return cls(before[:line], before[line:], after[:rest], after[rest:])

    def answer(self, middle: str) -> str:
        """What a FIM-SE model is to say for this gap."""
        return self.start + middle + self.end

    def middle(self, answer: str) -> str:
        """The gap's text in such an answer. Raises BadRequest if it does not begin and end as told."""
        inside = len(answer) >= len(self.start) + len(self.end)
        if not (inside and answer.startswith(self.start) and answer.endswith(self.end)):
            raise BadRequest(f"the answer must begin with {self.start!r} and end with {self.end!r}")
        return answer[len(self.start) : len(answer) - len(self.end)]


def fim_tokens(engine: Engine) -> tuple[int, int, int]:
    """Ids of a model's prefix, suffix and middle tokens. Raises UnsupportedArchitecture if it has none."""
    if engine.tokenizer is not None:
        for names in NAMES:
            pre, suf, mid = (engine.tokenizer.backend.token_to_id(n) for n in names)
            if pre is not None and suf is not None and mid is not None:
                return pre, suf, mid
    raise UnsupportedArchitecture(f"this model has no fill-in-the-middle tokens such as {', '.join(NAMES[0])}")


def prompt(engine: Engine, before: str, after: str, marks: tuple[str, str] | None = None) -> list[int]:
    """Token ids up to the middle token; marks: FIM-SE's START and END, None = neither mark nor unfinished lines."""
    tokenizer, (pre, suf, mid) = engine.tokenizer, fim_tokens(engine)
    assert tokenizer is not None
    gap = Gap.at(before, after)
    hints: list[int] = []
    if marks is not None:
        for mark, text in zip(marks, (gap.start, gap.end)):
            known = tokenizer.backend.token_to_id(mark)
            hints += [known] if known is not None else tokenizer.encode(mark, bos=False)
            hints += tokenizer.encode(text, bos=False)
        after = gap.after
    return [pre, *tokenizer.encode(gap.before, bos=False), suf, *tokenizer.encode(after, bos=False), *hints, mid]


def infill(
    model: ByteModel,
    before: str,
    after: str,
    max_bytes: int = 128,
    stop: str = "",
    marks: tuple[str, str] | None = None,
) -> str:
    """The likeliest text for the gap, byte by byte from the exact place where it begins.

    With marks the answer runs on through the rest of the gap's last line and is cut there. Bytes that are not yet a
    whole character at max_bytes are left out."""
    gap = Gap.at(before, after)
    ending = stop or (gap.end if marks is not None else "")
    with model.start(gap.start, context=prompt(model.engine, before, after, marks)) as state:
        said = bytes(sample(state, max_bytes, stop=ending.encode()))
    text = said.decode(errors="ignore")
    return text.removesuffix(ending) if ending else text
