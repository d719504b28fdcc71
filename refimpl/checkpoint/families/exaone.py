"""EXAONE 3 (LG AI Research 2024): Llama's decoder, with other names of keys and weights."""

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("exaone",)
ARCHITECTURES: dict[str, Task] = {**decoders("Llama"), **decoders("Exaone", tasks=())}
PREFIX = ("model.", "transformer.")
# Its own code's names of keys, and transformers'.
NAMES = {
    "num_hidden_layers": "num_layers",
    "rms_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}


def config(keys: Keys, task: Task) -> Decoder:
    keys.harmless(embed_dropout=(float,))  # of training
    spelled = {name: keys.spelled(name, own) for name, own in NAMES.items()}
    stated = {name: keys.values[one] for name, one in spelled.items() if one in keys}
    return decoder(
        keys.replaced({**keys.values, **stated}),
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=4096,
        mlp_bias=keys.get("mlp_bias", bool, False),
        theta=500_000.0,
        eps=1e-5,
    )


OWN = LLAMA.renamed(
    {
        "layers.{i}.self_attn.": "h.{i}.attn.attention.",
        "o_proj": "out_proj",
        "layers.{i}.input_layernorm": "h.{i}.ln_1",
        "layers.{i}.post_attention_layernorm": "h.{i}.ln_2",
        "layers.{i}.mlp.gate_proj": "h.{i}.mlp.c_fc_0",
        "layers.{i}.mlp.up_proj": "h.{i}.mlp.c_fc_1",
        "layers.{i}.mlp.down_proj": "h.{i}.mlp.c_proj",
        "embed_tokens": "wte",
    }
)
# transformers writes these of a model without a head, for which its own list of names has a gap.
MIXED = OWN.renamed({"h.{i}.": "layers.{i}.", "wte": "embed_tokens"})
WEIGHTS = OWN + MIXED + LLAMA + weight_map("decoder.norm.weight <- ln_f.weight")
GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + weight_map("rope_freqs == rope_freqs.weight")
GGUF = Gguf("exaone", {**DECODER, "model_type": fixed("exaone")}, GGUF_WEIGHTS)
