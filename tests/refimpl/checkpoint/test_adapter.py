"""Adapters merged into their base: logits equal peft's own, and what can't be honoured is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from helpers import gguf_writer
from helpers.hf_oracle import draw_keys, make_model
from helpers.peft_oracle import change_settings, compare_with_peft, write_adapter
from helpers.refused import pattern, refused
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_torch_file
from tfm.export.quantization import plan
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint
from tfm.refimpl.config import LM, Classify, MaskedLM
from tfm.refimpl.errors import CheckpointError, ExportError, TfmError
from tfm.runtime.bundle import schemes, targets

LLAMA: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 64, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 32,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BERT: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32, "pad_token_id": 0,
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": 61, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 32,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
BART: dict[str, Any] = {
    "vocab_size": 61, "d_model": 24, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 20, "decoder_ffn_dim": 20, "max_position_embeddings": 32,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2,
}  # fmt: skip
NEOX = {key: value for key, value in LLAMA.items() if key not in ("num_key_value_heads", "head_dim")}
# A family, the number of its class in ROWS, keys, and settings of the adapter.
CASES: dict[str, tuple[str, int, dict[str, Any], dict[str, Any]]] = {
    "biases": ("qwen2", 0, LLAMA, {"target_modules": ["q_proj", "down_proj"], "bias": "all"}),
    "biases of targets": ("qwen2", 0, LLAMA, {"target_modules": ["k_proj"], "bias": "lora_only"}),
    "Conv1D, fused": ("gpt2", 0, GPT2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "Conv1D with DoRA": ("gpt2", 0, GPT2, {"target_modules": ["c_attn", "mlp.c_proj"], "use_dora": True}),
    "tables": ("gpt2", 0, GPT2, {"target_modules": ["wte", "wpe", "c_fc"]}),
    "grouped heads": ("gpt_neox", 0, NEOX, {"target_modules": ["query_key_value", "embed_out"]}),
    "grouped heads with DoRA": (
        "gpt_neox",
        0,
        NEOX,
        {"target_modules": ["query_key_value"], "use_dora": True},
    ),
    "fused": ("phi3", 0, LLAMA, {"target_modules": "all-linear", "use_rslora": True}),
    "tied": ("gemma", 0, LLAMA, {"target_modules": ["embed_tokens", "o_proj"], "use_dora": True}),
    "names of modules": (
        "mistral_large4",
        0,
        draw_keys("mistral_large4", 1)[0],
        {"target_modules": r".*language_model.*\.(o_proj|wq_b)"},
    ),
    "followed": ("gemma", 0, LLAMA, {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "followed, saved": (
        "gemma",
        0,
        LLAMA,
        {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "saved": (
        "gemma",
        0,
        LLAMA,
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head", "input_layernorm"]},
    ),
    "classifier": ("bert", 3, BERT, {"target_modules": ["query", "output.dense"], "task_type": "SEQ_CLS"}),
    "tags": ("roberta", 3, BERT | {"pad_token_id": 1}, {"target_modules": ["key"], "task_type": "TOKEN_CLS"}),
    "score": (
        "llama",
        2,
        LLAMA | {"pad_token_id": 0},
        {"target_modules": ["v_proj"], "task_type": "SEQ_CLS"},
    ),
    "both stacks": (
        "bart",
        0,
        BART,
        {"target_modules": ["q_proj", "fc1", "lm_head"], "task_type": "SEQ_2_SEQ_LM"},
    ),
}


def write(folder: Path, family: str, kind: int, keys: dict[str, Any], **adapter: Any) -> torch.nn.Module:
    """A base in folder/base, its adapter in folder/adapter: the base's model, without the adapter."""
    model = make_model(family, keys, kind)
    model.save_pretrained(folder / "base")
    write_adapter(make_model(family, keys, kind), folder / "adapter", **{"r": 3, **adapter})
    return model


