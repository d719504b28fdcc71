"""The text part of models that read images too: names of tensors, parts that are left out, keys by place."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from families import ROWS
from families.kit import IDS, SIZES
from helpers.hf_oracle import draw_keys, make_model
from helpers.refused import refused
from safetensors.torch import load_file, save_file
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint
from tfm.refimpl.config import Attention, BlockIndexer, Config
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.params.tree import flatten

TEXT = {**IDS, **SIZES, "num_attention_heads": 4, "num_key_value_heads": 2}
# What current and older versions of transformers put before the text model's, the head's, the tower's and
# the projector's names, a line a version.
NAMES = {
    "llava": [
        ("model.language_model.", "lm_head.", "model.vision_tower.", "model.multi_modal_projector."),
        ("language_model.model.", "language_model.lm_head.", "vision_tower.", "multi_modal_projector."),
    ],
    "gemma3": [
        ("model.language_model.", "lm_head.", "model.vision_tower.", "model.multi_modal_projector."),
        ("language_model.model.", "language_model.lm_head.", "vision_tower.", "multi_modal_projector."),
    ],
    "qwen2_vl": [("model.language_model.", "lm_head.", "model.visual."), ("model.", "lm_head.", "visual.")],
    "qwen3_vl": [("model.language_model.", "lm_head.", "model.visual.")],
    "smolvlm": [("model.text_model.", "lm_head.", "model.vision_model.", "model.connector.")],
}
VERSIONS = [(name, version) for name, versions in NAMES.items() for version in range(len(versions))]


@pytest.fixture
def saved(tmp_path: Path):
    """Saves a small model of a type under the names of one of its versions."""

    def save(name: str, version: int, **more: Any) -> Path:
        keys = {
            **copy.deepcopy(dict(ROWS[name].sizes)),
            "text_config": {**TEXT},
            "tie_word_embeddings": False,
        }
        model = make_model(name, keys | more)
        model.save_pretrained(tmp_path)
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        now, then = NAMES[name][0], NAMES[name][version]
        renamed = {}
        for key, value in state.items():
            before = next(part for part in sorted(now, key=len, reverse=True) if key.startswith(part))
            renamed[then[now.index(before)] + key.removeprefix(before)] = value
        save_file(renamed, tmp_path / "model.safetensors")
        return tmp_path

    return save


def leaves(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    return dict(flatten(checkpoint.params))


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_names_of_any_version_are_the_same_model(saved, name, version):
    folder = saved(name, version)
    state = load_file(folder / "model.safetensors")
    before, head = NAMES[name][version][:2]
    got = open_checkpoint(folder)
    found = leaves(got)
    assert np.array_equal(found["embedding.table"], state[f"{before}embed_tokens.weight"].numpy())
    assert np.array_equal(found["head.table"], state[f"{head}weight"].numpy())
    wq = state[f"{before}layers.1.self_attn.q_proj.weight"]
    assert np.array_equal(found["decoder.layers.1.attn.wq"], wq.numpy().T)
    towers = {part.removeprefix("model.").removesuffix("."): part for part in NAMES[name][version][2:]}
    assert got.left_out.keys() == towers.keys()
    for part, start in towers.items():
        sizes = [tensor.nbytes for key, tensor in state.items() if key.startswith(start)]
        assert (got.left_out[part].tensors, got.left_out[part].bytes) == (len(sizes), sum(sizes))
    (note,) = got.notes
    parts = note.partition("left out: ")[2]
    assert all(f"{part} ({got.left_out[part].tensors} tensor" in parts for part in towers)


def test_experts_are_stored_in_either_order(tmp_path):
    """Inputs first on hubs, outputs first as transformers writes them: the same leaves."""
    text = {**TEXT, "num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 40}
    keys = {**copy.deepcopy(dict(ROWS["qwen3_vl_moe"].sizes)), "text_config": text}
    model = make_model("qwen3_vl_moe", keys)
    model.save_pretrained(tmp_path)
    want = leaves(open_checkpoint(tmp_path))
    state = load_file(tmp_path / "model.safetensors")
    turned = {
        name: tensor.mT.contiguous() if ".mlp.experts." in name else tensor for name, tensor in state.items()
    }
    assert any(turned[name].shape != tensor.shape for name, tensor in state.items())
    save_file(turned, tmp_path / "model.safetensors")
    got = leaves(open_checkpoint(tmp_path))
    assert got.keys() == want.keys()
    assert all(np.array_equal(got[name], leaf) for name, leaf in want.items())


def test_factors_of_frequencies_are_a_tensor(tmp_path):
    """Of Mistral Large 4, by the names of its publisher or of transformers' modules: with a number for each
    pair, of which an exponential can be computed. Its modules for drafts are left out."""
    model = make_model("mistral_large4", draw_keys("mistral_large4", 1)[0] | {"tie_word_embeddings": False})
    model.save_pretrained(tmp_path)
    state, path = load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors"
    logs, name = state["lerope.alpha"], "lerope.alpha"
    save_file({**state, "mtp_dspark.layers.0.x": logs.clone()}, path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.left_out["mtp_dspark"].tensors == 1
    [rope] = checkpoint.config.ropes
    assert rope.factors == tuple(np.exp(logs.double().numpy()).tolist())
    config = json.loads((tmp_path / "config.json").read_text())
    assert not config.pop("tie_word_embeddings")
    assert not config["text_config"].pop("tie_word_embeddings")
    (tmp_path / "config.json").write_text(json.dumps(config))
    untied = open_checkpoint(tmp_path)
    assert (untied.config, untied.notes) == (checkpoint.config, checkpoint.notes)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    own_names, found = open_checkpoint(tmp_path), leaves(checkpoint)
    assert own_names.config == checkpoint.config
    assert all(np.array_equal(leaf, found.pop(key)) for key, leaf in leaves(own_names).items())
    assert not found
    modules = model.state_dict()
    for start in ("language_model.model.", "language_model.", "model.", ""):
        moved = {key.replace("model.language_model.", start): value for key, value in modules.items()}
        save_file({key: value.contiguous() for key, value in moved.items()}, path)
        assert open_checkpoint(tmp_path).config == checkpoint.config
    save_file({**state, "rotary_emb.alpha": logs + 1}, path)
    with refused(CheckpointError, name, "rotary_emb.alpha"):
        open_checkpoint(tmp_path)
    save_file({key: value for key, value in state.items() if key != name}, path)
    with refused(CheckpointError, name, "missing"):
        open_checkpoint(tmp_path)
    save_file({**state, name: logs[1:].clone()}, path)
    with refused(CheckpointError, name, f"[{len(logs)}]", f"[{len(logs) - 1}]"):
        open_checkpoint(tmp_path)
    for value in (float("nan"), -87.0, 87.0):
        save_file({**state, name: logs.clone().fill_(value)}, path)
        with refused(CheckpointError, name, "-87", "87"):
            open_checkpoint(tmp_path)


@pytest.mark.parametrize("stray", ["audio_tower.conv.weight", "vision_towers.x", "model.text.x"])
def test_what_is_beside_the_tower_and_isnt_known_is_an_error(saved, stray):
    folder = saved("llava", 1)
    state = load_file(folder / "model.safetensors")
    save_file({**state, stray: state["language_model.lm_head.weight"].clone()}, folder / "model.safetensors")
    last = stray.removeprefix("model.")
    with refused(CheckpointError, 1, "tensors", f"'{last}'"):
        open_checkpoint(folder)


def test_no_part_is_named_where_none_is(saved):
    folder = saved("llava", 0)
    state = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in state.items() if "vision" not in key and "projector" not in key}
    save_file(kept, folder / "model.safetensors")
    got = open_checkpoint(folder)
    assert (got.left_out, got.notes) == ({}, ())


def test_special_ids_of_the_text_model_count_where_no_others_stand(saved):
    folder = saved("llava", 0)
    (folder / "generation_config.json").unlink()
    stated = json.loads((folder / "config.json").read_text())
    for own, want in (({}, (2,)), ({"eos_token_id": [7, 8]}, (7, 8))):
        text = {**stated["text_config"], "eos_token_id": 2}
        outer = {key: value for key, value in stated.items() if not key.endswith("_token_id")}
        (folder / "config.json").write_text(json.dumps({**outer, **own, "text_config": text}))
        assert open_checkpoint(folder).generation.eos == want


def read(name: str, tensors: list[str] | None = None, /, **keys: Any) -> Config:
    return read_config({"model_type": name, **keys}, tensors=tensors)[0]


def test_the_text_of_minimax_m3_alone_has_the_same_defaults():
    assert read("minimax_m3_vl_text") == read("minimax_m3_vl", text_config={})


QWEN = {**SIZES, "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}


def test_older_files_of_qwen_have_all_keys_in_one_place():
    nested = read("qwen2_5_vl", text_config=QWEN, vision_config={"anything": [1]}, tie_word_embeddings=True)
    assert read("qwen2_5_vl", **QWEN, vision_config={"other": 2}, tie_word_embeddings=True) == nested
    both = {**QWEN, "text_config": {**QWEN, "model_type": "qwen2_5_vl_text"}, "tie_word_embeddings": True}
    assert read("qwen2_5_vl", **both) == nested
    with refused(ConfigError, "hidden_size", "text_config", 64, 128):
        read("qwen2_5_vl", **{**both, "hidden_size": 128})
    with refused(ConfigError, "config.json", "'unheard_of'"):
        read("qwen2_5_vl", **QWEN, unheard_of=1)


def test_coordinates_of_a_text_are_equal():
    """M-RoPE with any sections is plain rotary positions there, and a yarn stays one."""
    plain = {**QWEN, "rope_scaling": None}
    assert read("qwen2_vl", **QWEN) == read("qwen2_vl", **plain)
    yarn = {"factor": 4.0, "original_max_position_embeddings": 64}
    both = {"type": "yarn", "rope_type": "yarn", "mrope_section": [4, 0, 0], **yarn}
    assert read("qwen2_vl", **{**QWEN, "rope_scaling": both}) == read(
        "qwen2_vl", **{**plain, "rope_scaling": {"type": "yarn", **yarn}}
    )


def test_stepfuns_own_keys_mean_what_transformers_makes_of_them():
    """As code of others quotes those of Step 3.5 Flash, of six layers, with those of a module behind them."""
    stated = {
        **TEXT, "pad_token_id": 1, "num_hidden_layers": 6, "num_attention_groups": 2, "head_dim": 8,
        "moe_num_experts": 6,
        "moe_top_k": 2, "moe_layers_enum": "3,4,5", "moe_layer_offset": 0, "moe_every_n_layer": 1,
        "share_expert_dim": 40, "norm_expert_weight": True, "moe_router_activation": "sigmoid",
        "moe_router_scaling_factor": 3.0, "use_moe_router_bias": True, "need_fp32_gate": True,
        "use_moe": True,
        "att_impl_type": "GQA", "use_head_wise_attn_gate": True, "use_qk_norm": True, "sliding_window": 16,
        "layer_types": (["full_attention"] + ["sliding_attention"] * 3) * 2, "num_nextn_predict_layers": 2,
        "attention_other_setting": {
            "attention_type": "sliding_attention", "num_attention_heads": 6, "num_attention_groups": 2,
            "head_dim": 8,
        },
        "rope_theta": [5e6, 1e4, 1e4, 1e4] * 2, "partial_rotary_factors": [0.5, 1.0, 1.0, 1.0] * 2,
        "yarn_only_types": ["full_attention"], "use_rope_layers": [],
        "rope_scaling": {
            "rope_type": "llama3", "factor": 2.0, "original_max_position_embeddings": 64,
            "low_freq_factor": 1.0, "high_freq_factor": 32.0,
        },
        "swiglu_limits": [0.0] * 5 + [7.0] * 3, "swiglu_limits_shared": [0.0] * 5 + [16.0] * 3,
    }  # fmt: skip
    del stated["num_key_value_heads"]
    made = transformers.Step3p7Config(text_config=copy.deepcopy(stated), vision_config={}).to_dict()
    assert read("step3p7", text_config=stated) == read_config(made)[0]
    for key, other in (("use_rope_layers", [1, 0]), ("swiglu_limits", [-1.0] * 6), ("sink", True)):
        with refused(ConfigError, key):
            read("step3p7", text_config=stated | {key: other})


def test_lings_own_keys_mean_what_transformers_makes_of_them():
    own = {
        **SIZES, "num_experts": 6, "num_experts_per_tok": 2, "num_shared_experts": 1, "n_group": 2,
        "topk_group": 1, "moe_intermediate_size": 40, "num_hidden_layers": 6, "head_dim": 12,
        "num_key_value_heads": 8, "rope_theta": 1e4,
        "layer_group_size": 3, "kda_lower_bound": -3.0, "num_nextn_predict_layers": 1,
    }  # fmt: skip
    made = transformers.BailingHybridConfig(**own).to_dict()
    assert read("bailing_hybrid", **own, no_kda_lora=True, rope_interleave=True) == read_config(made)[0]
    with refused(ConfigError, "kda_lower_bound", "below 0", 1.0):
        read("bailing_hybrid", **own | {"kda_lower_bound": 1.0})
    with refused(ConfigError, "expert_swiglu_limit_list", "6 numbers"):
        read("bailing_hybrid", **own | {"expert_swiglu_limit_list": [7.0] * 5})


@pytest.mark.parametrize(
    ("own", "text", "tensors", "tied"),
    [
        (True, None, None, True),
        (None, True, None, True),
        (False, True, None, True),
        (None, None, None, False),
        (False, True, ["lm_head.weight"], False),
        (False, True, [], True),
        (None, None, ["language_model.lm_head.weight"], False),
        (None, None, [], True),
        (True, True, ["lm_head.weight"], True),
        (False, False, [], False),
    ],
)
def test_tensors_tell_which_output_table_where_keys_dont(own, text, tensors, tied):
    keys: dict[str, Any] = {"text_config": {**SIZES}}
    if own is not None:
        keys["tie_word_embeddings"] = own
    if text is not None:
        keys["text_config"]["tie_word_embeddings"] = text
    assert read("llava", tensors, **keys).head.tied == tied


@pytest.mark.parametrize("stated", [{}, {"logit_scale": 0.25}])
def test_of_cohere_s_models_that_see_only_aya_scales_logits(stated):
    text = {**SIZES, **stated}
    assert read("cohere2_vision", text_config=text).head.scale is None
    assert read("aya_vision", text_config=text).head.scale == stated.get("logit_scale", 0.0625)


@pytest.mark.parametrize(
    ("name", "keys", "words"),
    [
        ("llava", {}, "text_config None"),
        ("llava", {"text_config": [1]}, "text_config"),
        ("llava", {"text_config": {"model_type": "bert"}}, "text_config model_type"),
        ("llava", {"text_config": {"unheard_of": 1}}, "text_config 'unheard_of'"),
        ("llava", {"text_config": {"is_encoder_decoder": True}}, "is_encoder_decoder false"),
        ("gemma3", {"text_config": {}, "audio_config": {}}, "'audio_config'"),
        (
            "gemma3",
            {"text_config": {"use_bidirectional_attention": True}, "architectures": ["Gemma3Model"]},
            "use_bidirectional_attention false",
        ),
        ("qwen2_vl", {**SIZES, "head_dim": 4}, "head_dim hidden_size num_attention_heads"),
        ("qwen2_vl", {**QWEN, "rope_scaling": {"mrope_section": [1, -1]}}, "mrope_section"),
        ("qwen3_vl", {**SIZES}, "text_config"),
        ("qwen3_vl_moe", {"text_config": {"norm_topk_prob": False}}, "norm_topk_prob true"),
        ("smolvlm", {"text_config": {"qk_layer_norms": True}}, "qk_layer_norms false"),
        ("qwen3_omni_moe_thinker", {"text_config": {"use_sliding_window": True}}, "use_sliding_window false"),
        ("mllama", {"text_config": {**SIZES, "cross_attention_layers": [0, 1]}}, "leaves out"),
    ],
)
def test_refused(name, keys, words):
    with refused(ConfigError, *words.split()):
        read(name, **keys)


MINIMAX = {
    **TEXT, "num_hidden_layers": 4, "head_dim": 8, "dense_intermediate_size": 40,
    "shared_intermediate_size": 24, "num_local_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "use_gemma_norm": True, "attention_output_gate": False, "rope_theta": 5e6, "rotary_dim": 4,
    "partial_rotary_factor": 0.5, "hidden_act": "swigluoai", "use_qk_norm": True, "qk_norm_type": "per_head",
    "scoring_func": "sigmoid", "use_routing_bias": True, "moe_layer_freq": [0, 1, 1, 1], "num_mtp_modules": 7,
    "num_nextn_predict_layers": 1, "swiglu_alpha": 1.5, "swiglu_limit": 6.0, "routed_scaling_factor": 3.0,
}  # fmt: skip
SPARSE = {
    "use_sparse_attention": True, "sparse_index_dim": 6, "sparse_num_index_heads": 2, "sparse_topk_blocks": 3,
    "sparse_block_size": 5, "sparse_disable_index_value": [0, 0, 1, 1], "sparse_score_type": "max",
    "sparse_init_block": 0, "sparse_local_block": 2, "sparse_attention_freq": [0, 0, 1, 1],
}  # fmt: skip


def test_minimaxs_own_keys_mean_what_transformers_makes_of_them():
    """As code of others quotes those of MiniMax-M3."""
    stated = {**MINIMAX, "sparse_attention_config": SPARSE}
    made = transformers.MiniMaxM3VLConfig(text_config=copy.deepcopy(stated), vision_config={}).to_dict()
    config = read("minimax_m3_vl", text_config=stated)
    assert config == read_config(made)[0]
    [_, _, *indexed] = config.stack.mixers
    assert [getattr(mixer, "indexer", None) for mixer in indexed] == [BlockIndexer(6, 5, 3, 2)] * 2


@pytest.mark.parametrize(
    ("nested", "key", "other", "must"),
    [
        (True, "use_sparse_attention", False, "true"),
        (True, "sparse_score_type", "mean", "max"),
        (True, "sparse_init_block", 1, "0"),
        (True, "sparse_disable_index_value", [0, 0, 0, 1], "sparse_attention_freq"),
        (True, "sparse_attention_freq", [0, 0, 1], "4"),
        (True, "sparse_attention_freq", [0, 0, 2, 1], "4"),
        (True, "sparse_block_size", "5", "int"),
        (True, "unheard_of", 1, "may change"),
        (True, "sparse_num_index_heads", 1, "num_key_value_heads 2"),
        (True, "sparse_index_dim", 3, "4"),
        (True, "sparse_local_block", 4, "index_topk_blocks 3"),
        (True, "sparse_local_block", -1, "index_topk_blocks 3"),
        (False, "moe_layer_freq", [0, 1, 1, True], "4"),
        (False, "mlp_layer_types", ["sparse"] * 4, "moe_layer_freq"),
        (False, "layer_types", ["full_attention"] * 4, "sparse_attention_freq"),
        (False, "index_block_size", 6, "sparse_block_size 5"),
        (False, "rotary_dim", 8, "4"),
        (False, "hidden_act", "gelu", "swigluoai"),
        (False, "use_qk_norm", False, "true"),
        (False, "qk_norm_type", "per_layer", "per_head"),
        (False, "use_gemma_norm", False, "true"),
        (False, "attention_output_gate", True, "false"),
        (False, "scoring_func", "softmax", "sigmoid"),
        (False, "use_routing_bias", False, "true"),
        (False, "n_shared_experts", 2, "1"),
    ],
)
def test_what_minimax_m3_is_otherwise_is_refused(nested: bool, key: str, other: Any, must: str):
    sparse = SPARSE | ({key: other} if nested else {})
    stated = {**MINIMAX, "sparse_attention_config": sparse} | ({} if nested else {key: other})
    # Once read, a size has transformers' name.
    theirs = {"sparse_num_index_heads": "index_n_heads", "sparse_index_dim": "index_head_dim"}
    theirs["sparse_local_block"] = "index_local_blocks"
    with refused(ConfigError, "text_config", theirs.get(key, key), *must.split()):
        read("minimax_m3_vl", text_config=stated)


def test_sizes_of_an_indexer_that_no_layer_has_are_not_checked():
    none = {"sparse_attention_freq": [0] * 4, "sparse_disable_index_value": [0] * 4}
    unfit = {"sparse_num_index_heads": 3, "sparse_index_dim": 2, "sparse_local_block": 7}
    for keys in (MINIMAX, MINIMAX | {"sparse_attention_config": SPARSE | none | unfit}):
        mixers = read("minimax_m3_vl", text_config=keys).stack.mixers
        assert [type(mixer) for mixer in mixers] == [Attention] * 4
