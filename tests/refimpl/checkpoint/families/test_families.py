"""Families against transformers: random weights, float64, through files and the production loader."""

import copy
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from families import ROWS
from families.kit import IDS, SIZES
from helpers import tiny_models
from helpers.hf_oracle import (
    LARGEST_ERROR,
    compare,
    compare_with_transformers,
    draw_keys,
    make_inputs,
    make_model,
    specification_outputs,
    transformers_outputs,
)
from helpers.long_texts import in_steps
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tfm.refimpl.checkpoint.config_readers.keys import HARMLESS
from tfm.refimpl.checkpoint.families import exaone, families, read_config
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.config import LM, Attention, LinearScaling, Rope, Window, to_json
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.params.tree import map_leaves

HF = sorted(set(families()) - {"tfm"})
HEADS = [(name, kind) for name in HF for kind in range(1, len(ROWS[name].models))]


def test_every_family_has_a_row():
    assert set(HF) == set(ROWS), "each family has a row in tests/families"


@pytest.mark.parametrize("name", HF)
@settings(max_examples=settings.default.max_examples // 10)
@given(data=st.data())
def test_outputs_equal_transformers(name, data):
    compare_with_transformers(name, 0, data)


@pytest.mark.parametrize(("name", "kind"), HEADS, ids=[ROWS[n].models[k].__name__ for n, k in HEADS])
def test_heads_equal_transformers(name, kind):
    """One config by default, which isn't the simplest: the family's others are compared above."""
    for seed, keys in enumerate(draw_keys(name, settings.default.max_examples // 50)):
        compare(name, kind, keys, seed, length=7)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("llama", {"is_causal": False}),
        ("qwen2", {"is_causal": False}),
        ("gemma3_text", {"use_bidirectional_attention": True, "sliding_window": 5}),
    ],
    ids=["llama", "qwen2", "gemma3_text"],
)
@settings(max_examples=settings.default.max_examples // 10)
@given(data=st.data())
def test_decoders_that_read_in_both_directions(name, more, data):
    """With Qwen's windows, too, which then count the tokens on either side, and Gemma's, which are halved."""
    compare_with_transformers(name, 1, data, **more)


@pytest.mark.parametrize("name", [name for name in HF if families()[name].UNREAD_ARCHITECTURES])
def test_classes_that_are_not_read_are_refused_with_a_reason(name):
    for unread, why in families()[name].UNREAD_ARCHITECTURES.items():
        assert hasattr(transformers, unread)
        with refused(ConfigError, "architectures", unread, why):
            read_config({"model_type": name, **ROWS[name].sizes, "architectures": [unread]})


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_a_decoder_that_sees_later_tokens_embeds_whatever_class_is_named(name):
    """gte-Qwen2 names the class that writes."""
    keys = {"model_type": name, **ROWS[name].sizes, "is_causal": False}
    writes, embeds = (model.__name__ for model in ROWS[name].models[:2])
    assert embeds.endswith("Model")
    config = read_config({**keys, "architectures": [writes]})[0]
    assert config == read_config({**keys, "architectures": [embeds]})[0]
    assert not config.stack.causal


@given(data=st.data())
@settings(max_examples=3)
def test_electras_discriminator_is_a_logit_beside_zero(data):
    row = ROWS["electra"]
    keys = data.draw(row.keys) | {"num_labels": 2, "problem_type": None}
    model = transformers.ElectraForPreTraining(row.config(**keys)).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise) * 0.3)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        checkpoint = open_checkpoint(folder)
        params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    arguments = make_inputs(model, checkpoint.config, 0, 7)
    [want] = transformers_outputs(model, arguments)
    [got] = specification_outputs(NumpyEngine(checkpoint.config, params), arguments, vectors=False)
    assert checkpoint.labels == ("LABEL_0", "LABEL_1")
    assert not got[..., 0].any()
    real = arguments["attention_mask"] == 1
    assert np.abs(got[..., 1] - want)[real].max() <= LARGEST_ERROR * np.abs(want).max()


def test_a_decoder_with_biases_of_distances_is_causal():
    keys = {"model_type": "bloom", **ROWS["bloom"].sizes, "is_causal": False}
    with refused(ConfigError, "is_causal", "true"):
        read_config(keys)
    keys = {"model_type": "qwen3_next", **ROWS["qwen3_next"].sizes, "is_causal": False}
    with refused(ConfigError, "is_causal", "true"):
        read_config(keys)


@pytest.mark.parametrize("name", HF)
def test_defaults_are_those_of_transformers(name):
    row = ROWS[name]
    stated, _ = read_config(row.config(**row.sizes).to_dict())
    bare, _ = read_config({"model_type": name, **row.sizes})
    assert bare == stated


