"""What config.json says of real encoders on the hub, and what is read of it.

Sizes of RoFormers and Megatron-BERTs that a test states are those that hlky/dinoml_v2 lists as read on the
hub, other changes of a row are from memory. Fewer than three are known of gte (arctic-embed-m-v2.0) and
jina_embeddings_v3.
"""

from typing import Any

import pytest
from helpers.configs import PUBLIC, ROWS
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import (
    BigBirdBlocks,
    Classify,
    Dense,
    Distances,
    DynamicNTK,
    EmbeddingProjection,
    Encoder,
    FirstToken,
    FullAttention,
    Gated,
    LayerNorm,
    Learned,
    LinearScaling,
    MaskedLM,
    NeighbourConv,
    Pool,
    QuestionAnswering,
    QuestionTokens,
    RelativeBias,
    Rope,
    Tag,
    Window,
)
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.ops.disentangled import DisentangledAttention
from tfm.refimpl.ops.longformer import LongformerAttention
from tfm.refimpl.ops.xlnet import XLNetAttention

ALBERT = PUBLIC["albert-base-v2, fine-tuned"]
BIG_BIRD = ROWS["big-bird"]
CAMEMBERT = PUBLIC["camembert/camembert-base-ccnet"]
DEBERTA = ROWS["deberta"]
DEBERTA_V3 = ROWS["deberta-v3"]
EUROBERT = PUBLIC["EuroBERT/EuroBERT-210m"]
GEMMA = ROWS["gemma"]
JINA = ROWS["jina"]
LONGFORMER = ROWS["longformer"]
MEGATRON = ROWS["megatron"]
MPNET = PUBLIC["microsoft/mpnet-base"]
NEW = ROWS["new"]
NOMIC = ROWS["nomic"]
ROFORMER = ROWS["roformer"]
XLNET = ROWS["xlnet"]

BASE: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
}  # fmt: skip
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
XXLARGE = {
    "hidden_size": 1536, "intermediate_size": 6144, "num_attention_heads": 24, "num_hidden_layers": 48,
    "pooler_hidden_size": 1536,
}  # fmt: skip
LABELS = {"id2label": {str(i): f"L{i}" for i in range(5)}}


def read(keys: dict[str, Any], **more: Any) -> Encoder:
    config = read_config({**keys, **more})[0]
    assert isinstance(config, Encoder)
    return config


def test_mpnet_base_its_sentence_encoders_and_a_cross_encoder():
    config = read(MPNET)
    assert config.stack.positions == Learned(512, 2)
    assert {layer.attention.position for layer in config.stack.layers} == {RelativeBias(32, 128)}
    assert isinstance(config.head, MaskedLM)
    # all-mpnet-base-v2, multi-qa-mpnet-base-dot-v1
    named = read(MPNET, _name_or_path="microsoft/mpnet-base", gradient_checkpointing=False)
    assert named == config
    assert read(MPNET, architectures=["MPNetModel"]).head == Pool("first", Dense("tanh"))
    classes = {"architectures": ["MPNetForSequenceClassification"], **LABELS}
    assert isinstance(read(MPNET, **classes).head, Classify)


def test_camembert_base_large_and_a_tagger():
    config = read(CAMEMBERT)
    assert (config.context, config.embedding.vocabulary) == (512, 32005)
    assert len(read(CAMEMBERT, **LARGE).stack.layers) == 24
    assert read(CAMEMBERT, architectures=["CamembertForTokenClassification"], **LABELS).head == Tag(5)


