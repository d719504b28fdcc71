"""The options of decoding. Each option is declared once, with its type, range, help and names.

These declarations are used by `sampler.Sampler`, the Python API, the command line, the server's requests, and
the readers of generation_config.json and GGUF.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, make_dataclass
from functools import cache
from numbers import Integral
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, get_type_hints

from ..errors import LimitError

LARGEST_FLOAT = sys.float_info.max
MOST_BEAMS = 64
# How many texts may end an answer, and how many characters they may have.
MOST_STOPS, LONGEST_STOP = 16, 1024


class Values(NamedTuple):
    """A description of an option's allowed values for error messages. `least` and `most` bound whole
    numbers.
    """

    words: str
    holds: Callable[[Any], bool]
    least: int | None = None
    most: int | None = None


def _natural(value: Any) -> bool:
    """Return whether a value is an integer of at least 0, including NumPy's integers."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 0


def _finite(value: Any) -> bool:
    return bool(abs(value) <= LARGEST_FLOAT)


def _tokens(value: Any) -> bool:
    return all(_natural(token) for token in value)


POSITIVE = Values("a number above 0", lambda value: bool(0 < value <= LARGEST_FLOAT))
SHARE = Values("above 0, at most 1", lambda value: bool(0 < value <= 1))
FINITE = Values("a finite number", _finite)
COUNT = Values("a whole number from 1", lambda value: _natural(value) and bool(value >= 1), 1)
NATURAL = Values("a whole number from 0", _natural, 0)
TOKENS = Values("ids of tokens, whole numbers from 0", _tokens)
WORDS = Values(
    "sequences of tokens' ids, none of them empty",
    lambda value: all(word and _tokens(word) for word in value),
)
BIASES = Values(
    "pairs of a token's id and a finite number",
    lambda value: all(_natural(token) and _finite(amount) for token, amount in value),
)
BEAMS = Values(f"1 to {MOST_BEAMS}", lambda value: COUNT.holds(value) and value <= MOST_BEAMS, 1, MOST_BEAMS)
# The longest context to the power of 40 is still a float64.
POWER = Values("-40 to 40", lambda value: bool(abs(value) <= 40))
WHEN = Values('True, False or "never"', lambda value: type(value) is bool or value == "never")
STOPS = Values(
    f"up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters",
    lambda value: len(value) <= MOST_STOPS and all(1 <= len(text) <= LONGEST_STOP for text in value),
)
ANY = Values("", lambda _: True)


class Option(NamedTuple):
    """The declaration of a decoding option, without its name.

    `draws` says that the option makes the sampler choose at random. `chooses` says that the option changes
    which token is likelier. `metavar`, `flags` and `panel` are for the command line. An option without a
    metavar isn't on the command line; a flag has the metavar "-". `off` lists values that switch the option
    off. Some of them are outside of the option's range; a user can pass them to switch off an option that the
    model's files set. `requests` is the range in the server's requests, as pydantic's keywords. The option's
    other names are `openai` in the OpenAI API, `gguf` in GGUF's general.sampling, and `key` in
    generation_config.json.
    """

    help: str
    values: Values = ANY
    default: Any = None
    draws: bool = False
    chooses: bool = False
    metavar: str = ""
    flags: tuple[str, ...] = ()
    panel: str | None = "Choosing tokens"
    requests: Any = None
    key: str = ""
    off: tuple[float, ...] = ()
    gguf: str = ""
    openai: str = ""
    type: Any = None  # as its annotation says; `options` fills it in

    @property
    def described(self) -> str:
        """Return the option's help text, preceded by the allowed values."""
        words = self.values.words
        switches = f" ({self.switches[0]:g} switches it off)" if self.switches else ""
        return f"{words}{switches}. {self.help}" if words else self.help

    @property
    def switches(self) -> tuple[float, ...]:
        """The values outside of the option's range that switch the option off."""
        return tuple(value for value in self.off if not self.values.holds(value))


