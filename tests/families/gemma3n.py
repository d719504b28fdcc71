"""Gemma 3n."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import transformers
from hypothesis import strategies as st
from transformers.models.gemma3n import modeling_gemma3n

from .kit import SIZES, Row, ropes, sizes, wrapped

KINDS = "default linear dynamic yarn llama3"


@st.composite
def text_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Any layer may have a window, and be sparse; the active stream need not be the first."""
    layers = draw(st.sampled_from([3, 1, 2, 4]))
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    streams = draw(st.sampled_from([3, 2, 4]))
    shares = st.sampled_from([0.0, 0.5, 0.95, 0.3])
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            intermediate_size=st.sampled_from([7, 24])
            | st.lists(st.sampled_from([5, 7, 24]), min_size=layers, max_size=layers),
            hidden_activation=st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu", "sigmoid"]),
            final_logit_softcapping=st.sampled_from([30.0, 1.5]),
            sliding_window=st.sampled_from([1, 3, 5, 64]),
            layer_types=st.none() | st.lists(kinds, min_size=layers, max_size=layers),
            attention_bias=st.booleans(),
            hidden_size_per_layer_input=st.sampled_from([3, 8]),
            vocab_size_per_layer_input=st.sampled_from([61, 70, 50]),
            altup_num_inputs=st.just(streams),
            altup_active_idx=st.integers(0, streams - 1),
            altup_correct_scale=st.booleans(),
            laurel_rank=st.sampled_from([5, 1, 11]),
            activation_sparsity_pattern=st.none() | st.lists(shares, min_size=layers, max_size=layers),
        )
    )
    del keys["hidden_act"]
    by_type = {kind: draw(ropes(keys["head_dim"], KINDS)) for kind in ("full_attention", "sliding_attention")}
    # transformers reads `truncate` beside the types of layers only.
    keys["rope_parameters"] = {
        kind: {n: v for n, v in rope.items() if n != "truncate"} for kind, rope in by_type.items()
    }
    types = keys["layer_types"] or ["sliding_attention"] * layers
    counts = [n for n in reversed(range(layers)) if set(types[: layers - n]) == set(types)]
    keys["num_kv_shared_layers"] = draw(st.sampled_from(counts))
    return keys


def tower(config: Any) -> Any:
    """What AutoModel makes of a config; a linear map in the place of an encoder of images or sound, of which
    that of images needs another library."""
    if isinstance(config, transformers.Gemma3nTextConfig):
        return transformers.AutoModel.from_config(config)
    return torch.nn.Linear(2, 3)


class Gemma3nForConditionalGeneration(transformers.Gemma3nForConditionalGeneration):
    """transformers' class, with its code for tokens, around small towers."""

    def __init__(self, config: Any) -> None:
        with mock.patch.object(modeling_gemma3n, "AutoModel", SimpleNamespace(from_config=tower)):
            super().__init__(config)


class Gemma3nModel(transformers.Gemma3nModel):
    """The same without a head."""

    def __init__(self, config: Any) -> None:
        with mock.patch.object(modeling_gemma3n, "AutoModel", SimpleNamespace(from_config=tower)):
            super().__init__(config)


VISION: dict[str, Any] = {
    "model_type": "gemma3n_vision",
    "hidden_size": 6,
    "vocab_size": 5,
    "vocab_offset": 61,
}
AUDIO: dict[str, Any] = {"model_type": "gemma3n_audio", "hidden_size": 6, "vocab_size": 5, "vocab_offset": 66}
# By default 15 layers read the keys and values of others.
TEXT = SIZES | {"num_kv_shared_layers": 0}
ROWS = {
    "gemma3n_text": Row(
        transformers.Gemma3nTextConfig,
        (transformers.Gemma3nForCausalLM, transformers.Gemma3nTextModel),
        text_keys(),
        TEXT,
    ),
    "gemma3n": Row(
        transformers.Gemma3nConfig,
        (Gemma3nForConditionalGeneration, Gemma3nModel),
        wrapped(text_keys(), VISION, audio_config=AUDIO),
        {"text_config": TEXT, "vision_config": VISION, "audio_config": AUDIO},
    ),
}
