"""Granite's mixture with an expert that takes every token (IBM 2025). This expert is beside the chosen
experts.
"""

from ...config import Decoder
from ..config_readers.decoder import map_layers
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, decoders
from .granite import with_shared_expert
from .granitemoe import GGUF as GGUF
from .granitemoe import WEIGHTS as GRANITE_MOE
from .granitemoe import config as granitemoe

MODEL_TYPES = ("granitemoeshared",)
ARCHITECTURES: dict[str, Task] = decoders("GraniteMoeShared", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    width = keys.get("shared_intermediate_size", int, 0) or None  # 0 says that there is none
    return map_layers(granitemoe(keys, task), lambda _, layer: with_shared_expert(layer, width))


WEIGHTS = GRANITE_MOE + weight_map("""
    decoder.layers.{i}.mlp.shared.gate, up <- layers.{i}.shared_mlp.input_linear.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- layers.{i}.shared_mlp.output_linear.weight : transpose
""")
