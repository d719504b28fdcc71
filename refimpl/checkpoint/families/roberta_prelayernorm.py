"""RoBERTa with norms before the sublayers (Wettig et al. 2022), after the last layer and after the
embeddings."""

from ...config import Encoder
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .megatron_bert import norms_before
from .roberta import WEIGHTS as ROBERTA
from .roberta import config as roberta

MODEL_TYPES = ("roberta-prelayernorm",)
ARCHITECTURES = encoders("RobertaPreLayerNorm")
PREFIX = "roberta_prelayernorm."


def config(keys: Keys, task: Task) -> Encoder:
    base = roberta(keys, task)
    return norms_before(base, first=base.stack.first_norm)


WEIGHTS = ROBERTA + weight_map("""
    encoder.layers.{i}.attn_pre.{weight,bias} <- encoder.layer.{i}.attention.LayerNorm.{weight,bias}
    encoder.layers.{i}.mlp_pre.{weight,bias} <- encoder.layer.{i}.intermediate.LayerNorm.{weight,bias}
    encoder.norm.{weight,bias} <- LayerNorm.{weight,bias}
""")
