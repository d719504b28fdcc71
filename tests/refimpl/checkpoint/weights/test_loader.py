"""Strict loading: every leaf found exactly once, every tensor read or checked."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import llama
from tfm.refimpl.checkpoint.formats.named_tensors import stripped
from tfm.refimpl.checkpoint.weights.derived_buffers import COMPUTED
from tfm.refimpl.checkpoint.weights.loader import Leaves, check_finite
from tfm.refimpl.checkpoint.weights.weight_map import weight_map
from tfm.refimpl.config import HeadNorm, MoE, RMSNorm
from tfm.refimpl.errors import CheckpointError, NumericError
from tfm.refimpl.ops.quant import Blocks, dequantize, quantize
from tfm.refimpl.params.lazy import Lazy, materialize
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten

CONFIG = tiny_models.llama(layers=2, bias=True, tied=False)
TIED = tiny_models.llama(layers=1)
INV_FREQ = "layers.0.self_attn.rotary_emb.inv_freq"


class InMemorySource:
    """Tensors in memory as a TensorSource."""

    def __init__(self, tensors, kinds=None, blocks=None):
        self.tensors, self.kinds, self.blocks = tensors, kinds or {}, blocks or {}

    names = property(lambda self: tuple(self.tensors))

    def kind(self, name):
        return self.kinds.get(name, "F32")

    def shape(self, name):
        return self.tensors[name].shape

    def load(self, name, part=None):
        return self.tensors[name] if part is None else self.tensors[name][part]

    def native(self, name, part=None):
        return self.blocks.get(name if part is None else (name, part))


def theirs(config, tree) -> dict[str, np.ndarray]:
    """The tensors that Llama's map would read as `tree`."""
    leaves = dict(flatten(tree))
    return {
        rule.tensors[0]: leaves[rule.leaves[0]].T if rule.steps else leaves[rule.leaves[0]]
        for rule in llama.WEIGHTS.rules(config)
        if rule.leaves[0] in leaves and rule.use == "read"
    }


def test_names_that_become_one_without_a_prefix_are_refused():
    source = InMemorySource({"model.norm": np.zeros(1), "norm": np.zeros(1)})
    with pytest.raises(CheckpointError, match=r"'model\.norm' and as 'norm'"):
        stripped(source, ["model."])


def test_all_leaves_arrive():
    tree = tiny_models.weights(CONFIG)
    got = Leaves(CONFIG, InMemorySource(theirs(CONFIG, tree)), llama.WEIGHTS)
    assert list(got.names) == list(parameter_shapes(CONFIG))
    want = dict(flatten(tree))
    for name, leaf in ((name, got.load(name)) for name in got.names):
        assert np.array_equal(leaf, want[name]), name
        assert got.shapes[name] == leaf.shape
        assert got.kind(name) == "F32"


@pytest.mark.parametrize("name", sorted(theirs(CONFIG, tiny_models.weights(CONFIG))))
def test_a_missing_and_a_misshapen_tensor(name):
    tensors = theirs(CONFIG, tiny_models.weights(CONFIG))
    without = {k: v for k, v in tensors.items() if k != name}
    with refused(CheckpointError, f"'{name}'", "missing"):
        Leaves(CONFIG, InMemorySource(without), llama.WEIGHTS)
    wrong = {**tensors, name: np.zeros((*tensors[name].shape[:-1], 5), np.float32)}
    with refused(CheckpointError, f"'{name}'", 5):
        Leaves(CONFIG, InMemorySource(wrong), llama.WEIGHTS)


@pytest.mark.parametrize(
    "name", ["extra", "layers.2.input_layernorm.weight", "layers.0.self_attn.q_proj.bias"]
)
def test_an_unread_tensor(name):
    tensors = theirs(TIED, tiny_models.weights(TIED)) | {name: np.zeros(3, np.float32)}
    with refused(CheckpointError, 1, "tensors", f"'{name}'"):
        Leaves(TIED, InMemorySource(tensors), llama.WEIGHTS)


def test_a_leaf_without_a_line():
    with refused(CheckpointError, "weights"):
        Leaves(
            TIED, InMemorySource({"t": np.zeros((97, 48), np.float32)}), weight_map("embedding.table <- t")
        )


def test_a_tied_table_that_is_stored_twice():
    tensors = theirs(TIED, tiny_models.weights(TIED))
    table = tensors["embed_tokens.weight"]
    Leaves(TIED, InMemorySource({**tensors, "lm_head.weight": table.copy()}), llama.WEIGHTS)
    with refused(CheckpointError, "'lm_head.weight'", "embedding.table"):
        Leaves(TIED, InMemorySource({**tensors, "lm_head.weight": table + 1}), llama.WEIGHTS)


