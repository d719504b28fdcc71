"""Read tokenizer_config.json, special_tokens_map.json and added_tokens.json as one set of settings.

tokenizer_config.json has priority. special_tokens_map.json and added_tokens.json are older forms, and are
read only if tokenizer_config.json has no `added_tokens_decoder`. In that case, special_tokens_map.json has
priority over tokenizer_config.json.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ....errors import CheckpointError
from .added_vocabulary import NewToken, read_new_token, read_stated_tokens

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
EXTRA, ADDITIONAL = "extra_special_tokens", "additional_special_tokens"
NAMED = "model_specific_special_tokens"
Special: TypeAlias = str | NewToken

# transformers drops these keys if there is a tokenizer.json, since its post-processor says the same.
DROPPED = ("add_bos_token", "add_eos_token", "tokenizer_class", "init_inputs", "chat_template")


@dataclass(frozen=True)
class SettingFiles:
    """The contents of the files beside tokenizer.json. A file that is missing is None.

    `folder` is the directory's path, for messages. `config_class` is the `tokenizer_class` of config.json.
    """

    folder: str
    tokenizer_config: Mapping[str, Any] | None = None
    special_tokens_map: Mapping[str, Any] | None = None
    added_tokens: Mapping[str, Any] | None = None
    config_class: str | None = None

    @property
    def config_path(self) -> str:
        return f"{self.folder}/tokenizer_config.json"


@dataclass
class Settings:
    """The arguments for one of transformers' tokenizer classes. `values` are its options by name, and `added`
    are the tokens to add, by id.

    `named` are special tokens with names other than the usual seven, such as `bos_token`.
    """

    where: str
    values: dict[str, Any]
    added: dict[int, NewToken] = field(default_factory=dict)
    named: dict[str, Special] = field(default_factory=dict)

    def flag(self, name: str, default: bool) -> bool:
        """Return a setting that is true or false."""
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.where}: {name} must be true or false, got {value!r:.60}")
        return value

    def nullable_flag(self, name: str, default: bool | None) -> bool | None:
        """Return a setting that is true, false or null."""
        return None if self.values.get(name, default) is None else self.flag(name, bool(default))

    def text(self, name: str, default: str) -> str:
        """Return a setting that is a text. If it is null or missing, return the default."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise CheckpointError(f"{self.where}: {name} must be a text, got {value!r:.60}")
        return default if value is None else value

    def count(self, name: str, default: int) -> int:
        """Return a setting that is a whole number from 0 to 65,536."""
        value = self.values.get(name, default)
        if type(value) is not int or not 0 <= value <= 2**16:
            raise CheckpointError(f"{self.where}: {name} must be a whole number, got {value!r:.60}")
        return value


def read_settings(files: SettingFiles, definition: Mapping[str, Any], model_type: str) -> Settings:
    """Return the tokenizer's settings in a model directory.

    Raises CheckpointError for a setting that transformers refuses, or that no tokenizer.json can express.
    """
    where = files.config_path
    config = dict(files.tokenizer_config or {})
    _refuse(config, where, model_type)
    decoder = config.pop("added_tokens_decoder", None)
    values = {key: value for key, value in config.items() if key not in DROPPED}
    if ADDITIONAL in values and not values.get(EXTRA):
        values[EXTRA] = values.pop(ADDITIONAL)
    named: dict[str, Special] = {
        key: values.pop(key)
        for key in list(values)
        if key.endswith("_token") and key not in NAMES and isinstance(values[key], str)
    }
    if isinstance(values.get(EXTRA), dict):
        named |= _tokens_by_name(values.pop(EXTRA), f"{where}: {EXTRA}")
    stated = values.pop(NAMED, None)
    if stated is not None and not isinstance(stated, dict):
        raise CheckpointError(f"{where}: {NAMED} must be an object of tokens, got {stated!r:.60}")
    named = named or _tokens_by_name(stated or {}, f"{where}: {NAMED}")
    settings = Settings(where, values, named=named)
    if decoder is not None:
        settings.added = _read_decoder(decoder, f"{where}: added_tokens_decoder")
    else:
        _read_older_files(settings, files, definition)
    _convert_special_tokens(settings)
    return settings