def test_nomic_embed_text_1_and_its_mixture():
    config = read(NOMIC)
    layer = config.stack.layers[0]
    assert layer.attention.position == Rope(1000.0, 64)
    assert layer.mlp == Gated(3072, "silu", after=layer.mlp.after)
    assert (config.context, config.head) == (8192, Pool("mean"))
    newer = {
        **BASE, "architectures": ["NomicBertModel"], "hidden_act": "silu", "layer_norm_eps": 1e-12,
        "max_position_embeddings": 8192, "model_type": "nomic_bert", "type_vocab_size": 2,
        "vocab_size": 30528, "rope_parameters": {"rope_theta": 1000.0, "rope_type": "default"},
    }  # fmt: skip
    assert read(newer) == config
    assert read(NOMIC, n_positions=2048, max_trained_positions=2048).context == 2048  # nomic-bert-2048
    # nomic-embed-text-v1-unsupervised, whose longer texts turn by a larger base.
    longer = {"rope_parameters": {"rope_theta": 1000.0, "rope_type": "dynamic", "factor": 2.0}}
    assert read(NOMIC, rotary_scaling_factor=2) == read({**newer, "max_position_embeddings": 2048, **longer})
    trained = read(
        NOMIC,
        rotary_scaling_factor=4,
        max_trained_positions=512,
    )
    assert trained.stack.layers[0].attention.position == Rope(1000.0, 64, scaling=DynamicNTK(4.0, 512))
    with refused(ConfigError, "rotary_scaling_factor", "null", "scaling"):
        read({**newer, **longer, "rotary_scaling_factor": 2.0})
    mixture = {"activation_function": "gelu", "moe_every_n_layers": 2, "num_experts": 8}
    with refused(ConfigError, "activation_function", '"swiglu"', "'gelu'"):
        read(NOMIC, **mixture)
    with refused(ConfigError, "n_embd", "hidden_size"):
        read(newer, n_embd=64)


def test_embedding_gemma_reads_in_both_directions():
    config = read(GEMMA)
    assert not config.stack.causal
    masks = [layer.attention.mask for layer in config.stack.layers[4:7]]
    assert masks == [Window(257), FullAttention(), Window(257)]
    assert config.head == Pool("last")
    assert read(GEMMA, use_bidirectional_attention=False).stack.causal
    with refused(ConfigError, "use_bidirectional_attention", "false"):
        read_config({**GEMMA, "architectures": ["Gemma3ForCausalLM"]})
    # Qwen3-Embedding names the class that writes, beside a modules.json; it sees no later tokens.
    qwen = {
        "architectures": ["Qwen3ForCausalLM"], "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 32768, "max_window_layers": 28,
        "model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-6, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
        "use_sliding_window": False, "vocab_size": 151669, "attention_bias": False,
    }  # fmt: skip
    causal, _ = read_config(qwen, task="pool")
    both, _ = read_config({**qwen, "is_causal": False}, task="pool")
    assert isinstance(causal, Encoder)
    assert isinstance(both, Encoder)
    assert (causal.stack.causal, both.stack.causal) == (True, False)


def test_eurobert_210m_610m_and_its_classifier():
    config = read(EUROBERT)
    assert config.head == MaskedLM(tied=False, bias=False)
    assert config.stack.layers[0].attention.position == Rope(250_000.0, 64)
    classes = {"architectures": ["EuroBertForSequenceClassification"], **LABELS}
    late, first = (
        read(EUROBERT, **classes).head,
        read(EUROBERT, **classes, clf_pooling="bos").head,
    )
    assert late == Classify(5, "mean", Dense("gelu"), late=True)
    assert first == Classify(5, "first", Dense("gelu"))
    larger = {"hidden_size": 1152, "intermediate_size": 4096, "num_hidden_layers": 26}
    config = read(EUROBERT, **larger, num_attention_heads=18, num_key_value_heads=6)
    assert config.stack.layers[0].attention.kv_heads == 6


@pytest.mark.parametrize(
    "more",
    [
        {},  # base, v1 and v2 alike
        {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096, "num_hidden_layers": 24},
        {"hidden_size": 4096, "num_attention_heads": 64, "intermediate_size": 16384, "hidden_act": "gelu"},
    ],
)
def test_albert_base_large_and_xxlarge(more):
    config = read(ALBERT, **more)
    assert config.embedding.projection == EmbeddingProjection(128, bias=True, late=True)
    assert len({id(layer) for layer in config.stack.layers}) == 1


