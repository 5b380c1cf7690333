"""The seams: what a method may be. A method subclasses one of these, is a frozen dataclass of knobs, and keeps no state.

Per-request state is made by `start(told)` and handed back at every call. Methods decide; the engine does and counts.
Every class says when it is called; a method overrides only what is new in its paper.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch

from fewer.kv.segment import Encoded
from fewer.kv.view import View
from fewer.types import EMPTY_TREE, Out, Rng, Rows, Told, Tree, follow

if TYPE_CHECKING:
    from fewer.models.decoder import Decoder
    from fewer.request import Request


def knob(default: Any, doc: str, low: float | None = None, high: float | None = None, choices: tuple = ()) -> Any:
    """A dataclass field that is a knob: its range is checked when a plan is made."""
    return field(default=default, metadata={"doc": doc, "low": low, "high": high, "choices": choices})


def budget_knob(default: int | float, what: str) -> Any:
    """The one word for what is limited: an integer counts, a fraction in (0, 1] is a share of the prompt, 1.0 is all."""
    return field(
        default=default, metadata={"doc": f"{what}: a count, or a share of the prompt in (0, 1]", "budget": True}
    )


def resolve_budget(budget: int | float, prompt_len: int) -> int | None:
    """Entries or tokens allowed for this prompt; None = no limit (the identity, 1.0)."""
    if isinstance(budget, float):
        return None if budget >= 1.0 else max(1, round(budget * prompt_len))
    return int(budget)


@dataclass(frozen=True)
class Forward:
    """Asks for one forward: rows of a model's sequence. `want` = local rows whose logits come back; None = none.

    stop: leave the stack after so many layers. start: enter it above so many layers, with soft rows that those made;
    they were counted as seen when they began. taps: hidden states to return. greedy: the arg max is enough.
    """

    rows: Rows
    want: np.ndarray | None = None
    model: str = "main"
    stop: int | None = None
    start: int = 0
    taps: frozenset[str] = frozenset()
    greedy: bool = False
    watch: Watcher | None = None  # a transform that reads attention during its own pass
    stage: str = "decode"  # which line of the ledger's clock this belongs to
    beside: Work | None = None  # runs on other models while this forward does; the answer comes when both are done


@dataclass(frozen=True)
class Commit:
    """Says which rows of the forward just done become cache, in path order."""

    accepted: np.ndarray
    model: str = "main"


@dataclass(frozen=True)
class Rewind:
    """Cuts a model's sequence back to `next_pos` (0 empties it)."""

    next_pos: int
    model: str = "main"


Work = Generator[Forward | Commit | Rewind, Out, Any]


class Held(Protocol):
    """What a sequence holds, read-only, as the engine shows it to Retain and Codec."""

    n_layers: int
    n_heads: int  # kv-heads
    scale: float  # on q.k before softmax

    def entries(self, layer: int) -> np.ndarray: ...  # (H,)
    def raw_entries(self, layer: int) -> int: ...
    def view(self, layer: int) -> View: ...
    def angles(self, layer: int, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]: ...  # cos, sin (T, d/2)


@dataclass(frozen=True)
class Method:
    """Base of all methods."""

    seam: ClassVar[str] = ""
    name: ClassVar[str] = ""  # the catalogue name, set on the object when a plan is made
    needs: ClassVar[frozenset[str]] = frozenset()  # evidence the engine must produce: "attention", "queries", "logits"
    uses: ClassVar[frozenset[str]] = frozenset()  # models beside "main" that its forwards name, e.g. "draft"
    by_text: ClassVar[bool] = (
        False  # it speaks to them through text, so their vocabularies may differ from the main one's
    )

    def brings(self, main: Decoder) -> dict[str, Decoder]:
        """Models of its own, made from the main one, under names no other method takes. Asked when a request is queued;
        a name that the engine already has is not made again, so it must say everything the model depends on."""
        return {}

    def remember(self, told: Told) -> Any:
        """What outlives a request: made once for an engine and these knobs, had from `told.remembered(self)`. Bounded, and
        free to change what a run costs, never what it says; nobody but this method touches it."""
        return None

    def start(self, told: Told) -> Any:
        """This request's own state, made when the prompt's length is known."""
        return None

    @classmethod
    def knobs(cls) -> dict[str, dict[str, Any]]:
        """Knob -> {default, type, doc, range}. The signature is the schema."""
        out = {}
        for f in fields(cls):
            m = f.metadata
            default = None if f.default is MISSING else f.default
            out[f.name] = {
                "default": default,
                "type": str(f.type),
                **{k: v for k, v in m.items() if v not in (None, ())},
            }
        return out