# A value of each type, and one that no key takes.
OF_TYPE = {str: "a text", bool: True, int: 3, float: 0.5, dict: {"a": 1}, list: ["a"]}
NOBODYS = {"something": "else"}
# Encoders of whose classes in transformers none asks whether it is a decoder.
NEVER_DECODERS = ("embedding_gemma2", "embedding_gemma2_text", "openai_privacy_filter")


@pytest.mark.parametrize(("turn", "name"), [*enumerate(HF)])
def test_harmless_keys_have_harmless_values_only(turn, name):
    """Those that a family reads, and of the others, which the same code leaves out, a quarter in turns."""
    keys, reads = {"model_type": name, **ROWS[name].sizes}, ROWS[name].reads
    plain = read_config(keys)[0]
    may_be_a_decoder = isinstance(plain.head, LM) or name in NEVER_DECODERS
    for place, (key, allowed) in enumerate(HARMLESS.items()):
        if key not in reads and (place + turn) % 4:
            continue
        stated = isinstance(allowed, tuple)
        for one in allowed if stated else (str,):
            value = OF_TYPE[one] if isinstance(one, type) else one
            if key in reads or ((key, value) == ("is_decoder", True) and not may_be_a_decoder):
                with pytest.raises(ConfigError, match=key):  # a writing encoder is another model
                    read_config({**keys, key: value})
            else:
                config = read_config({key: value, **keys})[0]
                assert key == "type_vocab_size" or config == plain
        if stated:
            with pytest.raises(ConfigError, match=rf"\b{key}\b"):
                read_config({**keys, key: "something else" if dict in allowed else NOBODYS})


NOMICS = (
    "causal", "qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias", "prenorm", "parallel_block", "use_rms_norm",
    "rotary_emb_interleaved", "scale_attn_by_inverse_layer_idx",
)  # fmt: skip


# Keys that a family knows beside those of transformers' class, with a value that would be another model.
@pytest.mark.parametrize(
    ("name", "key", "harmless", "harmful"),
    [
        ("llama", "is_llama_config", True, False),
        ("llama", "rope_interleaved", False, True),
        ("llama", "max_sequence_length", 2048, 4096),
        ("llama", "seq_length", 2048, 4096),
        ("llama", "sliding_window", None, 4096),
        ("llama", "use_sliding_window", False, True),
        ("llama", "max_window_layers", 28, "28"),
        ("llama", "layer_types", ["full_attention"] * 2, ["full_attention", "sliding_attention"]),
        ("mistral", "layer_types", ["sliding_attention"] * 2, ["full_attention"] * 2),
        ("phi3", "full_attn_mod", 1, 2),
        ("phi3", "interpolate_factor", 1, 2),
        ("qwen3_moe", "qkv_bias", False, True),
        ("qwen3_moe", "shared_expert_intermediate_size", 0, 96),
        ("qwen3_moe", "use_qk_norm", True, False),
        ("minimax_m2", "use_qk_norm", True, False),
        ("minimax_m2", "qk_norm_type", "per_layer", "per_head"),
        ("minimax_m2", "scoring_func", "sigmoid", "softmax"),
        ("minimax_m2", "use_routing_bias", True, False),
        ("minimax_m2", "shared_intermediate_size", 0, 64),
        ("minimax_m2", "use_mtp", True, 1),
        ("minimax_m2", "num_mtp_modules", 3, "3"),
        ("minimax_m2", "mtp_transformer_layers", 1, "1"),
        ("minimax_m2", "attn_type_list", [1, 1], [1, 0]),
        ("dots1", "scoring_func", "sigmoid", "softmax"),
        ("dots1", "topk_method", "noaux_tc", "greedy"),
        ("dots1", "moe_layer_freq", 1, 2),
        ("dots1", "ep_size", 1, None),
        ("dots1", "aux_loss_alpha", 0.001, "small"),
        ("dots1", "seq_aux", True, 1),
        ("dots1", "num_nextn_predict_layers", 0, None),
        ("gemma", "attn_logit_softcapping", None, 50.0),
        ("gemma", "final_logit_softcapping", None, 30.0),
        ("gemma", "sliding_window", None, 4096),
        ("gemma", "quant", False, True),
        ("gemma", "tokenizer", "a name", None),
        ("gemma", "rms_nms_eps", 1e-6, 1e-5),
        ("gemma2", "sliding_window_size", 4096, 8),
        ("starcoder2", "mlp_type", "default", "gated"),
        ("starcoder2", "norm_type", "layer_norm", "rms_norm"),
        ("starcoder2", "activation_function", "gelu", "relu"),
        ("starcoder2", "scale_attn_weights", True, False),
        ("starcoder2", "attention_softmax_in_fp32", True, "no"),
        ("starcoder2", "scale_attention_softmax_in_fp32", True, 1),
        ("starcoder2", "rms_norm_eps", 1e-6, None),
        ("starcoder2", "layer_norm_epsilon", 1e-5, 1e-6),
        ("stablelm", "use_norm_bias", False, None),
        ("stablelm", "rotary_scaling_factor", 1.0, 2.0),
        ("opt", "end_token_id", 7, "</s>"),
        ("opt", "output_projection", True, False),
        ("bart", "do_blenderbot_90_layernorm", False, True),
        ("bart", "kobart_version", 2.0, "2"),
        ("modernbert", "position_embedding_type", "sans_pos", "alibi"),
        ("modernbert", "local_attention_window", 128, 64),
        ("modernbert", "local_attention_rope_theta", 1e4, 1e5),
        ("moonshine", "decoder_num_attention_heads", 4, 2),
        ("moonshine", "encoder_num_key_value_heads", 4, 2),
        ("moonshine", "decoder_num_key_value_heads", None, 1),
        ("moonshine", "head_dim", 16, 8),
        ("moonshine", "pad_head_dim_to_multiple_of", 8, "8"),
        *(("nomic_bert", key, False, True) for key in NOMICS),
        ("nomic_bert", "activation_function", "swiglu", "gelu"),
        ("nomic_bert", "num_experts", 0, 8),
        ("nomic_bert", "rotary_emb_scale_base", None, 512),
        ("nomic_bert", "scale_attn_weights", True, False),
        ("albert", "down_scale_factor", 1, 2),
        ("albert", "gap_size", 0, 1),
        ("albert", "net_structure_type", 0, 1),
        ("albert", "num_memory_blocks", 0, 1),
        ("albert", "layers_to_keep", [], "all"),
        ("new", "layer_norm_type", "layer_norm", "rms_norm"),
        ("new", "position_embedding_type", "rope", "absolute"),
        ("new", "logn_attention_scale", False, True),
        ("new", "logn_attention_clip1", False, True),
    ],
)
def test_keys_of_a_familys_own_have_harmless_values_only(name, key, harmless, harmful):
    keys = {"model_type": name, **ROWS[name].sizes}
    assert read_config({**keys, key: harmless})[0] == read_config(keys)[0]
    with refused(ConfigError, key, repr(harmful)):
        read_config({**keys, key: harmful})


