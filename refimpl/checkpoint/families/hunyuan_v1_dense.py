"""Hunyuan's dense models of 2025 (Tencent) with 0.5 to 7 billion parameters, among them Hunyuan-MT and
Hy-MT2. They are Llama's decoder with norms of queries and keys after the rotation."""

from dataclasses import replace

from ...config import Decoder, HeadNorm
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("hunyuan_v1_dense",)
ARCHITECTURES: dict[str, Task] = decoders("HunYuanDenseV1", tasks=("classify",))
# Of images, of labels, and what no class reads.
UNUSED = (
    "cla_share_factor", "class_num", "dense_list", "eod_token_id", "im_end_id", "im_newline_id",
    "im_start_id", "image_token_id", "mask_init_id", "num_media_embeds", "org_vocab_size", "pad_id",
    "pool_type", "skip_cls_token", "text_end_id", "text_start_id", "eod_id",
)  # fmt: skip


def config(keys: Keys, task: Task) -> Decoder:
    _check_others(keys)
    keys = with_stretched_theta(keys)
    base = decoder(keys, context=2048, eps=1e-5)
    return with_norms(base)


def _check_others(keys: Keys) -> None:
    """Check the keys of Tencent's code for other models and for images, which transformers' class doesn't
    read.
    """
    keys.get("pretraining_tp", int, 1)  # slices of one product, summed: the same mathematics
    keys.harmless(
        use_qk_norm=(True,),
        use_cla=(False,),
        use_rotary_pos_emb=(True,),
        mlp_bias=(False,),
        norm_type=("rms",),
        num_experts=(1,),
        attention_head_dim=(keys.values.get("head_dim"),),
        add_classification_head=(False,),
    )
    keys.unused(*UNUSED)


def with_stretched_theta(keys: Keys) -> Keys:
    """Replace the key `alpha` by a larger theta: theta · alpha^(K / (K − 2)), for heads of size K.

    `alpha` comes with the rotary type "dynamic", but the result doesn't depend on a text's length.
    """
    values = dict(keys.values)
    for name in {"rope_scaling", "rope_parameters"} & values.keys():
        if not isinstance(values[name], dict):
            continue
        inner = Keys(values[name], f"{keys.where}: {name}")
        kind = inner.values.get("rope_type", inner.values.get("type"))
        alpha = inner.get("alpha", float, None)
        if kind != "dynamic" or not alpha:
            continue
        size = keys.size("head_dim", None) or head_size(keys)
        if size <= 2:
            raise inner.fail("alpha", f"absent if the head's size is 1 or 2 ({size})")
        theta = inner.positive("rope_theta", None) or keys.positive("rope_theta", None) or 10_000.0
        for key in ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
            inner.get(key, float, None)
        inner.unused("rope_type", "type")
        inner.finish({})
        stretched = theta * inner.positive("alpha") ** (size / (size - 2))
        values[name] = {"rope_type": "default", "rope_theta": stretched}
        values.pop("rope_theta", None)
    return keys.replaced(values)


def with_norms(base: Decoder) -> Decoder:
    """Return the decoder with norms of queries and keys after the rotation."""
    return map_attention(
        base, lambda _, a: replace(a, qk_norm=None if a.pre is None else HeadNorm(a.pre, rotated=True))
    )


WEIGHTS = LLAMA + weight_map("""
    decoder.layers.{i}.attn.{q,k}_norm <- layers.{i}.self_attn.{query,key}_layernorm.weight
""")


GGUF = Gguf("hunyuan-dense", {**DECODER, "model_type": fixed("hunyuan_v1_dense")}, UNPERMUTED_QK_WEIGHTS)