def test_gte_multilingual_gte_english_and_arctic():
    config = read(NEW)
    assert config.stack.layers[0].attention.position == Rope(
        160_000.0, 64, scaling=LinearScaling(8.0 ** (2 / 64))
    )
    mlp = config.stack.layers[0].mlp
    assert isinstance(mlp, Gated)
    assert (mlp.bias, mlp.down_bias) == (False, True)
    english = {"rope_theta": 500000, "rope_scaling": {"factor": 2.0, "type": "ntk"}, "type_vocab_size": 0}
    assert read(NEW, **english).embedding.token_types is None
    both = {
        **NEW,
        "architectures": ["NewModel", "NewForTokenClassification"],
    }  # as multilingual-base has it
    assert read_config(both, task="pool")[0] == config
    with refused(ConfigError, "architectures", "NewModel"):
        read_config(both)
    arctic = {"model_type": "gte", "architectures": ["GteModel"], "rope_scaling": None, "rope_theta": 160000}
    assert read(NEW, **arctic).stack.layers[0].attention.position == Rope(160_000.0, 64)


def test_roformer_base_small_and_simbert():
    position = Rope(10_000.0, 64, interleaved=True)
    assert read(ROFORMER).stack.layers[0].attention.position == position
    small = {"hidden_size": 384, "intermediate_size": 1536, "num_attention_heads": 6, "embedding_size": 128}
    config = read(ROFORMER, **small, num_hidden_layers=6)
    assert config.embedding.projection == EmbeddingProjection(128, bias=True, late=True)
    assert read(ROFORMER, architectures=["RoFormerModel"], vocab_size=12000).head == Pool("mean")
    del small["embedding_size"]
    characters = {"max_position_embeddings": 512, "tokenizer_class": "BertTokenizer", "vocab_size": 12000}
    config = read(ROFORMER, **small, **characters, embedding_size=384, num_hidden_layers=6)  # char_small
    assert (config.context, config.embedding.projection) == (512, None)
    untold = {key: value for key, value in ROFORMER.items() if key != "embedding_size"}
    assert read(untold, **characters).embedding.width == 768  # char_base
    with refused(ConfigError, "norm_type", '"layer_norm"', "'rms_norm'"):
        read(ROFORMER, **characters, hidden_act="relu", norm_type="rms_norm", use_bias=False)  # v2_chinese
    with refused(ConfigError, "use_bias", "true", "False"):
        read(ROFORMER, norm_type="layer_norm", use_bias=False)


def test_megatron_berts_are_normed_first():
    """The Swedish ones, Erlangshen and BioMegatron. NVIDIA's own have no config.json; scripts write one."""
    config = read(MEGATRON)
    swedish, large = {**BASE, "vocab_size": 64128}, {**LARGE, "vocab_size": 64128}
    chinese = {
        "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 8, "vocab_size": 21248,
        "hidden_act": "gelu_new", "use_cache": False,
    }  # fmt: skip
    for more, heads, size in ((swedish, 12, 64), (large, 16, 64), (chinese, 8, 256)):
        attention = read(MEGATRON, **more).stack.layers[-1].attention
        assert (attention.heads, attention.head_size) == (heads, size)
    assert (config.stack.first_norm, config.stack.layers[0].mlp.after) == (None, None)
    assert config.stack.final_norm == config.stack.layers[0].attention.pre
    assert read(MEGATRON, vocab_size=30592).embedding.vocabulary == 30592
    assert read(MEGATRON, architectures=["MegatronBertModel"]).head == Pool("first", Dense("tanh"))


