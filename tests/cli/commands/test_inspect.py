"""`inspect` on models of each shape: the parts add up, and positions have their names."""

import json
import math
import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from families import ROWS
from helpers import tiny_models
from helpers.config_strategies import narrowed
from helpers.hf_oracle import make_model
from tfm.cli.commands import inspect
from tfm.refimpl.checkpoint.formats.safetensors import SafeTensors, save
from tfm.refimpl.checkpoint.open import save_checkpoint
from tfm.refimpl.config import to_json
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.runtime.analysis import sizes
from tfm.runtime.bundle.schemes import SCHEMES

MODELS = {
    "rotary 10000": tiny_models.llama(),
    "32 learned positions": tiny_models.encoder(),
    "sinusoidal positions": tiny_models.encoder(positions=tiny_models.Sinusoidal()),
    "no positions": tiny_models.encoder(positions=None),
    "relative bias of 8 buckets": tiny_models.encoder_decoder(),
    "ALiBi": tiny_models.added_positions(),
}
SINKS = tiny_models.sinks()
(SUNK, *_) = SINKS.layers
NARROWED = replace(SUNK, mlp=narrowed(SUNK.mlp))
# Config -> what its description says.
DESCRIBED = {
    "LongT5": (
        tiny_models.summarized(),
        "6 heads of 8, within 2 tokens on each side, and to sums of 2 tokens",
        "relative bias of 8 buckets",
        "context 32 (encoder 64)",
    ),
    "norms before the maps back": (
        tiny_models.normed_outputs(),
        "with a norm of the output, gated mlp",
        "(relu_squared) with a norm of the units",
    ),
    "XLNet": (tiny_models.relative(), "XLNet's attention, 6 heads of 8", "sines and cosines of distances"),
    "shared keys and values": (
        tiny_models.shared_kv(),
        "4 layers, 2 of them with the keys and values of earlier ones, of 4 kinds, the first:",
        "16 numbers of each token for each layer",
    ),
    "streams": (
        tiny_models.altup(),
        "3 streams of each token, learned residuals of rank 12, 2 layers with 60% of the mlp's units at 0",
    ),
    "mixed streams": (tiny_models.hyper_connected(), "2 layers of 2 kinds", "3 streams of each token"),
    "blocks": (tiny_models.in_blocks(), "6 heads of 8 in 6 groups, in blocks of 2 from 11 tokens on"),
    "sinks": (SINKS, "6 heads of 16 in 2 groups with sinks, 2 of 4 gated mlps 24 (SwiGLU clamped to 0.7)"),
    "wav2vec 2.0": (
        tiny_models.spelling(),
        "2 convolutions over the samples of a sound, a vector of every 6",
    ),
    "Moonshine": (
        tiny_models.writing(),
        "2 convolutions over the samples of a sound, a vector of every 6",
    ),
    "Whisper": (tiny_models.hearing(), "a convolution stem over frames of 6 bands of a sound"),
    "a latent": (
        replace(SINKS, stack=replace(SINKS.stack, layers=(NARROWED,))),
        "2 of 4 plain mlps 24 (relu_squared), through a latent of 5",
    ),
}


@pytest.fixture
def inspected(tfm, tmp_path):
    """`inspect` of a config, with these options."""

    def run(config, *options):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({"model_type": "tfm", "config": to_json(config)}))
        return tfm("inspect", path, *options)

    return run


@pytest.mark.parametrize("position", MODELS)
def test_a_model_is_described_and_counted(inspected, position):
    config = MODELS[position]
    told = inspected(config, "--json").json
    assert told["parameters"]["total"] == sum(math.prod(s) for s in parameter_shapes(config).values())
    assert ("CACHE AT" in inspected(config).out) == ("decoder" in config.stacks)
    assert position in (text := inspect.describe(config))
    assert [name for name in ("encoder", "decoder") if f"{name}, " in text] == [
        name for name in ("encoder", "decoder") if name in config.stacks
    ]


@pytest.mark.parametrize("name", DESCRIBED)
def test_parts_are_described(name):
    config, *words = DESCRIBED[name]
    told = inspect.describe(config)
    assert [one for one in words if one not in told] == []