def test_keys_of_mpts_attention_have_harmless_values_only():
    keys = {"model_type": "mpt", **ROWS["mpt"].sizes}
    old = {"attn_uses_sequence_id": True, "bad_words_ids": None, "do_sample": False}
    assert read_config({**keys, "attn_config": old})[0] == read_config(keys)[0]
    for key, value in {"attn_uses_sequence_id": 2, "unheard_of": 1}.items():
        with pytest.raises(ConfigError, match=f"attn_config: .*{key}"):
            read_config({**keys, "attn_config": {key: value}})


def test_older_names_of_falcon():
    sizes = dict(ROWS["falcon"].sizes)
    new = {"model_type": "falcon", **sizes}
    old = {"n_head": sizes.pop("num_attention_heads"), "n_layer": sizes.pop("num_hidden_layers"), **sizes}
    assert read_config({"model_type": "falcon", **old})[0] == read_config(new)[0]
    with refused(ConfigError, "n_layer", "num_hidden_layers", 2):
        read_config({**new, "n_layer": 3})


def test_both_kinds_of_names_of_exaone(tmp_path):
    """transformers writes those of its own code, and reads Llama's too."""
    sizes = {**SIZES, **IDS, "rms_norm_eps": 1e-3, "hidden_act": "gelu"}
    own = {exaone.NAMES.get(key, key): value for key, value in sizes.items()}
    new = {"model_type": "exaone", **sizes}
    assert read_config({"model_type": "exaone", **own})[0] == read_config(new)[0]
    with refused(ConfigError, "num_layers", "num_hidden_layers", 2):
        read_config({**new, "num_layers": 3})
    model = make_model("exaone", sizes)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert "transformer.wte.weight" in load_file(tmp_path / "model.safetensors")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    as_llama = open_checkpoint(tmp_path)
    for name in checkpoint.leaves.names:
        np.testing.assert_array_equal(as_llama.leaves.load(name), checkpoint.leaves.load(name))


