"""A family in ten lines: Llama's layers with biases, as a config.json of model_type my_llama states them."""

from tfm.refimpl.checkpoint.config_readers.decoder import decoder
from tfm.refimpl.checkpoint.config_readers.keys import Keys
from tfm.refimpl.checkpoint.families import Task, decoders, llama
from tfm.refimpl.config import Decoder

MODEL_TYPES = ("my_llama",)
ARCHITECTURES: dict[str, Task] = decoders("MyLlama")
WEIGHTS = llama.WEIGHTS


def config(keys: Keys, task: Task) -> Decoder:
    return decoder(keys, context=1024, attention_bias=True, mlp_bias=True)