def test_a_mixture_counts_the_active_parameters(inspected):
    """All experts are counted, but only those that a token is routed to are active."""
    config = tiny_models.mixture()
    told = inspected(config, "--json").json["parameters"]
    assert told["total"] - told["active"] == 3 * 40 * (24 * (3 - 2) + 28 * (4 - 3))
    assert told["mlp"] == 40 * (3 + 3 * 3 * 24) + 40 * (4 + 4 * 3 * 28 + 3 * 36 + 1) + 4
    text = inspected(config).out
    assert re.search(f"{told['total']:,} .*{told['active']:,} ", text)
    assert "2 of 3 gated mlps 24 (silu)" in text
    saved = inspected(config, "--json").json["savings"]["mixture, weights a token"]
    assert saved == {"without": 2 * told["total"], "with": 2 * told["active"]}
    one = tiny_models.llama()
    assert not any("mixture" in name for name in sizes.savings(one, dict.fromkeys(SCHEMES, 1)))
    assert sizes.active_parameters(one) == sum(sizes.parameters(one).values())
    assert f"\n{sum(sizes.parameters(one).values()):,} in all\n" in inspected(one).out


def test_a_cache_is_counted_as_the_runner_keeps_it(inspected):
    """Windows keep few tokens, and a copied cache counts twice."""
    config = tiny_models.mixed_windows(context=5000)
    told = inspected(config, "--json").json
    assert told["cache"] == "windowed"
    token, few = 2 * 2 * 16 * 4, 4 * (5 - 1 + 32 + 128) + (3 - 1 + 32 + 128)
    assert told["cache_bytes"]["1024"]["fp32"] == token * (1024 + few)
    assert told["cache_bytes"]["5000"]["fp32"] == token * (5000 + few)
    room = sizes.RUNNER_BYTES + token * (3000 + few)
    assert sizes.need(config, 0, room, "windowed").longest_context == 3000
    told = inspected(tiny_models.llama(head_size=12, window=9), "--json").json
    assert told["cache"] == "copied"
    assert told["cache_bytes"]["128"]["fp16"] == 2 * 2 * 2 * 2 * 12 * 2 * 128


def test_recurrences_are_named_and_keep_as_much_of_any_text(inspected):
    """The same bytes, once: a step writes them in place; attention in their place keeps keys and values."""
    base = tiny_models.recurrent(context=5000)
    named = {
        base.layers[0]: ("linear attention (elu), 6 heads of 8 in 2 groups", 2 * 8 * 9),
        base.layers[1]: ("LSTM of 20 units", 40),
        tiny_models.gated_deltas().layers[0]: (
            "gated delta network, 4 states of 16 x 12, convolution over 3 tokens",
            4 * 16 * 12 + 2 * 112,
        ),
        tiny_models.kimi().layers[0]: (
            "Kimi delta attention of rank 5, 3 states of 8 x 12, convolution over 3 tokens",
            3 * 8 * 12 + 2 * 84,
        ),
        tiny_models.ling().layers[2]: ("lightning attention, 3 states of 10 x 10", 3 * 10 * 10),
        tiny_models.state_spaces().layers[2]: (
            "Mamba 2, 3 states of 8 x 20, convolution over 4 tokens, no mlp",
            3 * 8 * 20 + 3 * 76,
        ),
        tiny_models.selective_scans().layers[2]: (
            "Mamba, 56 states of 6, convolution over 4 tokens, no mlp",
            56 * 6 + 3 * 56,
        ),
        tiny_models.linear_units().layers[0]: (
            "3 heads of 8 recurrent units, convolution over 3 tokens",
            3 * 3 * 8,
        ),
        tiny_models.time_mixes().layers[0]: ("time mixing in 40 channels", 48 + 3 * 40),
        tiny_models.time_mixes().layers[1]: ("channel mixing through 72 units", 48),
        tiny_models.hyper_connected().layers[0]: (
            "memory of n-grams of 3 tokens or fewer, 4 rows of 10, convolution over 3 tokens, no mlp",
            2 * 3 * 3 * 48 + 2,
        ),
        tiny_models.convolutions().layers[0]: ("convolution over 3 tokens in 40 channels", 2 * 40),
    }
    for layer, (name, count) in named.items():
        config = replace(base, stack=replace(base.stack, layers=(layer,)))
        assert name in inspect.describe(config)
        assert inspected(config, "--json").json["cache_bytes"] == {
            context: {"fp32": 4 * count, "fp16": 2 * count} for context in ("1024", "5000")
        }