def test_jina_embeddings_3_with_one_adapter_a_directory():
    config = read(JINA)
    assert config.stack.layers[0].attention.position == Rope(20_000.0, 64)
    assert config.context == 8194
    older = {
        "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"],
        "lora_adaptations": ["retrieval.query", "retrieval.passage"],
        "auto_map": {"AutoModel": "jinaai/xlm-roberta-flash-implementation--modeling_lora.XLMRobertaLoRA"},
    }  # fmt: skip
    with refused(ConfigError, "lora_adaptations"):
        read({k: v for k, v in JINA.items() if k != "rope_parameters"}, **older)


def test_debertas_of_three_versions():
    attention = read(DEBERTA).stack.layers[0].attention
    assert isinstance(attention, DisentangledAttention)
    assert (attention.distances, attention.shared) == (Distances(512), False)
    config = read(DEBERTA_V3)
    attention = config.stack.layers[-1].attention
    assert isinstance(attention, DisentangledAttention)
    assert attention.distances == Distances(256, 512, LayerNorm(1e-7))
    assert (attention.shared, attention.head_size, attention.factor) == (True, 64, (3 * 64) ** -0.5)
    assert (config.stack.positions, config.embedding.token_types, config.head) == (None, None, Pool("mean"))
    largest = read(DEBERTA_V3, **XXLARGE, conv_kernel_size=3, conv_act="gelu")
    assert largest.stack.layers[0].conv == NeighbourConv(1, "gelu", LayerNorm(1e-7))
    assert {layer.conv for layer in largest.stack.layers[1:]} == {None}
    nli = read(DEBERTA_V3, architectures=["DebertaV2ForSequenceClassification"], **LABELS)
    assert nli.head == Classify(5, dense=Dense("gelu"))
    masked = {"architectures": ["DebertaV2ForMaskedLM"], "tie_word_embeddings": False}
    assert read(DEBERTA_V3, **masked).head.tied is False  # pyright: ignore[reportAttributeAccessIssue]
    assert read(DEBERTA_V3, **masked, legacy=False).head.tied  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("keys", "changed", "message"),
    [
        (DEBERTA, {"talking_head": True}, "talking_head.*false.*True"),
        (DEBERTA, {"pos_att_type": ["c2p", "p2p"]}, "pos_att_type.*c2p.*p2c"),
        (DEBERTA, {"pos_att_type": [["c2p"]]}, "pos_att_type.*c2p.*p2c"),
        (DEBERTA, {"embedding_size": 128}, "embedding_size.*768.*hidden_size"),
        (DEBERTA, {"pooler_hidden_size": 64}, "pooler_hidden_size.*768.*hidden_size"),
        (DEBERTA, {"z_steps": 2}, "z_steps.*0.*2"),
        (DEBERTA_V3, {"attention_head_size": 32}, "attention_head_size.*64.*hidden_size"),
        (DEBERTA_V3, {"norm_rel_ebd": "rms"}, "norm_rel_ebd.*layer_norm.*'rms'"),
        (DEBERTA_V3, {"conv_kernel_size": 4}, "conv_kernel_size"),
        (DEBERTA_V3, {"conv_kernel_size": 3, "conv_groups": 2}, "conv_groups.*1.*2"),
        (DEBERTA_V3, {"position_buckets": 5}, "vectors.*5"),
    ],
)
def test_what_of_deberta_is_refused(keys: dict[str, Any], changed: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read(keys, **changed)


def test_bigbird_reads_long_texts_in_blocks():
    config = read(BIG_BIRD)
    assert (config.context, config.stack.positions) == (4096, Learned(4096))
    masks = {a.mask for a in config.stack.attentions}
    assert masks == {BigBirdBlocks(64, 3)}
    assert BigBirdBlocks(64, 3).longest_whole == 704
    assert isinstance(config.head, MaskedLM)
    full = read(BIG_BIRD, attention_type="original_full", rescale_embeddings=True)
    assert (full.context, full.embedding.scale) == (4096, 768**0.5)
    assert full.stack.attentions[0].mask == FullAttention()
    assert read(BIG_BIRD, max_position_embeddings=704).stack.attentions[0].mask == FullAttention()
    classes = read(BIG_BIRD, architectures=["BigBirdForSequenceClassification"], **LABELS)
    assert classes.head == Classify(5, dense=Dense("gelu_tanh"))
    with refused(ConfigError, "num_random_blocks", 0, 16777215, "-1"):
        read(BIG_BIRD, num_random_blocks=-1)
    answers = read(BIG_BIRD, architectures=["BigBirdForQuestionAnswering"], sep_token_id=66)
    assert answers.head == QuestionAnswering(mlp=answers.stack.layers[0].mlp)


def test_longformers_global_tokens_are_the_heads():
    config = read(LONGFORMER)
    assert (config.context, config.head) == (4096, Pool("first", Dense("tanh")))
    for name, spread in {
        "Model": None, "ForMaskedLM": None, "ForTokenClassification": None,
        "ForSequenceClassification": FirstToken(), "ForQuestionAnswering": QuestionTokens(2),
    }.items():  # fmt: skip
        layers = read(LONGFORMER, architectures=[f"Longformer{name}"]).stack.layers
        assert {layer.attention for layer in layers} == {
            LongformerAttention(12, 64, 256, spread, after=LayerNorm(1e-5))
        }
    for windows in (0, 5, [512] * 11, [512] * 11 + [7], [512] * 11 + [-2]):
        with refused(ConfigError, "attention_window"):
            read(LONGFORMER, attention_window=windows)
    with refused(ConfigError, "ignore_attention_mask"):
        read(LONGFORMER, ignore_attention_mask=True)
    for separator in (None, "</s>", -1, 50265):
        with refused(ConfigError, "sep_token_id"):
            read(
                LONGFORMER,
                architectures=["LongformerForQuestionAnswering"],
                sep_token_id=separator,
            )
    with refused(ConfigError, "pad_token_id", 0, 4096):
        read(LONGFORMER, pad_token_id=4097)


def test_xlnets_summary_is_the_last_vector():
    config = read(XLNET)
    assert {layer.attention for layer in config.stack.layers} == {
        XLNetAttention(12, 64, after=LayerNorm(1e-12))
    }
    assert (config.context, config.embedding.token_types, config.head) == (4096, 4, Pool("mean"))
    labels = {"architectures": ["XLNetForSequenceClassification"], **LABELS}
    assert read(XLNET, **labels).head == Classify(5, "last", Dense("tanh"))
    bare = {"summary_use_proj": False, "summary_activation": None, "summary_type": "mean"}
    assert read(XLNET, **labels, **bare).head == Classify(5, "mean")
    assert read(XLNET, **labels, summary_type="cls_index").head == Classify(5, "last", Dense("tanh"))
    assert read(XLNET, summary_type="attn", summary_use_proj=False).head == Pool("mean")
    clamped = read(XLNET, clamp_len=7).stack.layers[0].attention
    assert clamped == XLNetAttention(12, 64, 7, after=LayerNorm(1e-12))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"architectures": ["XLNetLMHeadModel"]}, "XLNetLMHeadModel"),
        ({"architectures": ["XLNetForQuestionAnswering"]}, "XLNetForQuestionAnswering"),
        ({"attn_type": "uni"}, "attn_type.*'uni'"),
        ({"bi_data": True}, "bi_data.*false"),
        ({"same_length": True}, "same_length.*false"),
        ({"d_head": 32}, "d_head.*64.*d_model.*n_head"),
        ({"summary_type": "attn"}, "summary_type.*cls_index"),
        ({"summary_use_proj": False}, "summary_use_proj.*true.*summary_activation.*null"),
        ({"summary_proj_to_labels": True}, "summary_proj_to_labels.*false"),
    ],
)
def test_what_of_xlnet_is_refused(changed: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        read({**XLNET, "architectures": ["XLNetForSequenceClassification"]}, **changed)