def merged(folder: Path) -> Checkpoint:
    return open_checkpoint(folder / "base", folder / "adapter")


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_peft(tmp_path: Path, case: str):
    family, kind, keys, adapter = CASES[case]
    model = write(tmp_path, family, kind, keys, lora_alpha=5, **adapter)
    checkpoint = merged(tmp_path)
    assert compare_with_peft(model, tmp_path / "adapter", checkpoint) <= 1
    # What is compared isn't the base alone.
    assert checkpoint.changed
    base = open_checkpoint(tmp_path / "base")
    shared = [name for name in checkpoint.changed if name in base.leaves.names]
    assert all(not np.array_equal(checkpoint.leaf(name), base.leaf(name)) for name in shared)
    if case in ("tables", "tied", "saved", "both stacks"):
        assert isinstance(checkpoint.config.head, LM)
        assert not checkpoint.config.head.tied


def test_a_weight_that_layers_share_is_refused(tmp_path: Path):
    """peft would change one use of it: each layer of Zamba 2 has a module of its own."""
    keys: dict[str, Any] = {
        "vocab_size": 61, "hidden_size": 16, "intermediate_size": 20, "num_attention_heads": 4,
        "n_mamba_heads": 4, "adapter_rank": 2, "layers_block_type": ["hybrid", "hybrid"],
        "num_hidden_layers": 2,
    }  # fmt: skip
    write(tmp_path, "zamba2", 0, keys, target_modules=["o_proj"])
    with refused(CheckpointError, "o_proj", "several layers"):
        merged(tmp_path)


@pytest.mark.parametrize("follows", [True, False])
def test_a_shared_table_stays_shared_only_where_the_output_follows(tmp_path: Path, follows: bool):
    """As a peft that writes a table once has it: the settings say whether the output follows."""
    saved = {
        "target_modules": ["v_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": follows,
    }
    write(tmp_path, "gemma", 0, LLAMA, **saved)
    tensors, file = tensors_of(tmp_path)
    tensors.pop("base_model.model.lm_head.weight", None)
    save_file(tensors, file)
    checkpoint, base = merged(tmp_path), open_checkpoint(tmp_path / "base")
    table = checkpoint.leaf("embedding.table")
    assert np.array_equal(table, tensors["base_model.model.model.embed_tokens.weight"])
    assert (checkpoint.config == base.config) == follows
    if not follows:
        assert np.array_equal(checkpoint.leaf("head.table"), base.leaf("embedding.table"))
        assert checkpoint.leaves.kind("head.table") == "F32"


def test_a_tensor_of_no_saved_module_replaces_the_shared_table(pair: Path, tmp_path: Path):
    shutil.copytree(pair, tmp_path, dirs_exist_ok=True)
    tensors, file = tensors_of(tmp_path)
    table = np.linspace(-1, 1, 61 * 64, dtype=np.float32).reshape(61, 64)
    embed = "base_model.model.model.embed_tokens"
    save_file(tensors | {f"{embed}.weight": table}, file)
    checkpoint = merged(tmp_path)
    assert checkpoint.config == open_checkpoint(tmp_path / "base").config
    assert np.array_equal(checkpoint.leaf("embedding.table"), table)
    # Of a table that is also adapted, the update is of the input alone.
    update = {
        f"{embed}.lora_embedding_A": np.ones((3, 61), "f4"),
        f"{embed}.lora_embedding_B": np.ones((64, 3), "f4"),
    }
    save_file(tensors | update | {f"{embed}.base_layer.weight": table}, file)
    change_settings(tmp_path / "adapter", target_modules=["q_proj", "v_proj", "embed_tokens"])
    checkpoint = merged(tmp_path)
    assert np.array_equal(checkpoint.leaf("head.table"), table)
    assert np.array_equal(
        checkpoint.leaf("embedding.table"), (table.astype(np.float64) + 8).astype(np.float32)
    )


@st.composite
def lora_settings(draw: st.DrawFn) -> dict[str, Any]:
    """Settings of an adapter of a Llama, each of which changes numbers."""
    names = ["q_proj", "k_proj", "o_proj", "gate_proj", "down_proj"]
    targets = st.one_of(
        st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True),
        st.sampled_from(["all-linear", r".*\.(q|down)_proj", r"model\.layers\.\d+\.mlp\.[^.]*_proj"]),
    )
    ranks = st.sampled_from(
        [{}, {"q_proj": 2}, {"^model.layers.1.self_attn.q_proj": 1}, {r"layers\.0\..*_proj": 5, "o_proj": 1}]
    )
    drawn = {
        "r": draw(st.integers(1, 4)),
        "lora_alpha": draw(st.sampled_from([1, 7, 16])),
        "target_modules": draw(targets),
        "rank_pattern": draw(ranks),
        "alpha_pattern": draw(ranks),
        "use_rslora": draw(st.booleans()),
        "use_dora": draw(st.booleans()),
        "modules_to_save": draw(st.sampled_from([None, ["lm_head"], ["embed_tokens"], ["model.norm"]])),
        "ensure_weight_tying": draw(st.booleans()),
        "exclude_modules": draw(st.sampled_from([None, ["self_attn.o_proj"], r".*layers\.1\.mlp.*"])),
    }
    by_layer = isinstance(drawn["target_modules"], list) and not isinstance(drawn["exclude_modules"], str)
    if by_layer and (layers := draw(st.sampled_from([None, 1, [1], [0, 1]]))) is not None:
        drawn |= {"layers_to_transform": layers, "layers_pattern": draw(st.sampled_from([None, "layers"]))}
    if drawn["target_modules"] == ["o_proj"]:
        drawn["exclude_modules"] = None  # nothing would be left
    return drawn


