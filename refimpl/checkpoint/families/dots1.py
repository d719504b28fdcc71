"""dots.llm1 (rednote 2025): the attention of Qwen 3 with the experts of GLM-4.5."""

from ...config import Decoder
from ..config_readers.decoder import decoder, with_masks
from ..config_readers.gguf_keys import DECODER, SIGMOID_EXPERTS, fixed
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from . import Gguf, Task, decoders
from .glm4_moe import WITHOUT_MTP, with_sigmoid_experts
from .qwen3 import with_qk_norm

MODEL_TYPES = ("dots1",)
ARCHITECTURES: dict[str, Task] = decoders("Dots1", tasks=())
WEIGHTS = WITHOUT_MTP


def config(keys: Keys, task: Task) -> Decoder:
    # What DeepSeek's code, which it comes from, could do otherwise: no class reads these.
    keys.harmless(scoring_func=("sigmoid",), topk_method=("noaux_tc",), moe_layer_freq=(1,), ep_size=(int,))
    keys.get("pretraining_tp", int, 1)  # several slices of one product, summed: the same mathematics
    keys.harmless(aux_loss_alpha=(float,), seq_aux=(bool,), num_nextn_predict_layers=(int,))
    base = decoder(keys, kv_heads=keys.size("num_key_value_heads", 32, null=True), context=2048)
    base = with_sigmoid_experts(
        base,
        keys,
        experts=keys.size(keys.spelled("n_routed_experts", "num_local_experts")),
        top=keys.size("num_experts_per_tok"),
        shared=keys.size("n_shared_experts"),
        sparse=keys.get("first_k_dense_replace", int, 0),
        renormalize=keys.get("norm_topk_prob", bool, False, null=True) or False,
    )
    window, below = read_window(keys, 4096, everywhere=False), keys.get("max_window_layers", int, 62)
    types = layer_types(keys, lambda i: window is not None and i >= below)
    keys.harmless(use_sliding_window=(any(kind == "sliding_attention" for kind in types),))
    masks = layer_masks(keys, types, window)
    return with_masks(with_qk_norm(base), masks)


KEYS = {
    **DECODER,
    **SIGMOID_EXPERTS,
    "model_type": fixed("dots1"),
    "sliding_window": fixed(None),
}
GGUF = Gguf("dots1", KEYS, UNPERMUTED_QK_WEIGHTS + EXPERTS)
