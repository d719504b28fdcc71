"""The text part of Phi-4-multimodal (Microsoft 2025): Phi-4-mini's decoder, without the adapters for pictures
and sounds, which are stored separately."""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, phi3

MODEL_TYPES = ("phi4_multimodal",)
ARCHITECTURES: dict[str, Task] = {"Phi4MultimodalForCausalLM": "lm", "Phi4MultimodalModel": "pool"}
DEFAULTS = {"max_position_embeddings": 131_072, "num_key_value_heads": 8}
# No dialect of GGUF: the text model is converted as Phi-3's.


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("vision_config", "audio_config")
    return phi3.config(keys.with_defaults(DEFAULTS), task)


WEIGHTS = phi3.WEIGHTS + weight_map("""
    left out <- embed_tokens_extend.*
""")