@given(lora_settings(), st.booleans(), st.integers(0, 2**16))
@settings(max_examples=12, phases=(Phase.explicit, Phase.generate))
def test_drawn_settings_mean_what_they_mean_to_peft(
    tmp_path_factory: pytest.TempPathFactory, adapter: dict[str, Any], tied: bool, seed: int
):
    folder = tmp_path_factory.mktemp("drawn")
    model = write(folder, "llama", 0, LLAMA | {"tie_word_embeddings": tied}, seed=seed, **adapter)
    assert compare_with_peft(model, folder / "adapter", merged(folder), seed) <= 1


def test_a_head_that_the_base_does_not_have_comes_with_the_adapter(tmp_path: Path):
    write(
        tmp_path,
        "roberta",
        2,
        BERT | {"pad_token_id": 1, "num_labels": 3},
        target_modules=["key"],
        task_type="SEQ_CLS",
    )
    trained = make_model("roberta", BERT | {"pad_token_id": 1, "num_labels": 3}, 2)
    # The base as it is fetched: a masked language model, which says nothing of labels.
    shutil.rmtree(tmp_path / "base")
    base = make_model("roberta", BERT | {"pad_token_id": 1}, 1)
    base.roberta.load_state_dict(trained.roberta.state_dict())
    base.save_pretrained(tmp_path / "base")
    assert isinstance(open_checkpoint(tmp_path / "base").config.head, MaskedLM)
    checkpoint = merged(tmp_path)
    assert isinstance(checkpoint.config.head, Classify)
    assert checkpoint.labels == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert "lm_head.bias" in checkpoint.leaves.unused
    assert compare_with_peft(trained, tmp_path / "adapter", checkpoint) <= 1


def test_experts_that_were_adapted_one_by_one(tmp_path: Path):
    """transformers 5 keeps experts in one tensor; adapters of earlier ones name each, which peft converts."""
    keys = LLAMA | {"num_local_experts": 3, "num_experts_per_tok": 2, "experts_implementation": "eager"}
    model = write(tmp_path, "mixtral", 0, keys, target_modules=["q_proj"], lora_alpha=4)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors, rng = load_file(file), np.random.default_rng(0)
    for layer in range(2):
        for expert in range(3):
            for name, inputs, outputs in (("w1", 64, 20), ("w2", 20, 64), ("w3", 64, 20)):
                at = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
                tensors[f"{at}.lora_A.weight"] = rng.normal(0, 0.3, (3, inputs)).astype(np.float32)
                tensors[f"{at}.lora_B.weight"] = rng.normal(0, 0.3, (outputs, 3)).astype(np.float32)
    save_file(tensors, file)
    change_settings(tmp_path / "adapter", target_modules=["q_proj", "w1", "w2", "w3"])
    checkpoint = merged(tmp_path)
    assert len(checkpoint.changed) == 2 + 2 * 3 * 3
    assert compare_with_peft(model, tmp_path / "adapter", checkpoint) <= 1


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in base/, an adapter of it in adapter/."""
    folder = tmp_path_factory.mktemp("pair")
    write(folder, "llama", 0, LLAMA | {"tie_word_embeddings": True}, target_modules=["q_proj", "v_proj"])
    return folder


@pytest.fixture
def copied(pair: Path, tmp_path: Path) -> Path:
    """The same in a folder of this test's own."""
    shutil.copytree(pair, tmp_path / "pair")
    return tmp_path / "pair"


