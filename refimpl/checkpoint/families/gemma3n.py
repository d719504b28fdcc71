"""Gemma 3n (Google 2025), as text: Gemma 3's layers, each applied to one of several vectors of a token.

Scores aren't scaled, and values are normalized. Each layer predicts and corrects all vectors of a token
(`ops.altup`). It has a learned residual beside its attention (`ops.laurel`) and a separate vector for each
token (`ops.per_layer`). In the lower layers most hidden units are 0 (`ops.gaussian_topk`). The upper layers
read the keys and values of the last lower layer with the same mask.

A model that also reads images and sound has ids that mark their positions in a text. These ids lie beyond the
table of the text's per-layer vectors. Here these ids use rows of the usual table, as in transformers' text
model.
"""

from statistics import NormalDist

from ...config import (
    LM,
    AltUp,
    Attention,
    Decoder,
    Embedding,
    Gated,
    HeadNorm,
    Laurel,
    Layer,
    PerLayerEmbedding,
    PerLayerInput,
    RMSNorm,
    Stack,
)
from ..config_readers.gguf_keys import DECODER, THETA_NEAR, Row, fixed, optional, rows_of, sliding_layers
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import (
    kv_sources,
    layer_count,
    layer_masks,
    layer_sizes,
    layer_types,
    read_window,
)
from ..config_readers.rope import exact_context, ropes
from ..config_readers.text_part import TextModel, sizes, text_model
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task
from .gemma2 import GGUF_WEIGHTS as SANDWICHED
from .gemma3 import THETAS
from .gemma4 import GGUF_PER_LAYER, GGUF_UNREAD, IGNORED, LEFT_OUT, PER_LAYER, SANDWICH
from .llama import QK_NORM, TRUNK

MODEL_TYPES = ("gemma3n_text", "gemma3n")
ARCHITECTURES: dict[str, Task] = {
    "Gemma3nForCausalLM": "lm",
    "Gemma3nForConditionalGeneration": "lm",
    "Gemma3nTextModel": "pool",
    "Gemma3nModel": "pool",
}
PREFIX = ("model.language_model.", "language_model.model.", "language_model.", "model.")
STREAM_COUNT = "altup_num_inputs"


def config(keys: Keys, task: Task) -> Decoder:
    if keys.get("model_type", str) == "gemma3n_text":
        return TEXT.config(keys, task)
    keys.unused(
        "vision_config", "audio_config", "boi_token_id", "eoi_token_id", "image_token_id", "boa_token_id",
        "eoa_token_id", "audio_token_id", "vision_soft_tokens_per_image", "audio_soft_tokens_per_image",
    )  # fmt: skip
    return text_model(keys, task, {"gemma3n_text": TEXT}, "gemma3n_text", tied=True)


def _text(keys: Keys, task: Task) -> Decoder:
    # The first bounds coefficients while they are trained, the others no class reads.
    keys.unused("altup_coef_clip", "altup_lr_multiplier", "query_pre_attn_scalar")
    types = layer_types(keys, lambda i: (i + 1) % 5 != 0)
    context = keys.size("max_position_embeddings", 32_768)
    size = keys.size("head_dim", 256)
    positions = ropes(keys, size, context, THETAS, scaled=("full_attention",))
    norm, width = RMSNorm(keys.positive("rms_norm_eps", 1e-6)), keys.size("hidden_size")
    bias = keys.get("attention_bias", bool, False)
    activation = keys.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
    sources = kv_sources(keys, types, 15)
    own = PerLayerInput(
        keys.size("hidden_size_per_layer_input", 256),
        activation,
        norm,
        scaled=keys.get("altup_correct_scale", bool, True),
    )
    laurel, altup = Laurel(keys.size("laurel_rank", 64), norm), _altup(keys, norm)
    masks = layer_masks(keys, types, read_window(keys, 512, everywhere=False))
    layers = []
    widths, shares = layer_sizes(keys, "intermediate_size", len(types)), _sparsity(keys, len(types))
    for kind, mask, source, inner, sparsity in zip(types, masks, sources, widths, shares, strict=True):
        attention = Attention(
            heads=keys.size("num_attention_heads"),
            kv_heads=keys.size("num_key_value_heads", 2),
            head_size=size,
            position=positions[kind],
            mask=mask,
            qkv_bias=bias,
            out_bias=bias,
            qk_norm=HeadNorm(norm),
            scale=1.0,
            value_norm=norm if source is None else None,
            kv_layer=source,
            pre=norm,
            post=norm,
        )
        mlp = Gated(inner, activation, pre=norm, post=norm, sparsity=sparsity)
        layers.append(Layer(attention, mlp, per_layer=own, laurel=laurel, altup=altup))
    table = PerLayerEmbedding(keys.size("vocab_size_per_layer_input", 262_144), norm)
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width, scale=width**0.5, per_layer=table),
        stack=Stack(tuple(layers), norm),
        head=LM(
            keys.get("tie_word_embeddings", bool, True),
            softcap=keys.positive("final_logit_softcapping", 30.0),
        ),
        context=exact_context(context, *(positions[kind] for kind in types)),
    )


def _altup(keys: Keys, norm: RMSNorm) -> AltUp:
    streams, active = keys.size(STREAM_COUNT, 4), keys.get("altup_active_idx", int, 0)
    if streams < 2:
        raise keys.fail(
            STREAM_COUNT, "at least 2, since only the streams after the first get a layer's own vectors"
        )
    if not 0 <= active < streams:
        raise keys.fail("altup_active_idx", f"0 to {streams - 1}, below {keys.name(STREAM_COUNT)}")
    return AltUp(streams, active, norm)


