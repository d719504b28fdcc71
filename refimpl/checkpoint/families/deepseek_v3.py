"""DeepSeek-V3 and R1, Kimi K2, Moonlight (DeepSeek-AI 2024; Moonshot AI 2025): latent attention, and experts
beside a shared expert. Sigmoids and biases choose the experts of a token among its best groups.

tfm reads the layer after the last, which predicts further tokens, if an option asks for it (`ops.mtp`). In
GGUF the architecture is `deepseek2`, without this layer.
"""

from ...config import Decoder
from ..config_readers.decoder import with_mtp
from ..config_readers.keys import Keys
from . import Task, decoders
from .deepseek_v2 import GGUF as GGUF
from .deepseek_v2 import WEIGHTS as LATENTS
from .deepseek_v2 import harmless_of_training, latent_decoder
from .glm4_moe import sparse_layer, with_mtp_layer, with_sigmoid_experts

MODEL_TYPES = ("deepseek_v3", "kimi_k2")
ARCHITECTURES: dict[str, Task] = decoders("DeepseekV3", tasks=("classify", "tag"))
# The class's own, where the other families with such experts have others.
DEFAULTS = {"n_group": 8, "topk_group": 4, "moe_intermediate_size": 2048, "routed_scaling_factor": 2.5}


def config(keys: Keys, task: Task) -> Decoder:
    keys.harmless(scoring_func=("sigmoid",), topk_method=("noaux_tc",))
    modules = keys.get(keys.spelled("num_nextn_predict_layers", "num_mtp_layers"), int, 1)
    harmless_of_training(keys)
    interleave = keys.get("rope_interleave", bool, True)
    base = with_sigmoid_experts(
        latent_decoder(keys, context=4096, rope_interleave=interleave),
        keys.with_defaults(DEFAULTS),
        experts=keys.size(keys.spelled("n_routed_experts", "num_local_experts"), 256),
        top=keys.size("num_experts_per_tok", 8),
        shared=keys.size("n_shared_experts", 1),
        sparse=keys.get("first_k_dense_replace", int, 3),
        renormalize=keys.get("norm_topk_prob", bool, True),
    )
    return with_mtp(base, modules, sparse_layer(base))


WEIGHTS = with_mtp_layer(LATENTS)