def test_an_adapter_beside_its_base_is_named_or_declined(copied: Path):
    base, alone = copied / "base", open_checkpoint(copied / "base")
    named = merged(copied)
    for file in (copied / "adapter").iterdir():
        shutil.copy(file, base)
    with refused(CheckpointError, "adapter="):
        open_checkpoint(base)
    leaf = "decoder.layers.1.attn.wv"
    assert np.array_equal(open_checkpoint(base, adapter=False).leaf(leaf), alone.leaf(leaf))
    assert np.array_equal(open_checkpoint(base, base).leaf(leaf), named.leaf(leaf))
    assert open_checkpoint(base, adapter=False).source["sha256"] == alone.source["sha256"]
    assert alone.adapter_source is None
    assert named.adapter_source is not None
    assert named.adapter_source["name"] == "adapter"
    assert named.source == alone.source


def test_an_adapter_alone_asks_for_its_base_by_name(copied: Path):
    change_settings(copied / "adapter", base_model_name_or_path="org/some-base")
    with refused(CheckpointError, "'org/some-base'"):
        open_checkpoint(copied / "adapter")
    shutil.copy(copied / "base" / "config.json", copied / "adapter")  # as some trainers leave it
    with refused(CheckpointError, "'org/some-base'"):
        open_checkpoint(copied / "adapter")


def test_a_base_of_another_name_is_a_note(copied: Path):
    for stated, count in (("some/Base", 0), ("some/base-7b", 1), (None, 0)):
        change_settings(copied / "adapter", base_model_name_or_path=stated)
        notes = merged(copied).notes
        assert len(notes) == count, stated
    change_settings(copied / "adapter", base_model_name_or_path="some/base-7b")
    (copied / "adapter" / "tokenizer.json").write_text("{}")
    first, second = merged(copied).notes
    assert re.search(pattern("adapter", "'some/base-7b'", "given", "'base'"), first)
    assert "tokenizer" in second


MODEL = "base_model.model.model"
Q = f"{MODEL}.layers.0.self_attn.q_proj"
# Tensors that are added to an adapter's, or stand in the place of others, and words of the error.
OTHER_TENSORS: dict[str, tuple[dict[str, np.ndarray], str]] = {
    "unread": ({"base_model.model.x": np.ones(3, "f4")}, "LoRA update whole weight"),
    "other prefix": ({"q.lora_A.weight": np.ones((3, 64), "f4")}, "named base_model.model."),
    "other inputs": ({f"{Q}.lora_A.weight": np.ones((3, 65), "f4")}, "32 outputs 65"),
    "other outputs": ({f"{Q}.lora_B.weight": np.ones((31, 3), "f4")}, "32 outputs 64 31"),
    "other rank": ({f"{Q}.lora_B.weight": np.ones((32, 2), "f4")}, "r match out r"),
    "no decimals": ({f"{Q}.lora_B.weight": np.ones((32, 3), "i8")}, "floating-point tensor"),
    "not finite": ({f"{Q}.lora_B.weight": np.full((32, 3), np.inf, "f4")}, "finite"),
    "magnitudes": ({f"{Q}.lora_magnitude_vector": np.ones(32, "f4")}, "use_dora false"),
    "magnitudes of others": ({f"{Q}.lora_magnitude_vector": np.ones(31, "f4")}, "one number each output"),
    "other shape": ({f"{MODEL}.norm.weight": np.ones(5, "f4")}, "shape [64] [5]"),
    "more words": ({f"{MODEL}.embed_tokens.weight": np.ones((66, 64), "f4")}, "64 66 64"),
    "twice": ({f"{Q}.{end}weight": np.ones((32, 64), "f4") for end in ("", "base_layer.")}, "stored once"),
}  # fmt: skip
# What is replaced in all names of tensors, by what, and words of the error.
RENAMED = {
    "name of the adapter": ("lora_A.weight", "lora_A.default.weight", "one two matrices"),
    "no such layer": ("layers.0", "layers.7", "belong weight base model uses"),
    "half": (".lora_A.", ".lora_C.", "LoRA update whole weight"),
    "of a table": ("lora_A.weight", "lora_embedding_A", "other tensor module"),
}
OTHER_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "rank": ({"r": 2}, "rank 2 3"),
    "rank of a pattern": ({"rank_pattern": {"layers.1.*v_proj": 4}}, "rank 4 3"),
    "no magnitudes": ({"use_dora": True}, "use_dora true"),
    "not a target": ({"target_modules": ["q_proj"]}, "v_proj' adapted module"),
    "not its layer": ({"layers_to_transform": [1]}, "layers.0.self_attn adapted module"),
    "excluded": ({"exclude_modules": r".*\.0\..*"}, "layers.0.self_attn adapted module"),
    "saved whole": ({"modules_to_save": ["self_attn"]}, "adapted module"),
}