class Choosing(TypedDict, total=False):
    """The options that say how a token is chosen from logits. A missing option, or None, has no effect."""

    temperature: Annotated[
        float | None,
        Option(
            "The sampling temperature: above 1, texts are more random; below 1, less random. With 0, "
            "decoding is greedy.",
            POSITIVE, draws=True, metavar="T", requests={"ge": 0}, key="temperature", gguf="temp",
        ),
    ]  # fmt: skip
    top_k: Annotated[
        int | None,
        Option(
            "Sample only from the k likeliest tokens.",
            COUNT, draws=True, metavar="K", requests={"ge": -1, "le": 2**31 - 1}, key="top_k",
            off=(0, -1), gguf="top_k",
        ),
    ]  # fmt: skip
    top_p: Annotated[
        float | None,
        Option(
            "Sample only from the smallest set of likeliest tokens with a total probability of at least p.",
            SHARE, draws=True, metavar="P", requests={"gt": 0, "le": 1}, key="top_p", off=(1.0,),
            gguf="top_p",
        ),
    ]  # fmt: skip
    min_p: Annotated[
        float | None,
        Option(
            "Sample only from tokens that are at least p times as probable as the likeliest token.",
            SHARE, draws=True, metavar="P", requests={"ge": 0, "le": 1}, key="min_p", off=(0.0,),
            gguf="min_p",
        ),
    ]  # fmt: skip
    typical_p: Annotated[
        float | None,
        Option(
            "Locally typical sampling: sample only from the tokens with a surprise closest to the entropy, "
            "up to a total probability of p.",
            SHARE, draws=True, metavar="P", key="typical_p", off=(1.0,),
        ),
    ]  # fmt: skip
    repetition_penalty: Annotated[
        float | None,
        Option(
            "A value above 1 makes each token of the prompt and of the answer less likely.",
            POSITIVE, chooses=True, metavar="X", requests={"gt": 0, "le": 10}, key="repetition_penalty",
            off=(1.0,), gguf="penalty_repeat",
        ),
    ]  # fmt: skip
    presence_penalty: Annotated[
        float | None,
        Option(
            "Subtract this number from the logit of each token in the answer so far.",
            FINITE, chooses=True, metavar="X", requests={"ge": -2, "le": 2},
        ),
    ]  # fmt: skip
    frequency_penalty: Annotated[
        float | None,
        Option(
            "Subtract this number from a token's logit for each time that the answer contains the token.",
            FINITE, chooses=True, metavar="X", requests={"ge": -2, "le": 2},
        ),
    ]  # fmt: skip
    no_repeat_ngram: Annotated[
        int | None,
        Option(
            "Never repeat a sequence of n tokens from the prompt or the answer.",
            COUNT, chooses=True, metavar="N", key="no_repeat_ngram_size", off=(0,),
        ),
    ]  # fmt: skip
    min_new_tokens: Annotated[
        int | None,
        Option(
            "The minimum number of tokens in the answer. No stop token is chosen before the answer has "
            "this many tokens.",
            NATURAL,
        ),
    ]
    suppress_tokens: Annotated[
        Sequence[int] | None, Option("Token ids that are never chosen.", TOKENS, default=())
    ]
    begin_suppress_tokens: Annotated[
        Sequence[int] | None,
        Option(
            "Token ids that are never chosen as the first token after the forced tokens.", TOKENS, default=()
        ),
    ]
    bad_words: Annotated[
        Sequence[Sequence[int]] | None,
        Option("Sequences of token ids that are never generated.", WORDS, default=()),
    ]
    forced_tokens: Annotated[
        Sequence[int] | None, Option("Token ids that the answer begins with.", TOKENS, default=())
    ]
    forced_last: Annotated[
        Sequence[int] | None,
        Option(
            "If the answer reaches its maximum length, its last token is one of these token ids.",
            TOKENS,
            default=(),
        ),
    ]
    logit_bias: Annotated[
        Sequence[tuple[int, float]] | None,
        Option("Pairs of a token id and a number that is added to the token's logit.", BIASES, default=()),
    ]


