"""Apply the settings in a model directory to its tokenizer.json."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ....errors import CheckpointError
from ...formats.strict_json import parse
from .added_vocabulary import AddedVocabulary, NewToken, read_stated_tokens, read_vocabulary_of
from .class_choice import choose_class
from .classes import Component, SourceFile, TokenizerClass, Tokens
from .clean_up import cleaned_up
from .sentencepiece_backend import made_by_model
from .settings import ADDITIONAL, EXTRA, NAMED, NAMES, SettingFiles, Settings, Special, read_settings
from .vocabulary_files import Vocabulary

CLEAN_UP_BPE = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"


@dataclass(frozen=True)
class AppliedTokenizer:
    """A tokenizer that needs no other settings. `text` is its tokenizer.json, and `special_tokens` maps names
    such as `bos_token` to tokens.

    `notes` tell the user about parts of the original file that transformers doesn't use.
    """

    text: str
    special_tokens: Mapping[str, str]
    notes: tuple[str, ...] = ()


def apply_settings(text: str, files: SettingFiles, model_type: str) -> AppliedTokenizer:
    """Return the tokenizer that AutoTokenizer makes from a tokenizer.json and the files beside it.

    If the other files have no effect, the text of tokenizer.json is returned unchanged. Raises
    CheckpointError for a setting that transformers refuses, and for a setting that no tokenizer.json can
    express.
    """
    if model_type == "marian":  # transformers reads SentencePiece files for it, and no tokenizer.json
        return AppliedTokenizer(text, {})
    made_by = choose_class(files, model_type, text)
    if made_by is None and not _says_anything(text, files):
        return AppliedTokenizer(text, {})
    where = f"{files.folder}/tokenizer.json"
    definition = parse(text, where)
    if not isinstance(definition, dict):
        raise CheckpointError(f"{where}: must be a JSON object, got {definition!r:.80}")
    settings = read_settings(files, definition, model_type)
    applied, named = _applied(definition, settings, made_by, where)
    notes: tuple[str, ...] = ()
    if made_by is not None:
        notes = _dropped_steps(definition.get("pre_tokenizer"), applied["pre_tokenizer"], made_by, where)
    same = all(applied[key] == definition.get(key) for key in applied)
    return AppliedTokenizer(text if same else json.dumps(applied, ensure_ascii=False), named, notes)


def tokenizer_of(
    vocabulary: Vocabulary, files: SettingFiles, model_type: str, made_by: TokenizerClass | None
) -> AppliedTokenizer:
    """Return the tokenizer that AutoTokenizer makes from a vocabulary and the files beside it, without a
    tokenizer.json.

    Raises CheckpointError for the same reasons as `apply_settings`.
    """
    charsmap = vocabulary.charsmap
    definition: Component = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "pre_tokenizer": None,
        "normalizer": charsmap and {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "post_processor": None, "decoder": None,
        "model": {"vocab": vocabulary.tokens, "merges": vocabulary.merges},
    }  # fmt: skip
    settings = read_settings(files, definition, model_type)
    model, tokens = vocabulary.sentencepiece, vocabulary.tokens
    if model is not None:
        settings.values[ADDITIONAL] = list(vocabulary.added)
        settings.values["unk_id"] = model.unk_id
    if made_by is None:
        assert model is not None  # other vocabularies are read for a class alone
        definition |= made_by_model(model, vocabulary, settings)
    elif isinstance(tokens, list):
        definition["model"]["vocab"] = made_by.reorder(settings, tokens)
    around = _tokens_around(files, made_by)
    applied, named = _applied(definition, settings, made_by, vocabulary.where, around)
    return AppliedTokenizer(json.dumps(applied, ensure_ascii=False), named)


@dataclass(frozen=True)
class _Around:
    """A choice of the tokens that are put around a text if there is no tokenizer.json.

    `flags` say whether `bos_token` is put before the text and `eos_token` after it. With `own_template`, the
    class's own template is used instead.
    """

    flags: Mapping[str, bool]
    own_template: bool


def _tokens_around(files: SettingFiles, made_by: TokenizerClass | None) -> _Around:
    """Return which tokens the settings put around a text. A directory with a tokenizer.json doesn't need
    this, because that file says it.
    """
    config = files.tokenizer_config or {}
    flags = {"bos_token": made_by is not None and made_by.adds_bos, "eos_token": False}
    stated = {name: bool(config[f"add_{name}"]) for name in flags if f"add_{name}" in config}
    own = made_by is not None and (
        made_by.own_template == "always" or (made_by.own_template == "without flags" and not stated)
    )
    return _Around({**flags, **stated}, own)


def _applied(
    definition: Component,
    settings: Settings,
    made_by: TokenizerClass | None,
    where: str,
    around: _Around | None = None,
) -> tuple[Component, dict[str, str]]:
    """Return a tokenizer.json with the settings applied, and its special tokens by name.

    `around` says which tokens are put around a text. If `around` is None, the post-processor of `definition`
    or the class says it.
    """
    named = _named_tokens(settings, made_by, definition)
    vocabulary = read_vocabulary_of(definition, where)
    applied = dict(definition)
    if made_by is None or (made_by.keeps_file and around is None):
        for _, token in read_stated_tokens(definition, where):
            vocabulary.add(token)
    else:
        applied |= vars(made_by.build(settings, named, _source(definition, made_by, where)))
    extra = _extra_tokens(settings, made_by)
    _add_tokens(vocabulary, settings, named, extra)
    tokens = Tokens(settings.where, named, vocabulary)
    template = definition.get("post_processor") if around is None else tokens.around(around.flags)
    if made_by is not None:
        for token in made_by.added_again(list(named.values()), extra):
            vocabulary.add(token)
        own_template = made_by.post_processor(settings, tokens, template)  # it refuses tokens in any case
        template = own_template if around is None or around.own_template else template
    applied["post_processor"] = template
    applied["added_tokens"] = vocabulary.as_json()
    applied["decoder"] = _decoder(applied, settings)
    return applied, {name: str(token) for name, token in named.items()}


def _dropped_steps(
    stated: Any, rebuilt: Component | None, made_by: TokenizerClass, where: str
) -> tuple[str, ...]:
    """Return a note for the user if the class leaves out steps of the file's pre-tokenizer, which the model
    may need.
    """
    dropped = sorted(_steps(stated) - _steps(rebuilt))
    if not dropped:
        return ()
    return (
        f"{where}: tfm ignores {', '.join(dropped)} of the pre-tokenizer, as transformers' {made_by.name} "
        "does; to use the file unchanged, write tokenizer_class PreTrainedTokenizerFast into "
        "tokenizer_config.json",
    )


def _steps(pre_tokenizer: Any) -> set[str]:
    if not isinstance(pre_tokenizer, dict):
        return set()
    steps = pre_tokenizer.get("pretokenizers") if pre_tokenizer.get("type") == "Sequence" else [pre_tokenizer]
    return {str(step.get("type"))[:40] for step in steps or () if isinstance(step, dict)}


def _says_anything(text: str, files: SettingFiles) -> bool:
    """Return whether the files may change the tokenizer: a file names tokens or asks for clean-up, or
    tokenizer.json states a token for padding.
    """
    if files.special_tokens_map or files.added_tokens or re.search(r'"padding"\s*:\s*\{', text):
        return True
    return any(
        key
        in (EXTRA, ADDITIONAL, NAMED, "added_tokens_decoder", "clean_up_tokenization_spaces", "init_inputs")
        or key in ("split_special_tokens", "fix_mistral_regex", "fast_tokenizer_files")
        or key.endswith("_token")
        for key, value in (files.tokenizer_config or {}).items()
        if value not in (None, False)
    )


def _source(definition: Mapping[str, Any], made_by: TokenizerClass, where: str) -> SourceFile:
    """Return the parts of a tokenizer.json that a class uses. Raises CheckpointError if the file's model
    isn't of the type that the class makes.
    """
    model = definition.get("model")
    kind = model.get("type", made_by.model) if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind != made_by.model:
        raise CheckpointError(
            f"{where}: {made_by.name} makes a {made_by.model} model, but the file has {kind!r:.40}: write "
            "the right tokenizer_class into tokenizer_config.json, or PreTrainedTokenizerFast to use the "
            "file unchanged"
        )
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list) != (made_by.model == "Unigram"):
        raise CheckpointError(f"{where}: model.vocab must be the vocabulary of a {made_by.model} model")
    normalizer = definition.get("normalizer")
    steps = [normalizer]
    if isinstance(normalizer, dict) and normalizer.get("type") == "Sequence":
        steps = normalizer.get("normalizers")
    charsmap = None
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict) and step.get("type") == "Precompiled":
            charsmap = step.get("precompiled_charsmap")
            break
    return SourceFile(where, vocabulary, model.get("merges", []), charsmap)


def _named_tokens(
    settings: Settings, made_by: TokenizerClass | None, definition: Mapping[str, Any]
) -> dict[str, Special]:
    """Return the special tokens that have names. The usual seven names, such as `bos_token`, come first."""
    values = dict(settings.values)
    if made_by is not None:
        values = {**made_by.defaults, **values}
        mask = values.get("mask_token")
        if made_by.mask_flags and isinstance(mask, str):
            values["mask_token"] = NewToken(mask, **made_by.mask_flags)
        if made_by.names_have_flags:
            values |= {name: NewToken(values[name]) for name in NAMES if isinstance(values.get(name), str)}
    padding = definition.get("padding")
    if isinstance(padding, dict) and isinstance(padding.get("pad_token"), str):
        values.setdefault("pad_token", padding["pad_token"])
    named = {name: values[name] for name in NAMES if isinstance(values.get(name), Special)}
    for name, token in values.items():
        if name.endswith("_token") and name not in NAMES and isinstance(token, Special):
            named[name] = token
    return {**named, **settings.named}


def _extra_tokens(settings: Settings, made_by: TokenizerClass | None) -> list[Special]:
    """Return the special tokens that have no names."""
    additional = settings.values.get(ADDITIONAL) if made_by is None else made_by.additional(settings)
    return settings.values.get(EXTRA, additional) or []


def _add_tokens(
    vocabulary: AddedVocabulary, settings: Settings, named: Mapping[str, Special], extra: Sequence[Special]
) -> None:
    """Add the tokens of `added_tokens_decoder` by id, then the special tokens that the vocabulary doesn't
    have yet.
    """
    special = {str(token) for token in named.values()}
    new: list[Special] = [settings.added[id] for id in sorted(settings.added)]
    there = {str(token) for token in new}
    added = [_flags_of(token) for token in new]
    for token in (*named.values(), *extra):
        if str(token) not in vocabulary and str(token) not in there and _flags_of(token) not in added:
            added.append(_flags_of(token))
            new.append(token)
    for token in new:
        if isinstance(token, str):
            vocabulary.add(NewToken(token, special=True))
        elif token.content in special and not token.special:
            vocabulary.add(
                NewToken(token.content, token.single_word, token.lstrip, token.rstrip, token.normalized, True)
            )
        else:
            vocabulary.add(token)


def _flags_of(token: Special) -> Special:
    """Return a token with its flag `normalized` filled in, as the `tokenizers` library does before it
    compares two tokens.
    """
    if isinstance(token, str) or token.normalized is not None:
        return token
    return replace(token, normalized=not token.special)


def _decoder(applied: Mapping[str, Any], settings: Settings) -> Component | None:
    """Return the decoder. If the settings ask for it, the decoder ends with the clean-up of the decoded
    text.
    """
    decoder, model = applied.get("decoder"), applied.get("model")
    if not settings.nullable_flag("clean_up_tokenization_spaces", False):
        return decoder
    is_bpe = isinstance(model, dict) and (model.get("type") == "BPE" or "merges" in model)
    if is_bpe and not settings.nullable_flag(CLEAN_UP_BPE, False):
        return decoder
    return cleaned_up(decoder)
