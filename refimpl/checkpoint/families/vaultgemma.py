"""VaultGemma (Google 2025), trained with differential privacy: Gemma 2 without the norms after the
sublayers."""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import map_layers
from ..config_readers.keys import Keys
from . import Task, decoders
from .gemma2 import WEIGHTS as WEIGHTS
from .gemma2 import config as gemma2

MODEL_TYPES = ("vaultgemma",)
ARCHITECTURES: dict[str, Task] = decoders("VaultGemma", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    return map_layers(
        gemma2(keys, task),
        lambda _, layer: replace(
            layer, attention=replace(layer.attention, post=None), mlp=replace(layer.mlp, post=None)
        ),
    )
