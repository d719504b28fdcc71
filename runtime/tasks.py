"""What people want of a model: text after text, one answer or a conversation.

Everything here works on any engine of the seam, and on anything that carries `tokenizer`,
`chat_template` and `generation`: a bundle or a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..refimpl.beam import Search, search
from ..refimpl.config import Config
from ..refimpl.engine import Engine
from ..refimpl.errors import CheckpointError, LimitError, TfmError
from ..refimpl.generate import CHUNK, FinishReason, Row, room, single
from ..refimpl.sampling import Sampler
from ..refimpl.speculative import Drafter, DraftModel, speculate
from .bundle import open_bundle
from .chat import ChatTemplate, common_prefix
from .engine import OrtEngine
from .tokenizer import Stream, Tokenizer

LIMITS = {"stop strings": 16, "stop": 1024, "beams": 64}
# Options that ask for a draw.
DRAWS = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p"})


@dataclass(frozen=True)
class Options:
    """How one text is generated; the defaults are greedy.

    With `beams` it is the likeliest whole text that so many beams find, which comes at once at the end.
    With `draft` it takes fewer steps of the model: greedy text stays the same, sampled text as likely.
    """

    sampler: Sampler = field(default_factory=Sampler)
    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    stop_on_eos: bool = True
    beams: int | None = None
    length_penalty: float = 1.0
    draft: Drafter | None = None

    def __post_init__(self) -> None:
        if self.beams is not None:
            if not 1 <= self.beams <= LIMITS["beams"]:
                raise LimitError(f"beams must be 1 to {LIMITS['beams']}, got {self.beams}")
            if self.draft is not None:
                raise LimitError("beam search takes no draft: its steps judge every token already")
            Search((), self.beams, self.sampler, length_penalty=self.length_penalty)  # raises what it refuses
        if self.max_new_tokens < 1:
            raise LimitError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        longest = LIMITS["stop"]
        if len(self.stop) > LIMITS["stop strings"] or not all(1 <= len(s) <= longest for s in self.stop):
            raise LimitError(
                f"stop takes up to {LIMITS['stop strings']} strings of 1 to {longest} characters, "
                f"got {self.stop!r:.200}"
            )


def sampler(defaults: dict[str, Any], *, greedy: bool = False, **given: Any) -> Sampler:
    """The Sampler that options and a model's own defaults make together.

    Greedy unless an option of sampling is given or the model's defaults sample; an option that is
    None isn't given. `greedy` leaves the defaults aside.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if greedy:
        if odd := sorted(given.keys() & DRAWS):
            raise LimitError(f"greedy decoding and beam search draw nothing: leave out {', '.join(odd)}")
        return Sampler(**given)
    start: dict[str, Any] = {"temperature": 1.0} if given.keys() & DRAWS else {}
    return Sampler(**start | defaults | given)


def options(defaults: dict[str, Any], **given: Any) -> Options:
    """Options and Sampler from one set of keywords, None meaning not given; beams draw nothing."""
    mine = {f.name for f in fields(Options)} & given.keys()
    own: dict[str, Any] = {name: value for name in mine if (value := given.pop(name)) is not None}
    greedy = bool(given.pop("greedy", False)) or "beams" in own
    return Options(sampler=sampler(defaults, greedy=greedy, **given), **own)


