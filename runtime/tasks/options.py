"""Options of generation. The user's options override the options in the model's checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal, TypedDict, Unpack

from ...refimpl.checkpoint.generation_config import Generation
from ...refimpl.decoding.beam import BeamSearch
from ...refimpl.decoding.options import (
    NATURAL,
    Choosing,
    Option,
    SamplerOptions,
    SamplingOptions,
    TextOptions,
    Values,
    options,
    record,
    require,
)
from ...refimpl.decoding.sampler import Sampler
from ...refimpl.decoding.speculative import Drafter
from ...refimpl.errors import LimitError
from ..text.constraints import Language, of_schema
from .declared_options import given_values
from .documents import Schema, schema_of

MOST_LOGPROBS = 1000
LOGPROBS = Values(f"0 to {MOST_LOGPROBS}", lambda value: NATURAL.holds(value) and value <= MOST_LOGPROBS, 0)
# Options that make the sampler draw.
DRAWS = frozenset(name for name, option in options(SamplerOptions).items() if option.draws)
# Options, of a request or of a checkpoint, that say how a token is chosen.
CHOOSES = DRAWS | {name for name, option in options(SamplerOptions).items() if option.chooses}
# Options that say which texts may come.
CONSTRAINTS = frozenset({"json_schema", "regex", "grammar"})
# Options that only beam search reads, with the values that mean "not given".
OF_BEAMS = {
    name: options(TextOptions)[name].default for name in ("length_penalty", "early_stopping", "renormalize")
}


# By tests/bench/chat_sampling.py: 3 of SmolLM2's answers to 100 prompts go in circles, 33 of its greedy ones.
# Of the settings with 5 or fewer, none has answers that a larger model finds likelier by more than 1 %.
CHAT_SAMPLING: SamplingOptions = {"temperature": 0.2, "top_p": 0.9, "repetition_penalty": 1.1}


class GenerateOptions(TextOptions, SamplingOptions, Choosing, TypedDict, total=False):
    """All options of generation: the options in `TextOptions`, and options that need more than a decoder, for
    example a tokenizer.
    """

    draft: Annotated[
        Drafter | Literal[False] | None,
        Option(
            "Proposes tokens that the model checks several at a time, for fewer steps. The text stays the "
            "same up to rounding, also where it is sampled: see `refimpl.decoding.speculative`. By default "
            "the text itself is looked up for them where the model promises the same bits, while that saves "
            "time; False switches that off. `model.mtp_drafter()` is the model's own module, "
            "`model.drafter(other)` a smaller model."
        ),
    ]
    logprobs: Annotated[
        int | None,
        Option(
            "Note for each token of the answer its log-probability and the so many likeliest tokens with "
            "theirs, of the model's own distribution, before penalties, temperature and filters.",
            LOGPROBS,
        ),
    ]
    json_schema: Annotated[
        Schema | None,
        Option(
            "The answer is a JSON document of this schema, or of that of a pydantic class, unless it ends at "
            'max_new_tokens; {} allows any, and so may objects without "additionalProperties": false have '
            "more keys than they name. `parsed` of an answer is the document. Needs llguidance "
            "(`pip install 'tfm-cli[serve]'`)."
        ),
    ]
    regex: Annotated[
        str | None,
        Option(
            "The answer matches this regular expression, of Rust's syntax, as a whole, unless it ends at "
            "max_new_tokens; otherwise as json_schema, of which a text has one."
        ),
    ]
    grammar: Annotated[
        str | None,
        Option(
            "The answer is a sentence of this grammar, in llama.cpp's GBNF or Lark's form; otherwise as "
            "json_schema."
        ),
    ]
    thinking_token_budget: Annotated[
        int | None,
        Option(
            "At most so many tokens of what a chat model thinks, which is then ended as the model ends it.",
            NATURAL,
        ),
    ]


@dataclass(frozen=True)
class Options(record("TextFields", GenerateOptions, left_out=options(SamplingOptions))):
    """Options of generation for one text, with every option set. By default, decoding is greedy.

    See GenerateOptions.
    """

    sampler: Sampler = field(default_factory=Sampler)
    calls: Language | None = None  # that of a chat's text that may have calls of tools
    shown: frozenset[int] = frozenset()  # special tokens that the text has in it

    def __post_init__(self) -> None:
        require(GenerateOptions, vars(self))
        constraints = [name for name in sorted(CONSTRAINTS) if getattr(self, name) is not None]
        if len(constraints) > 1:
            raise LimitError(f"{' and '.join(constraints)} can't be combined: set only one option")
        if self.beams is not None:
            if self.draft:
                raise LimitError("beam search can't use a draft: beam search scores all tokens at each step")
            if self.logprobs is not None:
                raise LimitError("beam search can't return logprobs: beam search scores only whole texts")
            if self.thinking_token_budget is not None:
                constraints = ["thinking_token_budget"]
            if constraints:
                raise LimitError(f"beam search can't be combined with {constraints[0]}: don't set `beams`")
            self.search((), frozenset(), None)  # raises LimitError for what it refuses
        for name, default in OF_BEAMS.items():
            if self.beams is None and getattr(self, name) != default:
                raise LimitError(f"{name} can be used only with `beams`, which isn't set")
        if constraints and (self.stop or not self.stop_on_eos):
            raise LimitError(
                f"a text with {constraints[0]} ends as soon as it is complete: don't set `stop` or "
                "`stop_on_eos`"
            )

    @property
    def language(self) -> Language | None:
        """The formal language that constrains the text; None if the text is unconstrained."""
        if self.calls is not None:
            return self.calls
        if self.json_schema is not None:
            return of_schema(schema_of(self.json_schema))
        if self.regex is not None:
            return Language("regex", self.regex)
        return None if self.grammar is None else Language("grammar", self.grammar)

    def search(
        self, prompt: Sequence[int], stop_ids: frozenset[int], encoder_ids: Sequence[int] | None
    ) -> BeamSearch:
        """Return a beam search over a prompt with these options."""
        return BeamSearch(
            prompt,
            self.beams or 1,
            self.sampler,
            stop_ids,
            self.max_new_tokens,
            self.length_penalty,
            self.early_stopping,
            renormalize=self.renormalize,
            encoder_ids=encoder_ids,
        )


def sampler(defaults: Mapping[str, object], **options: Unpack[SamplingOptions]) -> Sampler:
    """Return the Sampler for a user's options. All other options have the model's defaults.

    The Sampler is greedy unless one of the options or the model's defaults ask for sampling.
    """
    return _sampler(defaults, _given(options, SamplingOptions))


def resolve(generation: Generation, *, chat: bool, **options: Unpack[GenerateOptions]) -> Options:
    """Return the options for a text: the user's options and, where the user gave none, the model's own.

    `chat` says that a chat template makes the prompt. Then CHAT_SAMPLING is the default if neither the model
    nor the user says how to choose tokens.

    A model's options of beam search are used only with beams. The model's own number of beams is ignored if
    the user's options exclude beams: greedy decoding, sampling, a draft or log-probabilities.
    """
    chosen = _given(options, GenerateOptions)
    if chat and not _says_how_tokens_are_chosen(generation, chosen):
        chosen = {**CHAT_SAMPLING, **chosen}
    model_options: dict[str, object] = {}
    if not _rules_out_beams(chosen) and ("beams" in chosen or "beams" in generation.search):
        model_options |= generation.search
    if generation.max_new_tokens is not None:
        model_options["max_new_tokens"] = generation.max_new_tokens
    if generation.stop and not chosen.keys() & CONSTRAINTS:
        model_options["stop"] = generation.stop
    return _options(generation.defaults, model_options | chosen)


def check(**options: Unpack[GenerateOptions]) -> None:
    """Raise LimitError for options that no model supports. A command can call this before it loads
    a model.
    """
    chosen = _given(options, GenerateOptions)
    if not _rules_out_beams(chosen):
        chosen = {"beams": 1} | chosen  # a model may ask for beams, and a length penalty goes with those
    _options({}, chosen)


def _given(stated: Mapping[str, object], declared: type) -> dict[str, object]:
    """Return the options that were given, with a value of None for an option that is switched off.

    Temperature 0 becomes `greedy`, and the other options of sampling are left out, because every filter keeps
    the likeliest token. A single string in `stop` becomes a tuple."""
    known = options(declared)
    given = {
        name: None if value in known[name].switches else value
        for name, value in given_values(stated, declared).items()
    }
    if isinstance(stop := given.get("stop"), str):
        given["stop"] = (stop,)
    if given.get("temperature") == 0:
        given = {name: value for name, value in given.items() if name not in DRAWS} | {"greedy": True}
    return given


def _stated(chosen: Mapping[str, object]) -> set[str]:
    """Return the names of the options that aren't switched off."""
    return {name for name, value in chosen.items() if value is not None}