@pytest.mark.parametrize(("kind", "dtype"), [("F32", np.float32), ("F16", np.float16)])
def test_stored_frequencies_that_differ_are_told(kind, dtype):
    tensors = theirs(TIED, tiny_models.weights(TIED))
    right = (10_000.0 ** (-np.arange(0, 16, 2) / 16)).astype(dtype).astype(np.float32)
    for stored, same in ((right, True), (right * 1.01, False), (right[:4], False), (right[::-1], False)):
        source = InMemorySource({**tensors, INV_FREQ: stored}, {INV_FREQ: kind})
        assert (Leaves(TIED, source, llama.WEIGHTS).notes == ()) is same


@pytest.mark.parametrize("name", ["waves", "position_ids"])
def test_a_table_is_made_only_where_the_file_holds_one(name, monkeypatch):
    """A small file whose config states a long context asks for no memory."""
    monkeypatch.setitem(COMPUTED, name, lambda config: pytest.fail("was made"))
    tensors = theirs(TIED, tiny_models.weights(TIED)) | {"table": np.zeros((1, 1), np.float32)}
    with refused(CheckpointError, "'table'", name, "shapes"):
        Leaves(TIED, InMemorySource(tensors), llama.WEIGHTS + weight_map(f"{name} == table"))


def test_a_table_of_waves_where_the_model_has_none():
    table = np.zeros((TIED.context, TIED.embedding.width), np.float32)
    tensors = theirs(TIED, tiny_models.weights(TIED)) | {"table": table}
    with refused(CheckpointError, "'table'"):
        Leaves(TIED, InMemorySource(tensors), llama.WEIGHTS + weight_map("waves == table"))


@pytest.mark.parametrize("score", [-1e4, -1e9, -np.inf])
def test_a_stored_mask_is_checked(score):
    tensors = theirs(TIED, tiny_models.weights(TIED))
    table = llama.WEIGHTS + weight_map("causal == mask\n masked_score == score")
    mask = np.tri(TIED.context, dtype=np.float32)[None, None]
    right = {**tensors, "mask": mask, "score": np.array(score, np.float32)}
    Leaves(TIED, InMemorySource(right), table)
    for wrong in (1 - mask, mask[0], mask[:, :, :-1, :-1], mask.swapaxes(2, 3)):
        with refused(CheckpointError, "'mask'"):
            Leaves(TIED, InMemorySource({**right, "mask": wrong}), table)
    for wrong in (np.array(-1.0), np.array(np.nan), np.array([score, score])):
        with refused(CheckpointError, "'score'", "masked_score"):
            Leaves(TIED, InMemorySource({**right, "score": wrong}), table)


FUSED = """
    decoder.layers.{i}.attn.wq, wk, wv <- l{i}.qkv : transpose
    decoder.layers.{i}.attn.bq, bk, bv <- l{i}.b
"""


def test_a_fused_tensor_is_split_by_the_sizes_of_the_leaves():
    leaves = dict(flatten(tiny_models.weights(CONFIG)))
    tensors, blocks = dict(leaves), {}
    for i in range(2):
        attn = f"decoder.layers.{i}.attn."
        joined = np.concatenate([tensors.pop(f"{attn}w{x}") for x in "qkv"], axis=1)
        tensors[f"l{i}.qkv"] = joined.T
        tensors[f"l{i}.b"] = np.concatenate([tensors.pop(f"{attn}b{x}") for x in "qkv"])
        blocks[f"l{i}.qkv"] = quantize(joined.T, bits=4, block=16, axis=1, symmetric=False)
    rest = "\n".join(f"{name} <- {name}" for name in tensors if name in leaves)
    made = Leaves(CONFIG, InMemorySource(tensors, blocks=blocks), weight_map(FUSED + rest))
    for name, want in leaves.items():
        assert np.array_equal(made.load(name), want), name
    native = made.native("decoder.layers.1.attn.wk")
    assert isinstance(native, Blocks)
    whole = quantize(tensors["l1.qkv"].T, bits=4, block=16, axis=0, symmetric=False)
    assert np.array_equal(dequantize(native), dequantize(whole)[:, 96:128])
    assert made.native("decoder.norm.weight") is None


OTHER = """
    embedding.table <- (new|old).table
    nothing <- old.table
    for MaskedLM, Pool:
    head.dense.weight <- out
    for LM:
    decoder.norm.weight <- norm.(new|old)
"""


