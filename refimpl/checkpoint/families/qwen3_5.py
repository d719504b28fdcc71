"""Qwen 3.5 (Qwen 2026), as text: Qwen3-Next without experts, with M-RoPE positions.

The checkpoints are of models that also read images. The projections of a gated delta network are stored
separately, and not grouped by key head. In GGUF the value heads of different key heads alternate.
"""

from ...config import Decoder
from ..config_readers.decoder import with_mtp
from ..config_readers.gguf_keys import RECURRENT, SECTIONED, fixed
from ..config_readers.gguf_rope import SECTIONS
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, sizes, text_model, without_sections
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA
from .qwen2_vl import LEFT_OUT, ignore_image_keys
from .qwen3_next import (
    GATED_KEYS,
    GGUF_DELTA,
    GGUF_GATED_WEIGHTS,
    attending_layer,
    gated_decoder,
    gated_weights,
    with_delta,
)

MODEL_TYPES = ("qwen3_5", "qwen3_5_text")
ARCHITECTURES: dict[str, Task] = {
    "Qwen3_5ForConditionalGeneration": "lm",
    "Qwen3_5TextModel": "pool",
    "Qwen3_5TextForSequenceClassification": "classify",
    **decoders("Qwen3_5", tasks=("classify", "tag")),
}
PREFIX = ("model.language_model.", "language_model.", "model.")


def config(keys: Keys, task: Task) -> Decoder:
    return text_or_images(keys, task, TEXT, "qwen3_5")


def text_or_images(keys: Keys, task: Task, text: TextModel, name: str) -> Decoder:
    """Read a text model from its own config, or from the config of a model that also reads images.

    The model_type of a text model's own config ends in _text."""
    alone = f"{name}_text"
    if keys.get("model_type", str) == alone:
        return text.config(keys.with_defaults(text.defaults), task)
    ignore_image_keys(keys)
    return text_model(keys, task, {alone: text, name: text}, alone, tied=False)


def text_keys(keys: Keys) -> Keys:
    """Return the keys of the text model, with plain rotary positions. Keys that no class reads are marked as
    known."""
    ignore_image_keys(keys)
    keys.harmless(attn_output_gate=(True,), use_sliding_window=(False,), mlp_only_layers=([], None))
    keys.unused("mamba_ssm_dtype")  # how states are kept elsewhere
    return without_sections(keys, 10_000.0)


def _text(keys: Keys, task: Task) -> Decoder:
    keys = text_keys(keys)
    return with_module(with_delta(gated_decoder(keys, kv_heads=4), keys), keys)


def with_module(config: Decoder, keys: Keys) -> Decoder:
    """Return the decoder with the module that predicts further tokens, if config.json states one.

    The module must share the model's embeddings."""
    modules = keys.get("mtp_num_hidden_layers", int, 0)
    if keys.get("mtp_use_dedicated_embeddings", bool, False):
        modules = 0
    return with_mtp(config, modules, attending_layer(config))


TEXT = TextModel(_text, sizes(248_320, 4096, mlp=12_288, layers=32, heads=16))
PROJECTIONS = weight_map("""
    decoder.layers.{i}.attn.{wi,wz,wb,wa} <- layers.{i}.linear_attn.in_proj_{qkv,z,b,a}.weight : transpose
""")
WEIGHTS = gated_weights(LLAMA) + PROJECTIONS + LEFT_OUT


RATES = weight_map("""
    decoder.layers.{i}.attn.{wb,wa} <- blk.{i}.ssm_{beta,alpha}.weight : transpose
""")
GGUF_WEIGHTS = GGUF_GATED_WEIGHTS + (GGUF_DELTA + RATES).then("values_by_key_head", lambda _: True)
KEYS = {**GATED_KEYS, **SECTIONED, "model_type": fixed("qwen3_5_text")}
GGUF = Gguf("qwen35", KEYS, GGUF_WEIGHTS, arrays=(SECTIONS, RECURRENT))