class Watcher:
    """Declared evidence of chosen rows, handed out only because somebody asked: needs = {"attention"}, {"queries"}."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def probe(self, m: int, told: Told, state: Any) -> np.ndarray | None:
        """Which of the m local rows of this step to report; None = none. Called once a step."""
        return None

    def watch(self, layer: int, rows: np.ndarray, probs: list[torch.Tensor], told: Told, state: Any) -> None:
        """probs[h]: (w, g, n_h) over committed then in-flight entries of kv-head h, in order."""

    def watch_queries(self, layer: int, rows: np.ndarray, q: torch.Tensor, told: Told, state: Any) -> None:
        """q (w, Hq, d): queries before rotation, of the rows that probe() chose."""


@dataclass(frozen=True)
class Retain(Method, Watcher):
    """What stays in the cache. Destructive; called after every commit; entries not kept are freed."""

    seam: ClassVar[str] = "retain"
    positions: ClassVar[str] = (
        "true"  # "place": keys are kept unrotated and rotated by their place in the cache when read
    )
    acts: ClassVar[str] = "always"  # "prompt": only once, when the prompt is complete

    def keep(self, held: Held, told: Told, state: Any) -> dict[int, list[torch.Tensor]] | None:
        """layer -> per kv-head ascending places to keep. None = keep all. Layers left out keep all."""
        raise NotImplementedError

    def furthest(self, told: Told, state: Any) -> int | None:
        """With positions = "place": entries that are further than this from the next token are rotated as if they stood
        there. None = no bound."""
        return None

    def moment(self, told: Told) -> int:
        """With acts = "prompt": after how many prompt tokens keep() is called. What follows is read from what was kept."""
        return told.prompt_len

    def study(self, tokens: list[int], told: Told, state: Any) -> Work:
        """With acts = "prompt": forwards of its own right before keep(), on the cache of `tokens` (all so far). Their rows
        see the cache and each other; on the main model none may be accepted."""
        return
        yield

    def read_logits(self, tokens: np.ndarray, logits: torch.Tensor, told: Told, state: Any) -> None:
        """With needs = {"logits"}: the tokens (A,) that become cache now, rejected drafts left out, and the logits (A, V)
        after each. told.seen is the position of the first. Called before keep()."""

    def horizon(self, held: Held, told: Told, state: Any) -> int | None:
        """Tokens that may still be committed before keep() acts; None = any number. Drafts stop there, so they stay exact."""
        return 1 if self.acts == "always" and told.decoding else None


@dataclass(frozen=True)
class Blocks:
    """What the rows of a piece of the prompt read, `size` rows at a time.

    places[b][h]: ascending places of kv-head h among the entries before block b's first row. A block's rows see each other
    as ever. looked: entries, summed over heads and rows, that were read to find this out."""

    size: int
    places: list[list[torch.Tensor]]
    looked: int = 0


@dataclass(frozen=True)
class Select(Method):
    """What one row reads. Nothing is lost. Called for every layer and decoding row."""

    seam: ClassVar[str] = "select"
    acts: ClassVar[str] = "text"  # "prompt": pick_blocks() is asked while the prompt is read, pick() never

    def begin(self, rows: Rows, told: Told, state: Any) -> None:
        """A step with these decoding rows starts at layer 0."""

    def read(self, layer: int, q: torch.Tensor, k: torch.Tensor, told: Told, state: Any) -> None:
        """With needs = {"queries"}: q (m, Hq, d) and k (m, H, d), rotated, of the prompt's rows, piece by piece."""

    def pick(
        self, layer: int, row: int, q: torch.Tensor, view: View, told: Told, state: Any
    ) -> list[torch.Tensor] | None:
        """q (Hq, d) rotated -> per kv-head ascending places among the entries before this row; None = read all.

        view: what is committed and, behind it, the in-flight rows this one descends from. The row itself is always read."""
        raise NotImplementedError

    def pick_blocks(self, layer: int, q: torch.Tensor, view: View, told: Told, state: Any) -> Blocks | None:
        """q (m, Hq, d) rotated, of the rows of one piece of the prompt; view: what is committed and these m rows behind it.
        None = read all."""
        raise NotImplementedError

    def looks(self, layer: int, row: int, told: Told, state: Any) -> bool:
        """Asked after pick() said None: does it want to know, by saw(), what the row gave each entry?"""
        return False

    def saw(self, layer: int, row: int, probs: list[torch.Tensor], view: View, told: Told, state: Any) -> None:
        """probs[h] (g, n_h + 1): attention of a row that read all; the entries of `view` and, last, the row itself."""


