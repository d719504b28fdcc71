"""CodeGen (Nijkamp et al. 2022): GPT-J with queries, values and keys in one matrix.

The matrix has four parts, one for each training device. Each part has its own queries, values and keys."""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, decoders
from .gptj import PREFIX as PREFIX
from .gptj import WEIGHTS as GPTJ
from .gptj import config as gptj

MODEL_TYPES = ("codegen",)
ARCHITECTURES: dict[str, Task] = decoders("CodeGen", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    base = gptj(keys, task)
    if base.embedding.width % 4:
        raise keys.fail(
            keys.spelled("n_embd", "hidden_size"),
            "a multiple of 4, since the matrix of queries, keys and values has 4 parts",
        )
    return base


WEIGHTS = GPTJ + weight_map("""
    decoder.layers.{i}.attn.wq, wv, wk <- h.{i}.attn.qkv_proj.weight : transpose four_parts
    causal == h.{i}.attn.causal_mask
""")
