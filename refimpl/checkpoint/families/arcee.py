"""Arcee's AFM (2025): Llama's decoder with a plain mlp of a squared ReLU."""

from ...config import Decoder
from ..config_readers.decoder import decoder, without_gates
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import PERMUTED_QK_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from . import Gguf, Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("arcee",)
ARCHITECTURES: dict[str, Task] = decoders("Arcee")


def config(keys: Keys, task: Task) -> Decoder:
    keys.get("pretraining_tp", int, 1)  # several slices of one product, summed: the same mathematics
    base = decoder(keys, context=4096, mlp_bias=keys.get("mlp_bias", bool, False), eps=1e-5)
    return without_gates(base, keys.choice("hidden_act", ACTIVATIONS, "relu2"))


GGUF = Gguf("arcee", {**DECODER, "model_type": fixed("arcee")}, PERMUTED_QK_WEIGHTS)