@dataclass(frozen=True)
class Codec(Method, Watcher):
    """How entries are stored. Raw entries that are due change into packed ones; attention reads them through decode."""

    seam: ClassVar[str] = "codec"
    per_head: ClassVar[bool] = False  # packs each kv-head by itself, so heads may hold entries of different tokens

    def due(self, held: Held, told: Told, state: Any) -> bool:
        """Called after every commit: pack the raw entries now?"""
        raise NotImplementedError

    def encode(self, layer: int, view: View, told: Told, state: Any) -> tuple[Encoded, torch.Tensor, np.ndarray]:
        """All raw entries of a layer -> (packed form, positions (E,) int32, entries a head (H,))."""
        raise NotImplementedError

    def horizon(self, held: Held, told: Told, state: Any) -> int | None:
        """As Retain.horizon."""
        return None


@dataclass(frozen=True)
class Route(Method):
    """Which rows attend and which use the FFN, per layer. A row that does neither has left the network."""

    seam: ClassVar[str] = "route"
    missing_kv: ClassVar[str] = "absent"  # a row that does not attend leaves no entry in that layer
    row_local: ClassVar[bool] = True  # decisions about a row depend on that row alone

    def attend(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> np.ndarray | None:
        """x (m, D) -> (m,) bool; None = all."""
        return None

    def ffn(self, layer: int, x: torch.Tensor, rows: Rows, told: Told, state: Any) -> np.ndarray | None:
        """x (m, D) after attention -> (m,) bool; None = all."""
        return None

    def after_ffn(
        self, layer: int, before: torch.Tensor, after: torch.Tensor, ran: np.ndarray, told: Told, state: Any
    ) -> None:
        """before, after (r, D) for the local rows `ran` that used the FFN."""

    def watches_ffn(self, told: Told) -> bool:
        """Is after_ffn wanted in this step?"""
        return False


class Target(Protocol):
    """The main model's verdict on a draft tree. Node -1 is the certain token the tree hangs on.

    logits: (N + 1, V) the model's own, row node + 1 after each node, before penalties and rules.
    seen: N, the nodes that the model has looked at; a tree may have more (Propose.grown).
    """

    seen: int

    @property
    def logits(self) -> torch.Tensor: ...
    def hidden(self, tap: str) -> torch.Tensor: ...  # (N + 1, D) of a tap that was declared; rows as in logits
    def draw(self, node: int) -> int: ...  # sample there, after what was pushed, and push the token
    def ends(self, token: int) -> bool: ...  # the text ends with it
    def probs(self, node: int, soft: bool = False) -> torch.Tensor: ...  # (V,) the processed distribution there, after
    # what was pushed; soft: of a greedy request too, at temperature 1, instead of one token for certain
    def push(self, token: int) -> None: ...  # a token stands: penalties and rules advance


@dataclass(frozen=True)
class Propose(Method):
    """Drafts: token trees that hang on the last certain token.

    It may be asked at any step or at none, and of its draft only a part may be verified (pace.py): what is new is told by
    `context`, and what was verified by the tree that feedback() gets. It is told of every token, asked or not.

    A drafter that draws its nodes from `Tree.q` says how, and may name the rule that judges them (`judge`); without one,
    or beside a rule that draws tokens itself, the engine's default acceptance serves, which is exact for any draft.
    """

    seam: ClassVar[str] = "propose"
    taps: ClassVar[frozenset[str]] = frozenset()  # hidden states of the main model that feedback() reads

    def law(self) -> str:
        """How nodes were drawn from q, if they were: "line", one child a node; "independent", siblings drawn alike, equal
        ones merged and counted (Tree.copies); "distinct", siblings drawn in their order without replacement."""
        return ""

    def judge(self) -> Accept | None:
        """The acceptance its drafts are made for, used where the plan names none."""
        return None

    def most(self) -> int:
        """Tokens of its largest draft: a forward must have room for them."""
        return int(getattr(self, "budget", 0))

    def guess(self, context: list[int], limit: int, told: Told, state: Any) -> Tree:
        """A draft no deeper than `limit`, without running a model."""
        return EMPTY_TREE

    def draft(self, context: list[int], limit: int, told: Told, state: Any, rng: Rng) -> Work:
        """The same as a coroutine, for drafters that yield forwards of their own."""
        return self.guess(context, limit, told, state)
        yield

    def ahead(self, context: list[int], tree: Tree, limit: int, told: Told, state: Any, rng: Rng) -> Work | None:
        """What to do on models of its own while the main model looks at `tree` behind `context`; None = nothing. Asked
        before every forward of the main model but those that read a prompt's first pieces."""
        return None

    def grown(self, tree: Tree, told: Told, state: Any) -> Tree:
        """`tree` with what ahead() has drafted behind it. The model has not seen those nodes: an acceptance rule may choose
        the first of them, and the walk ends there."""
        return tree

    def feedback(self, tree: Tree, path: list[int], target: Target, told: Told, state: Any) -> None:
        """With needs = {"logits"} or taps: what the model said about `tree`, of which `path` stands. Called before learn(),
        and once with the empty tree when the prompt is complete."""

    def learn(self, context: list[int], new: list[int], told: Told, state: Any) -> None:
        """`new` tokens were appended; they are the end of `context`."""


@dataclass(frozen=True)
class Accept(Method):
    """Which drafted rows stand. Default of the engine: draw from the target at each node, follow the child that matches.

    A rule is a way to choose one token where some were drafted; override `choose`, or `walk` if it is more than that.
    """

    seam: ClassVar[str] = "accept"
    taps: ClassVar[frozenset[str]] = frozenset()  # hidden states of the main model that it reads
    laws: ClassVar[frozenset[str] | None] = None  # of the drafts it can judge (Propose.law); None = any
    exact: ClassVar[bool] = False  # leaves the target's distribution as it is, so a greedy text needs no rule

    def drafter(self) -> Propose | None:
        """Who drafts for it, where the plan names nobody."""
        return None

    def choose(self, node: int, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> int:
        """The token that comes after `node`. It is not pushed here."""
        raise NotImplementedError

    def walk(self, tree: Tree, target: Target, rng: Rng, told: Told, state: Any) -> tuple[list[int], int]:
        """(accepted node path, one more token).

        Every token that stands is pushed once, in text order: by target.draw(), or by target.push() if it was not drawn.
        """

        def draw(node: int) -> int:
            token = self.choose(node, tree, target, rng, told, state)
            target.push(token)
            return token

        return follow(tree, draw, target.ends, target.seen)


@dataclass(frozen=True)
class Rule(Method):
    """Constraints and logit shaping along one path. State advances token by token."""

    seam: ClassVar[str] = "rule"
    black_box: ClassVar[bool] = False  # allows() judges single tokens and draw() uses it: only one such rule a plan

    def mask(self, logits: torch.Tensor, told: Told, state: Any) -> torch.Tensor:
        """logits (V,) -> logits (V,); -inf forbids."""
        return logits

    def allows(self, token: int, told: Told, state: Any) -> bool:
        """With black_box: may `token` come next? Only draw() causes it to be called, and every call is counted."""
        raise NotImplementedError

    def draw(
        self, p: torch.Tensor, allows: Callable[[int], bool], rng: Rng | None, told: Told, state: Any
    ) -> int | None:
        """With black_box: draw one token from weights p (V,), testing tokens with `allows`, which asks the method of
        that name, or may_stop() for a token that ends the text. rng None = greedy, the heaviest allowed token.
        None = no token of positive weight is allowed."""
        raise NotImplementedError

    def advance(self, token: int, told: Told, state: Any) -> None:
        """`token` was emitted."""

    def may_stop(self, told: Told, state: Any) -> bool:
        """May the text end here?"""
        return True


@dataclass(frozen=True)
class Transform(Method):
    """Prompt -> shorter prompt. A coroutine: it may run forwards of its own. Forced spans survive."""

    seam: ClassVar[str] = "transform"

    def run(self, tokens: list[int], forced: np.ndarray, told: Told, state: Any) -> Work:
        """tokens (n,), forced (n,) bool: must stay. Returns ascending indices of the tokens kept."""
        raise NotImplementedError


@dataclass(frozen=True)
class Pack(Method):
    """Which waiting prompts go into one forward."""

    seam: ClassVar[str] = "pack"

    def bins(self, sizes: list[int], capacity: int) -> list[list[int]]:
        """Row counts of the waiting pieces -> groups of their indices; a group's rows run in one forward."""
        raise NotImplementedError


@dataclass(frozen=True)
class Strategy(Method):
    """How a request is run from prompt to end, in place of the standard one (decode.decode): cascades, second passes.

    Beside its text it may leave others in `req.drafts`, best first.
    """

    seam: ClassVar[str] = "strategy"
    excludes: ClassVar[Mapping[str, str]] = MappingProxyType({})  # seam -> why its methods cannot share a plan with it
    plain_cache: ClassVar[bool] = True  # the cache behind the prompt is what plain reading leaves: others may share it

    def run(self, req: Request, horizon: Callable[[], int | None]) -> Work:
        """A coroutine over ONE request, on any of the engine's models by name. It yields Forward (each followed by its
        Commit) and Rewind, and emits tokens through req.accept() until that says the text has ended."""
        raise NotImplementedError


SEAMS: dict[str, type[Method]] = {
    c.seam: c for c in (Retain, Select, Codec, Route, Propose, Accept, Rule, Transform, Pack, Strategy)
}