class Answer:
    """One text being generated: iterate over its pieces, once.

    At any time `tokens` holds the new ids and `text` what was given out; at the end `finish_reason`
    says why it ended, `timings` how long it took, and `cache` holds the prompt and the tokens but the
    last (None after beam search, which has no one row of it); `then` is called with the answer.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        options: Options,
        cache: Any = None,
        then: Callable[[Answer], None] = lambda _: None,
    ) -> None:
        room(model.config.context, len(prompt), options.max_new_tokens)
        stop_ids = frozenset(model.generation.eos if options.stop_on_eos else ())
        self._model, self._options, self._then, self.cache = model, options, then, cache
        self._row = Row(prompt, options.sampler, stop_ids, options.max_new_tokens, options.seed)
        self._cached = 0 if cache is None else int(cache.lengths[0])
        self._times: list[float] = []
        self.text = ""
        self._pieces = self._generate()

    def __iter__(self) -> Iterator[str]:
        return self._pieces

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def tokens(self) -> list[int]:
        return self._row.tokens

    @property
    def finish_reason(self) -> FinishReason | None:
        return self._row.finished

    @property
    def timings(self) -> dict[str, float]:
        """Seconds and tokens a second, of the prompt (until the first token) and of what followed."""
        begin, *rest = self._times or [0.0]
        first = rest[0] - begin if rest else 0.0
        last = rest[-1] - rest[0] if rest else 0.0
        read = len(self._row.prompt) - self._cached
        made = max(len(self.tokens) - 1, 0)
        return {
            "prompt_tokens": len(self._row.prompt),
            "cached_tokens": self._cached,
            "new_tokens": len(self.tokens),
            "first_token_s": first,
            "total_s": first + last,
            "prefill_tokens_per_s": read / first if first else 0.0,
            "decode_tokens_per_s": made / last if last else 0.0,
        }

    def ids(self) -> Iterator[int]:
        """The new ids one by one, for a model without a tokenizer."""
        self._times = [time.perf_counter()]
        drive = self._drive(self._model.engine, self.cache)
        self.cache = None
        while True:
            try:
                token = next(drive)
            except StopIteration as end:
                self.cache = end.value
                if len(self._times) == 1:  # it stopped before the first token
                    self._times.append(time.perf_counter())
                return
            # Beam search makes its tokens all at one time.
            first = len(self._times) == 1
            self._times.append(self._times[-1] if self._options.beams and not first else time.perf_counter())
            yield token

    def _drive(self, engine: Engine, cache: Any) -> Generator[int, None, Any]:
        """The driver that the options name; it gives back the cache, if one row of it holds the text."""
        row, beams, draft = self._row, self._options.beams, self._options.draft
        if draft is not None:
            return (yield from speculate(engine, row, draft, cache=cache))
        if beams is None:
            return (yield from single(engine, row, cache))
        penalty = self._options.length_penalty
        wanted = Search(row.prompt, beams, row.sampler, row.stop_ids, row.max_new_tokens, penalty)
        best = search(engine, wanted, cache)[0]
        for token in best.tokens:
            row.tokens.append(token)
            yield token
            if row.finished is not None:
                return None
        row.finished = best.finished
        return None

    def _generate(self) -> Iterator[str]:
        stream, held, ended = Stream(self._model.text), "", False
        for token in self.ids():
            sure, held, ended = cut(held + stream.push(token), self._options.stop)
            if ended:
                self._row.finished = "stop"
            self.text += sure
            if sure:
                yield sure
        if not ended:
            sure, held, ended = cut(held + stream.finish(), self._options.stop)
            if ended:
                self._row.finished = "stop"
            self.text += sure + held
            if sure + held:
                yield sure + held
        self._then(self)


def cut(text: str, stops: Sequence[str]) -> tuple[str, str, bool]:
    """(text to give out, text to hold back, whether a stop string ended it).

    Held back is the longest end that a stop string could begin with.
    """
    if found := [at for stop in stops if (at := text.find(stop)) >= 0]:
        return text[: min(found)], "", True
    held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - held], text[len(text) - held :], False


def read_tokenizer(source: Any, config: Config) -> Tokenizer | None:
    """The tokenizer of a bundle or checkpoint, if it has one."""
    return None if source.tokenizer is None else Tokenizer(source.tokenizer, config.embedding.vocabulary)


class Model:
    """An engine with the tokenizer and the template of its model."""

    def __init__(self, engine: Engine, source: Any, tokenizer: Tokenizer | None = None) -> None:
        self.engine, self.generation = engine, source.generation
        self.tokenizer = tokenizer or read_tokenizer(source, engine.config)
        self.template: ChatTemplate | None = None
        if self.tokenizer is not None and source.chat_template is not None:
            bos, eos = source.generation.bos, source.generation.eos
            self.template = ChatTemplate(source.chat_template, self.tokenizer, bos=bos, eos=eos)

    @property
    def config(self) -> Config:
        return self.engine.config

    @property
    def text(self) -> Tokenizer:
        """The tokenizer, by those who can't do without."""
        if self.tokenizer is None:
            raise CheckpointError("the model has no tokenizer.json, so it takes and gives token ids only")
        return self.tokenizer

    def start(self, batch: int = 1) -> Any:
        """An empty cache, as `refimpl.engine` defines it."""
        return self.engine.start(batch)

    def step(
        self, tokens: np.ndarray, cache: Any, lengths: Any = None, at: Any = None
    ) -> tuple[np.ndarray, Any]:
        """Logits and the new cache, as `refimpl.engine` defines it."""
        return self.engine.step(tokens, cache, lengths, at)

    def prompt(self, text: str, *, raw: bool = False) -> list[int]:
        """Ids that ask for an answer to `text`; `raw`, or without a template: that `text` goes on."""
        if raw or self.template is None:
            return self.text.encode(text, start=True)
        return self.template.encode([{"role": "user", "content": text}])

    def sampler(self, **given: Any) -> Sampler:
        """A Sampler from options over this model's defaults; see `sampler`."""
        return sampler(self.generation.defaults, **given)

    def generate(self, text: str, *, raw: bool = False, **given: Any) -> Answer:
        """Pieces of text as they become certain; `given` are fields of Options and of Sampler."""
        return Answer(self, self.prompt(text, raw=raw), self.options(**given))

    def generate_ids(self, ids: Sequence[int], *, max_new_tokens: int = 256, **given: Any) -> list[int]:
        """The new ids after a prompt of ids; a stop token isn't among them."""
        prompt = [int(i) for i in np.asarray(ids).reshape(-1)]
        return list(Answer(self, prompt, self.options(max_new_tokens=max_new_tokens, **given)).ids())

    def options(self, **given: Any) -> Options:
        """`options` over this model's defaults."""
        return options(self.generation.defaults, **given)

    def drafter(self, other: Model) -> DraftModel:
        """Another model as a source of drafts for this one; its tokens must be the same."""
        mine, theirs = (None if m.tokenizer is None else m.tokenizer.tokens() for m in (self, other))
        if mine != theirs:
            raise LimitError("a draft model must have the model's own tokenizer")
        return DraftModel(other.engine, self.engine)

    def logits(self, ids: Any, mask: Any = None) -> np.ndarray:
        """Logits [B, T, N] of ids [B, T] (or [T, N] of [T]), zeros where `mask` is zero.

        Masked tokens are as if they weren't there: on the left, on the right or in between.
        """
        given = np.asarray(ids, np.int64)
        tokens = np.atleast_2d(given)
        real = np.ones(tokens.shape, bool) if mask is None else np.atleast_2d(np.asarray(mask)) != 0
        if tokens.ndim != 2 or real.shape != tokens.shape or not tokens.size:
            raise LimitError(
                f"ids must be [T] or [B, T] with T ≥ 1, the mask alike, got {tokens.shape} and {real.shape}"
            )
        # Real tokens first, in their order: a stable sort of "isn't real".
        order = np.argsort(~real, axis=1, kind="stable")
        packed, lengths = np.take_along_axis(tokens, order, 1), real.sum(1)
        made = np.zeros((*tokens.shape, self.config.embedding.vocabulary), np.float32)
        cache = self.start(len(tokens))
        for begin in range(0, int(lengths.max(initial=0)), CHUNK):
            part = packed[:, begin : begin + CHUNK]
            t = part.shape[1]
            at = np.broadcast_to(np.arange(t), part.shape)
            here = np.clip(lengths - begin, 0, t)
            logits, cache = self.step(part, cache, here, at)
            for row, length in enumerate(here):
                made[row, order[row, begin : begin + length]] = logits[row, :length]
        return made.reshape(*given.shape, -1)


