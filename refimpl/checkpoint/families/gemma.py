"""Gemma (Mesnard et al. 2024): Llama's decoder with scaled embeddings. Norm weights are stored minus one."""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import WeightMap
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("gemma",)
ARCHITECTURES: dict[str, Task] = decoders("Gemma", tasks=("classify", "tag"))


def config(keys: Keys, task: Task) -> Decoder:
    check_causal(keys)
    # What Gemma 2 has, and no class of this one reads; notes of checkpoints; an epsilon misspelt.
    keys.harmless(
        attn_logit_softcapping=(None,), final_logit_softcapping=(None,), sliding_window=(None,),
        quant=(False,), tokenizer=(str,), rms_nms_eps=(keys.get("rms_norm_eps", float, 1e-6),),
    )  # fmt: skip
    base = decoder(keys, kv_heads=keys.size("num_key_value_heads", 16), context=8192, head=256, tied=True)
    # The first releases say gelu and mean its approximation.
    names = {**ACTIVATIONS, "gelu": "gelu_tanh"}
    activation = keys.choice("hidden_act", names, "gelu_pytorch_tanh")
    if keys.get("hidden_activation", str, None) and keys.choice("hidden_activation", names) != activation:
        raise keys.fail("hidden_activation", f"the same as hidden_act ({activation})")
    embedding = replace(base.embedding, scale=base.embedding.width**0.5)
    changed = map_layers(base, lambda _, layer: replace(layer, mlp=replace(layer.mlp, activation=activation)))
    return replace(changed, embedding=embedding)


def check_causal(keys: Keys) -> None:
    """Raise ConfigError for a Gemma model in which tokens see later tokens."""
    if keys.get("use_bidirectional_attention", bool, False, null=True):
        raise keys.fail("use_bidirectional_attention", "false: with true, tokens see later tokens")


def add_one_to_norms(table: WeightMap) -> WeightMap:
    """Return the weight map changed so that one is added to each norm weight, which the files store minus
    one.
    """
    return table.then("plus_one", lambda tensor: tensor.endswith("norm.weight"))


WEIGHTS = add_one_to_norms(LLAMA)


# One is added to the norms' weights already.
GGUF = Gguf("gemma", {**DECODER, "model_type": fixed("gemma")}, UNPERMUTED_QK_WEIGHTS)
