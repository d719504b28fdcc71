"""Read a checkpoint's generation settings from generation_config.json, or from the same keys in config.json.

tfm uses each key, or ignores it because its value has no effect, or raises an error that names the key.
Values that mean "off" in transformers (top_k 0, top_p 1, no_repeat_ngram_size 0) are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..config import LM, Config, EncoderDecoder
from ..decoding.beam import BeamSearch
from ..decoding.ctc import CTCTokens
from ..decoding.options import MOST_BEAMS, STOPS
from ..decoding.sampler import Sampler
from ..decoding.speech import SpeechTokens
from ..errors import CheckpointError, ConfigError, LimitError
from .config_readers.generation_keys import (
    HEARING,
    IDS,
    IGNORED_GENERATION_KEYS,
    KEYS,
    OFF,
    PENALTIES,
    UNSUPPORTED,
)
from .config_readers.keys import Keys
from .languages import Languages

# The same of a model without an encoder, where `min_length` counts the prompt.
WITH_ENCODER: dict[str, tuple[Any, ...]] = {
    "encoder_no_repeat_ngram_size": (0, None), "min_length": (0, None), "forced_bos_token_id": (None,),
    "force_bos_token_to_be_generated": (False, None),
}  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """The generation settings of a checkpoint.

    `bos`, `eos` and `mask` are ids of special tokens. `start` is the first token of a decoder that reads an
    encoder. `defaults` are keyword arguments of a `Sampler`; a temperature of None asks for greedy decoding.
    `search` are keyword arguments of a `beam.BeamSearch`, with lists in place of tuples. `max_new_tokens` and
    `prefix`, a text before each input, are used only by models with an encoder. `tasks` contains such
    settings for each task that the checkpoint defines (T5: summarization). `languages` are the language
    tokens of a translation model. Generation ends before any of the texts in `stop`. `left_out` names options
    that the checkpoint asks for and tfm doesn't support; tfm generates text without them. `speech` contains
    the tokens of a model that generates a transcription, and `ctc` those of a model with a CTC head.
    """

    bos: int | None = None
    eos: tuple[int, ...] = ()
    defaults: dict[str, Any] = field(default_factory=dict)
    mask: int | None = None
    start: int | None = None
    search: dict[str, Any] = field(default_factory=dict)
    max_new_tokens: int | None = None
    prefix: str = ""
    tasks: dict[str, Generation] = field(default_factory=dict)
    languages: Languages | None = None
    stop: tuple[str, ...] = field(default=(), metadata={"optional": True})
    left_out: tuple[str, ...] = field(default=(), metadata={"optional": True})
    speech: SpeechTokens | None = field(default=None, metadata={"optional": True})
    ctc: CTCTokens | None = field(default=None, metadata={"optional": True})

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user about generation options that the checkpoint asks for and tfm doesn't
        support.
        """
        names = sorted({name for one in (self, *self.tasks.values()) for name in one.left_out})
        if not names:
            return ()
        return (
            f"the model's files set the options {', '.join(names)}, which tfm doesn't have and so ignores",
        )

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens that start the decoder of a model with an encoder. Raises ConfigError if the model names
        none.
        """
        if self.start is None:
            raise ConfigError("the model must have a decoder_start_token_id to generate text, got none")
        return (self.start,)

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids of all special tokens that these settings name, also for tasks and languages."""
        ids = {i for i in (self.bos, self.mask, self.start, *self.eos) if i is not None}
        ids |= {i for name in ("forced_tokens", "forced_last") for i in self.defaults.get(name, ())}
        ids |= set() if self.languages is None else set(self.languages.codes.values())
        return frozenset(ids).union(*(task.special_ids for task in self.tasks.values()))


def read_generation(
    config_json: Mapping[str, Any],
    generation_json: Mapping[str, Any] | None,
    config: Config,
    where: str,
    ignore: Collection[str] = (),
) -> Generation:
    """Read the generation settings from the keys of config.json and of generation_config.json.

    As in transformers, generation_config.json replaces config.json. Also as there, tfm uses only ids that a
    file states, and not the defaults of a config class. Unlike in transformers, an id that
    generation_config.json leaves out is taken from config.json.
    """
    pair = isinstance(config, EncoderDecoder) and isinstance(config.head, LM)
    base = {key: config_json[key] for key in (KEYS if generation_json is None else IDS) if key in config_json}
    base |= {"_from_model_config": True} if generation_json is None else {}
    more = {key: config_json[key] for key in ("prefix", "task_specific_params") if key in config_json}
    values = base | dict(generation_json or {}) | more
    generation = _read(values, config, where, ignore, pair=pair)
    task_params = Keys(values, where).get("task_specific_params", dict, None) if pair else None
    tasks = {}
    for name, changes in (task_params or {}).items():
        field = f"task_specific_params.{name:.40}"
        if not isinstance(changes, dict):
            raise ConfigError(f"{where}: {field} must be an object, got {changes!r:.80}")
        tasks[name] = _read(values | changes, config, f"{where}: {name:.40}", ignore, pair=pair)
    return replace(generation, tasks=tasks)