class SamplerOptions(Choosing, TypedDict, total=False):
    """The keyword arguments of `sampler.Sampler`."""

    encoder_no_repeat_ngram: Annotated[
        int | None,
        Option(
            "Never generate a sequence of this many tokens that is in the encoder's input.",
            COUNT, key="encoder_no_repeat_ngram_size", off=(0,),
        ),
    ]  # fmt: skip


class SamplingOptions(Choosing, TypedDict, total=False):
    """The options that say how a token is chosen. For a missing option, or None, the model's own setting
    applies.

    If a chat model's checkpoint has no sampling options, its answers use CHAT_SAMPLING. A request doesn't use
    CHAT_SAMPLING if its options ask for greedy decoding, random sampling, fewer repetitions, or beams.
    """

    greedy: Annotated[
        bool | None,
        Option(
            "Always choose the likeliest token, even if the model's files ask for sampling. Penalties and "
            "rules in the files still apply.",
            metavar="-",
        ),
    ]


class TextOptions(SamplingOptions, Choosing, TypedDict, total=False):
    """The options for generating text that apply to every kind of model."""

    seed: Annotated[
        int | None,
        Option(
            "The random seed, by default 0. The same seed, options and machine give the same text.",
            NATURAL, default=0, metavar="N",
        ),
    ]  # fmt: skip
    beams: Annotated[
        int | None,
        Option(
            "Use beam search with this many beams. The text appears all at once, at the end.",
            BEAMS, metavar="N",
        ),
    ]  # fmt: skip
    length_penalty: Annotated[
        float | None,
        Option(
            "With beam search: rank texts by log-probability / length^P. A larger P favours longer texts.",
            POWER, default=1.0, metavar="P",
        ),
    ]  # fmt: skip
    early_stopping: Annotated[
        bool | Literal["never"] | None,
        Option("With beams: when the search ends. See `beam.BeamSearch`.", WHEN, default=False),
    ]
    renormalize: Annotated[
        bool | None,
        Option("With beams: whether log-probabilities are normalized again after penalties.", default=False),
    ]
    max_new_tokens: Annotated[
        int | None,
        Option(
            "The maximum number of tokens to generate. The default comes from the model's files, or is 256.",
            COUNT, default=256, metavar="N", flags=("--max-new-tokens", "-n"), panel=None,
            openai="max_tokens",
        ),
    ]  # fmt: skip
    stop: Annotated[
        str | Sequence[str] | None,
        Option(
            "End the answer just before this text appears.",
            STOPS,
            default=(),
            metavar="TEXT",
            panel=None,
        ),
    ]
    stop_on_eos: Annotated[bool | None, Option("Whether a stop token ends the answer.", default=True)]


@cache
def options(declared: type) -> Mapping[str, Option]:
    """Return the options that a TypedDict declares: a dict from name to `Option`, including the option's
    type.
    """
    hints, annotated = get_type_hints(declared), get_type_hints(declared, include_extras=True)
    return {name: annotated[name].__metadata__[0]._replace(type=hint) for name, hint in hints.items()}


def require(declared: type, stated: Mapping[str, Any]) -> None:
    """Raise LimitError if any option has a value outside of its range. None is always allowed."""
    for name, option in options(declared).items():
        value = stated.get(name)
        if value is not None and not option.values.holds(value):
            raise LimitError(f"{name} must be {option.values.words}, got {value!r:.80}")


def record(name: str, declared: type, left_out: Collection[str] = ()) -> type:
    """Create a frozen dataclass with a field for each option that a TypedDict declares, except `left_out`."""
    stated = ((key, one) for key, one in options(declared).items() if key not in left_out)
    return make_dataclass(
        name, [(key, one.type, field(default=one.default)) for key, one in stated], frozen=True
    )