def read_all(folder: Path) -> None:
    checkpoint = merged(folder)
    for name in checkpoint.leaves.names:
        checkpoint.leaf(name)


def tensors_of(folder: Path) -> tuple[dict[str, np.ndarray], Path]:
    file = folder / "adapter" / "adapter_model.safetensors"
    return load_file(file), file


@pytest.mark.parametrize("case", OTHER_TENSORS)
def test_tensors_that_contradict_the_base_are_refused(copied: Path, case: str):
    other, words = OTHER_TENSORS[case]
    tensors, file = tensors_of(copied)
    save_file(tensors | other, file)
    with refused(TfmError, *words.split()):
        read_all(copied)


@pytest.mark.parametrize("case", RENAMED)
def test_names_that_nothing_reads_are_refused(copied: Path, case: str):
    old, new, words = RENAMED[case]
    tensors, file = tensors_of(copied)
    save_file({name.replace(old, new): tensor for name, tensor in tensors.items()}, file)
    with refused(CheckpointError, *words.split()):
        merged(copied)


@pytest.mark.parametrize("case", OTHER_SETTINGS)
def test_settings_that_contradict_the_tensors_are_refused(copied: Path, case: str):
    settings, words = OTHER_SETTINGS[case]
    change_settings(copied / "adapter", **settings)
    with refused(CheckpointError, *words.split()):
        merged(copied)


def test_tensors_of_no_module_or_of_one_module_twice_are_refused(copied: Path):
    tensors, file = tensors_of(copied)
    for some, words in (
        ({}, "contain tensors"),
        ({k: v for k, v in tensors.items() if "lora_B" not in k}, "together lora_B tensor"),
        ({k: v for k, v in tensors.items() if "lora_A" not in k}, "together lora_A tensor"),
        (
            tensors | {k.replace("model.model.model.", "model.model."): v for k, v in tensors.items()},
            "one update",
        ),
    ):
        save_file(some, file)
        with refused(CheckpointError, *words.split()):
            merged(copied)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_damaged_adapters_are_read_or_end_in_a_typed_error(copied: Path, name: str):
    file, rng, refused = copied / "adapter" / name, np.random.default_rng(0), 0
    whole = file.read_bytes()
    for _ in range(80):
        damaged, at = bytearray(whole), int(rng.integers(min(len(whole), 2000)))
        match rng.integers(3):
            case 0:
                damaged[at] = rng.integers(256)
            case 1:
                del damaged[at : at + rng.integers(1, 20)]
            case 2:
                damaged[at:at] = damaged[at - 8 : at]
        file.write_bytes(damaged)
        try:
            read_all(copied)
        except TfmError:
            refused += 1
    assert refused > 20


