"""config.json of public checkpoints: each is read as transformers reads it, or refused for a stated reason.

`public_configs.jsonl` holds one a line beside its source, a repository of Hugging Face's hub, with the
revision where that was read. They come from that hub's pages; those of 23 others (Qwen 3, Llama 3.1, Mixtral,
…) from the package aiconfigurator-core 0.12.0, eight from code that quotes them (tiiuae/Falcon3-7B-Instruct,
microsoft/Phi-4-mini-instruct, microsoft/phi-2, allenai/OLMo-1B-hf, baidu/ERNIE-4.5-0.3B-PT,
kyutai/helium-1-preview-2b, rednote-hilab/dots.llm1.inst, MiniMaxAI/MiniMax-M3). Those of 25 more, GLM,
OLMoE, OLMo 3 and LFM2 among them, were written down from memory, so keys without effect may be missing.

Rows with a `copy` are of newer families, from the repository of GitHub's that it names: hlky/dinoml_v2 keeps
config.json of many models as the hub had them in May 2026, the others lie beside programs. gpt-j-6b's is
quoted in a script of layers' sizes.
"""

import re

import pytest
from helpers.configs import PUBLIC, ROWS, changed, rewritten
from helpers.refused import pattern
from huggingface_hub.errors import StrictDataclassFieldValidationError
from tfm.refimpl.checkpoint.families import families, read_config, with_model_type
from tfm.refimpl.errors import ConfigError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

TYPE, CLASS = "tfm doesn't support model_type '{}'\\. .*", "architectures must be one of .*, got "
OWN_CODE = r"\. tfm never runs the repository's own code \(auto_map\)"
LOW_BIT = "unknown key 'bigdl_transformers_low_bit', .*"
REFUSED = {
    # Other models.
    "allenai/OLMo-2-1124-7B@8fc681bc6d6518037bf9a96c219648bdfc2a7dea": TYPE.format("olmo_1124"),
    "tiiuae/falcon-40b-instruct@refs/pr/64": TYPE.format("RefinedWeb"),
    "Xenova/stablelm-2-1_6b@e1b228897bff366bfac63fd35b1f218497771607": TYPE.format("stablelm_epoch"),
    "XiaomiMiMo/MiMo-7B-Base": TYPE.format("mimo"),
    # Classes of somebody's own; and Mixtral's as a Mistral, MiniMax-M2's as a Mixtral.
    "QuantTrio/MiniMax-M2-AWQ": CLASS + r"\['MiniMaxM2ForCausalLM'\]",
    "atsuki-yamaguchi/Llama-3-8B-my-30K-50-rand": CLASS + r"\['LlamaForMultiCausalLMv2'\]",
    "citclass/citclass_small_91": CLASS + r"\['DistilBertClassifier'\]",
    "Jackmin108/bert-base-uncased@389ddad5b1db00c18289f64a54f71d8d93412d9d": CLASS
    + r"\['MyBertForMaskedLM'\]",
    "mattshumer/mistral-8x7b-chat@7d2f42f0d9ae3e758971f7a4dd89e405e00bfa29": CLASS
    + r"\['MixtralForCausalLM'\]",
    "Youliang/llama3-8b-derta": CLASS + r"\['MyLlamaForCausalLM'\]",
    # A head that tfm doesn't have: BERT as a decoder.
    "steysie/bert-base-multilingual-cased-tuned-smartcat@69ece2f1b1c292873450f3e04562d42293478855": CLASS
    + r"\['BertLMHeadModel'\]",
    # A GPT-2 with a second embedding.
    "filco306/gpt2-base-style-paraphraser@80ac77bdcc1fb22d4d2292eb84363740aac9fa3c": "unknown key "
    "'extra_embedding_dim', .*",
    # A Llama with a window, which the class doesn't have; a T5 of somebody's own.
    "ankhamun/x0o0I_i8ee8_I0x0o": "sliding_window must be null, got 4096",
    "melmoth/ru-rope-t5-small-instruct": "dense_act_fn must be the activation gelu_tanh, as "
    "feed_forward_proj states, got 'silu'",
    # Weights in a format of quantization that isn't read.
    "unrahul/bloom-1b7-nf4@010e36006cedfcf0d43a47c43595cb75ada65f37": LOW_BIT,
    "unrahul/deepseek-coder-1.3b-instruct-asym_int4": LOW_BIT,
    "mlx-community/c4ai-command-r7b-12-2024-8bit": "quantization_config: quant_method is missing; .*",
    # Layers that carry a state, a mixture of experts in every second layer, five adapters in one file.
    "nomic-ai/nomic-embed-text-v2-moe-unsupervised": "activation_function must be \"swiglu\", got 'gelu'",
    "jinaai/jina-embeddings-v3-small-ci": "model_type is missing" + OWN_CODE,
    # GPT-J as a GPT-Neo that rotates.
    "EleutherAI/gpt-j-6b, before its own class": "rotary must be false, got True",
    # Two vocabularies; transformers reads another file in place of this one.
    "hf-internal-testing/tiny-random-MarianMTModel@refs/pr/1": "decoder_vocab_size must be vocab_size.*",
    "hf-internal-testing/test-two-configs": "unknown key 'configuration_files', .*",
    # Two keys contradict each other.
    "ENLP/mrasp2": r"num_hidden_layers must be the same as encoder_layers \(6\), got 12",
    "google/flan-t5-xxl@refs/pr/4": "is_gated_act must be false, as feed_forward_proj states, got True",
    "MT-Distillation/s-ukr-eng": r"num_hidden_layers must be the same as encoder_layers \(6\), got 3",
}
# A whole number where transformers 5 wants another, which older versions took.
TOO_STRICT = {
    "ethzanalytics/mpt-7b-storywriter-sharded@5e7cdb35f2a9f420d4c06d9f81a524741afc173b",
    "mosaicml/mpt-30b-chat@437d912b723f762097b83a361bc5f2c70adc0a58",
}
# Families whose class isn't transformers'; and whose class takes an older key for one that it doesn't know.
NOT_THEIRS = ("internlm2", "new", "nomic_bert")
# A number of heads that the class refuses, although no layer has them.
INCONSISTENT = {"granite-4-350m"}


