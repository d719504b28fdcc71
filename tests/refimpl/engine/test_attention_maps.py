"""Attention maps against transformers' weights, and against those that the layers compute."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch
import transformers
from families import ROWS
from helpers import tiny_models
from helpers.float64 import Float64
from helpers.hf_oracle import draw_keys, in_float64, without_values
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.config import Config, Decoder, Sinusoidal, Window
from tfm.refimpl.engine.attention_maps import attention_maps
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.ops import attention
from tfm.refimpl.params.lazy import lazily
from tfm.refimpl.params.tree import flatten, map_leaves

TOKENS = np.array([13, 9, 60, 2, 2, 31, 7, 11])


def maps_of(config, params, layers: int | None = None) -> list[np.ndarray]:
    """The maps of all layers, or of the first ones."""
    maps: dict[int, np.ndarray] = {}
    attention_maps(config, params, TOKENS, maps.__setitem__, layers=layers)
    assert [*maps] == [*range(len(maps))]
    return [*maps.values()]


# Where transformers' eager way isn't the model (Falcon's ALiBi), its weights are nobody's.
REFUSED = {
    *("lfm2", "qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"),  # not all attend
    *("deepseek_v2", "deepseek_v3", "kimi_k2", "deepseek_v32", "glm_moe_dsa", "mistral4"),  # to latents
    *("glm4_moe_lite", "kimi_k25", "longcat_flash", "mistral_large4"),  # to latents
    *("minimax_m3_vl", "minimax_m3_vl_text"),  # to blocks that an indexer chooses
    "granite_swa",  # transformers gives those before its sinks
    "mistral3",  # some of its text models to latents
    *(
        "mamba2",
        "bamba",
        "granitemoehybrid",
        "nemotron_h",
        "zamba2",
        "mamba",
        "falcon_mamba",
        "jamba",
    ),  # states
    "big_bird",  # transformers gives none where it has changed a model from sparse to full attention
    *("lfm2_moe", "olmo_hybrid", "kimi_linear", "lfm3", "lfm2_vl", "lfm3_vl"),  # not all attend
    *("minimax", "bailing_hybrid", "recurrent_gemma", "rwkv", "qwen4_exp", "qwen4_exp_text"),  # nor here
    "squeezebert",  # transformers gives what the softmax is of
    *("longformer", "led", "longt5"),  # transformers gives those of windows, by distance
    *("whisper", "wav2vec2", "hubert", "moonshine"),  # they hear, and a map is of tokens
}
EAGER = sorted(name for name, row in ROWS.items() if row.attention == "eager" and name not in REFUSED)


@pytest.mark.parametrize("name", EAGER)
def test_weights_are_those_of_transformers(tmp_path, name):
    """One config, which isn't the simplest."""
    [keys] = draw_keys(name, 1)
    row, folder = ROWS[name], tmp_path
    torch.manual_seed(1)
    model = without_values(row.models[0], row.config(**keys, attn_implementation="eager"))
    with torch.no_grad():
        for weight in model.parameters():
            # Of few digits, so that a norm's weight plus one (Gemma) is a float32 too.
            weight.normal_(0.0, 0.5).mul_(2**16).round_().div_(2**16)
        row.amend(model)
    model.save_pretrained(folder)
    checkpoint = open_checkpoint(folder)
    leaves = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    got = maps_of(checkpoint.config, leaves)
    with Float64(), torch.no_grad():
        exact = without_values(row.models[0], in_float64(model.config)).double()
        exact.load_state_dict(model.state_dict())
        row.amend(exact)
        looks = exact.get_encoder() if exact.config.is_encoder_decoder else exact
        want = looks(torch.from_numpy(TOKENS)[None], output_attentions=True).attentions
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert np.abs(ours - theirs[0].numpy()).max() <= 1e-9
    [lazy] = maps_of(checkpoint.config, checkpoint.params, layers=1)
    assert np.abs(lazy - got[0]).max() <= 1e-4, "leaf by leaf, in float32"


