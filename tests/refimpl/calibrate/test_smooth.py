"""SmoothQuant: the smoothed model equals the model, and its factors are the paper's.

There is no outside oracle: no test dependency implements it. Equation 4 is checked by hand; that the model
doesn't change is a law that leaves nothing open.
"""

from __future__ import annotations

import numpy as np
from helpers import tiny_models
from helpers.config_strategies import configs, encoders, pairs
from helpers.refused import refused
from helpers.tolerances import equal
from hypothesis import example, given
from hypothesis import strategies as st
from tfm.refimpl.calibrate.smooth import (
    SmoothingSite,
    channel_maxima,
    nearest_powers_of_two,
    site_factors,
    smooth_leaf,
    smoothing_factors,
)
from tfm.refimpl.config import (
    LM,
    Attention,
    Config,
    Decoder,
    Gated,
    Indexer,
    Mlp,
    MoE,
    NoMlp,
    Plain,
    SwiGLUOAI,
    SwiGLUStep,
    TokenMixer,
)
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import NumericError
from tfm.refimpl.ops.channel_mix import ChannelMix
from tfm.refimpl.ops.convbert import ConvBertAttention
from tfm.refimpl.ops.disentangled import DisentangledAttention
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.indexed_attention import IndexedAttention
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.lightning import Lightning
from tfm.refimpl.ops.linear_attention import LinearAttention
from tfm.refimpl.ops.longformer import LongformerAttention
from tfm.refimpl.ops.longt5 import LongT5Attention
from tfm.refimpl.ops.lstm import LSTM
from tfm.refimpl.ops.mamba import Mamba
from tfm.refimpl.ops.mamba2 import Mamba2
from tfm.refimpl.ops.ngram_memory import NgramMemory
from tfm.refimpl.ops.pooled_attention import PooledAttention
from tfm.refimpl.ops.rg_lru import RgLru
from tfm.refimpl.ops.shared_block import SharedBlock
from tfm.refimpl.ops.short_conv import ShortConv
from tfm.refimpl.ops.time_mix import TimeMix
from tfm.refimpl.ops.xlnet import XLNetAttention
from tfm.refimpl.params.random_weights import random_weights
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.smoothing_sites import post_norm_sites, smoothing_sites
from tfm.refimpl.params.tree import flatten, map_leaves

seeds = st.integers(0, 2**32 - 1)
any_config = st.one_of(configs(), encoders(), pairs())


def outputs(config: Config, tree: dict, ids: np.ndarray) -> np.ndarray:
    """The output of a model of any kind for the ids."""
    engine = NumpyEngine(config, tree)
    if not isinstance(config.head, LM):
        return engine.predict(ids, np.array([ids.shape[1], 1]))
    cache = engine.start(len(ids)) if isinstance(config, Decoder) else engine.start(len(ids), ids)
    return engine.step(ids, cache, at=np.broadcast_to(np.arange(ids.shape[1]), ids.shape))[0]


def smoothed(config: Config, tree: dict, seed: int, powers_of_two: bool) -> dict:
    """The tree with random factors, far from 1, at every site."""
    rng = np.random.default_rng(seed)
    leaves = dict(flatten(tree))
    results = {}
    for place in smoothing_sites(config):
        s = np.exp(rng.standard_normal(leaves[place.producers[0]].shape[-1]))
        results[place] = nearest_powers_of_two(s) if powers_of_two else s
    return map_leaves(lambda name, leaf: smooth_leaf(name, leaf, results), tree)


@given(any_config, seeds)
@example(tiny_models.summarized(), 0)
@example(tiny_models.indexed(), 0)
def test_the_smoothed_model_is_the_model(config: Config, seed: int):
    """In float64 up to rounding, whatever the factors; norms of tiny vectors amplify it."""
    rng = np.random.default_rng(seed)
    tree = random_weights(config, rng, np.float64)
    ids = rng.integers(0, config.embedding.vocabulary, (2, 5))
    equal(outputs(config, smoothed(config, tree, seed, False), ids), outputs(config, tree, ids), 1e-8)


@given(any_config, seeds)
def test_with_powers_of_two_no_bit_changes(config: Config, seed: int):
    rng = np.random.default_rng(seed)
    tree = random_weights(config, rng, np.float32)
    ids = rng.integers(0, config.embedding.vocabulary, (2, 5))
    other = smoothed(config, tree, seed, True)
    np.testing.assert_array_equal(outputs(config, other, ids), outputs(config, tree, ids))