def _says_how_tokens_are_chosen(generation: Generation, chosen: Mapping[str, object]) -> bool:
    stated = generation.defaults.keys() | generation.search.keys() | _stated(chosen)
    return bool(chosen.get("greedy")) or bool(stated & (CHOOSES | {"beams"}))


def _rules_out_beams(chosen: Mapping[str, object]) -> bool:
    said = bool(chosen.get("greedy")) or bool(chosen.get("draft"))
    return said or bool(_stated(chosen) & (DRAWS | CONSTRAINTS | {"logprobs", "thinking_token_budget"}))


def _options(defaults: Mapping[str, object], chosen: dict[str, object]) -> Options:
    names = {f.name for f in fields(Options)}
    sampling = {name: value for name, value in chosen.items() if name not in names}
    if "beams" in chosen:
        sampling["greedy"] = True
    others = {name: value for name, value in chosen.items() if name in names}
    return replace(Options(sampler=_sampler(defaults, sampling)), **others)


def _sampler(defaults: Mapping[str, object], chosen: dict[str, object]) -> Sampler:
    drawing = _stated(chosen) & DRAWS
    # A temperature of None is greedy decoding, as none at all is, and gives way to a user's.
    defaults = {name: value for name, value in defaults.items() if value is not None}
    if chosen.pop("greedy", False):
        if drawing:
            names = ", ".join(sorted(drawing))
            raise LimitError(f"greedy decoding and beam search can't sample: don't set {names}")
        defaults = {name: value for name, value in defaults.items() if name not in DRAWS}
    start = Sampler(temperature=1.0) if drawing else Sampler()
    return replace(start, **{**defaults, **chosen})