MODELS: dict[str, Config] = {
    "q/k norm": tiny_models.llama(qk_norm=True, bias=True),
    "window": tiny_models.llama(window=3),
    "block-sparse": tiny_models.block_sparse(),
    "ALiBi, relative, learned": tiny_models.added_positions(),
    "rare words": tiny_models.rare(),
    "encoder": tiny_models.encoder(),
    "encoder, sinusoidal": tiny_models.encoder(positions=Sinusoidal()),
    "encoder, relative": tiny_models.encoder_decoder(),
}
first = tiny_models.encoder().stack
near = dataclasses.replace(first.layers[0].attention, mask=Window(2), scale=0.3, softcap=2.0)
MODELS["encoder, window"] = dataclasses.replace(
    tiny_models.encoder(),
    stack=dataclasses.replace(first, layers=(dataclasses.replace(first.layers[0], attention=near),)),
)
plain = tiny_models.llama(layers=3)
MODELS["parallel"] = dataclasses.replace(
    plain,
    embedding=dataclasses.replace(plain.embedding, scale=3.0),
    stack=dataclasses.replace(
        plain.stack, layers=tuple(dataclasses.replace(layer, parallel=True) for layer in plain.layers)
    ),
)


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_those_that_the_layers_use(monkeypatch, name):
    """The weights that `attend` computes inside an ordinary run of the same model."""
    config = MODELS[name]
    leaves = tiny_models.weights(config, dtype=np.float64)
    got = maps_of(config, leaves)
    used = []
    plain = attention.attention_weights

    def noted(*args, **settings):
        used.append(plain(*args, **settings))
        return used[-1]

    monkeypatch.setattr(attention, "attention_weights", noted)
    engine = NumpyEngine(config, leaves)
    if isinstance(config, Decoder):
        engine.step(TOKENS[None], engine.start())
    else:
        engine.encode(TOKENS[None])
    assert len(got) == len(used) > 0
    for ours, theirs in zip(got, used, strict=True):
        assert ours.shape == theirs[0].shape
        assert np.allclose(ours, theirs[0], rtol=1e-12, atol=1e-14)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.pairwise(got)), "layers differ"


@pytest.mark.real
def test_minilm_is_transformers(minilm):
    """The real model, its vectors and its weights."""
    checkpoint = open_checkpoint(minilm)
    model = transformers.BertModel.from_pretrained(minilm, attn_implementation="eager").eval()
    with torch.no_grad():
        want = model(torch.from_numpy(TOKENS)[None], output_attentions=True)
    maps = maps_of(checkpoint.config, checkpoint.params)
    for ours, theirs in zip(maps, want.attentions, strict=True):
        assert np.abs(ours - theirs[0].numpy()).max() <= 1e-5
    engine = NumpyEngine(checkpoint.config, map_leaves(lambda _, leaf: leaf, checkpoint.params))
    assert np.abs(engine.encode(TOKENS[None]) - want.last_hidden_state.numpy()).max() <= 1e-4


def test_a_recurrence_has_no_attention_weights():
    config = tiny_models.recurrent()
    with pytest.raises(ConfigError, match="layer 0 has LinearAttention"):
        maps_of(config, tiny_models.weights(config))


def test_a_sound_has_no_tokens_to_show():
    config = tiny_models.hearing()
    with pytest.raises(ConfigError, match="reads sounds"):
        maps_of(config, tiny_models.weights(config))


@pytest.mark.parametrize(
    "config",
    [tiny_models.llama(layers=3, tied=False), tiny_models.encoder_decoder()],
    ids=["decoder", "pair"],
)
def test_nothing_is_computed_after_the_last_map(config: Config):
    """No later leaf is loaded: not the rest of its layer, nor the next, nor the head."""
    leaves, loaded = dict(flatten(tiny_models.weights(config))), []
    params = lazily(leaves, lambda name: loaded.append(name) or leaves[name])
    assert len(maps_of(config, params, layers=2)) == 2
    stack = next(iter(config.stacks))
    last = [name for name in loaded if name.startswith(f"{stack}.layers.1.")]
    assert last[-1].endswith(("wk", "wv")), last
    layers = {name.split(".layers.")[1][0] for name in loaded if ".layers." in name}
    assert layers == {"0", "1"}
    assert not any(name.startswith("head.") for name in loaded)