@given(any_config)
@example(tiny_models.summarized())
def test_each_sublayer_has_all_possible_sites(config: Config):
    """Sites name existing leaves, each with the channels of the others."""
    sites, shapes = smoothing_sites(config), parameter_shapes(config)
    stacks = config.stacks.values()
    expected = 0
    for layer, read_later in (
        (layer, i in stack.shared_kv or layer.merged)
        for stack in stacks
        for i, layer in enumerate(stack.layers)
    ):
        cross = None if layer.merged else layer.cross
        attentions = [a for a in (layer.attention, cross) if a is not None and not isinstance(a, LSTM)]
        values = [
            a
            for a in attentions
            if not (
                isinstance(
                    a,
                    ConvBertAttention
                    | ShortConv
                    | GatedDelta
                    | Mamba
                    | RgLru
                    | TimeMix
                    | ChannelMix
                    | NgramMemory,
                )
                or (isinstance(a, Mamba2) and a.norm is None)
            )
        ]
        expected += layer.beside is not None and layer.beside.mixer.norm is not None
        if isinstance(block := layer.attention, SharedBlock):  # beside its values
            expected += 4 + (block.mamba.norm is not None)
        expected += sum(isinstance(a, LatentAttention) and a.query_rank is not None for a in values)
        expected += sum(
            not (isinstance(a, Attention) and (a.clip or a.value_norm or a.keys_as_values)) or normed
            for a in values
            for normed in [isinstance(a, Attention) and a.out_norm is not None]
            if a is not layer.attention or (layer.kv_layer is None and not read_later) or normed
        )
        expected += sum(mlp.activation == "relu" for a in attentions for mlp in a.inner_mlps())
        alone: list[TokenMixer | Mlp] = [
            a
            for a in attentions
            if not isinstance(a, ConvBertAttention)
            and not (isinstance(a, DisentangledAttention) and a.shared)
            and not (isinstance(a, LatentAttention) and a.own_queries)
            and not (isinstance(a, LongT5Attention) and a.global_block_size is not None)
            and (layer.laurel is None or a is not layer.attention)
        ]
        if not (isinstance(layer.mlp, MoE) and layer.mlp.identities):
            alone.append(layer.mlp)
        norms = [part.pre for part in alone if part.pre is not None]
        if layer.residual == "input":
            expected += sum("weight" in norm.leaves() for norm in norms)
        match layer.mlp:
            case Gated():
                expected += 1
            case Plain():
                expected += layer.mlp.activation == "relu"
            case NoMlp() | MoE(activation=SwiGLUOAI() | SwiGLUStep()):
                pass
            case MoE(shared_activation=SwiGLUOAI() | SwiGLUStep()):
                pass
            case MoE(gated=False) if layer.mlp.activation != "relu":
                pass
            case MoE():
                expected += layer.mlp.experts + (layer.mlp.shared is not None)
    assert len(sites) == expected
    for place in sites:
        widths = {shapes[name][-1] * place.repeats for name in place.producers}
        assert widths == {shapes[name][0] for name in place.consumers}
    for leaf in ("producers", "consumers"):
        named = [name for place in sites for name in getattr(place, leaf)]
        assert len(named) == len(set(named)), f"a leaf is {leaf} twice"


def readers(mixer: TokenMixer) -> int:
    """How many matrices read a sublayer's input."""
    counts = {
        Attention: 3, DisentangledAttention: 3, LinearAttention: 3, LSTM: 0, ShortConv: 1,
        GatedDelta: 4, Lightning: 2, RgLru: 2, Mamba: 2, LongT5Attention: 3, XLNetAttention: 3,
        SharedBlock: 0, TimeMix: 3, ChannelMix: 2, IndexedAttention: 5, NgramMemory: 0,
    }  # fmt: skip
    if isinstance(mixer, LongformerAttention):
        return 3 if mixer.global_tokens is None else 6
    if isinstance(mixer, LatentAttention):
        return 0 if mixer.own_queries else (4 if isinstance(mixer.indexer, Indexer) else 2) + mixer.head_gate
    if isinstance(mixer, PooledAttention):
        return readers(mixer.attention) + 2
    count = (counts | {Mamba2: 3})[type(mixer)]
    if not isinstance(mixer, Attention):
        return count
    return (
        count + mixer.output_gate + mixer.head_gate - mixer.keys_as_values - 2 * (mixer.kv_layer is not None)
    )


@given(any_config)
def test_a_post_norm_stream_has_one_site_for_all_readers(config: Config):
    """Every matrix that reads the stream is named once and has no other site; a norm before has its own."""
    sites, shapes = post_norm_sites(config), parameter_shapes(config)
    read = [name for place in sites for name in place.consumers]
    assert len(read) == len(set(read))
    assert not set(read) & {name for place in smoothing_sites(config) for name in place.consumers}
    for place in sites:
        assert not place.producers
        assert len({shapes[name][0] for name in place.consumers}) == 1
    for name, stack in config.stacks.items():
        for i, layer in enumerate(stack.layers):
            of_layer = [n for n in read if n.startswith(f"{name}.layers.{i}.")]
            norms = [part.after for part in (layer.attention, layer.mlp) if part.pre is None]
            after = len(norms) == 2 and None not in norms
            expected = {Gated: 2, Plain: 1, MoE: 0, NoMlp: 0}[type(layer.mlp)]
            if expected:
                expected += readers(layer.attention)
            assert len(of_layer) == (expected if after and not layer.parallel else 0)


