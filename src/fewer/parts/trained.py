"""Small trained parts as files: what was learnt about one frozen model, by which command, and whether it fits this model.

A part is a safetensors file: float16 tensors, a header that says what it is, and `probe`, the model's own input vectors of a
few tokens, by which another model of the same shape is told apart. Parts that come with fewer are named by their model
("smollm2-135m"); others by their path; UNTRAINED asks a method to begin where its training begins, on any model.
Does not: hold code, or parts so large that they need a memory map.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as render

from fewer.errors import BadRequest, CorruptFile, ModelError, WrongPart
from fewer.models.decoder import Decoder
from fewer.models.spec import Spec

FORMAT = "fewer part 1"
SHIPPED = Path(__file__).parents[1] / "trained"
UNTRAINED = "untrained"
PROBES = 16
ALIKE = 0.99  # cosine of input vectors that packing of weights may leave


@dataclass(frozen=True, eq=False)
class Part:
    """kind: what it is, "kangaroo"; about: how it was made, JSON values; digest: of the whole file."""

    kind: str
    where: str
    tensors: Mapping[str, torch.Tensor]
    about: Mapping[str, object]
    digest: str

    def check(self, main: Decoder, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Raises WrongPart if it was made for another model than `main`, CorruptFile if a tensor is not as in `shapes`."""
        wanted, found = shape_of(main.spec), self.about.get("shape")
        if found != wanted:
            raise self._wrong(f"it was trained for {self.about.get('model')} ({found}), this model has {wanted}")
        probe, mine = self.tensors.get("probe"), probes(main)
        if probe is None or probe.shape != mine.shape:
            raise self._damaged(f"probe must be {tuple(mine.shape)}")
        if torch.cosine_similarity(probe.double(), mine.double(), dim=-1).min() < ALIKE:
            raise self._wrong(
                f"it was trained for {self.about.get('model')}, whose weights are others than this model's"
            )
        for name, shape in shapes.items():
            t = self.tensors.get(name)
            if t is None or tuple(t.shape) != shape:
                raise self._damaged(f"{name} must be {shape}, found {'nothing' if t is None else tuple(t.shape)}")
            if not torch.isfinite(t).all():
                raise self._damaged(f"{name} holds values that are not finite")

    def number(self, name: str, low: int, high: int) -> int:
        """A whole number of the header in [low, high]; raises CorruptFile."""
        n = self.about.get(name)
        if type(n) is not int or not low <= n <= high:
            raise self._damaged(f"{name} must be between {low} and {high}, found {n!r}")
        return n

    def _wrong(self, why: str) -> WrongPart:
        return WrongPart(f"{self.where} does not fit: {why}. {_train(self.kind)}")

    def _damaged(self, why: str) -> CorruptFile:
        return CorruptFile(f"{self.where} is damaged: {why}. {_train(self.kind)}")


def find(kind: str, file: str) -> Part:
    """The part that knob `file` names: one that comes with fewer, or a path. Raises ModelError, CorruptFile, WrongPart."""
    path = SHIPPED / f"{kind}-{file}.safetensors"
    if not path.exists():
        path = Path(file).expanduser()
    try:
        stat = path.stat()
        part = _read(kind, str(path), stat.st_mtime_ns, stat.st_size)
    except OSError as e:
        ours = sorted(p.stem.removeprefix(f"{kind}-") for p in SHIPPED.glob(f"{kind}-*.safetensors"))
        have = f"fewer comes with {', '.join(ours)}" if ours else "fewer comes with none"
        raise ModelError(f"there is no trained {kind} {file!r} ({e.strerror}); {have}. {_train(kind)}") from None
    if part.kind != kind:
        raise WrongPart(f"{path} is a trained {part.kind}, not a {kind}. {_train(kind)}")
    return part


@lru_cache(maxsize=8)
def _read(kind: str, path: str, mtime: int, size: int) -> Part:
    data = Path(path).read_bytes()
    try:
        tensors = parse(data)
        head = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        if head.get("format") != FORMAT:
            raise ValueError(f"its format is {head.get('format')!r}, expected {FORMAT!r}")
        about = json.loads(head["about"])
        return Part(str(head["kind"]), path, tensors, about, hashlib.sha256(data).hexdigest()[:16])
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CorruptFile(f"{path} is no trained {kind}: {e}. {_train(kind)}") from None


def write(
    path: Path, kind: str, tensors: Mapping[str, torch.Tensor], main: Decoder, about: Mapping[str, object]
) -> None:
    """Write a part in one piece, in float16. Raises BadRequest if the file cannot be written."""
    small = {name: t.detach().half().contiguous() for name, t in {**tensors, "probe": probes(main)}.items()}
    head = {"format": FORMAT, "kind": kind, "about": json.dumps({**about, "shape": shape_of(main.spec)})}
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(render(small, head))
        partial.replace(path)
    except OSError as e:
        raise BadRequest(f"cannot write {path}: {e.strerror or e}") from None


def shape_of(spec: Spec) -> str:
    """What a part must share with its model, in words."""
    return f"{spec.n_layers} layers, width {spec.d_model}, vocabulary {spec.vocab}"


def probes(main: Decoder) -> torch.Tensor:
    """Input vectors (PROBES, D) of tokens spread over the vocabulary."""
    return main.head.embed(torch.arange(PROBES) * main.spec.vocab // PROBES)


WAYS = {  # kind -> (how it is trained, the row that uses it), where both are not named after it
    "judge": ("judge -m MODEL --draft MODEL", "autojudge"),
    "cartridge": ("cartridge -m MODEL DOCUMENT", "cartridge"),
    "butler": ("butler -m MODEL", "tokenbutler"),
    "gate": ("gate -m MODEL", "attention-gate"),
}


def _train(kind: str) -> str:
    what = WAYS.get(kind, (f"drafter {kind} -m MODEL", kind))
    return f"Train one with `fewer train {what[0]} -o FILE`, then use {what[1]}:file=FILE."