def test_every_row_is_of_a_family_or_refused():
    assert len(PUBLIC) == 401
    read = [
        with_model_type(config)["model_type"] for source, config in PUBLIC.items() if source not in REFUSED
    ]
    assert set(read) <= set(families())  # those of newer families are in families/test_hub_*.py
    assert len(read) == 376


@pytest.mark.parametrize("name", sorted({**PUBLIC, **ROWS}.keys() - REFUSED - TOO_STRICT - INCONSISTENT))
def test_a_config_is_read_as_transformers_writes_it_again(name):
    """Older spellings and keys that a file leaves out mean what its class makes of them."""
    values = changed(name, {})
    if with_model_type(values)["model_type"] in NOT_THEIRS:
        read_config(values)
    else:
        assert read_config(values)[0] == read_config(rewritten(values))[0]


@pytest.mark.parametrize("source", sorted(TOO_STRICT))
def test_transformers_takes_no_whole_number(source):
    read_config(PUBLIC[source])
    # Its message has several lines.
    with pytest.raises(StrictDataclassFieldValidationError, match=pattern("clip_qkv'", "int")):
        CONFIG_MAPPING["mpt"].from_dict(PUBLIC[source])


@pytest.mark.parametrize("source", REFUSED)
def test_a_public_config_is_refused_for_what_tfm_does_not_have(source):
    reason = f"config.json: {REFUSED[source]}"
    if PUBLIC[source].get("auto_map") and REFUSED[source].startswith(("model_type '", CLASS)):
        reason += OWN_CODE
    with pytest.raises(ConfigError) as caught:
        read_config(PUBLIC[source])
    assert re.fullmatch(reason, str(caught.value))
