"""GPT-1 (Radford et al. 2018): GPT-2 with norms after the residual sums, and without a norm after the last
layer.
"""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import map_layers
from ..config_readers.keys import Keys
from . import Task, decoders
from .gpt2 import PREFIX as PREFIX
from .gpt2 import WEIGHTS as GPT2
from .gpt2 import config as gpt2

MODEL_TYPES = ("openai-gpt",)
ARCHITECTURES: dict[str, Task] = decoders("OpenAIGPT", "LMHeadModel", tasks=("classify",))
# Its gelu is the one with a tanh.
ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "silu"}


def config(keys: Keys, task: Task) -> Decoder:
    activation = keys.choice("afn", ACTIVATIONS, "gelu")
    base = gpt2(keys.replaced({"n_positions": 512, **keys.values, "activation_function": activation}), task)
    moved = map_layers(
        base,
        lambda _, layer: replace(
            layer,
            attention=replace(layer.attention, pre=None, after=layer.attention.pre),
            mlp=replace(layer.mlp, pre=None, after=layer.mlp.pre),
        ),
    )
    return replace(moved, stack=replace(moved.stack, final_norm=None))


WEIGHTS = GPT2.renamed(
    {"attn_pre": "attn_after", "mlp_pre": "mlp_after", "wte": "tokens_embed", "wpe": "positions_embed"}
)