def test_equation_4_by_hand():
    s = smoothing_factors(np.array([16.0, 4.0, 0.0, 5.0]), np.array([4.0, 0.25, 3.0, 0.0]), alpha=0.5)
    assert s.tolist() == [2.0, 4.0, 1.0, 1.0]
    s = smoothing_factors(np.array([16.0, 4.0]), np.array([16.0, 1.0]), alpha=0.75)
    assert s.tolist() == [4.0, 4**0.75]
    assert nearest_powers_of_two(np.array([1.0, 1.4, 1.5, 0.3])).tolist() == [1.0, 1.0, 2.0, 0.25]


@given(seeds, st.floats(0, 1))
def test_smoothing_balances_activations_and_weights(seed: int, alpha: float):
    """After it, channel j has max|X_j|^(1−α) · max|W_j|^(1−α) and W the α-th powers: 0.5 makes them equal."""
    x, w = np.exp(np.random.default_rng(seed).standard_normal((2, 9)) * 3)
    s = smoothing_factors(x, w, alpha=alpha)
    equal(x / s, (x * w) ** (1 - alpha), 1e-9 * (x * w).max())
    equal(w * s, (x * w) ** alpha, 1e-9 * max((x * w).max(), 1))


def test_heads_that_share_a_value_share_its_factor():
    """Of the query heads of one group the largest channel counts, on either side."""
    place = SmoothingSite(("v",), ("o",), repeats=2, head_size=3)
    x = np.array([1, 1, 16, 1, 4, 1, 9, 1, 1, 1, 1, 25.0])
    s = site_factors(place, x, lambda _: np.ones((12, 5)))
    assert s.tolist() == [1, 2, 4, 3, 1, 5]
    tree = {name: np.ones((12, 5)) if name == "o" else np.ones((2, 6)) for name in ("v", "o")}
    assert smooth_leaf("v", tree["v"], {place: s})[0].tolist() == (1 / s).tolist()
    assert smooth_leaf("o", tree["o"], {place: s})[:, 0].tolist() == [1, 2, 4, 1, 2, 4, 3, 1, 5, 3, 1, 5]


@given(seeds)
def test_largest_is_that_of_all_batches(seed: int):
    x = np.random.default_rng(seed).standard_normal((9, 4)).astype(np.float32)
    state = None
    for part in np.split(x, [0, 2, 7]):
        state = channel_maxima(state, part)
    assert state is not None
    assert (state == np.abs(x).max(0)).all()


def test_what_is_not_finite_is_refused():
    with refused(NumericError, "activations", "finite", "NaN"):
        channel_maxima(None, np.array([[1.0, np.nan]]))


def test_all_maps_of_a_state_space_read_one_site():
    """Its steps too, though they stay floats; the norm of its heads makes what the last map reads."""
    at = "decoder.layers.0.attn"
    consumers = {site.producers: site.consumers for site in smoothing_sites(tiny_models.state_spaces())}
    assert consumers[(f"{at}_pre.weight",)] == (f"{at}.wi", f"{at}.wz", f"{at}.wdt")
    assert consumers[(f"{at}.norm",)] == (f"{at}.wo",)


def test_maps_of_both_mixers_read_one_site():
    """Those of a state space beside attention read the norm that attention reads."""
    at = "decoder.layers.1"
    consumers = {site.producers: site.consumers for site in smoothing_sites(tiny_models.state_spaces())}
    read = [
        *(f"attn.{leaf}" for leaf in ("wq", "wk", "wv")),
        *(f"beside.{leaf}" for leaf in ("wi", "wz", "wdt")),
    ]
    assert consumers[(f"{at}.attn_pre.weight",)] == tuple(f"{at}.{leaf}" for leaf in read)


def test_maps_of_mambas_layer_read_one_site():
    """The gate's too; what reads the convolved channels is not among them, nor is the last map's input."""
    at, sites = "decoder.layers.0.attn", smoothing_sites(tiny_models.selective_scans())
    consumers = {site.producers: site.consumers for site in sites}
    assert consumers[(f"{at}_pre.weight",)] == (f"{at}.wi", f"{at}.wz")
    assert not any(f"{at}.wo" in names for names in consumers.values())


def test_a_layer_that_shares_an_indexer_has_no_maps_of_one():
    sites = {site.producers: site.consumers for site in smoothing_sites(tiny_models.indexed())}
    names = [
        [name.rsplit(".", 1)[1] for name in sites[f"decoder.layers.{i}.attn_pre.weight",]] for i in (1, 2)
    ]
    assert names == [["wq_a", "wkv_a", "wk_index", "w_index"], ["wq_a", "wkv_a"]]
    assert sites["decoder.layers.2.attn.q_norm",] == ("decoder.layers.2.attn.wq",)


def test_an_indexer_of_blocks_reads_what_attention_reads():
    at = "decoder.layers.0.attn"
    sites = {site.producers: site for site in smoothing_sites(tiny_models.indexed_blocks())}
    read = tuple(f"{at}.w{name}" for name in ("q", "k", "v", "q_index", "k_index"))
    assert sites[f"{at}_pre.weight",].consumers == read
    assert sites[f"{at}.wv",] == ((f"{at}.wv",), (f"{at}.wo",), 3, 12)
    assert not any("mlp.up" in name for names in sites for name in names)  # it is clamped