OWN_CODE = {"auto_map": {"AutoModelForCausalLM": "my_llama.MyLlama"}}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"unheard_of": 1}, "'unheard_of'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "axial", "factor": 2.0}}, "rope_type.*'axial'"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.*factor.*missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "factor.*0"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "beta": 1}}, "rope_scaling.*'beta'"),
        ({"rope_scaling": {"type": "linear", "rope_type": "llama3", **LLAMA3}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 0.5}}, "high_freq_factor"),
        ({"rope_parameters": {"rope_theta": 5.0}, "rope_theta": 6.0}, "rope_theta"),
        ({"rope_parameters": {"rope_theta": 5.0}, "rope_scaling": {"type": "linear"}}, "both"),
        ({"hidden_act": "laplace"}, "hidden_act"),
        ({"hidden_size": 65}, "hidden_size"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"hidden_size": 0}, "hidden_size.*1"),
        ({"hidden_size": 2**40, "head_dim": 8}, "width.*1"),
        ({"num_hidden_layers": 2**62}, "number.*layers"),
        ({"num_key_value_heads": 3}, "heads.*kv_heads"),
        ({"head_dim": 7}, "dims"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps.*0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
        ({"architectures": ["LlamaForMaskedLM"]}, "architectures"),
        ({"model_type": "unknown"}, "'unknown'.*biogpt"),
        ({"model_type": "unknown", "auto_map": {}}, "'unknown'(?!.*auto_map)"),
        ({"model_type": "unknown", **OWN_CODE}, r"'unknown'.*\(auto_map\)"),
        ({"architectures": ["MyLlama"], **OWN_CODE}, r"\['MyLlama'\]"),
        ({"auto_map": "my_llama.MyLlama"}, "auto_map.*null"),
    ],
)
def test_refused(keys, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_config({"model_type": "llama", **SIZES, **keys})
    assert "\n" not in str(caught.value)


BAD = [0, -1, 1.5, 2**31, 2**63, 10**400, "4", "", None, True, [], {}, [[]], {"type": []}, {"type": "Rope"}]


def places(value, path=()):
    """The path of every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(value, path, new):
    """A copy with another value at a path."""
    made = copy.copy(value)
    made[path[0]] = new if len(path) == 1 else changed(value[path[0]], path[1:], new)
    return made


@pytest.mark.parametrize(("turn", "name"), [*enumerate(sorted(families()))])
def test_any_value_in_any_field_is_read_or_refused(turn, name):
    """A third of the values for each field; families whose fields have the same name take turns."""
    keys = {} if name == "tfm" else ROWS[name].config(**ROWS[name].sizes).to_dict()
    if name == "llama":
        keys |= {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **LLAMA3}, "head_dim": 8}
    if name == "tfm":
        scaled = Rope(1e4, 16, scaling=LinearScaling(2.0))
        tiny_llama = tiny_models.llama(layers=1, window=5)
        keys = {"model_type": name, "config": to_json(tiny_llama)}
        keys = changed(keys, ("config", "stack", "layers", 0, "attention", "position"), to_json(scaled))
    read_config(keys)
    refused, longest = 0, 200 + len(", ".join(families()))
    for place, path in enumerate(places(keys)):
        for bad in BAD if name == "tfm" else BAD[(place + turn) % 3 :: 3]:
            try:
                read_config(changed(keys, path, bad))
            except ConfigError as error:
                refused += 1
                assert "\n" not in str(error)  # noqa: PT017
                assert len(str(error)) < longest, error  # noqa: PT017
    assert refused > 25


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("bert", {"is_decoder": True}, "is_decoder false"),
        ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ("bert", {"hidden_size": 65}, "hidden_size"),
        ("bert", {"rope_theta": 1e4}, "'rope_theta'"),
        ("bert", {"architectures": ["BertForNextSentencePrediction"]}, "architectures BertModel"),
        ("bert", {"architectures": ["BertModel", "BertForMaskedLM"]}, "architectures BertModel"),
        ("bert", {"pooler_type": "mean"}, "pooler_type first_token_transform"),
        ("roberta", {"pad_token_id": None}, "pad_token_id"),
        ("roberta", {"pad_token_id": 511}, "pad_token_id 0 510"),
        ("roberta", {"pad_token_id": -1}, "pad_token_id 0 510"),
        ("electra", {"architectures": ["ElectraForMultipleChoice"]}, "architectures ElectraModel"),
        ("distilbert", {"dim": 65}, "dim n_heads"),
        ("distilbert", {"is_decoder": True}, "is_decoder false"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types 2"),
        ("modernbert", {"global_attn_every_n_layers": 0}, "global_attn_every_n_layers 1"),
        ("modernbert", {"local_rope_theta": None}, "local_rope_theta"),
        ("modernbert", {"classifier_pooling": "max"}, "classifier_pooling"),
        ("modernbert", {"local_attention": -1}, "local_attention 1"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "relative_attention_num_buckets 32 64"),
        ("mpnet", {"max_position_embeddings": 2}, "max_position_embeddings 2"),
        ("albert", {"num_hidden_groups": 2}, "num_hidden_groups 1 2"),
        ("albert", {"inner_group_num": 2}, "inner_group_num 1 2"),
        ("roformer", {"rotary_value": True}, "rotary_value false"),
        ("eurobert", {"classifier_pooling": "max"}, "classifier_pooling"),
        ("gte", {"pack_qkv": False}, "pack_qkv true"),
        ("new", {"rope_theta": None}, "rope_theta"),
        ("new", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "type 'linear'"),
        ("new", {"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, "'mixed_b'"),
        ("nomic_bert", {"moe_every_n_layers": 2}, "moe_every_n_layers 0 null 2"),
        ("mobilebert", {"use_bottleneck": False}, "use_bottleneck true"),
        ("mobilebert", {"key_query_shared_bottleneck": False}, "key_query_shared_bottleneck true"),
        ("mobilebert", {"intra_bottleneck_size": 12}, "intra_bottleneck_size 8 12"),
        ("mobilebert", {"true_hidden_size": 64}, "true_hidden_size 128 64"),
        (
            "xlm-roberta",
            {"lora_adaptations": ["retrieval.query"]},
            "lora_adaptations jinaai/jina-embeddings-v3-hf",
        ),
    ],
)
def test_refused_of_encoders(name, keys, words):
    with refused(ConfigError, *words.split()):
        read_config({"model_type": name, **ROWS[name].sizes, **keys})


# What checkpoints of the hub say beyond the keys of transformers' classes.
OLDER = {
    "bert": {
        "directionality": "bidi",
        "pooler_fc_size": 768,
        "pooler_num_attention_heads": 12,
        "pooler_num_fc_layers": 3,
        "pooler_size_per_head": 128,
        "pooler_type": "first_token_transform",
        "position_embedding_type": "absolute",
        "gradient_checkpointing": False,
        "_num_labels": 9,
    },
    "roberta": {"output_past": True, "language": "english", "name": "Roberta", "finetuning_task": "mnli"},
    "distilbert": {"tie_weights_": True, "sinusoidal_pos_embds": False, "output_past": True},
    "modernbert": {
        "global_rope_theta": 160_000.0,
        "local_rope_theta": 10_000.0,
        "global_attn_every_n_layers": 3,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "absolute",
        "gradient_checkpointing": False,
        "reference_compile": None,
        "repad_logits_with_grad": False,
        "sparse_prediction": False,
    },
}


@pytest.mark.parametrize("name", sorted(OLDER))
def test_what_older_checkpoints_say_beside_changes_nothing(name):
    keys = {"model_type": name, **ROWS[name].sizes}
    assert read_config({**keys, **OLDER[name]})[0] == read_config(keys)[0]


@pytest.mark.parametrize("wrong", [False, True])
def test_positions_that_a_file_states_are_checked(tmp_path, wrong):
    model = make_model("bert", SIZES)
    ids = torch.arange(512)[None]
    model.save_pretrained(tmp_path)
    tensors = {name: t.contiguous() for name, t in model.state_dict().items()}
    ids[0, -1] += wrong
    save_file({**tensors, "embeddings.position_ids": ids}, tmp_path / "model.safetensors")
    if wrong:
        with refused(CheckpointError, "'embeddings.position_ids'", "position_ids"):
            open_checkpoint(tmp_path)
    else:
        open_checkpoint(tmp_path)


def test_whole_numbers_are_no_weights(tmp_path):
    model = make_model("bert", SIZES)
    model.save_pretrained(tmp_path)
    tensors = {name: t.contiguous() for name, t in model.state_dict().items()}
    tensors["embeddings.LayerNorm.bias"] = torch.arange(64)
    save_file(tensors, tmp_path / "model.safetensors")
    with refused(CheckpointError, "'embeddings.LayerNorm.bias'"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("raw", [[], None, "llama", 1])
def test_a_config_is_an_object(raw):
    with refused(ConfigError, "config.json", "JSON"):
        read_config(raw)


@pytest.mark.parametrize(("name", "kind"), [("bert", 1), ("bert", 2), ("roberta", 1), ("xlm-roberta", 1)])
def test_a_bias_under_two_names_is_one(name, kind, tmp_path):
    """Which of two different ones a checkpoint means can't be told."""
    model = make_model(name, dict(ROWS[name].sizes), kind)
    model.save_pretrained(tmp_path)
    state = {key: value.clone() for key, value in model.state_dict().items() if "decoder.weight" not in key}
    twice = next(key for key in state if key.endswith("decoder.bias"))
    save_file(state, tmp_path / "model.safetensors")
    assert twice.replace("decoder.", "") not in open_checkpoint(tmp_path).leaves.unused
    state[twice][3] += 1
    save_file(state, tmp_path / "model.safetensors")
    with refused(CheckpointError, "bias'", "head.bias"):
        open_checkpoint(tmp_path)


def test_a_decoder_that_reads_leaves_the_writers_head(tmp_path):
    make_model("phi", SIZES).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("PhiForCausalLM", "PhiModel"))
    assert open_checkpoint(tmp_path).leaves.unused == ("lm_head.weight", "lm_head.bias")


