"""Falcon Mamba (TII 2024): Mamba with norms on the inputs from which steps, B and C are computed.

These norms have no weights. In GGUF the architecture is `mamba`, as for Mamba.
"""

from dataclasses import replace

from ...config import Decoder
from ...ops.mamba import Mamba
from ..config_readers.decoder import map_layers
from ..config_readers.keys import Keys
from . import Task, decoders
from .mamba import GGUF as GGUF
from .mamba import PREFIX as PREFIX
from .mamba import WEIGHTS as WEIGHTS
from .mamba import config as mamba

MODEL_TYPES = ("falcon_mamba",)
ARCHITECTURES: dict[str, Task] = decoders("FalconMamba", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("use_falcon_mambapy")
    base, eps = mamba(keys, task), keys.positive("mixer_rms_eps", 1e-6)
    mixer = base.layers[0].attention
    assert isinstance(mixer, Mamba)
    normed = replace(mixer, norms="bare", eps=eps)
    return map_layers(base, lambda _, layer: replace(layer, attention=normed))
