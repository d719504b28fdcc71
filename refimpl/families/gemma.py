"""Gemma (Mesnard et al. 2024): Llama's decoder with scaled embeddings, and norms stored less one."""

from __future__ import annotations

from dataclasses import replace

from ..config import Activation, Decoder
from ..config_readers.decoder import decoder, gguf_decoder, varied
from ..config_readers.gguf_metadata import STRAIGHT
from ..config_readers.keys import ACTIVATIONS, Keys
from ..formats.tensor_source import Source
from ..weights.weight_map import WeightMap
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("gemma",)
ARCHITECTURES: dict[str, Task] = decoders("Gemma", tasks=("classify", "tag"))
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    causal(keys)
    # What Gemma 2 has, and no class of this one reads; notes of checkpoints; an epsilon misspelt.
    keys.harmless(
        attn_logit_softcapping=(None,), final_logit_softcapping=(None,), sliding_window=(None,),
        quant=(False,), tokenizer=(str,), rms_nms_eps=(keys.get("rms_norm_eps", float, 1e-6),),
    )  # fmt: skip
    plain = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 16),
        context=8192,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=False,
        head=256,
        tied=True,
    )
    # The first releases say gelu and mean its approximation.
    known = {**ACTIVATIONS, "gelu": "gelu_tanh"}
    activation = keys.choice("hidden_act", known, "gelu_pytorch_tanh")
    if keys.get("hidden_activation", str, None) and keys.choice("hidden_activation", known) != activation:
        raise keys.fail("hidden_activation", f"the same as hidden_act, {activation}")
    return _scaled(plain, activation)


def _scaled(plain: Decoder, activation: Activation) -> Decoder:
    """The decoder with embeddings times the square root of their width."""
    embedding = replace(plain.embedding, scale=plain.embedding.width**0.5)
    changed = varied(plain, lambda _, layer: replace(layer, mlp=replace(layer.mlp, activation=activation)))
    return replace(changed, embedding=embedding)


def causal(keys: Keys) -> None:
    """Raise ConfigError for a Gemma whose tokens see later ones."""
    if keys.get("use_bidirectional_attention", bool, False, null=True):
        raise keys.fail("use_bidirectional_attention", "false: tokens then see later ones")


def less_one(table: WeightMap) -> WeightMap:
    """The map with the norms' weights stored as their differences from one."""
    return table.then("plus_one", lambda tensor: tensor.endswith("norm.weight"))


WEIGHTS = less_one(LLAMA)


def gguf_config(keys: Keys, source: Source) -> Decoder:
    return _scaled(gguf_decoder(keys, source), "gelu_tanh")


# One is added to the norms' weights already.
GGUF = Gguf("gemma", gguf_config, STRAIGHT)
