"""GLM-4.7-Flash (Zhipu AI 2026): DeepSeek-V3's latent attention. Some or all layers have DeepSeek-V3's
experts.

tfm leaves out the layer after the last, which predicts further tokens, as transformers' class does. In GGUF
the architecture is `deepseek2`.
"""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.layers import sparse_layers
from . import Task, decoders
from .deepseek_v2 import GGUF as GGUF
from .deepseek_v2 import WEIGHTS as WEIGHTS
from .deepseek_v2 import harmless_of_training, latent_decoder
from .glm4_moe import with_sigmoid_experts

MODEL_TYPES = ("glm4_moe_lite",)
ARCHITECTURES: dict[str, Task] = decoders("Glm4MoeLite", tasks=())
DEFAULTS = {
    "moe_intermediate_size": 1536,
    "routed_scaling_factor": 1.8,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "rms_norm_eps": 1e-5,
}


def config(keys: Keys, task: Task) -> Decoder:
    harmless_of_training(keys)
    keys.harmless(scoring_func=("sigmoid",), topk_method=("noaux_tc",), first_k_dense_replace=(1,))
    keys.harmless(num_nextn_predict_layers=(int,), num_mtp_layers=(int,), partial_rotary_factor=(1.0,))
    keys = keys.with_defaults(DEFAULTS)
    interleave = keys.get("rope_interleave", bool, True)
    base = latent_decoder(keys, context=202_752, rope_interleave=interleave)
    return with_sigmoid_experts(
        base,
        keys,
        experts=keys.size(keys.spelled("n_routed_experts", "num_local_experts"), 64),
        top=keys.size("num_experts_per_tok", 4),
        shared=keys.size("n_shared_experts", 1),
        sparse=sparse_layers(keys, 1),
        renormalize=keys.get("norm_topk_prob", bool, True),
    )