def _read(
    values: Mapping[str, Any], config: Config, where: str, ignore: Collection[str], *, pair: bool
) -> Generation:
    keys = Keys(values, where, ignore=ignore)
    keys.get("task_specific_params", dict, None)
    bos, start = _id(keys, "bos_token_id", config), _id(keys, "decoder_start_token_id", config)
    eos = _ids(keys, "eos_token_id", config)
    unsupported = keys.at_other_values(UNSUPPORTED if pair else UNSUPPORTED | WITH_ENCODER)
    defaults = _sampler(keys, config, bos, ends={(i,) for i in eos}, pair=pair)
    search = _search(keys)
    if search.get("beams", 1) > 1 and defaults.get("temperature") is not None:
        unsupported += ("do_sample",)  # nothing is drawn with several beams
        defaults = {name: value for name, value in defaults.items() if name not in OFF}
    stop, refused = _stop(keys)
    most, total = keys.size("max_new_tokens", None), keys.size("max_length", None)
    prefix = keys.get("prefix", str, None) or ""
    speech = None if config.sound_shape is None else _speech(keys, config)
    if most is None and total is not None:
        # The first token of a decoder counts there, but no token of a Whisper's prompt does.
        most = max(total - 1, 1) if speech is None else total
    keys.finish(IGNORED_GENERATION_KEYS if config.sound_shape is None else IGNORED_GENERATION_KEYS | HEARING)
    try:
        Sampler(**defaults)
        beams: dict[str, Any] = {"beams": 1, **search}
        BeamSearch((), **beams)
    except (LimitError, TypeError, ValueError) as error:
        raise ConfigError(f"{where}: {error}") from None
    generation = Generation(bos, eos, defaults, search=search, stop=stop, left_out=unsupported + refused)
    if not pair:
        return generation
    start = bos if start is None else start
    return replace(generation, start=start, max_new_tokens=most, prefix=prefix, speech=speech)


def _speech(keys: Keys, config: Config) -> SpeechTokens | None:
    """Return the tokens of a speech model, or None if its files don't name the token for text without
    times.
    """
    none = _id(keys, "no_timestamps_token_id", config)
    languages, tasks = (_named_ids(keys, name, config) for name in ("lang_to_id", "task_to_id"))
    language, task = (keys.get(name, str, None, null=True) for name in ("language", "task"))
    latest = keys.get("max_initial_timestamp_index", int, None, null=True)
    if latest is not None and latest < 0:
        raise keys.fail("max_initial_timestamp_index", "null or at least 0")
    previous = _id(keys, "prev_sot_token_id", config)
    forced = keys.get("forced_decoder_ids", list, None, null=True) or []
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in forced):
        raise keys.fail("forced_decoder_ids", "null, or pairs of a position and an id")
    for _, token in forced if (language, task) == (None, None) else ():  # transformers' order
        language = next((code for code, id in languages.items() if id == token), language)
        task = next((name for name, id in tasks.items() if id == token), task)
    heads = keys.get("alignment_heads", list, None, null=True) or []
    if not all(is_head(one, config) for one in heads):
        raise keys.fail("alignment_heads", "null, or pairs [layer, head] of the decoder")
    if none is None:
        return None
    if not 0 < none < config.embedding.vocabulary - 1:
        raise keys.fail("no_timestamps_token_id", "between the token of silence and the first timestamp")
    return SpeechTokens(none, languages, tasks, previous, latest, language, task, tuple(map(tuple, heads)))


def is_head(value: Any, config: Config) -> bool:
    """Return whether a value is a pair of numbers: a decoder layer with cross-attention, and a head in this
    layer.
    """
    if not isinstance(value, list | tuple) or [*map(type, value)] != [int, int]:
        return False
    layer, head = value
    crosses = [one.cross for one in config.layers]
    return 0 <= layer < len(crosses) and (cross := crosses[layer]) is not None and 0 <= head < cross.heads


def _named_ids(keys: Keys, name: str, config: Config) -> dict[str, int]:
    """Return the token ids of a key by their tokens' names, without the brackets `<|` and `|>`."""
    named = keys.get(name, dict, None, null=True) or {}
    _check(keys, name, [*named.values()], config)
    return {key.removeprefix("<|").removesuffix("|>"): id for key, id in named.items()}


