"""The few types every room shares: rows of work, what a forward returns, what a method is told, randomness.

A step of work is `Rows`: ragged rows without padding and without a prefill/decode flag. `parent` names an earlier row
of the same sequence in this step, or -1 for the cache's tip, so chains, chunks and draft trees are one thing.
Row metadata lives on the host (numpy); only tokens' embeddings and what follows live on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from fewer.plan import Seams
    from fewer.seams import Watcher


@dataclass(frozen=True, slots=True)
class Rows:
    """T rows of ONE sequence: pos (T,); parent (T,) local row numbers or -1; tokens (T,). int64.

    A row whose token is -1 is soft: its input is a vector, and embeds (S, D) holds those of the soft rows in order.
    """

    pos: np.ndarray
    parent: np.ndarray
    tokens: np.ndarray
    embeds: torch.Tensor | None = None
    is_chain: bool = True

    def __len__(self) -> int:
        return len(self.pos)


def chain(tokens: Sequence[int] | np.ndarray, start: int) -> Rows:
    """Rows for consecutive tokens whose first stands at position `start`."""
    t = np.asarray(tokens, dtype=np.int64)
    n = len(t)
    return Rows(np.arange(start, start + n), np.arange(-1, n - 1), t)


def soft(embeds: torch.Tensor, start: int) -> Rows:
    """Rows whose inputs are vectors (T, D) instead of tokens."""
    n = len(embeds)
    return Rows(np.arange(start, start + n), np.arange(-1, n - 1), np.full(n, -1), embeds)


@dataclass(frozen=True, slots=True)
class Tree:
    """A draft: tokens (N,), parent (N,) indices into this tree or -1 for the last certain token; parents come first.

    q: the drafter's own distribution at each node's PARENT, (N, V): needed by ratio acceptance only.
    chance: (N,) the drafter's estimate that a node and all before it stand; it decides what is verified when rows cost.
    embeds: (S, D) inputs of the S nodes whose token is -1, in order. Such a node is computed and never stands.
    copies: (N,) how many of several drafts drawn alike pass through a node.
    """

    tokens: np.ndarray
    parent: np.ndarray
    q: torch.Tensor | None = None
    chance: np.ndarray | None = None
    embeds: torch.Tensor | None = None
    copies: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def children(self, node: int) -> list[int]:
        """The nodes below `node`, in order."""
        return np.flatnonzero(self.parent == node).tolist() if len(self.tokens) else []

    def depth(self) -> np.ndarray:
        """(N,) depth of each node, 0 for children of the certain token."""
        d = np.zeros(len(self.tokens), dtype=np.int64)
        for i, p in enumerate(self.parent):
            d[i] = 0 if p < 0 else d[p] + 1
        return d

    def trimmed(self, levels: int) -> Tree:
        """The tree without nodes deeper than `levels` levels."""
        return self.only(np.flatnonzero(self.depth() < levels))

    def only(self, keep: np.ndarray) -> Tree:
        """The nodes `keep` (ascending; every node's parent must be among them or -1)."""
        if len(keep) == len(self.tokens):
            return self
        new = np.full(len(self.tokens) + 1, -1)
        new[keep] = np.arange(len(keep))
        q = None if self.q is None else self.q[torch.as_tensor(keep)]
        chance = None if self.chance is None else self.chance[keep]
        soft = np.cumsum(self.tokens < 0) - 1
        vectors = keep[self.tokens[keep] < 0]
        embeds = None if self.embeds is None else self.embeds[torch.as_tensor(soft[vectors])]
        copies = None if self.copies is None else self.copies[keep]
        return Tree(self.tokens[keep], new[self.parent[keep]], q, chance, embeds, copies)


def follow(
    tree: Tree, draw: Callable[[int], int], ends: Callable[[int], bool], seen: int | None = None
) -> tuple[list[int], int]:
    """Draw a token at each node and follow the child that holds it: (path, the first drawn token with no child).

    With draws from the target this is exact for any tree and any way of drawing. Nothing is drawn behind a token that
    ends the text, since rules have no say there, or behind nodes from `seen` on, which the model has not looked at.
    """
    path: list[int] = []
    node = -1
    while True:
        token = draw(node)
        child = next((i for i in tree.children(node) if tree.tokens[i] == token), None)
        if child is None or ends(token) or (seen is not None and child >= seen):
            return path, token
        node = child
        path.append(node)


EMPTY_TREE = Tree(np.zeros(0, np.int64), np.zeros(0, np.int64))


def chain_then_tree(tokens: Sequence[int], tree: Tree, start: int) -> Rows:
    """Certain tokens followed by a draft tree that hangs on the last of them."""
    n = len(tokens)
    head = np.arange(-1, n - 1)
    if not len(tree):
        return Rows(np.arange(start, start + n), head, np.asarray(tokens, dtype=np.int64))
    parent = np.where(tree.parent < 0, n - 1, tree.parent + n)
    pos = np.concatenate([np.arange(start, start + n), start + n + tree.depth()])
    parent = np.concatenate([head, parent])
    is_chain = bool((parent == np.arange(-1, len(parent) - 1)).all())
    return Rows(pos, parent, np.concatenate([np.asarray(tokens, np.int64), tree.tokens]), tree.embeds, is_chain)


def code_point(token: int, first: bool) -> bytes:
    """What token ids spell where there is no tokenizer: token i is the character i."""
    return chr(token).encode("utf-8", "surrogatepass")


def as_it_is(logits: torch.Tensor, path: Sequence[int]) -> torch.Tensor:
    """What a request without sampling parameters makes of logits (V,)."""
    return torch.softmax(logits, dim=-1)


def nobody(token: int, count: int) -> torch.Tensor:
    """The neighbours of a token where no model is."""
    return torch.zeros(0, dtype=torch.int64)


def no_vectors(tokens: torch.Tensor) -> torch.Tensor:
    """Input vectors where there is no model."""
    raise RuntimeError("this request does not run on a model")


def code_points(text: str) -> list[int]:
    """A text as token ids where there is no tokenizer: the inverse of code_point."""
    return [ord(c) for c in text]


class Memory:
    """What methods of one engine keep over its requests, by method and knobs; beyond `limit` the longest unused goes."""

    def __init__(self, limit: int = 8) -> None:
        self._limit, self._kept = limit, dict[Any, Any]()

    def of(self, method: Any, told: Told) -> Any:
        """What `method.remember(told)` made when it was first asked for."""
        kept = self._kept.pop(method) if method in self._kept else method.remember(told)
        self._kept[method] = kept
        if len(self._kept) > self._limit:
            del self._kept[next(iter(self._kept))]
        return kept

    def all(self) -> list[Any]:
        """What is kept, of all methods."""
        return list(self._kept.values())


def free(rows: int) -> float:
    """The cost of rows where nobody knows it."""
    return 1.0


@dataclass(slots=True)
class Told:
    """What a request tells its methods: facts, never controls. One per request and model; a method's own
    state is kept here too and handed to it at every call."""

    prompt_len: int  # tokens that entered the model after every transform
    n_layers: int = 0  # of the request's main model
    windows: tuple[int | None, ...] = ()  # of its layers, as in Spec
    heads: tuple[int, int] = (0, 0)  # query heads and kv-heads of a layer
    vocab: int = 0  # rows of its embedding
    seen: int = 0  # tokens committed so far
    decoding: bool = False  # the whole prompt is committed
    generated: list[int] = field(default_factory=list)
    spell: Callable[[int, bool], bytes] = code_point  # (token, is it the first?) -> the bytes it adds to the text
    words: dict[str, Any] = field(default_factory=dict)  # model -> its tokenizer, where two models may differ in them
    near: Callable[[int, int], torch.Tensor] = nobody  # (token, count) -> nearest by the main model's embeddings
    greedy: bool = False  # the request always takes the likeliest token
    expect: Callable[[torch.Tensor, Sequence[int]], torch.Tensor] = (
        as_it_is  # (a drafter's logits (V,), tokens drafted before) -> probabilities under the request's sampling
    )
    encode: Callable[[str], list[int]] | None = None  # text -> tokens; None where there is no tokenizer
    embed: Callable[[torch.Tensor], torch.Tensor] = (
        no_vectors  # tokens (n,) -> their input vectors (n, D), for soft nodes
    )
    memory: Memory = field(default_factory=Memory)  # the engine's
    cost: Callable[[int], float] = free  # of a forward of so many rows, in forwards of one row; no clock's where it may
    # not shape the text
    weights: dict[str, float] = field(default_factory=dict)  # model -> multiply-adds a row, the main one's being 1
    _state: dict[int, Any] = field(default_factory=dict)

    def start(self, method: Any) -> None:
        """Make a method's state for this request."""
        self._state[id(method)] = method.start(self)

    def of(self, method: Any) -> Any:
        """The state that `method.start` made for this request; None for what was never started (a one-pass watcher)."""
        return self._state.get(id(method))

    def states(self) -> list[Any]:
        """Those of all methods."""
        return list(self._state.values())

    def remembered(self, method: Any) -> Any:
        """What this method keeps over all requests of the engine."""
        return self.memory.of(method, self)


@dataclass(slots=True)
class Group:
    """The rows of one sequence inside a step, with the seams of its request."""

    seq: int
    rows: Rows
    seams: Seams
    told: Told
    want: np.ndarray | None  # local rows whose logits are needed; None = none
    watch: Watcher | None = None  # beyond those of the seams
    start: int = 0  # offset of the first row in the step


@dataclass(slots=True)
class Step:
    """One forward of one model: groups concatenated in order. It runs the layers from `start` up to before `stop`."""

    groups: list[Group]
    stop: int | None = None
    start: int = 0
    taps: frozenset[str] = frozenset()
    best: int = 0  # so many of the likeliest tokens of each wanted row are enough; 0 = logits
    size: int = 0

    def __post_init__(self) -> None:
        at = 0
        for g in self.groups:
            g.start = at
            at += len(g.rows)
        self.size = at


@dataclass(slots=True)
class Out:
    """What a forward returns for one group. logits (W, V) in the order of `want`, or best (W, k) if the likeliest k tokens were
    enough, likeliest first.

    rows, groups, seconds: of the whole merged forward; lanes: other models ran beside it, seconds until all had ended.
    """

    logits: torch.Tensor | None = None
    best: np.ndarray | None = None
    hidden: dict[str, torch.Tensor] = field(
        default_factory=dict
    )  # declared taps: "layer.3" -> (T, D); "last" -> (T, D)
    rows: int = 0
    groups: int = 1
    seconds: float = 0.0
    lanes: bool = False


class Rng:
    """All randomness of one request. `categorical` is the only way a method may draw, so a harness can enumerate it."""

    def __init__(self, seed: int | None) -> None:
        self._g = np.random.Generator(np.random.PCG64(seed))

    def spawn(self) -> Rng:
        """A further stream that the seed fixes too: draws from either leave the other alone."""
        other = Rng.__new__(Rng)
        (other._g,) = self._g.spawn(1)
        return other

    def categorical(self, p: torch.Tensor | np.ndarray) -> int:
        """Draw an index from non-negative weights p (V,), which need not sum to one."""
        c = np.cumsum(np.asarray(p, dtype=np.float64))
        return int(min(np.searchsorted(c, self._g.random() * c[-1], side="right"), len(c) - 1))
