"""Read a Whisper model in CTranslate2's format, which faster-whisper uses: model.bin, config.json,
tokenizer.json.

The model is read as if transformers had written it. tfm makes config.json and generation_config.json from
these files, and gives each variable the name of transformers' tensor. No file says whether the model has
several languages, or what the latest first timestamp is. For both, tfm uses the values that CTranslate2's
reader and OpenAI's code share. A model with a vocabulary of at least 51,865 tokens has several languages. The
latest first timestamp has the index 50, which is 1 s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..ops.quant import Blocks
from .config_readers.keys import Keys
from .formats.ctranslate2 import SCALE, CTranslate2File
from .formats.model_directory import Directory
from .formats.tensor_source import CTRANSLATE2

SPECIFICATION = "WhisperSpec 3"
MULTILINGUAL = 51_865  # tokens; a vocabulary with fewer is of English alone
LATEST_FIRST = 50  # 1 s
# What the layers are, as numbers of CTranslate2: GELU, norms before sublayers, no further positions.
SETTINGS = {
    "decoder/activation": 3, "decoder/pre_norm": 1,
    "decoder/alignment_heads": 1, "decoder/alignment_layer": -1,
    **dict.fromkeys(
        (
            "decoder/alibi", "decoder/alibi_use_positive_positions", "decoder/scale_alibi",
            "decoder/scale_embeddings", "decoder/start_from_zero_embedding",
        ),
        0,
    ),
}  # fmt: skip
HEADS = {side: f"{side}/num_heads" for side in ("encoder", "decoder")}
TABLE, OUTPUT = "decoder/embeddings/weight", "decoder/projection/weight"
# CTranslate2's modules, with those of transformers that lie in one below the other.
OF_LAYERS = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
OF_STACKS = {
    "conv1": "conv1",
    "conv2": "conv2",
    "embeddings": "embed_tokens",
    "position_encodings": "embed_positions",
    "layer_norm": "layer_norm",
}
LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "encodings": "weight"}
IN_LAYER = re.compile(r"(encoder|decoder)/layer_(\d{1,4})/(\w+/\w+)/(\w+)")
IN_STACK = re.compile(r"(encoder|decoder)/(\w+)/(\w+)")


class CTranslate2Tensors:
    """The weights of CTranslate2's model.bin under transformers' names; implements TensorSource."""

    def __init__(self, file: CTranslate2File) -> None:
        self._file = file
        self._table: dict[str, tuple[str, int, int]] = {}
        for name, variable in file.variables.items():
            quantized = name.endswith(SCALE) and name.removesuffix(SCALE) in file.variables
            if quantized or name in SETTINGS or name in HEADS.values():
                continue
            modules, leaf = _places(name)
            if not modules or not variable.shape or variable.shape[0] % len(modules):
                shape = list(variable.shape)
                raise CheckpointError(
                    f"{file.path}: must have only Whisper's variables, but {name!r:.80} {shape} isn't a "
                    "variable of Whisper"
                )
            size = variable.shape[0] // len(modules)
            for i, module in enumerate(modules):
                self._table[f"{module}.{leaf}"] = (name, i * size, (i + 1) * size)
        for name in [name for name in self._table if name.endswith(".k_proj.bias")]:
            if self.load(name).any():
                raise CheckpointError(
                    f"{file.path}: Whisper's keys have no bias, but {name!r:.80} isn't zero"
                )
            del self._table[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._table)

    def kind(self, name: str) -> str:
        """Return the type in which the file stores a weight: F32, F16, I8, …"""
        return self._file[self._table[name][0]].kind

    def shape(self, name: str) -> tuple[int, ...]:
        variable, begin, end = self._table[name]
        return (end - begin, *self._file[variable].shape[1:])

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        """Return a weight as float32. If `part` is given, return only this index of the first axis."""
        variable, begin, end = self._table[name]
        if part is not None:
            return self._file.weight(variable, begin + part, begin + part + 1)[0]
        return self._file.weight(variable, begin, end)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        """Return None, because CTranslate2 stores one scale per row, and no blocks."""
        return None


def _places(name: str) -> tuple[tuple[str, ...], str]:
    """Return the modules of transformers to which a CTranslate2 variable belongs, and the parameter's name in
    them.

    Returns no modules for a variable that a Whisper model doesn't have.
    """
    if name == OUTPUT:
        return ("proj_out",), "weight"
    if (match := IN_LAYER.fullmatch(name)) and match[4] in LEAVES:
        modules = OF_LAYERS.get(match[3], ())
        return tuple(f"model.{match[1]}.layers.{match[2]}.{module}" for module in modules), LEAVES[match[4]]
    if (match := IN_STACK.fullmatch(name)) and match[2] in OF_STACKS and match[3] in LEAVES:
        return (f"model.{match[1]}.{OF_STACKS[match[2]]}",), LEAVES[match[3]]
    return (), ""


def is_ctranslate2(directory: Directory, config_json: Mapping[str, Any]) -> bool:
    """Return whether CTranslate2 wrote a model directory.

    CTranslate2's directories contain model.bin, and their config.json names no model type.
    """
    unnamed = not config_json.keys() & {"model_type", "architectures"}
    return unnamed and directory.find(CTRANSLATE2) is not None


def as_transformers(
    directory: Directory, config_json: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], CTranslate2Tensors]:
    """Return a CTranslate2 model as transformers would store it.

    The result is the keys of config.json, the keys of generation_config.json, and the tensors. Raises
    CheckpointError if a file is damaged, or doesn't belong to a Whisper model.
    """
    path = directory.find(CTRANSLATE2)
    assert path is not None  # is_ctranslate2 has found it
    file = CTranslate2File(path)
    if file.specification != SPECIFICATION:
        raise CheckpointError(
            f"{path}: tfm reads only CTranslate2's Whisper models ({SPECIFICATION}), got "
            f"{file.specification:.80}: use the original checkpoint"
        )
    for name, value in SETTINGS.items():
        if name in file.variables and (stated := file.number(name)) != value:
            raise CheckpointError(f"{path}: {name!r} must be {value}, got {stated}")
    return _config(file), _generation(directory, config_json, file), CTranslate2Tensors(file)


def _config(file: CTranslate2File) -> dict[str, Any]:
    sizes: dict[str, Any] = {"model_type": "whisper", "is_encoder_decoder": True}
    vocabulary, width = _shape(file, TABLE, 2)
    _, bands, _ = _shape(file, "encoder/conv1/weight", 3)
    sizes |= {"vocab_size": vocabulary, "d_model": width, "num_mel_bins": bands}
    sizes["tie_word_embeddings"] = file[OUTPUT] is file[TABLE]
    for side, key in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        layers = {match[2] for match in map(IN_LAYER.fullmatch, file.variables) if match and match[1] == side}
        sizes[f"{side}_layers"] = len(layers)
        sizes[f"{side}_attention_heads"] = file.number(HEADS[side])
        sizes[f"{side}_ffn_dim"], _ = _shape(file, f"{side}/layer_0/ffn/linear_0/weight", 2)
        sizes[key], _ = _shape(file, f"{side}/position_encodings/encodings", 2)
    return sizes


def _shape(file: CTranslate2File, name: str, axes: int) -> tuple[int, ...]:
    shape = file[name].shape
    if len(shape) != axes:
        raise CheckpointError(f"{file.path}: {name!r} must have {axes} axes, but it has {list(shape)}")
    return shape


def _generation(
    directory: Directory, config_json: Mapping[str, Any], file: CTranslate2File
) -> dict[str, Any]:
    keys = Keys(config_json, str(directory.path / "config.json"))
    languages = keys.get("lang_ids", list, None, null=True) or []
    suppressed = {
        "suppress_tokens": keys.get("suppress_ids", list, None, null=True) or [],
        "begin_suppress_tokens": keys.get("suppress_ids_begin", list, None, null=True) or [],
    }
    heads = keys.get("alignment_heads", list, None, null=True)
    keys.finish({})
    tokens, where = _tokens(directory), directory.path / "tokenizer.json"
    if absent := [name for name in ("endoftext", "startoftranscript", "notimestamps") if name not in tokens]:
        raise CheckpointError(f"{where}: must contain Whisper's token <|{absent[0]}|>")
    end = tokens["endoftext"]
    stated: dict[str, Any] = {
        "eos_token_id": end, "pad_token_id": end, "bos_token_id": end,
        "decoder_start_token_id": tokens["startoftranscript"],
        "no_timestamps_token_id": tokens["notimestamps"], "prev_sot_token_id": tokens.get("startofprev"),
        "max_initial_timestamp_index": LATEST_FIRST, "alignment_heads": heads,
        "max_length": file["decoder/position_encodings/encodings"].shape[0],
        **suppressed,
    }  # fmt: skip
    if file[TABLE].shape[0] >= MULTILINGUAL:
        known = {id: name for name, id in tokens.items()}
        stated["lang_to_id"] = {f"<|{known[id]}|>": id for id in languages if type(id) is int and id in known}
        stated["task_to_id"] = {name: tokens[name] for name in ("transcribe", "translate") if name in tokens}
    return stated


def _tokens(directory: Directory) -> dict[str, int]:
    """Return the ids of Whisper's special tokens, such as `<|en|>`, by their names without brackets.

    The tokens are the added tokens of tokenizer.json.
    """
    stated = directory.object("tokenizer.json")
    if stated is None:
        raise CheckpointError(
            f"{directory.path}: tokenizer.json must be beside {CTRANSLATE2}: copy this file from "
            "the original model, such as openai/whisper-tiny"
        )
    added = [token for token in stated.get("added_tokens") or () if isinstance(token, dict)]
    pairs = [(token.get("content"), token.get("id")) for token in added]
    return {
        content[2:-2]: id
        for content, id in pairs
        if isinstance(content, str) and type(id) is int and re.fullmatch(r"<\|\w+\|>", content)
    }