def test_sizes_are_required():
    for key in SIZES:
        with refused(ConfigError, key, "missing"):
            read_config({"model_type": "llama", **{k: v for k, v in SIZES.items() if k != key}})


def test_a_scaling_that_divides_by_nothing():
    keys = {"model_type": "tfm", "config": to_json(tiny_models.llama(layers=1))}
    scaled = to_json(Rope(1e4, 16, scaling=LinearScaling(0.0)))
    with refused(ConfigError, "position.scaling.factor", "positive", "0.0"):
        read_config(changed(keys, ("config", "stack", "layers", 0, "attention", "position"), scaled))


def test_both_spellings_of_rope():
    old, _ = read_config(
        {"model_type": "llama", **SIZES, "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2}}
    )
    inner = {"rope_type": "linear", "rope_theta": 5e5, "factor": 2.0}
    new, _ = read_config({"model_type": "llama", **SIZES, "rope_parameters": inner})
    assert old == new
    assert old.ropes == (Rope(5e5, 8, scaling=LinearScaling(2.0)),)


def test_window_absent_null_and_given():
    windows = {
        label: read_config({"model_type": "mistral", **SIZES, **keys})[0].layers[0].attention.mask
        for label, keys in {
            "absent": {},
            "null": {"sliding_window": None},
            "given": {"sliding_window": 7},
        }.items()
    }
    assert windows["absent"] == Window(4096)
    assert windows["given"] == Window(7)
    assert not isinstance(windows["null"], Window)


@pytest.mark.parametrize(
    ("block_types", "kinds"),
    [
        (None, "rrarrar"),
        (["attention", "recurrent"], "ararara"),
        (["recurrent"], "rrrrrrr"),
        (["attention"] * 3 + ["recurrent"] * 6, "aaarrrr"),
    ],
)
def test_recurrent_gemmas_blocks_repeat_from_the_first(block_types, kinds):
    """Seven layers: the list again and again, or the beginning of a longer one."""
    stated = {} if block_types is None else {"block_types": block_types}
    keys = {**SIZES, "num_hidden_layers": len(kinds), **stated}
    config, _ = read_config({"model_type": "recurrent_gemma", **keys})
    mixers = (layer.attention for layer in config.layers)
    assert "".join("a" if isinstance(mixer, Attention) else "r" for mixer in mixers) == kinds


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"layers_block_type": ["attention"]}, ("layers_block_type", "hybrid", "['attention']")),
        ({"layers_block_type": [[]]}, ("layers_block_type", "hybrid", "[[]]")),
        ({"layers_block_type": []}, ("layers_block_type", "hybrid", "[]")),
        ({"n_mamba_heads": 3}, ("n_mamba_heads", "divisor", 64, 3)),
        ({"mamba_headdim": 7}, ("mamba_headdim", 8, 7)),
        ({"num_attention_heads": 65}, ("num_attention_heads", 64, 65)),
        ({"use_shared_attention_adapter": True, "num_key_value_heads": 16}, ("num_key_value_heads", 32, 16)),
        ({"use_long_context": True}, ("use_long_context", True)),
        ({"time_step_limit": [0.0, 1.0]}, ("time_step_limit", "Infinity")),
    ],
)
def test_refused_of_zamba2(keys, parts):
    with refused(ConfigError, *parts):
        read_config({"model_type": "zamba2", **ROWS["zamba2"].sizes, **keys})


