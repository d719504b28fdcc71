"""GTE v1.5 and multilingual: the family under the model_type of Alibaba-NLP/new-impl's code, with a special
rotary scaling.

The scaling multiplies theta by a factor and divides all frequencies by factor^(2 / head size), for texts of
any length.
"""

from ...config import Encoder, LinearScaling, Rope
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size
from . import Task, encoders
from .gte import WEIGHTS as WEIGHTS
from .gte import encoder

MODEL_TYPES = ("new",)
ARCHITECTURES = encoders("New", without=("answer",))
PREFIX = "new."


def config(keys: Keys, task: Task) -> Encoder:
    theta, size, scaling = keys.positive("rope_theta"), head_size(keys), keys.get("rope_scaling", dict, None)
    if scaling is None:
        return encoder(keys, task, Rope(theta, size))
    inner = Keys(scaling, f"{keys.where}: rope_scaling")
    inner.choice("type", {"ntk": None})
    factor = inner.positive("factor")
    inner.finish({})
    scaled = Rope(theta * factor, size, scaling=LinearScaling(factor ** (2 / size)))
    return encoder(keys, task, scaled)