def test_another_name_of_a_tensor_and_the_lines_of_a_head():
    leaves = dict(flatten(tiny_models.weights(TIED)))
    table, norm = leaves.pop("embedding.table"), leaves.pop("decoder.norm.weight")
    rest = "\n".join(f"{name} <- {name}" for name in leaves)
    for names in (["new.table"], ["old.table"], ["old.table", "new.table"]):
        tensors = {**leaves, **{name: table + (name == "old.table") for name in names}, "norm.old": norm}
        made = Leaves(TIED, InMemorySource({**tensors, "out": norm}), weight_map(rest + OTHER))
        assert np.array_equal(made.load("embedding.table"), table + (names == ["old.table"]))
        assert made.unused == (("old.table",) if len(names) == 2 else ()) + ("out",)
        assert np.array_equal(made.load("decoder.norm.weight"), norm)
    with refused(CheckpointError, "'norm.new'", "missing", "decoder.norm.weight"):
        Leaves(TIED, InMemorySource({**leaves, "new.table": table}), weight_map(rest + OTHER))


def test_unpermuting_gives_halves_from_pairs():
    heads, size = 3, 8
    table = "decoder.layers.{i}.attn.wq <- q : unpermute transpose\n"
    config = tiny_models.llama(layers=1, width=4, heads=heads, kv_heads=1, head_size=size)
    rest = "\n".join(f"{k} <- {k}" for k in parameter_shapes(config) if not k.endswith("wq"))
    tensors = {k: v for k, v in flatten(tiny_models.weights(config)) if not k.endswith("wq")}
    plain = np.arange(heads * size * 4, dtype=np.float32).reshape(heads * size, 4)
    # The converter's own formula, llama.cpp's `permute`.
    tensors["q"] = plain.reshape(heads, 2, size // 2, 4).swapaxes(1, 2).reshape(plain.shape)
    made = Leaves(config, InMemorySource(tensors), weight_map(table + rest))
    assert np.array_equal(made.load("decoder.layers.0.attn.wq"), plain.T)


def test_a_tensor_for_each_head_is_stacked_even_if_there_is_one():
    plain = tiny_models.llama(layers=1, heads=3, kv_heads=1)
    attention = replace(plain.layers[0].attention, qk_norm=HeadNorm(RMSNorm(1e-5), "each"))
    layers = (replace(plain.layers[0], attention=attention),)
    config = replace(plain, stack=replace(plain.stack, layers=layers))
    leaves = dict(flatten(tiny_models.weights(config)))
    table, tensors = "", dict(leaves)
    for leaf in ("q_norm", "k_norm"):
        name = f"decoder.layers.0.attn.{leaf}"
        tensors |= {f"{leaf}{h}": row for h, row in enumerate(tensors.pop(name))}
        table += f"{name} <- {leaf}{{h}}\n".replace("layers.0", "layers.{i}")
    assert {"q_norm2", "k_norm0"} <= set(tensors)
    table += "\n".join(f"{name} <- {name}" for name in tensors if name in leaves)
    made = Leaves(config, InMemorySource(tensors), weight_map(table))
    for name, want in leaves.items():
        assert np.array_equal(made.load(name), want), name


JOINED = "decoder.layers.{i}.attn.wo <- a{i} + b{i} + c{i} : transpose\n"


def test_tensors_that_are_parts_of_one():
    """Rows of the stored matrix lie in three tensors, of different heights."""
    config = tiny_models.llama()
    leaves = dict(flatten(tiny_models.weights(config)))
    tensors = {name: leaf for name, leaf in leaves.items() if not name.endswith("wo")}
    rest = "\n".join(f"{name} <- {name}" for name in tensors)
    for i in range(2):
        parts = np.split(leaves[f"decoder.layers.{i}.attn.wo"].T, [10, 25])
        tensors |= {f"{name}{i}": part for name, part in zip("abc", parts, strict=True)}
    source = InMemorySource(tensors, blocks={"a0": quantize(tensors["a0"], bits=4, block=8, axis=1)})
    made = Leaves(config, source, weight_map(JOINED + rest))
    for name, want in leaves.items():
        assert np.array_equal(made.load(name), want), name
    assert made.native("decoder.layers.0.attn.wo") is None, "one of its parts has blocks"
    short = {**tensors, "b1": tensors["b1"][1:]}
    with refused(CheckpointError, "'a1'", "'b1'", "'c1'", "shape", "[48, 96]"):
        Leaves(config, InMemorySource(short), weight_map(JOINED + rest))
    del tensors["c0"]
    with refused(CheckpointError, "'c0'", "missing"):
        Leaves(config, InMemorySource(tensors), weight_map(JOINED + rest))


def test_a_matrix_with_an_update_of_two_factors():
    """Two layers read the same matrix, each with factors of its own."""
    config = tiny_models.llama()
    leaves = dict(flatten(tiny_models.weights(config)))
    tensors = {name: leaf for name, leaf in leaves.items() if not name.endswith("wo")}
    rest = "\n".join(f"{name} <- {name}" for name in tensors)
    table = weight_map("decoder.layers.{i}.attn.wo <- w + up{i} @ down{i} : transpose").tied()
    rng = np.random.default_rng(0)
    wo = leaves["decoder.layers.0.attn.wo"].T
    shapes = {f"{name}{i}": shape for i in range(2) for name, shape in (("up", (48, 3)), ("down", (3, 96)))}
    tensors |= {"w": wo} | {k: rng.standard_normal(shape).astype(np.float32) for k, shape in shapes.items()}
    source = InMemorySource(tensors, blocks={"w": quantize(wo, bits=4, block=8, axis=1)})
    made = Leaves(config, source, table + weight_map(rest))
    for i in range(2):
        exact = wo.astype(np.float64) + tensors[f"up{i}"].astype(np.float64) @ tensors[f"down{i}"]
        assert np.array_equal(made.load(f"decoder.layers.{i}.attn.wo"), exact.astype(np.float32).T)
    assert made.native("decoder.layers.0.attn.wo") is None, "blocks have no room for an update"
    narrow = {**tensors, "up1": tensors["up1"][:, 1:]}
    with refused(CheckpointError, "'up1'", "'down1'", "[48, r]", "[48, 2]"):
        Leaves(config, InMemorySource(narrow), table + weight_map(rest))
    del tensors["down0"]
    with refused(CheckpointError, "'down0'", "missing"):
        Leaves(config, InMemorySource(tensors), table + weight_map(rest))


EXPERTS = """
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- in{i}[{e}] : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- out{i}[{e}]
    decoder.layers.{i}.mlp.shared_gate <- gate{i} : column
"""


def stacked(config) -> tuple[dict, dict]:
    """The leaves of a mixture, and tensors that hold all of its experts."""
    tensors = dict(flatten(tiny_models.weights(config)))
    leaves = dict(tensors)
    for i, layer in enumerate(config.layers):
        assert isinstance(layer.mlp, MoE)
        at = f"decoder.layers.{i}.mlp."
        experts = [f"{at}experts.{e}." for e in range(layer.mlp.experts)]
        fused = [np.concatenate([tensors.pop(f"{x}gate"), tensors.pop(f"{x}up")], axis=1).T for x in experts]
        tensors[f"in{i}"] = np.stack(fused)
        tensors[f"out{i}"] = np.stack([tensors.pop(f"{x}down") for x in experts])
    tensors["gate1"] = tensors.pop("decoder.layers.1.mlp.shared_gate")[:, 0]
    return leaves, tensors


def test_an_expert_is_a_part_of_one_tensor():
    config = tiny_models.mixture()
    leaves, tensors = stacked(config)
    rest = "\n".join(f"{name} <- {name}" for name in tensors if name in leaves)
    quantized = quantize(tensors["in1"][2], bits=4, block=8, axis=1)
    made = Leaves(config, InMemorySource(tensors, blocks={("in1", 2): quantized}), weight_map(EXPERTS + rest))
    for name, want in leaves.items():
        assert np.array_equal(made.load(name), want), name
    assert made.native("decoder.layers.1.mlp.experts.1.up") is None
    blocks = made.native("decoder.layers.1.mlp.experts.2.up")
    assert isinstance(blocks, Blocks)
    assert np.array_equal(dequantize(blocks), dequantize(quantized)[28:].T)
    for wrong in (tensors["in1"][:3], np.concatenate([tensors["in1"]] * 2)):
        with refused(CheckpointError, "'in1'", 4, len(wrong)):
            Leaves(config, InMemorySource({**tensors, "in1": wrong}), weight_map(EXPERTS + rest))
    del tensors["out1"]
    with refused(CheckpointError, "'out1'", "missing"):
        Leaves(config, InMemorySource(tensors), weight_map(EXPERTS + rest))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite(bad):
    tensors = theirs(TIED, tiny_models.weights(TIED))
    name = "layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][7, 3] = bad
    made = Leaves(TIED, InMemorySource(tensors), llama.WEIGHTS)
    with refused(NumericError, "decoder.layers.0.mlp.up[3", 7, "finite", bad):
        made.load("decoder.layers.0.mlp.up")


def test_blocks_that_are_not_finite():
    blocks = quantize(np.ones((4, 64), np.float32), bits=4, block=32, axis=1)
    blocks.scale[2, 1] = np.inf
    with refused(NumericError, "(scale)", "[2, 1]", "finite"):
        check_finite("x", blocks)


def test_a_lazy_tree_reads_when_asked():
    asked = []
    tree = Lazy({"a": {"b": "a.b"}, "c": [{"d": "c.0.d"}]}, lambda name: asked.append(name) or name)
    assert (len(tree), "a" in tree, "b" in tree, asked) == (2, True, False, [])
    assert list({**tree["a"]}.values()) == ["a.b"] == asked
    assert tree.get("x") is None
    assert materialize(tree) == {"a": {"b": "a.b"}, "c": [{"d": "c.0.d"}]}