def test_a_state_space_beside_attention_is_named_and_counted():
    """Its states are kept beside keys and values. A block in front of it is named too."""
    base = tiny_models.state_spaces()
    config = replace(base, stack=replace(base.stack, layers=base.layers[1:2]))
    mixers = "6 heads of 16 in 2 groups, beside Mamba 2, 4 states of 6 x 10, convolution over 3 tokens"
    assert mixers in inspect.describe(config)
    mixers = (
        "a shared block (4 heads of 24 in 2 groups, gated mlp 56 (gelu)) and Mamba 2, 6 states of 16 x 12"
    )
    assert mixers in inspect.describe(tiny_models.shared_blocks())
    states = 4 * 6 * 10 + 2 * (40 + 2 * 2 * 6)
    keys = 2 * 2 * 16 * 128
    assert sizes.cache_bytes(config, 128, 4) == 4 * (states + keys)
    half = sizes.savings(config, sizes.weight_bytes(config))["int8 cache"]
    assert half.without == 2 * (states + keys)


def test_an_indexer_is_named_and_counted():
    """Its keys are kept beside the latents, but not by a layer that shares it."""
    config = tiny_models.indexed()
    told = inspect.describe(config)
    assert re.search("3 layers, 1 .*indexer", told)
    assert re.search("2 heads of 16 .* 18, .* 3 .*indexer", told)
    assert sizes.cache_bytes(config, 128, 4) == 4 * (18 + 6 + 6 + 18 + 4 + 10 + 18) * 128


def test_an_indexer_of_blocks_is_named_and_counted():
    """Its keys are kept beside keys and values."""
    config = tiny_models.indexed_blocks()
    told = inspect.describe(config)
    assert re.search("6 heads of 12 in 2 groups, .* 2 .*blocks of 4 .*indexer", told)
    assert sizes.cache_bytes(config, 128, 4) == 4 * (2 * 2 * 12 + 10 + 2 * 2 * 16 + 2 * 3 * 16 + 6) * 128


def test_latents_are_named_and_counted(inspected):
    """A latent and a rotary key for each token and layer, and what heads of their own would take."""
    config = tiny_models.latents()
    assert re.search("3 heads of 14 .* 20, ", inspect.describe(config))
    told = inspected(config, "--json").json
    assert told["cache_bytes"]["128"]["fp16"] == 2 * 2 * (20 + 6 + 18 + 4) * 128
    assert sizes.savings(config, sizes.weight_bytes(config))["latents, cache"] == sizes.Saving(
        2 * (3 * (14 + 12) + 2 * (14 + 14)) * 128, 2 * (20 + 6 + 18 + 4) * 128
    )


@pytest.mark.parametrize(
    ("name", "parameters", "token", "states", "plain", "row"),
    [
        # DeepSeek-V3: 671 billion parameters, 37 of them for a token; 576 numbers for 128 heads of 192 + 128.
        pytest.param(
            "deepseek-v3", (671.0e9, 37.5e9), 61 * 576, 0, 61 * 128 * (192 + 128), "latents, cache",
            marks=pytest.mark.long,  # 46,000 weights in six quantizations
        ),
        # Qwen 3.5's 9 billion: 8 of 32 layers attend, with 4 of 16 heads of keys and values; the others
        # keep 32 matrices of 128 x 128 and 3 tokens of 8192 numbers.
        ("qwen3.5-9b", (9.0e9, 9.0e9), 8 * 2 * 4 * 256, 24 * (32 * 128 * 128 + 3 * 8192), 32 * 2 * 16 * 256,
         "states, cache"),
    ],
)  # fmt: skip
def test_what_latents_and_states_save(tfm, name, parameters, token, states, plain, row):
    """Public figures; what is kept in 16 bits, beside keys and values of each head of each layer."""
    told = tfm("inspect", name, "--json").json
    assert (told["parameters"]["total"], told["parameters"]["active"]) == pytest.approx(parameters, rel=0.01)
    copies = 2 if told["cache"] == "copied" else 1
    for context in (1024, 8192, 131_072):
        assert told["cache_bytes"][str(context)]["fp16"] == copies * 2 * (token * context + states)
        assert told["plain_cache_bytes"][str(context)] == 2 * plain * context
    context = told["config"]["context"]
    grouped = {"latents, cache": plain, "states, cache": 32 * 2 * 4 * 256}[row]
    assert told["savings"][row] == {"without": 2 * grouped * context, "with": 2 * (token * context + states)}


