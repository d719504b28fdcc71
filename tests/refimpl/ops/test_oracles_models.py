"""Layers and whole models against others': torch's modules, and BERT and BLOOM of transformers.

Weights are random and mapped by hand, in float64. Encoders' heads, token types, ALiBi, cross-attention
and padding all stand in one of these.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import (
    LM,
    Alibi,
    Attention,
    Classify,
    Config,
    Decoder,
    Dense,
    Embedding,
    Encoder,
    Head,
    Layer,
    LayerNorm,
    Learned,
    MaskedLM,
    Plain,
    QuestionAnswering,
    Stack,
    Tag,
)
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.ops.attention import attention_weights
from tfm.refimpl.ops.block import LayerInputs, Positions, block, encoder_block
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.cross_attention import EncoderKV, cross_attention, cross_keys
from tfm.refimpl.ops.self_attention import self_attention
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import unflatten

EXACT = 1e-9
seeds = st.integers(0, 2**32 - 1)
WIDTH, HEADS, HIDDEN = 12, 3, 20
LENGTHS = np.array([5, 3])
REAL = np.arange(5) < LENGTHS[:, None]
PADDING = torch.from_numpy(~REAL)


def t(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(a)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, len(shape), *shape]).standard_normal(shape)


def weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy() for name, p in module.named_parameters()}


def attention_leaves(w: dict[str, np.ndarray], at: str) -> dict[str, np.ndarray]:
    """MultiheadAttention keeps queries, keys and values in one matrix."""
    leaves = {"wo": w[f"{at}out_proj.weight"].T, "bo": w[f"{at}out_proj.bias"]}
    parts = np.split(w[f"{at}in_proj_weight"], 3), np.split(w[f"{at}in_proj_bias"], 3)
    return (
        leaves
        | {f"w{n}": a.T for n, a in zip("qkv", parts[0], strict=True)}
        | {f"b{n}": a for n, a in zip("qkv", parts[1], strict=True)}
    )


@given(seeds)
def test_attention_is_torchs(seed: int):
    """MultiheadAttention over a text and over another, with padding, and its weights."""
    module = randomize(torch.nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64), seed)
    leaves = attention_leaves(weights(module), "")
    x, states = normal(seed, 2, 4, WIDTH), normal(seed + 1, 2, 5, WIDTH)
    expected, shares = in_float64(
        module, t(states), t(states), t(states), PADDING, average_attn_weights=False
    )
    settings = Attention(HEADS, HEADS, 4)
    weights_: Any = leaves
    equal(self_attention(states, LENGTHS, weights_, settings=settings), expected)
    q, k = (states @ leaves[f"w{n}"] + leaves[f"b{n}"] for n in "qk")
    heads = (2, 5, HEADS, 4)
    equal(attention_weights(q.reshape(heads), k.reshape(heads), np.repeat(REAL[:, None], 5, 1)), shares)
    expected, _ = in_float64(module, t(x), t(states), t(states), PADDING)
    encoder_kv = EncoderKV(*cross_keys(states, weights_, settings=settings), LENGTHS)
    equal(cross_attention(x, encoder_kv, weights_, settings=settings), expected)


def torch_layer(kind: Any, first: bool, activation: Any, seed: int) -> Any:
    """A layer of torch's with random weights; its parts by our names, and its Config."""
    module = randomize(
        kind(WIDTH, HEADS, HIDDEN, 0.0, activation, norm_first=first, batch_first=True, dtype=torch.float64),
        seed,
    )
    w = weights(module)
    norm = LayerNorm(1e-5)
    place: dict[str, Any] = {"pre": norm} if first else {"after": norm}
    attention = Attention(HEADS, HEADS, 4, qkv_bias=True, out_bias=True, **place)
    crossed = kind is torch.nn.TransformerDecoderLayer
    layer = Layer(attention, Plain(HIDDEN, activation, True, **place), cross=attention if crossed else None)
    parts = [("attn", "norm1"), ("cross", "norm2"), ("mlp", "norm3" if crossed else "norm2")]
    tree: dict[str, Any] = {
        f"{part}_{'pre' if first else 'after'}": {n: w[f"{name}.{n}"] for n in ("weight", "bias")}
        for part, name in parts
        if crossed or part != "cross"
    }
    tree["attn"] = attention_leaves(w, "self_attn.")
    tree["mlp"] = {"up": w["linear1.weight"].T, "bup": w["linear1.bias"]}
    tree["mlp"] |= {"down": w["linear2.weight"].T, "bdown": w["linear2.bias"]}
    if crossed:
        tree["cross"] = attention_leaves(w, "multihead_attn.")
    return module, layer, tree


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("first", [True, False])
def test_encoder_layer_is_torchs(first: bool, activation: str):
    for seed in range(3):
        module, layer, tree = torch_layer(torch.nn.TransformerEncoderLayer, first, activation, seed)
        x = normal(seed, 2, 5, WIDTH)
        expected = in_float64(module, t(x), src_key_padding_mask=PADDING).numpy()
        equal(
            encoder_block(x, LENGTHS, Positions({}, {}), tree, config=layer, causal=False)[REAL],
            expected[REAL],
        )


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("first", [True, False])
def test_decoder_layer_is_torchs(first: bool, activation: str):
    """Causal self-attention, and cross-attention over a padded text."""
    for seed in range(3):
        module, layer, tree = torch_layer(torch.nn.TransformerDecoderLayer, first, activation, seed)
        x, states = normal(seed, 2, 4, WIDTH), normal(seed + 1, 2, 5, WIDTH)
        later = torch.ones(4, 4).triu(1).bool()
        expected = in_float64(module, t(x), t(states), tgt_mask=later, memory_key_padding_mask=PADDING)
        keys, values = cross_keys(states, tree["cross"], settings=layer.cross)
        empty, start, positions = np.zeros((2, HEADS, 4, 4)), np.array([0, 0]), Positions({}, {})
        encoder_kv = EncoderKV(keys, values, LENGTHS)
        got, *_ = block(
            x, KVCache(empty, empty), start, positions, tree, LayerInputs(encoder_kv), config=layer
        )
        equal(got, expected)