@pytest.mark.parametrize("tied", [True, False])
def test_layers_of_zamba2_have_the_blocks_of_transformers(tmp_path: Path, tied: bool):
    """Two blocks in turn for four layers, or a block for each layer."""
    kinds = ["hybrid", "linear_attention", "hybrid", "hybrid", "hybrid"]
    keys = {"layers_block_type": kinds, "num_hidden_layers": 5, "num_mem_blocks": 2}
    model = make_model("zamba2", {**ROWS["zamba2"].sizes, **keys, "tie_word_embeddings": tied})
    model.save_pretrained(tmp_path)
    leaves, tensors = open_checkpoint(tmp_path).leaves, model.state_dict()
    for i in (0, 2, 3, 4):
        theirs = tensors[f"model.layers.{i}.shared_transformer.self_attn.o_proj.weight"].numpy()
        np.testing.assert_array_equal(leaves.load(f"decoder.layers.{i}.attn.w_heads"), theirs.T)


QWEN4 = {
    **ROWS["qwen4_exp_text"].sizes, "hidden_size": 24, "head_dim": 8, "num_attention_heads": 6,
    "num_key_value_heads": 2, "num_hidden_layers": 3,
    "layer_types": ["full_attention", "linear_attention", "linear_attention"],
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 5,
    "linear_value_head_dim": 7, "linear_conv_kernel_dim": 3, "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 9, "shared_expert_intermediate_size": 11, "hc_count": 3, "hc_lowrank": 13,
    "indexer_n_heads": 17, "indexer_head_dim": 10, "indexer_budget": 8, "indexer_compress_ratio": 4,
    "ple_layer_ids": [3, 2], "ple_embed_dim": 12, "heads_per_ngram": 2, "ngram_vocab_size_base": 19,
    "split_ngram_parts": 3, "eos_token_id": 2, "output_gate_type": "sigmoid",
}  # fmt: skip


