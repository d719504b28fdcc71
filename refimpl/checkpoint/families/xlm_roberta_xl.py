"""XLM-RoBERTa XL (Goyal et al. 2021): RoBERTa with norms before the sublayers, and a norm after the last
layer."""

from ...config import Encoder
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .megatron_bert import norms_before
from .roberta import PREFIX as PREFIX
from .roberta import WEIGHTS as ROBERTA
from .roberta import config as roberta

MODEL_TYPES = ("xlm-roberta-xl",)
ARCHITECTURES = encoders("XLMRobertaXL")
DEFAULTS = {"max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}


def config(keys: Keys, task: Task) -> Encoder:
    return norms_before(roberta(keys.with_defaults(DEFAULTS), task))


WEIGHTS = ROBERTA + weight_map("""
    encoder.layers.{i}.attn_pre.weight <- encoder.layer.{i}.attention.self_attn_layer_norm.weight
    encoder.layers.{i}.attn_pre.bias <- encoder.layer.{i}.attention.self_attn_layer_norm.bias
    encoder.layers.{i}.mlp_pre.{weight,bias} <- encoder.layer.{i}.LayerNorm.{weight,bias}
    encoder.norm.{weight,bias} <- encoder.LayerNorm.{weight,bias}
""")
