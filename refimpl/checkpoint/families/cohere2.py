"""Command R7B and Command A (Cohere 2024): Command R with sliding windows in most layers. The other layers
have no positions."""

from dataclasses import replace

from ...config import Decoder, FullAttention, Window
from ..config_readers.decoder import map_attention
from ..config_readers.gguf_keys import fixed, sliding_layers, without
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from . import Gguf, Task, cohere, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("cohere2",)
ARCHITECTURES: dict[str, Task] = decoders("Cohere2", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    every = keys.size(keys.spelled("sliding_window_pattern", "_sliding_window_pattern"), 4)
    harmless_of_training(keys, every)
    types = layer_types(keys, lambda i: (i + 1) % every != 0)
    masks = layer_masks(keys, types, read_window(keys, 4096, everywhere=False))
    return with_positions_in_windows(cohere.decoder(keys, theta=10_000.0, qk_norm=False), masks)


def harmless_of_training(keys: Keys, every: int) -> None:
    """Mark keys as known that no class of transformers reads: every `every`-th layer has no window."""
    # Of its trainer's code, which can do otherwise.
    keys.harmless(
        layer_switch=(every,), order_of_interleaved_layers=("local_attn_first",), rotary_pct=(1.0,),
        position_embedding_type=("rope_gptj",), use_embedding_sharing=(True,), use_gated_activation=(True,),
        use_parallel_block=(True,), use_parallel_embedding=(bool,), use_qk_norm=(False, None),
    )  # fmt: skip


def with_positions_in_windows(base: Decoder, masks: list[FullAttention | Window]) -> Decoder:
    """Return the decoder with one of `masks` in each layer. Only layers with a window have positions."""
    return map_attention(
        base,
        lambda i, attention: replace(
            attention,
            position=attention.position if isinstance(masks[i], Window) else None,
            mask=masks[i],
        ),
    )


KEYS = {
    **without(cohere.KEYS, "use_qk_norm"),
    "model_type": fixed("cohere2"),
    "layer_types": sliding_layers(4),
    "sliding_window": "attention.sliding_window",
}
GGUF = Gguf("cohere2", KEYS, UNPERMUTED_QK_WEIGHTS, by_layer=("attention.sliding_window_pattern",))