def test_an_adapter_of_torch_and_files_that_are_missing(copied: Path):
    file, want = copied / "adapter" / "adapter_model.safetensors", merged(copied)
    torch.save(load_torch_file(file), file.with_suffix(".bin"))
    file.unlink()
    for name in want.leaves.names:
        assert np.array_equal(merged(copied).leaf(name), want.leaf(name))
    file.with_suffix(".bin").unlink()
    with refused(CheckpointError, "adapter_model.safetensors", "adapter_model.bin"):
        merged(copied)
    for path in (copied / "base", copied / "nowhere", file.with_suffix(".bin")):
        with refused(CheckpointError, "adapter"):
            open_checkpoint(copied / "base", path)


def test_tables_of_an_encoder_decoder_are_refused(tmp_path: Path):
    write(tmp_path, "bart", 0, BART, target_modules=["shared"])
    with refused(CheckpointError, "encoder", "decoder"):
        merged(tmp_path)


def write_gguf(path: Path, base: Path, quantized: tuple[str, ...] = ()) -> Path:
    """The base as llama.cpp has it, with the rows of queries and keys permuted, and some matrices in Q8_0."""
    tensors: dict[str, np.ndarray] = load_file(base / "model.safetensors")
    for name, value in tensors.items():
        if heads := 4 if "q_proj" in name else 2 if "k_proj" in name else 0:
            halves = value.reshape(heads, 2, -1, *value.shape[1:])
            tensors[name] = halves.swapaxes(1, 2).reshape(value.shape)
    metadata = {
        "context_length": 32, "embedding_length": 64, "block_count": 2, "feed_forward_length": 20,
        "attention.head_count": 4, "attention.head_count_kv": 2, "attention.key_length": 8,
        "attention.value_length": 8, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 10000.0,
        "rope.dimension_count": 8, "vocab_size": 61,
    }  # fmt: skip
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in metadata.items():
        add = writer.add_uint32 if isinstance(value, int) else writer.add_float32
        add(f"llama.{key}", value)
    for name, tensor in gguf_writer.renamed(gguf.MODEL_ARCH.LLAMA, tensors).items():
        kind = gguf.GGMLQuantizationType.Q8_0
        if name.endswith(quantized):
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_base_gets_the_same_update(pair: Path, tmp_path: Path):
    """The update is of the rows as they were before llama.cpp permuted them."""
    checkpoint = merged(pair)
    path = write_gguf(tmp_path / "base.gguf", pair / "base")
    from_gguf = open_checkpoint(path, pair / "adapter")
    assert from_gguf.changed == checkpoint.changed
    for name in checkpoint.leaves.names:
        assert np.array_equal(from_gguf.leaf(name), checkpoint.leaf(name)), name
    shutil.copytree(pair / "adapter", tmp_path, dirs_exist_ok=True)
    with refused(CheckpointError, "folder", "adapter"):
        open_checkpoint(path)
    change_settings(tmp_path, task_type="SEQ_CLS")
    with refused(CheckpointError, "classify"):
        open_checkpoint(path, tmp_path)


def test_a_quantized_base_is_merged_as_it_computes(pair: Path, tmp_path: Path):
    path = write_gguf(tmp_path / "q8.gguf", pair / "base", ("attn_q.weight", "attn_k.weight"))
    base, checkpoint = open_checkpoint(path), open_checkpoint(path, pair / "adapter")
    query, key = "decoder.layers.0.attn.wq", "decoder.layers.0.attn.wk"
    tensors, _ = tensors_of(pair)
    down, up = (tensors[f"{Q}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    exact = base.leaf(query) + 8 / 3 * (down.T @ up.T)
    assert np.array_equal(checkpoint.leaf(query), exact.astype(np.float32))
    assert base.native(query) is not None
    assert checkpoint.native(query) is None
    assert checkpoint.native(key) is not None
    target = targets.find("ort-cpu")
    assert any(form.native for form in plan.plan(base, schemes.find("keep"), target).formats.values())
    words = r"but the adapter changes 4 weights, the first is decoder\.layers\.0"
    with pytest.raises(ExportError, match=words):
        plan.plan(checkpoint, schemes.find("keep"), target)