def _stop(keys: Keys) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the stop texts of `stop_strings`, and the key's name if tfm can't use these texts."""
    value = _raw(keys, "stop_strings")
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise keys.fail("stop_strings", "null, a text or a list of texts")
    if not STOPS.holds(texts):
        return (), ("stop_strings",)
    return tuple(texts), ()


def _sampler(
    keys: Keys, config: Config, bos: int | None, *, ends: set[tuple[int, ...]], pair: bool
) -> dict[str, Any]:
    """Return the keyword arguments of a Sampler. Options of random sampling count only with do_sample.

    If do_sample is true, options that the files don't state have transformers' defaults. If do_sample is
    false, the temperature is None, because the checkpoint asks for greedy decoding.
    """
    numbers = {name: _number(keys, name) for name in (*OFF, *PENALTIES)}
    draws = keys.get("do_sample", bool, None, null=True)
    start: dict[str, Any] = {"temperature": 1.0, "top_k": 50} if draws else {}
    off = (OFF if draws else {}) | PENALTIES
    stated = start | {name: numbers[name] for name in off if numbers[name] is not None}
    options = {name: value for name, value in stated.items() if value not in off[name]}
    if draws is False or options.get("temperature") == 0:  # as other runtimes say it
        options = {name: value for name, value in options.items() if name not in OFF} | {"temperature": None}
    for name in ("no_repeat_ngram", "encoder_no_repeat_ngram"):
        ngram = options.pop(f"{name}_size", None)
        if ngram is not None and (pair or name == "no_repeat_ngram"):
            options[name] = ngram
    least, all_least = _number(keys, "min_new_tokens"), (_number(keys, "min_length") or 0) if pair else 0
    least = all_least - 1 if least is None else least  # the first token of a decoder counts there
    options |= {"min_new_tokens": least} if least > 0 else {}
    for name in ("suppress_tokens", "begin_suppress_tokens"):
        if ids := _suppressed(keys, name, config):
            options[name] = [*ids]
    if words := keys.get("bad_words_ids", list, None):
        # A stop token alone isn't bad, as in transformers: nothing could end.
        options["bad_words"] = [[*word] for w in words if (word := _word(keys, w, config)) not in ends]
    first = _id(keys, "forced_bos_token_id", config)
    if keys.get("force_bos_token_to_be_generated", bool, False, null=True) and bos is not None:
        # As in transformers: the old key wins, but only of what stood in a config.json.
        first = bos if keys.get("_from_model_config", bool, False, null=True) else first
    options |= {"forced_tokens": [first]} if pair and first is not None else {}
    last = _ids(keys, "forced_eos_token_id", config)
    return options | ({"forced_last": [*last]} if last else {})


def _search(keys: Keys) -> dict[str, Any]:
    """Return the keyword arguments of a BeamSearch that differ from its defaults."""
    early = _raw(keys, "early_stopping")
    early = False if early is None else early
    if type(early) is not bool and early != "never":
        raise keys.fail("early_stopping", 'true, false or "never"')
    penalty = _number(keys, "length_penalty")
    beams = keys.size("num_beams", None) or 1
    if beams > MOST_BEAMS:
        raise keys.fail("num_beams", f"1 to {MOST_BEAMS}")
    options = {
        "beams": beams,
        "length_penalty": 1.0 if penalty is None else penalty,
        "early_stopping": early,
        "renormalize": keys.get("renormalize_logits", bool, False, null=True) or False,
    }
    off = {"beams": 1, "length_penalty": 1.0, "early_stopping": False, "renormalize": False}
    return {name: value for name, value in options.items() if value != off[name]}


def _raw(keys: Keys, name: str) -> Any:
    """Return the value of a key without checking its type, or None if the key is absent."""
    return keys.get(name, type(keys.values.get(name)), None)


def _number(keys: Keys, name: str) -> Any:
    value = _raw(keys, name)
    if value is not None and type(value) not in (int, float):
        raise keys.fail(name, "a number")
    if value is not None and not abs(value) < 2**53:
        raise keys.fail(name, "below 2^53")
    return value


def _check(keys: Keys, name: str, ids: list[Any], config: Config) -> tuple[int, ...]:
    n = config.embedding.vocabulary
    for one in ids:
        if type(one) is not int or not 0 <= one < n:
            raise CheckpointError(f"{keys.where}: ids of {name} must be 0 to {n - 1}, got {one!r:.40}")
    return tuple(ids)


def _ids(keys: Keys, name: str, config: Config) -> tuple[int, ...]:
    """Return the token ids of a key, which may state one id, a list of ids, or nothing."""
    value = _raw(keys, name)
    ids = value if isinstance(value, list) else [] if value is None else [value]
    return tuple(dict.fromkeys(_check(keys, name, ids, config)))


def _suppressed(keys: Keys, name: str, config: Config) -> tuple[int, ...]:
    """Return the token ids that are never chosen.

    In files of speech models, -1 means no token, as in transformers, and is left out."""
    value = _raw(keys, name)
    if config.sound_shape is not None and isinstance(value, list):
        return tuple(dict.fromkeys(_check(keys, name, [one for one in value if one != -1], config)))
    return _ids(keys, name, config)


def _id(keys: Keys, name: str, config: Config) -> int | None:
    ids = _ids(keys, name, config)
    if len(ids) > 1:
        raise keys.fail(name, "one id")
    return ids[0] if ids else None


def _word(keys: Keys, word: Any, config: Config) -> tuple[int, ...]:
    if not isinstance(word, list) or not word:
        raise keys.fail("bad_words_ids", "null or lists of ids")
    return _check(keys, "bad_words_ids", word, config)