def leaves_of(config: Config, table: dict[str, str], w: dict[str, np.ndarray]) -> Any:
    """Our tree from a map ours ← theirs, matrices of linear layers turned, {i} written out."""
    results = {}
    for name, shape in parameter_shapes(config).items():
        at = name.split(".")
        i = next((part for part in at if part.isdigit()), "")
        theirs = table[".".join("{i}" if part.isdigit() else part for part in at)].replace("{i}", i)
        turned = (at[-1][0] == "w" and at[-1] != "weight") or at[-1] in ("up", "gate", "down")
        turned |= name in ("head.dense.weight", "head.out.weight")
        results[name] = (w[theirs].T if turned else w[theirs]).reshape(shape)
    return unflatten(results)


NORM = LayerNorm(1e-12)
BERT = {
    "embedding.table": "bert.embeddings.word_embeddings.weight",
    "embedding.token_types": "bert.embeddings.token_type_embeddings.weight",
    "encoder.positions": "bert.embeddings.position_embeddings.weight",
    "encoder.first_norm.weight": "bert.embeddings.LayerNorm.weight",
    "encoder.first_norm.bias": "bert.embeddings.LayerNorm.bias",
    "head.dense.weight": "cls.predictions.transform.dense.weight",
    "head.dense.bias": "cls.predictions.transform.dense.bias",
    "head.norm.weight": "cls.predictions.transform.LayerNorm.weight",
    "head.norm.bias": "cls.predictions.transform.LayerNorm.bias",
    "head.bias": "cls.predictions.bias",
}
for ours, theirs in {
    "attn.{}q": "attention.self.query",
    "attn.{}k": "attention.self.key",
    "attn.{}v": "attention.self.value",
    "attn.{}o": "attention.output.dense",
    "attn_after": "attention.output.LayerNorm",
    "mlp.{}up": "intermediate.dense",
    "mlp.{}down": "output.dense",
    "mlp_after": "output.LayerNorm",
}.items():
    kinds = {"weight": "w" if "attn" in ours else "", "bias": "b"}
    for kind, letter in kinds.items():
        leaf = ours.format(letter) if "{}" in ours else f"{ours}.{kind}"
        BERT[f"encoder.layers.{{i}}.{leaf}"] = f"bert.encoder.layer.{{i}}.{theirs}.{kind}"

POOLER = {f"head.dense.{n}": f"bert.pooler.dense.{n}" for n in ("weight", "bias")}
OUT = {f"head.out.{n}": f"classifier.{n}" for n in ("weight", "bias")}
ANSWER = {f"head.out.{n}": f"qa_outputs.{n}" for n in ("weight", "bias")}
TASKS: list[tuple[Any, Head, dict[str, str]]] = [
    (transformers.BertForMaskedLM, MaskedLM(True, Dense("gelu", norm=NORM)), {}),
    (transformers.BertForSequenceClassification, Classify(4, dense=Dense("tanh")), POOLER | OUT),
    (transformers.BertForTokenClassification, Tag(4), OUT),
    (transformers.BertForQuestionAnswering, QuestionAnswering(), ANSWER),
]


