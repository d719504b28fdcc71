"""One text being generated, and the options that say how."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...refimpl.checkpoint.generation_config import MOST_BEAMS, Generation
from ...refimpl.decoding.beam import BeamSearch, beam_search
from ...refimpl.decoding.loop import GeneratedSequence, generate
from ...refimpl.decoding.sampler import Sampler
from ...refimpl.decoding.speculative import Drafter, speculate
from ...refimpl.decoding.stop import FinishReason, limit_new_tokens, split_at_stop_string
from ...refimpl.engine.protocol import Engine
from ...refimpl.errors import LimitError
from ..text.tokenizer import Stream, Tokenizer

if TYPE_CHECKING:
    from .model import Model

LIMITS = {"stop strings": 16, "stop": 1024, "beams": MOST_BEAMS}
# Options that ask for a draw.
DRAWS = frozenset({"temperature", "top_k", "top_p", "min_p", "typical_p"})
# Options that beams alone heed, with the values that stand for none.
OF_BEAMS = {"length_penalty": 1.0, "early_stopping": False, "renormalize": False}


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
    early_stopping: bool | Literal["never"] = False
    renormalize: bool = False
    draft: Drafter | None = None

    def __post_init__(self) -> None:
        if self.beams is not None:
            if not 1 <= self.beams <= LIMITS["beams"]:
                raise LimitError(f"beams must be 1 to {LIMITS['beams']}, got {self.beams}")
            if self.draft is not None:
                raise LimitError("beam search takes no draft: its steps judge every token already")
            self.search((), frozenset(), None)  # raises what it refuses
        elif odd := [name for name, off in OF_BEAMS.items() if getattr(self, name) != off]:
            raise LimitError(f"{odd[0]} goes with beams, got none")
        if self.max_new_tokens < 1:
            raise LimitError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        longest = LIMITS["stop"]
        if len(self.stop) > LIMITS["stop strings"] or not all(1 <= len(s) <= longest for s in self.stop):
            raise LimitError(
                f"stop takes up to {LIMITS['stop strings']} strings of 1 to {longest} characters, "
                f"got {self.stop!r:.200}"
            )

    def search(
        self, prompt: Sequence[int], stop_ids: frozenset[int], source: Sequence[int] | None
    ) -> BeamSearch:
        """The search of these options over a prompt."""
        return BeamSearch(
            prompt,
            self.beams or 1,
            self.sampler,
            stop_ids,
            self.max_new_tokens,
            self.length_penalty,
            self.early_stopping,
            renormalize=self.renormalize,
            encoder_ids=source,
        )


def sampler(defaults: dict[str, Any], *, greedy: bool = False, **given: Any) -> Sampler:
    """The Sampler that options and a model's own defaults make together.

    Greedy unless an option of sampling is given or the model's defaults sample; an option that is
    None isn't given. `greedy` leaves aside what of the defaults draws; rules and penalties stay.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if greedy:
        if odd := sorted(given.keys() & DRAWS):
            raise LimitError(f"greedy decoding and beam search draw nothing: leave out {', '.join(odd)}")
        return Sampler(**{name: value for name, value in defaults.items() if name not in DRAWS} | given)
    start: dict[str, Any] = {"temperature": 1.0} if given.keys() & DRAWS else {}
    return Sampler(**start | defaults | given)


def options(wants: Generation, **given: Any) -> Options:
    """Options and Sampler from one set of keywords, None meaning not given, over a model's own wishes.

    Beams draw nothing; what a model says of beams counts where there are some. A model's own beams give
    way to what doesn't go with beams: greedy decoding, a draw, a draft.
    """
    given = {name: value for name, value in given.items() if value is not None}
    greedy = bool(given.pop("greedy", False))
    mine = {f.name for f in fields(Options)} & given.keys()
    own: dict[str, Any] = {name: given.pop(name) for name in mine}
    if not (greedy or "draft" in own or given.keys() & DRAWS):
        searched = "beams" in wants.search or "beams" in own
        own = (wants.search if searched else {}) | own
    if wants.max_new_tokens is not None:
        own = {"max_new_tokens": wants.max_new_tokens} | own
    return Options(sampler=sampler(wants.defaults, greedy=greedy or "beams" in own, **given), **own)


class Prompt(NamedTuple):
    """Ids that an answer begins after; `source` are those that an encoder reads, where there is one."""

    prompt: list[int]
    source: list[int] | None


class TextStream:
    """One text being generated: iterate over its pieces, once.

    At any time `tokens` holds the new ids and `text` what was given out; at the end `finish_reason`
    says why it ended, `timings` how long it took, and `cache` holds the prompt and the tokens but the
    last (None after beam search, which has no one row of it); `then` is called with the answer. `source`
    is the text that a model with an encoder reads; the prompt is then what its decoder begins with.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        options: Options,
        cache: Any = None,
        then: Callable[[TextStream], None] = lambda _: None,
        source: Sequence[int] | None = None,
    ) -> None:
        limit_new_tokens(model.config.context, len(prompt), options.max_new_tokens)
        stop_ids = frozenset(model.generation.eos if options.stop_on_eos else ())
        self._model, self._options, self._then, self.cache = model, options, then, cache
        self._row = GeneratedSequence(
            prompt, options.sampler, stop_ids, options.max_new_tokens, options.seed, encoder_ids=source
        )
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
        return self._row.finish_reason

    @property
    def timings(self) -> dict[str, float]:
        """Seconds and tokens a second, of the prompt (until the first token) and of what followed."""
        begin, *rest = self._times or [0.0]
        first = rest[0] - begin if rest else 0.0
        last = rest[-1] - rest[0] if rest else 0.0
        read = len(self._row.encoder_ids or self._row.prompt) - self._cached
        made = max(len(self.tokens) - 1, 0)
        return {
            "prompt_tokens": len(self._row.encoder_ids or self._row.prompt),
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
            return (yield from generate(engine, row, cache))
        wanted = self._options.search(row.prompt, row.stop_ids, row.encoder_ids)
        best = beam_search(engine, wanted, cache)[0]
        for token in best.tokens:
            row.tokens.append(token)
            yield token
            if row.finish_reason is not None:
                return None
        row.finish(best.finish_reason)
        return None

    def _generate(self) -> Iterator[str]:
        written = StreamedText(self._model.text, self._options.stop)
        for token in self.ids():
            yield from self._give(written, written.push(token))
        yield from self._give(written, written.finish())
        self._then(self)

    def _give(self, written: StreamedText, piece: str) -> Iterator[str]:
        if written.ended:
            self._row.finish("stop")
        self.text = written.text
        if piece:
            yield piece


class StreamedText:
    """The text of tokens as they come, as far as it is certain; it ends before a stop string."""

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._stream, self._stops, self._held = Stream(tokenizer), stops, ""
        self.text, self.ended = "", False

    def push(self, token: int) -> str:
        """What a token makes certain."""
        return self._give(self._stream.push(token))

    def finish(self) -> str:
        """What was held back, at the end of the tokens."""
        if self.ended:
            return ""
        piece = self._give(self._stream.finish())
        rest, self._held = self._held, ""
        self.text += rest
        return piece + rest

    def _give(self, text: str) -> str:
        sure, self._held, self.ended = split_at_stop_string(self._held + text, self._stops)
        self.text += sure
        return sure
