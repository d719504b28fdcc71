"""K-EXAONE (LG AI Research 2026): EXAONE 4's attention, with norms before the sublayers.

Some or all layers have DeepSeek-V3's experts. tfm leaves out the modules that predict further tokens."""

from ...config import Decoder
from ..config_readers.decoder import decoder
from ..config_readers.gguf_keys import SHARED_WIDTH, SIGMOID_EXPERTS, Row, fixed, sliding_layers, trunk_layers
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import sparse_layers
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .exaone4 import KEYS as EXAONE4
from .exaone4 import with_windows
from .glm4_moe import WITHOUT_MTP, with_sigmoid_experts

MODEL_TYPES = ("exaone_moe",)
ARCHITECTURES: dict[str, Task] = decoders("ExaoneMoe", tasks=())
DEFAULTS = {"moe_intermediate_size": 1024, "routed_scaling_factor": 2.5}


def config(keys: Keys, task: Task) -> Decoder:
    keys.harmless(scoring_func=("sigmoid",), topk_method=("noaux_tc",))
    keys.harmless(num_nextn_predict_layers=(int,), num_mtp_layers=(int,))
    base = with_windows(
        decoder(
            keys, kv_heads=keys.size("num_key_value_heads", 32), context=2048, attention_bias=False, eps=1e-5
        ),
        keys,
    )
    return with_sigmoid_experts(
        base,
        keys.with_defaults(DEFAULTS),
        experts=keys.size(keys.spelled("num_experts", "n_routed_experts", "num_local_experts"), 64),
        top=keys.size("num_experts_per_tok", 8),
        shared=keys.size(keys.spelled("num_shared_experts", "n_shared_experts"), 1),
        sparse=sparse_layers(keys, 1),
        renormalize=keys.get("norm_topk_prob", bool, True),
    )


WEIGHTS = WITHOUT_MTP + weight_map("""
    decoder.layers.{i}.mlp.bias <- layers.{i}.mlp.e_score_correction_bias
    left out <- mtp.*
""")
KEYS = {
    **EXAONE4,
    **SIGMOID_EXPERTS,
    "model_type": fixed("exaone_moe"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "layer_types": sliding_layers(4, windowless=True, trunk=True),
    **SHARED_WIDTH,
}
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    rope_freqs == rope_freqs.weight
    left out <- blk.{n}.*
""")
)
GGUF = Gguf("exaone-moe", KEYS, GGUF_WEIGHTS, by_layer=("attention.sliding_window_pattern",))