def test_a_text_of_qwen4_exp_however_it_is_read(tmp_path: Path):
    """At once, in chunks, token by token, and in a batch of rows of other lengths; some tokens end texts."""
    length = 48
    model = make_model("qwen4_exp_text", QWEN4 | {"experts_implementation": "eager"})
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    params = map_leaves(lambda _, leaf: leaf.astype(np.float64), checkpoint.params)
    engine, rng = NumpyEngine(checkpoint.config, params), np.random.default_rng(3)
    ids = np.where(rng.random((1, length)) < 0.2, 2, rng.integers(0, 50, (1, length)))
    [want] = transformers_outputs(model, {"input_ids": ids, "use_cache": np.array(False)})
    sizes = ([length], [7, 1, length - 8], [1] * length)
    got = [in_steps(engine, ids, each) for each in sizes]
    rows, at = np.concatenate([ids[:, ::-1], ids, ids]), np.tile(np.arange(length), (3, 1))
    logits, cache = engine.step(rows, engine.start(3), np.array([7, length, 11]), at)
    got.append(logits[1:2])
    rest, _ = engine.step(
        ids[:, 11:].repeat(3, 0), cache.select(np.array([2, 2, 2])), at=at[:, : length - 11]
    )
    got.append(np.concatenate([logits[2:, :11], rest[2:]], 1))
    for each in got:
        assert np.abs(each - want).max() <= LARGEST_ERROR * np.abs(want).max()


@pytest.mark.parametrize(
    ("keys", "parts"),
    [
        ({"hc_count": 1}, ("hc_count", 2, 1)),
        ({"output_gate_type": "tanh"}, ("output_gate_type", "silu, sigmoid", "tanh")),
        ({"hidden_act": "gelu"}, ("hidden_act", "silu", "gelu")),
        (
            {"layer_types": ["sliding_attention"] * 3},
            ("layer_types", "indexed_attention", "sliding_attention"),
        ),
        ({"indexer_n_heads": None}, ("indexer_n_heads", "int", None)),
        ({"indexer_budget": None}, ("indexer_budget", "int", None)),
        ({"indexer_kv_heads": 2}, ("indexer_kv_heads", 1, 2)),
        ({"indexer_budget": 7}, ("indexer_budget", "indexer_compress_ratio", 4, 7)),
        ({"indexer_head_dim": 6}, ("indexer", 8, 6)),
        ({"ple_layer_ids": [0]}, ("ple_layer_ids", "1 to 3", "[0]")),
        ({"ple_layer_ids": [4]}, ("ple_layer_ids", "1 to 3", "[4]")),
        ({"ple_layer_ids": [True]}, ("ple_layer_ids", "1 to 3", "[True]")),
        ({"ple_layer_ids": [1]}, ("ple_layer_ids", "linear_attention", "[1]")),
        ({"ngram_size": 1}, ("ngram_size", 2, 256, 1)),
        ({"ngram_size": 2**62}, ("ngram_size", 2, 256, 2**62)),
        ({"heads_per_ngram": 2**20}, ("heads_per_ngram", 16384, 2**20)),
        ({"ple_embed_dim": 13}, ("ple_embed_dim", "multiple", 4, 13)),
        ({"ngram_vocab_size_base": 2**31 + 1}, ("ngram_vocab_size_base", 2**31, 2**31 + 1)),
        ({"eos_token_id": None}, ("eos_token_id", "ends", None)),
        ({"seed": None}, ("seed", "hash", None)),
        ({"eos_token_id": []}, ("eos_token_id", "ends", "[]")),
        ({"something": 1}, ("something",)),
    ],
)
def test_refused_of_qwen4_exp(keys, parts):
    with refused(ConfigError, *parts):
        read_config({"model_type": "qwen4_exp_text", **QWEN4, **keys})


