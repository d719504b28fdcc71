"""RWKV-4 (Peng et al. 2023, arXiv 2305.13048): time mixing and channel mixing, without attention and
positions. Two layers here are one block of the checkpoint.

When it computes without training, transformers' class halves the stream after every `rescale_every` blocks,
and what later blocks add to it as often. So that a norm gives the same, its eps is four times as large for
each time. Everything else cancels.
"""

from ...config import LM, Decoder, Embedding, Layer, LayerNorm, NoMlp, Stack
from ...ops.channel_mix import ChannelMix
from ...ops.time_mix import TimeMix
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..weights.weight_map import weight_map
from . import Task, decoders

MODEL_TYPES = ("rwkv",)
ARCHITECTURES: dict[str, Task] = decoders("Rwkv", tasks=())
PREFIX = "rwkv."


def config(keys: Keys, task: Task) -> Decoder:
    width, blocks = keys.size("hidden_size", 4096), layer_count(keys, default=32)
    every, eps = keys.get("rescale_every", int, 6), keys.positive("layer_norm_epsilon", 1e-5)
    time = keys.size("attention_hidden_size", None, null=True) or width
    units = keys.size("intermediate_size", None, null=True) or 4 * width

    def norm(eps: float, before: int) -> LayerNorm:
        """The norm after this many blocks."""
        return LayerNorm(eps * 4 ** (before // every) if every > 0 else eps)

    layers = [
        Layer(mixer(inner, width, pre=norm(eps, i)), NoMlp())
        for i in range(blocks)
        for mixer, inner in ((TimeMix, time), (ChannelMix, units))
    ]
    return Decoder(
        embedding=Embedding(keys.size("vocab_size", 50_277), width),
        # Their last norm has torch's eps.
        stack=Stack(tuple(layers), norm(1e-5, blocks), first_norm=LayerNorm(eps)),
        head=LM(keys.get("tie_word_embeddings", bool, False)),
        context=keys.size(keys.spelled("context_length", "max_position_embeddings"), 1024),
    )


WEIGHTS = weight_map("""
    {embedding,head}.table <- {embeddings,head}.weight
    decoder.first_norm.{weight,bias} <- blocks.0.pre_ln.{weight,bias}
    decoder.layers.{i}.attn_pre.{weight,bias} <- blocks.{l}.ln{nth}.{weight,bias}
    decoder.layers.{i}.attn.{wk,wv} <- blocks.{l}.attention.{key,value}.weight : transpose
    decoder.layers.{i}.attn.{wr,wo} <- blocks.{l}.attention.{receptance,output}.weight : transpose
    decoder.layers.{i}.attn.mix_{k,v,r} <- blocks.{l}.attention.time_mix_{key,value,receptance} : row
    decoder.layers.{i}.attn.{log_rate,bonus} <- blocks.{l}.attention.time_{decay,first}
    decoder.layers.{i}.attn.{w_units,w_down} <- blocks.{l}.feed_forward.{key,value}.weight : transpose
    decoder.layers.{i}.attn.w_gate <- blocks.{l}.feed_forward.receptance.weight : transpose
    decoder.layers.{i}.attn.mix_{units,gate} <- blocks.{l}.feed_forward.time_mix_{key,receptance} : row
    decoder.norm.{weight,bias} <- ln_out.{weight,bias}
    embedding.table == head.weight
""")