@pytest.mark.parametrize(("kind", "head", "more"), TASKS, ids=lambda a: getattr(a, "__name__", ""))
def test_bert_is_transformers(kind: Any, head: Head, more: dict[str, str]):
    """Pairs of texts of unequal length, with each head."""
    sizes = {"vocab_size": 31, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": HEADS, "max_position_embeddings": 9}
    labels = 2 if isinstance(head, QuestionAnswering) else 4
    theirs = transformers.BertConfig(**sizes, num_labels=labels, attn_implementation="eager")
    model = randomize(kind(theirs))
    place: dict[str, Any] = {"after": NORM}
    layer = Layer(
        Attention(HEADS, HEADS, 4, qkv_bias=True, out_bias=True, **place),
        Plain(HIDDEN, "gelu", True, **place),
    )
    stack = Stack((layer, layer), None, Learned(9), NORM)
    config = Encoder(Embedding(31, WIDTH, token_types=2), stack, head, 9)
    engine = NumpyEngine(config, leaves_of(config, BERT | more, weights(model)))
    rng = np.random.default_rng(0)
    ids, types = rng.integers(0, 31, (2, 5)), rng.integers(0, 2, (2, 5))
    out = in_float64(
        model,
        input_ids=t(ids),
        token_type_ids=t(types),
        attention_mask=(~PADDING).long(),
        output_hidden_states=True,
    )
    equal(engine.encode(ids, LENGTHS, types)[REAL], out.hidden_states[-1].numpy()[REAL], EXACT)
    got = engine.predict(ids, LENGTHS, types)
    if isinstance(head, QuestionAnswering):
        expected = torch.stack([out.start_logits, out.end_logits], -1).numpy()
    else:
        expected = out.logits.numpy()
    equal(*((got, expected) if isinstance(head, Classify) else (got[REAL], expected[REAL])), EXACT)
    # Without types, all tokens are of the first text.
    first = in_float64(model, input_ids=t(ids), attention_mask=(~PADDING).long(), output_hidden_states=True)
    equal(engine.encode(ids, LENGTHS)[REAL], first.hidden_states[-1].numpy()[REAL], EXACT)


def steps(engine: NumpyEngine, source: np.ndarray | None, ids: np.ndarray) -> np.ndarray:
    """Logits [B, T, N] of the ids: the first three at once, then one by one."""
    cache = engine.start(len(ids), source, None if source is None else LENGTHS)
    results, at = [], 0
    for size in (3, *[1] * (ids.shape[1] - 3)):
        expected = np.broadcast_to(np.arange(size), (len(ids), size))
        logits, cache = engine.step(ids[:, at : at + size], cache, at=expected)
        results.append(logits)
        at += size
    return np.concatenate(results, 1)


@pytest.mark.parametrize("heads", [4, 3])
def test_bloom_is_transformers(heads: int):
    """ALiBi over a cache, a norm before the first layer; queries, keys and values lie head by head."""
    width = heads * 4
    theirs = transformers.BloomConfig(
        vocab_size=31, hidden_size=width, n_layer=2, n_head=heads, attn_implementation="eager"
    )
    model = randomize(transformers.BloomForCausalLM(theirs))
    w = weights(model)
    norm = LayerNorm(1e-5)
    attention = Attention(heads, heads, 4, position=Alibi(), qkv_bias=True, out_bias=True, pre=norm)
    layer = Layer(attention, Plain(4 * width, "gelu_tanh", True, pre=norm))
    config = Decoder(Embedding(31, width), Stack((layer,) * 2, norm, None, norm), LM(tied=True), 32)
    table = {"embedding.table": "transformer.word_embeddings.weight"}
    norms = {"first_norm": "word_embeddings_layernorm", "norm": "ln_f"}
    norms |= {
        "layers.{i}.attn_pre": "h.{i}.input_layernorm",
        "layers.{i}.mlp_pre": "h.{i}.post_attention_layernorm",
    }
    for a, b in norms.items():
        table |= {f"decoder.{a}.{n}": f"transformer.{b}.{n}" for n in ("weight", "bias")}
    for i in range(2):
        at = f"transformer.h.{i}.self_attention.query_key_value."
        for name in ("weight", "bias"):
            parts = w[at + name].reshape(heads, 3, 4, -1)
            for j, n in enumerate("qkv"):
                w[f"{at}{n}.{name}"] = parts[:, j].reshape((width, width) if name == "weight" else (width,))
    at = "transformer.h.{i}."
    for a, b in (("w", "weight"), ("b", "bias")):
        names = {f"attn.{a}{n}": f"self_attention.query_key_value.{n}.{b}" for n in "qkv"}
        names |= {f"attn.{a}o": f"self_attention.dense.{b}"}
        letter = "b" if a == "b" else ""
        names |= {f"mlp.{letter}up": f"mlp.dense_h_to_4h.{b}", f"mlp.{letter}down": f"mlp.dense_4h_to_h.{b}"}
        table |= {f"decoder.layers.{{i}}.{ours}": at + theirs for ours, theirs in names.items()}
    engine = NumpyEngine(config, leaves_of(config, table, w))
    ids = np.random.default_rng(0).integers(0, 31, (2, 9))
    equal(steps(engine, None, ids), in_float64(model, t(ids), use_cache=False).logits, EXACT)