def _sparsity(keys: Keys, layers: int) -> list[float | None]:
    """Return the share of hidden units that are 0 in each layer. The default is 0.95 in the first ten of more
    layers.
    """
    shares = keys.get("activation_sparsity_pattern", list, None)
    if shares is None:
        sparse = 10 if layers > 10 else 0
        return [0.95] * sparse + [None] * (layers - sparse)
    if len(shares) != layers or any(type(n) not in (int, float) or not 0 <= n < 1 for n in shares):
        raise keys.fail("activation_sparsity_pattern", f"a list of {layers} numbers from 0 to below 1")
    return [float(n) or None for n in shares]


TEXT = TextModel(_text, sizes(262_400, 2048, mlp=16_384, layers=35, heads=8))
STREAMS = weight_map("""
    decoder.streams.{x}.{enter,leave} <- altup_{projections,unembed_projections}.{x}.weight : transpose
    decoder.layers.{i}.altup.router <- layers.{i}.altup.modality_router.weight : transpose
    decoder.layers.{i}.altup.norm <- layers.{i}.altup.router_norm.weight
    decoder.layers.{i}.altup.predict <- layers.{i}.altup.prediction_coefs.weight : transpose
    decoder.layers.{i}.altup.correct <- layers.{i}.altup.correction_coefs.weight : transpose
    decoder.layers.{i}.per_layer.scale <- layers.{i}.altup.correct_output_scale
    decoder.layers.{i}.laurel.{left,right} <- layers.{i}.laurel.linear_{left,right}.weight : transpose
    decoder.layers.{i}.laurel.norm <- layers.{i}.laurel.post_laurel_norm.weight
""")
# Also in checkpoints of models that don't read it.
FACTOR = weight_map("""
    nothing <- layers.{i}.altup.correct_output_scale
""")
WEIGHTS = TRUNK + QK_NORM + SANDWICH + PER_LAYER + STREAMS + FACTOR + IGNORED + LEFT_OUT


SCALES, SLIDES = "activation_sparsity_scale", "attention.sliding_window_pattern"
READERS = "attention.shared_kv_layers"


def _share(scale: float) -> float | None:
    """Return the share of a normal distribution that lies below `scale`.

    The result is the shortest decimal number that fits float32.
    """
    share = NormalDist().cdf(scale)
    shares = (round(share, digits) for digits in range(1, 16))
    near = (s for s in shares if 0 < s < 1 and abs(NormalDist().inv_cdf(s) - scale) < 2**-21 * abs(scale))
    return next(near, share) or None


GGUF_STREAMS = weight_map("""
    decoder.streams.{x}.{enter,leave} <- altup_{proj,unembd_proj}.weight[{x}] : transpose
    decoder.layers.{i}.altup.{router,predict} <- blk.{i}.altup_{router,predict_coef}.weight : transpose
    decoder.layers.{i}.{altup,laurel}.norm <- blk.{i}.{altup_router,laurel_post}_norm.weight
    decoder.layers.{i}.altup.correct <- blk.{i}.altup_correct_coef.weight : transpose
    decoder.layers.{i}.per_layer.scale <- blk.{i}.altup_correct_scale.weight
    decoder.layers.{i}.laurel.{left,right} <- blk.{i}.laurel_{l,r}.weight : transpose
""")


def _sparsities(keys: Keys, _: TensorSource) -> list[float]:
    """Return the share of hidden units that are 0 in each layer. The file states a quantile, which is −∞ for
    none.
    """
    layers, stated = layer_count(keys, "block_count"), keys.values.get(SCALES)
    scales = keys.get(SCALES, list) if isinstance(stated, list) else [keys.get(SCALES, float)] * layers
    if len(scales) != layers or any(type(n) is not float or not n < 8 for n in scales):
        raise keys.fail(
            SCALES, f"a list of {layers} numbers, each a quantile of the standard normal distribution"
        )
    return [_share(scale) or 0.0 for scale in scales]


# llama.cpp runs no other than 20 layers with keys and values and 10 sparse ones, and divides the variance of
# gates by one less than their number. Here is what the file states, and what transformers computes.
KEYS = {
    **DECODER,
    "model_type": fixed("gemma3n_text"),
    "rope_local_base_freq": optional(THETA_NEAR, 10_000.0),
    "layer_types": sliding_layers(5),
    "sliding_window": optional("attention.sliding_window", None),
    "num_kv_shared_layers": Row(
        lambda keys, _: keys.stated(READERS, max(layer_count(keys, "block_count") - 20, 0)), READERS
    ),
    "hidden_size_per_layer_input": "embedding_length_per_layer_input",
    "vocab_size_per_layer_input": rows_of("per_layer_token_embd.weight"),
    "laurel_rank": rows_of("blk.0.laurel_l.weight"),
    "altup_num_inputs": optional("altup.num_inputs"),
    "altup_active_idx": optional("altup.active_idx"),
    "activation_sparsity_pattern": Row(_sparsities, SCALES),
    "final_logit_softcapping": optional("final_logit_softcapping"),
}
GGUF = Gguf(
    "gemma3n",
    KEYS,
    SANDWICHED + GGUF_PER_LAYER + GGUF_STREAMS + GGUF_UNREAD,
    by_layer=("feed_forward_length", "attention.head_count_kv", SLIDES, SCALES),
)