class Conversation:
    """Messages of a chat, and the cache of what was read so far.

    A template may render earlier messages anew with each one (they aren't prefix-stable), so the
    cache is kept as far as the new ids agree with what it holds.
    """

    def __init__(self, model: Model, system: str | None = None) -> None:
        if model.template is None:
            raise CheckpointError("the model has no chat template: use generate, which goes on with a text")
        self.model, self.template = model, model.template
        self.messages = [] if system is None else [{"role": "system", "content": system}]
        self._ids: list[int] = []
        self._cache: Any = None

    def say(self, text: str, **given: Any) -> Answer:
        """The answer to a message; it becomes part of the conversation when it was read to its end."""
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self.template.encode(messages)
        options = self.model.options(**given)
        room(self.model.config.context, len(ids), options.max_new_tokens)
        cache, self._cache = self._cache, None
        if cache is not None:
            # A token is left to read, so that there are logits to begin with.
            cache = cache.truncate(np.array([min(common_prefix(self._ids, ids), len(ids) - 1)]))

        def keep(answer: Answer) -> None:
            self.messages = [*messages, {"role": "assistant", "content": answer.text}]
            self._cache = answer.cache
            held = 0 if self._cache is None else int(self._cache.lengths[0])
            self._ids = [*ids, *answer.tokens][:held]

        return Answer(self.model, ids, options, cache, keep)


def load(
    path: Path | str,
    device: str = "cpu",
    threads: int | None = None,
    notify: Callable[[str], None] = lambda _: None,
) -> Model:
    """The model of a bundle, its files' hashes checked beside the start of the session."""
    bundle = open_bundle(Path(path))
    checked = bundle.checking()
    try:
        # The tokenizer first: what reading it frees is used again by the session.
        tokenizer = read_tokenizer(bundle, bundle.config)
        model = Model(OrtEngine(bundle, device, threads, notify, prepack=True), bundle, tokenizer)
    except TfmError:
        checked()  # a damaged file is the better explanation
        raise
    checked()
    return model
