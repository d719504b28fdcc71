"""Which leaves a Config has, against the leaves that its forward pass reads."""

from collections.abc import Callable

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.config import (
    LM,
    Config,
    FirstToken,
    LayerNorm,
    Learned,
    MaskedLM,
    Plain,
    QuestionAnswering,
    Tag,
)
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.params.lazy import lazily
from tfm.refimpl.params.random_weights import random_weights
from tfm.refimpl.params.shapes import multiplied, parameter_shapes
from tfm.refimpl.params.tree import flatten

TOKENS = np.array([[13, 9, 60, 2], [1, 1, 7, 0]])


MODELS: dict[str, Callable[[], Config]] = {
    "llama": tiny_models.llama,
    "biases, head norms, own table": lambda: tiny_models.llama(tied=False, bias=True, qk_norm=True),
    "plain mlp": lambda: tiny_models.llama(plain=True, bias=True),
    "cache in 8 bits": lambda: tiny_models.llama().with_kv("int8"),
    "added positions": tiny_models.added_positions,
    "mixture": tiny_models.mixture,
    "sinks": tiny_models.sinks,
    "adaptive softmax": tiny_models.adaptive,
    "recurrences": tiny_models.recurrent,
    "convolutions": tiny_models.convolutions,
    "gated delta networks": tiny_models.gated_deltas,
    "latents": tiny_models.latents,
    "channels that decay": tiny_models.kimi,
    "heads that fade": tiny_models.ling,
    "indexers": tiny_models.indexed,
    "indexers of blocks": tiny_models.indexed_blocks,
    "state spaces": tiny_models.state_spaces,
    "selective scans": tiny_models.selective_scans,
    "rare": tiny_models.rare,
    "encoder": tiny_models.encoder,
    "tags": lambda: tiny_models.encoder(head=Tag(5)),
    "answers": lambda: tiny_models.encoder(head=QuestionAnswering()),
    "answers, with an mlp": lambda: tiny_models.encoder(
        head=QuestionAnswering(mlp=Plain(24, "gelu", after=LayerNorm(1e-5)))
    ),
    "own table, no bias": lambda: tiny_models.encoder(head=MaskedLM(tied=False, bias=False)),
    "encoder and decoder": tiny_models.encoder_decoder,
    "distances": tiny_models.distant,
    "distances, matrices of their own": lambda: tiny_models.distant(log_until=None, shared=False),
    "windows": tiny_models.windowed,
    "windows and global tokens": lambda: tiny_models.windowed(spread=FirstToken()),
    "windows and summaries": lambda: tiny_models.summarized(),
    "distances and segments": tiny_models.relative,
    "decoder that reads": tiny_models.reading_decoder,
}


def test_a_llama_by_hand():
    config = tiny_models.llama(layers=1, tied=False, qk_norm=True)
    norms = {f"decoder.layers.0.{name}_pre.weight": (48,) for name in ("attn", "mlp")}
    attention = {
        "wq": (48, 96),
        "wk": (48, 32),
        "wv": (48, 32),
        "wo": (96, 48),
        "q_norm": (16,),
        "k_norm": (16,),
    }
    mlp = {"gate": (48, 80), "up": (48, 80), "down": (80, 48)}
    assert parameter_shapes(config) == {
        "embedding.table": (97, 48),
        **norms,
        **{f"decoder.layers.0.attn.{name}": shape for name, shape in attention.items()},
        **{f"decoder.layers.0.mlp.{name}": shape for name, shape in mlp.items()},
        "decoder.norm.weight": (48,),
        "head.table": (97, 48),
    }


@pytest.mark.parametrize("name", MODELS)
def test_a_forward_pass_reads_every_leaf_and_no_other(name: str):
    config = MODELS[name]()
    leaves = dict(flatten(random_weights(config, np.random.default_rng(0))))
    shapes = parameter_shapes(config)
    assert {leaf: array.shape for leaf, array in leaves.items()} == shapes
    asked: set[str] = set()

    def load(leaf: str) -> np.ndarray:
        asked.add(leaf)
        return leaves[leaf]

    engine = NumpyEngine(config, lazily(shapes, load))
    if not isinstance(config.head, LM):
        engine.predict(TOKENS)
    elif "encoder" in config.stacks:
        engine.step(TOKENS, engine.start(2, TOKENS))
    else:
        engine.step(TOKENS, engine.start(2))
    assert asked == set(shapes)


def test_what_may_be_stored_in_fewer_bits():
    """Matrices of products and tables of tokens; no vector, nothing that is added or that chooses experts."""
    config = tiny_models.mixture()
    products = multiplied(config)
    names = [name for name in parameter_shapes(config) if name not in products]
    layer = "decoder.layers.1."
    assert [n.removeprefix(layer) for n in names if n.startswith(layer)] == [
        "attn_pre.weight", "mlp_pre.weight", "mlp.router", "mlp.bias", "mlp.shared_gate",
    ]  # fmt: skip
    encoder = tiny_models.encoder(head=Tag(5), positions=Learned(32))
    floats = parameter_shapes(encoder).keys() - multiplied(encoder)
    assert {"embedding.token_types", "encoder.positions", "head.out.weight"} <= floats
    assert "embedding.table" not in floats
    recurrent = tiny_models.recurrent()
    floats = parameter_shapes(recurrent).keys() - multiplied(recurrent)
    gates = {name for name in floats if ".1.attn." in name}
    assert gates == {f"decoder.layers.1.attn.{leaf}" for leaf in ("wx", "wh", "bias")}