def test_a_cache_of_8_bits_is_counted_as_such(inspected):
    config = tiny_models.llama().with_kv("int8")
    assert inspected(config, "--json").json["cache_bytes"] == {"128": {"int8": 2 * 2 * 2 * 16 * 128}}
    room = sizes.RUNNER_BYTES + 2 * 2 * 2 * 16 * 100
    assert sizes.need(config, 0, room).longest_context == 100
    assert re.search(r"CACHE AT +INT8 +PLAIN FP16\n128 tokens +16.4 kB +98.3 kB\n", inspected(config).out)


def test_llama_3_70b(tfm):
    """Llama 3 70B's public figures: 70.6 billion parameters, 141 GB in 16 bits; 8 of 64 heads have keys."""
    told = tfm("inspect", "llama-3-70b", "--json").json
    assert told["parameters"]["total"] == 70_553_706_496
    assert 141.0e9 < told["quantizations"]["fp16"]["bytes"] < 141.2e9
    saved = told["savings"]
    token = 2 * 80 * 8 * 128 * 2
    assert saved["grouped queries, cache"] == {"without": 8 * 8192 * token, "with": 8192 * token}
    assert saved["int8 cache"]["with"] == 8192 * token // 2 + 8192 * 2 * 80 * 8 * 2
    assert saved["int4 cache"]["with"] == 8192 * token // 4 + 8192 * 2 * 80 * 8 * 2
    assert "window, cache" not in saved
    text = tfm("inspect", "llama-3-70b").out
    assert ("141.1 GB" in text, "\ngrouped queries" in text) == (True, True)


def test_how_weights_are_stored_and_licensed_is_shown(tfm, tmp_path):
    """Types by their share of the numbers; a bundle and a checkpoint without a licence say so."""
    config = tiny_models.llama()
    save_checkpoint(tmp_path, config, tiny_models.weights(config))
    file = tmp_path / "model.safetensors"
    tensors = SafeTensors(file)
    arrays = {name: tensors.load(name) for name in tensors.names}
    table = "embedding.table"
    save(file, arrays | {table: arrays[table].astype(np.float16)})
    half, total = arrays[table].size, sum(array.size for array in arrays.values())
    told = tfm("inspect", tmp_path, "--json").json
    assert told["stored"] == {"F32": total - half, "F16": half}
    assert (told["licence"], told["notices"]) == ("", [])
    text = tfm("inspect", tmp_path).out
    assert f"stored        F32 {1 - half / total:.1%}, F16 {half / total:.1%}\n" in text
    assert "licence       not stated\nnotices       none\n" in text
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    assert "licence       mit\nnotices       README.md\n" in tfm("inspect", tmp_path).out


def test_parts_that_are_left_out_are_named(tfm, bundle, tmp_path):
    """Of a model that reads images too, as its checkpoint and its bundle say."""
    model = make_model("llava", dict(ROWS["llava"].sizes))
    model.save_pretrained(tmp_path / "model")
    ran = tfm("inspect", tmp_path / "model")
    assert ran.code == 0
    note = "note: only the text model is read, its other parts are left out: vision_tower ("
    assert ran.err.count(note) == 1
    assert re.search(
        r"^left_out      vision_tower: \d+ tensors, .* kB; multi_modal_projector: 4 tensors, ", ran.out, re.M
    )
    told = tfm("inspect", tmp_path / "model", "--json").json["left_out"]
    tower = [tensor.nbytes for name, tensor in model.state_dict().items() if "vision_tower" in name]
    assert told["vision_tower"] == {"tensors": len(tower), "bytes": sum(tower)}
    copied = shutil.copytree(bundle, tmp_path / "bundle")
    stated = json.loads((copied / "tfm.json").read_text())
    stated["source"]["left_out"] = told
    (copied / "tfm.json").write_text(json.dumps(stated))
    assert tfm("inspect", copied, "--json").json["left_out"] == told
    told = tfm("inspect", bundle, "--json").json
    assert "left_out" not in told
    assert told["refused"] == []
    assert "refused" not in tfm("inspect", bundle).out


def test_the_example_ships():
    root = Path(__file__).parents[3]
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {file for pattern in data["tfm.cli"] for file in (root / "cli").glob(pattern)}
    assert set(inspect.EXAMPLES.iterdir()) <= shipped


def test_a_file_with_an_examples_name_is_preferred(tfm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llama-3-70b").mkdir()
    tfm("inspect", "llama-3-70b").failed(3, "bundle")
    tfm("inspect", "llama-3-8b").failed(3, "llama-3-70b")
