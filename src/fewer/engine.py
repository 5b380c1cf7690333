"""`fewer.open(model)` -> Engine: the public face. generate, stream, score; one ledger a run.

    eng = fewer.open("smollm2-135m")
    out = eng.generate("Why is the sky blue?", use=["streaming-llm:budget=512"], max_tokens=64)
    out.text, out.tokens, out.finish_reason, out.ledger

A prompt is text (put into the model's chat template unless raw=True), a list of messages, or token ids; a list of prompts
runs as one merged batch. What this does not do: serve over HTTP, run on several machines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fewer.card import cards
from fewer.costs import NOMINAL, Costs, curve
from fewer.errors import BadRequest, PromptTooLong
from fewer.guard import Account
from fewer.kv.prefix import PrefixCache
from fewer.ledger import Ledger
from fewer.models.beside import Beside
from fewer.models.chat import ChatTemplate
from fewer.models.decoder import Decoder
from fewer.models.size import row_macs
from fewer.models.tokenizer import Tokenizer
from fewer.pace import Pace
from fewer.plan import PLAIN, Seams, label, plan
from fewer.request import Request
from fewer.result import Result, Score, Stream
from fewer.runner import Runner
from fewer.sampling import Sampler, Sampling
from fewer.seams import Method
from fewer.types import Group, Memory, Rng, Step, Told, chain

if TYPE_CHECKING:
    from fewer.tokens.healing import Healer

Message = dict[str, Any]
Prompt = str | Sequence[Message] | Sequence[int]
Use = Sequence[str | Method]


class Engine:
    """One loaded model (and optionally a draft model) with its KV store, prefix cache and tokenizer."""

    def __init__(
        self,
        model: Decoder,
        tokenizer: Tokenizer | None,
        chat: ChatTemplate | None = None,
        drafts: dict[str, Decoder] | None = None,
        beside: Beside | None = None,
        prefix_bytes: int = 256 << 20,
        chunk: int = 512,
        max_rows: int = 1024,
        name: str = "",
        load_seconds: float = 0.0,
    ) -> None:
        self.model, self.tokenizer, self.chat, self.name = model, tokenizer, chat, name
        self.models = {"main": model, **(drafts or {})}
        self.stores = {n: m.new_store() for n, m in self.models.items()}
        self.prefixes = PrefixCache(self.stores["main"], prefix_bytes)
        self.chunk, self.max_rows, self.load_seconds = chunk, max_rows, load_seconds
        self.beside = beside
        self.forwards: Counter[str] = Counter()  # merged forwards a model, over all runs
        self._healers: dict[str, Healer] = {}
        self.memory = Memory()  # what methods keep over requests
        self.accounts: dict[str, Account] = {}  # what each drafter has gained over requests

    # ------------------------------------------------------------------ public verbs
    def generate(self, prompt: Prompt | Sequence[Prompt], *, n: int = 1, **options: Any) -> Any:
        """Run to the end. One prompt -> Result; n > 1 -> list of n; a list of prompts -> list (of lists when n > 1).

        Options: use, max_tokens (None = the remaining context), raw, guard (False = every draft is asked for and verified
        whole, even where it loses), and every field of `Sampling`; see `_request`.
        Raises BadRequest, PromptTooLong, UnknownMethod, BadKnob, CannotCombine.
        """
        if n < 1:
            raise BadRequest(f"n must be at least 1, not {n}")
        many = _is_batch(prompt)
        prompts: Sequence[Prompt] = prompt if many else [prompt]  # type: ignore[assignment,list-item]
        if not prompts:
            return []
        runner = self._runner()
        groups = [self._siblings(runner, p, n, options) for p in prompts]
        try:
            runner.run()
        finally:
            for req in [o.req for o in runner.live]:
                runner.cancel(req)
        results = [[self._result(r) for r in g] for g in groups]
        flat = [g[0] if n == 1 else g for g in results]
        return flat if many else flat[0]

    def stream(self, prompt: Prompt, **options: Any) -> Stream:
        """Run one prompt, yielding text as it becomes certain (never half a character)."""
        runner = self._runner()
        req = self._request(prompt, **options)
        runner.add(req)
        return Stream(runner, req, self._result)

    @torch.inference_mode()
    def score(self, text: str | Sequence[int], *, chunk: int | None = None) -> Score:
        """Per-token log probabilities of a text continued as it stands. Raises BadRequest, PromptTooLong."""
        ids = self._tokens(text, raw=True)
        if len(ids) < 2:
            raise BadRequest("score needs at least two tokens")
        self._fits(len(ids), PLAIN)
        store, told = self.stores["main"], Told(len(ids))
        seq, out = store.new(), []
        try:
            size = chunk or self.chunk
            for at in range(0, len(ids), size):
                rows = chain(ids[at : at + size], at)
                group = Group(seq, rows, PLAIN, told, np.arange(len(rows)))
                (o,), _ = self.model.forward(Step([group]), store)
                store.commit(seq, rows, np.arange(len(rows)))
                targets = ids[at + 1 : at + 1 + len(rows)]
                assert o.logits is not None
                lp = torch.log_softmax(o.logits[: len(targets)].double(), -1)
                out += lp[torch.arange(len(targets)), torch.tensor(targets, dtype=torch.int64)].tolist()
        finally:
            store.drop(seq)
        return Score(ids, out)

    # ------------------------------------------------------------------ inside
    def _runner(self) -> Runner:
        return Runner(self.models, self.stores, self.max_rows, forwards=self.forwards, memory=self.memory)

    def _siblings(self, runner: Runner, prompt: Prompt, n: int, options: dict[str, Any]) -> list[Request]:
        """n requests for one prompt. On a plain cache the first one's prefill is forked for the others."""
        seed = options.get("seed")
        reqs = [self._request(prompt, **{**options, "seed": None if seed is None else seed + i}) for i in range(n)]
        runner.add(reqs[0])
        rest = reqs[1:]
        if rest and reqs[0].seams.pure_prefix and all(r.prompt == reqs[0].prompt for r in rest):
            hook = reqs[0].on_prefilled

            def share(first: Request) -> None:
                if hook is not None:
                    hook(first)
                for r in rest:
                    seq = self.stores["main"].fork(first.seqs["main"])
                    length = len(first.prompt) - 1
                    self.stores["main"].truncate(seq, length)
                    self._start_from(r, seq, length)
                    runner.add(r)

            reqs[0].on_prefilled = share
        else:
            for r in rest:
                runner.add(r)
        return reqs

    def _request(
        self,
        prompt: Prompt,
        *,
        use: Use = (),
        max_tokens: int | None = None,
        raw: bool = False,
        healing: str = "none",
        forced: Sequence[bool] | None = None,
        chunk: int | None = None,
        share_prefix: bool = True,
        guard: bool = True,
        on_progress: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> Request:
        """Check everything that can be checked before a model runs, and make the request.

        healing: none, plain, align or exact, what to do about a raw text that may end inside a token."""
        ledger = Ledger()
        seams = plan(use)
        for name in ("stop", "stop_tokens"):
            if isinstance(sampling.get(name), str):
                sampling[name] = (sampling[name],)
            if name in sampling:
                sampling[name] = tuple(sampling[name])
        try:
            params = Sampling(**sampling)
        except TypeError as e:
            raise BadRequest(f"unknown option: {e}") from None
        self._known([*params.logit_bias, *params.stop_tokens])
        rng, beyond = Rng(params.seed), b""
        if healing != "none":
            with ledger.clock("healing"):
                ids, beyond = self._healed(prompt, healing, raw, params.temperature, rng, ledger)
        else:
            with ledger.clock("tokenize"):
                ids = self._tokens(prompt, raw)
        room = self._fits(len(ids), seams)
        if max_tokens is None:
            max_tokens = room
        if max_tokens < 1:
            raise BadRequest(f"max_tokens must be at least 1, not {max_tokens}")
        ledger.prompt_tokens = len(ids)
        if self.beside is not None:
            self.beside.serve(seams, ledger)
        sampler = Sampler(params, seams.rules, ids, self.tokenizer.eos if self.tokenizer else frozenset(), rng)
        req = Request(
            prompt=ids,
            seams=seams,
            sampler=sampler,
            max_tokens=max_tokens if seams.makes_room else min(max_tokens, room),
            ledger=ledger,
            detok=self.tokenizer.stream() if self.tokenizer else None,
            forced=self._forced(ids, forced) if seams.transforms else None,
            chunk=chunk or self.chunk,
            on_progress=on_progress,
            pace=self._pace(seams, params.temperature == 0, ledger) if guard else None,
            max_context=None if seams.place else self.model.spec.max_context,
        )
        if self.tokenizer is not None:
            req.told.spell = self.tokenizer.text_bytes
            req.told.encode = partial(self.tokenizer.encode, bos=False)
        if req.detok is not None and beyond:
            req.text = req.detok.begin(beyond)
        if self.beside is not None:
            req.told.words = self.beside.words
        if seams.pure_prefix and share_prefix:
            found = self.prefixes.take(ids)
            if found is not None:
                self._start_from(req, *found)
            req.on_prefilled = lambda r: self.prefixes.put(r.prompt, r.seqs["main"])
            if (
                seams.select is None and seams.strategy is None
            ):  # else the cache behind the prompt is not the text's own
                req.on_end = self._remember
        return req

    @cached_property
    def costs(self) -> Costs:
        """What M rows cost beside one on this machine. The first plan that drafts has it timed, unless that was done before."""
        return Costs(curve(self.model), timed=True)

    def _pace(self, seams: Seams, greedy: bool, ledger: Ledger) -> Pace | None:
        """Who decides how much is drafted. No clock has a say where an Accept method may let drafts shape the text."""
        if seams.propose is None:
            return None
        free = seams.accept is None or (greedy and seams.accept.exact)  # the text cannot depend on the draft
        costs, one = self.costs if free else Costs(NOMINAL, timed=False), row_macs(self.model.spec)
        name = label(seams.propose)
        account = self.accounts.setdefault(name, Account()) if free else None
        return Pace(costs, lambda m: row_macs(self.models[m].spec) / one, ledger, name, account)

    def _start_from(self, req: Request, seq: int, length: int) -> None:
        """Let a request begin with `length` prompt tokens already in sequence `seq`."""
        if "main" in req.seqs:
            self.stores["main"].drop(req.seqs["main"])
        req.seqs["main"], req.cached, req.told.seen = seq, length, length
        req.ledger.cached_tokens = length

    def _remember(self, req: Request) -> None:
        """A finished conversation's cache serves its next turn."""
        if req.error is None and req.told.decoding:
            held = req.prompt + req.tokens
            self.prefixes.put(held[: self.stores["main"].next_pos(req.seqs["main"])], req.seqs["main"])

    def _known(self, ids: Sequence[int]) -> None:
        """Raise BadRequest for a token id that the model does not have."""
        bad = next((t for t in ids if not 0 <= t < self.model.spec.vocab), None)
        if bad is not None:
            raise BadRequest(f"token id {bad} is outside the vocabulary of {self.model.spec.vocab}")

    def _tokens(self, prompt: Prompt, raw: bool) -> list[int]:
        if not isinstance(prompt, str) and all(isinstance(t, (int, np.integer)) for t in prompt):
            ids = [int(t) for t in prompt]  # type: ignore[arg-type]
            self._known(ids)
        elif self.tokenizer is None:
            raise BadRequest("this engine has no tokenizer: give token ids")
        elif isinstance(prompt, str) and (raw or self.chat is None):
            ids = self.tokenizer.encode(prompt)
        else:
            if self.chat is None:
                raise BadRequest("this model has no chat template: give text (raw=True) instead of messages")
            messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
            if not all(str(m.get("content", "")).strip() for m in messages if isinstance(m, dict)):
                raise BadRequest("the prompt is empty")
            ids = self.chat.encode(self.tokenizer, messages)  # type: ignore[arg-type]
        if not ids:
            raise BadRequest("the prompt is empty")
        return ids

    def _healed(
        self, prompt: Prompt, kind: str, raw: bool, temperature: float, rng: Rng, ledger: Ledger
    ) -> tuple[list[int], bytes]:
        """(tokens of a prompt that may end inside a token, bytes its last one has beyond the prompt): tokens/healing.py."""
        from fewer.tokens.healing import Healer

        if not isinstance(prompt, str) or not raw:
            raise BadRequest("healing goes on with text as it stands: give text and raw=True (--raw)")
        if kind not in self._healers:
            self._healers[kind] = Healer(self, kind)
        self._fits(len(self._tokens(prompt, raw)), PLAIN)
        healed = self._healers[kind].heal(prompt, temperature, rng, ledger)
        return healed.tokens, healed.beyond

    def _forced(self, ids: list[int], forced: Sequence[bool] | None) -> np.ndarray:
        """Prompt tokens no transform may drop: the caller's, and the control tokens of the chat template."""
        if forced is not None:
            if len(forced) != len(ids):
                raise BadRequest(f"forced has {len(forced)} entries for {len(ids)} prompt tokens")
            return np.asarray(forced, dtype=bool)
        special = self.tokenizer.special if self.tokenizer else frozenset()
        return np.array([t in special for t in ids], dtype=bool)

    def _fits(self, length: int, seams: Seams) -> int:
        """Tokens the text may get by default. Raises PromptTooLong unless a method in the plan makes room."""
        context = self.model.spec.max_context
        if seams.makes_room:
            return context  # a transform's own bound is checked once it has run (Request.fit); by place there is none
        if length < context:
            return context - length
        raise PromptTooLong(
            f"the prompt has {length} tokens, the model's context is {context}. Shorten it, open the model with a longer one "
            f"(rope='yarn:factor={-(-(length + 1) // context)}' or --rope), or use a method that makes it fit: "
            + ", ".join(c.name for c in cards().values() if c.makes_room())
        )

    def _result(self, req: Request) -> Result:
        if req.error is not None:
            raise req.error
        led = req.ledger
        led.kept_tokens = len(req.kept_prompt) if req.kept is not None else led.prompt_tokens
        led.dropped_tokens = led.prompt_tokens - led.kept_tokens
        led.generated_tokens = len(req.tokens)
        led.check()
        reason = req.finish_reason or "cancelled"
        drafts = [self.tokenizer.decode(tokens) for tokens, _ in req.drafts] if self.tokenizer else []
        return Result(req.text, list(req.tokens), reason, led, req.logprobs, req.prompt, drafts)


def _is_batch(prompt: Any) -> bool:
    """A list of prompts, as opposed to one list of messages or token ids."""
    return not isinstance(prompt, str) and bool(len(prompt)) and isinstance(prompt[0], (str, list, tuple))