def _refuse(config: Mapping[str, Any], where: str, model_type: str) -> None:
    """Raise CheckpointError for settings that change ids in a way that no tokenizer.json can express."""
    if config.get("split_special_tokens"):
        raise CheckpointError(
            f"{where}: split_special_tokens must be false: the model's control tokens would be read as text"
        )
    if config.get("fix_mistral_regex") and model_type == "mistral":
        raise CheckpointError(
            f"{where}: fix_mistral_regex must be false: write the pattern into tokenizer.json instead"
        )
    if config.get("init_inputs"):
        raise CheckpointError(
            f"{where}: init_inputs must be empty: write each setting under its own key instead"
        )
    versions = config.get("fast_tokenizer_files")
    if versions not in (None, [], ["tokenizer.json"]):
        raise CheckpointError(
            f"{where}: fast_tokenizer_files must list only tokenizer.json, got {versions!r:.80}"
        )


def _read_decoder(value: Any, where: str) -> dict[int, NewToken]:
    """Read an `added_tokens_decoder`, `{"id": {"content": …, flags}}`, and return the tokens by id."""
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be an object, got {value!r:.60}")
    tokens: dict[int, NewToken] = {}
    for id, token in value.items():
        if not re.fullmatch("[0-9]{1,10}", id):
            raise CheckpointError(f"{where}: a key must be the id of a token, got {id!r:.40}")
        tokens[int(id)] = read_new_token(token, f"{where}.{id}")
    return tokens


def _read_older_files(settings: Settings, files: SettingFiles, definition: Mapping[str, Any]) -> None:
    """Add to the settings the tokens of special_tokens_map.json, of added_tokens.json, and of tokenizer.json
    itself.
    """
    where = f"{files.folder}/special_tokens_map.json"
    for key, value in (files.special_tokens_map or {}).items():
        if isinstance(value, bool | int | float):
            raise CheckpointError(f"{where}: {key} must be a token or a list of tokens, got {value!r:.40}")
        if key == EXTRA and isinstance(value, dict):
            settings.named |= _tokens_by_name(value, f"{where}: {EXTRA}")
            settings.values.pop(EXTRA, None)
        elif isinstance(value, dict):
            settings.values[key] = _special(value, f"{where}: {key}")
        elif key == EXTRA and isinstance(value, list):
            listed = list(settings.values.get(EXTRA) or [])
            for item in value:
                token = _special(item, f"{where}: {EXTRA}") if isinstance(item, dict) else item
                if token not in listed:
                    listed.append(token)
            settings.values[EXTRA] = listed
        else:
            settings.values[key] = value
    special = {str(settings.values[name]) for name in NAMES if isinstance(settings.values.get(name), Special)}
    extra = settings.values.get(EXTRA)
    special |= {str(token) for token in extra} if isinstance(extra, list) else set()
    for content, id in (files.added_tokens or {}).items():
        if type(id) is not int:
            raise CheckpointError(
                f"{files.folder}/added_tokens.json: {content!r:.60} must have an id, got {id!r:.40}"
            )
        is_special = content in special
        settings.added[id] = NewToken(content, normalized=not is_special, special=is_special)
    settings.added.update(read_stated_tokens(definition, f"{files.folder}/tokenizer.json"))


def _special(value: Mapping[str, Any], where: str) -> NewToken:
    return read_new_token({k: v for k, v in value.items() if k != "__type"} | {"special": True}, where)


def _tokens_by_name(value: Mapping[str, Any], where: str) -> dict[str, Special]:
    return {key: _read_special(token, f"{where}.{key}") for key, token in value.items()}


def _read_special(value: Any, where: str) -> Special:
    """Read a special token, which is a text, or an object marked as an AddedToken."""
    if isinstance(value, dict) and value.get("__type") == "AddedToken":
        return read_new_token({k: v for k, v in value.items() if k != "__type"}, where)
    if isinstance(value, Special):
        return value
    raise CheckpointError(
        f'{where} must be a token, or an object with "__type": "AddedToken", got {value!r:.80}'
    )


def _convert_special_tokens(settings: Settings) -> None:
    """Replace the objects in the settings by tokens. A name of an added token is replaced by this token with
    its flags.
    """
    values, where = settings.values, settings.where
    by_content = {token.content: token for token in settings.added.values()}
    for key in [key for key in values if key.endswith("_token")]:
        value = values[key]
        if value is None or isinstance(value, bool | int | float):
            if value is not None and key in NAMES:
                raise CheckpointError(f"{where}: {key} must be a token, got {value!r:.40}")
            continue
        token = _read_special(value, f"{where}: {key}")
        values[key] = by_content.get(str(token), token) if key in NAMES else token
    for key in (EXTRA, ADDITIONAL):
        if values.get(key) is None:
            continue
        if not isinstance(values[key], list):
            raise CheckpointError(f"{where}: {key} must be a list of tokens, got {values[key]!r:.60}")
        values[key] = [_read_special(token, f"{where}: {key}") for token in values[key]]