def test_types_of_qwen4_exp_by_older_names():
    keys = {"model_type": "qwen4_exp_text", **QWEN4}
    older = {**keys, "layer_types": ["qwen_sparse_attention", "mamba", "linear_attention"]}
    assert read_config(older)[0] == read_config(keys)[0]


@pytest.mark.parametrize("buffer", ["layer_multipliers", "ngram_heads_vocab_sizes", "ngram_heads_offsets"])
def test_numbers_of_ngrams_must_be_those_of_the_layer(tmp_path: Path, buffer: str):
    """To the last bit, of which a float has too few."""
    model = make_model("qwen4_exp_text", QWEN4)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name, other = (f"model.layers.{i}.ple.ple_embedding.{buffer}" for i in (1, 2))
    exact = tensors[name]
    for wrong in (exact + 2**33, exact + 1, tensors[other].clone(), exact.float(), exact[:1]):
        save_file({**tensors, name: wrong}, path)
        with refused(CheckpointError, buffer):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("parts", [1, 5, 65_536])
def test_the_tensors_say_in_how_many_parts_a_table_of_ngrams_is(tmp_path: Path, parts: int):
    """In how many to write it says config.json, as in transformers. The layers may differ."""
    model = make_model("qwen4_exp_text", QWEN4 | {"split_ngram_parts": 5})
    model.save_pretrained(tmp_path)
    path, config = tmp_path / "model.safetensors", json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"split_ngram_parts": parts}))
    tensors, table = load_file(path), "model.layers.1.ple.ple_embedding.ngram_embedding"
    whole = torch.cat([tensors.pop(f"{table}.shard_{n}.weight") for n in range(5)])
    for stored in ({f"{table}.weight": whole}, {f"{table}.shard_0.weight": whole}):
        save_file(tensors | stored, path)
        assert np.array_equal(open_checkpoint(tmp_path).leaves.load("decoder.layers.1.attn.table"), whole)
    save_file(tensors | {f"{table}.shard_1.weight": whole}, path)
    with refused(CheckpointError, "shard_0", "missing"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("stated", [None, [], 3, "text", {"split_ngram_parts": 2}])
def test_text_config_is_of_the_whole_model_of_qwen4_exp(stated):
    keys = {"model_type": "qwen4_exp_text", **QWEN4}
    stray = {**keys, "text_config": stated}
    assert read_config(stray, ignore=["text_config"])[0] == read_config(keys)[0]
    with refused(ConfigError, "text_config"):
        read_config({**stray, "model_type": "qwen4_exp"}, ignore=["text_config"])


def test_leaves_on_disk_are_transposed_without_a_copy(tmp_path: Path):
    make_model("llama", SIZES).save_pretrained(tmp_path)
    leaves = open_checkpoint(tmp_path).leaves
    wq = leaves.load("decoder.layers.0.attn.wq")
    assert wq.shape == (64, 64)
    assert wq.flags.f_contiguous, "a transposed view, not a copy"
    assert wq.dtype == "float32"
    assert isinstance(materialize(open_checkpoint(tmp_path).params)["decoder"]["layers"], list)


def test_answers_of_big_bird_are_looked_for_in_the_context(tmp_path):
    """Its class lowers the logits of the question but for its first token; the others are ours."""
    keys = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    keys |= {"intermediate_size": 24, "max_position_embeddings": 32, "sep_token_id": 3}
    model = make_model("big_bird", keys, 5)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    tokens = np.array([[1, 9, 8, 3, 20, 21, 22, 3]])
    types = np.array([[0, 0, 0, 0, 1, 1, 1, 1]])
    engine = NumpyEngine(checkpoint.config, materialize(checkpoint.params))
    got = engine.predict(tokens, np.array([8]), types)[0]
    with torch.no_grad():
        output = model(torch.from_numpy(tokens))  # which takes these types where none are given
    want = torch.stack([output.start_logits, output.end_logits], -1)[0].numpy()
    asked = np.array([0, 1, 1, 1, 0, 0, 0, 0], bool)
    np.testing.assert_allclose(got[~asked], want[~asked], rtol=0, atol=1e-5 * abs(got).max())
    np.testing.assert_allclose(got[asked] - 1e6, want[asked], rtol=0, atol=0.1)
