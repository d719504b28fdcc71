"""The error for a model_type that isn't read says what kind of model it is, and its nearest kin."""

import pytest
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.errors import ConfigError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("wavlm", "audio"),
        ("vit", "image"),
        ("voxtral", "text_config llama"),
        ("paligemma", "later"),
        ("switch_transformers", "capacity"),
        ("lilt", "page"),
        ("canine", "characters"),
        ("qwen4_exp", "text_config No"),
        ("hunyuan_vl", "text_config hunyuan_v1_dense"),
        ("colmodernvbert", "vlm_config.text_config modernbert"),
        ("flex_olmo", "olmoe"),
        ("diffllama", "glm lambda_std_dev"),
        ("zamba", "text No"),
    ],
)
def test_what_a_model_is_and_what_is_near(kind, said):
    values = CONFIG_MAPPING[kind]().to_dict() | {"model_type": kind}
    with refused(ConfigError, kind, *said.split()):
        read_config(values)


def test_kin_have_the_class_that_is_named():
    """An encoder's keys may be those of a decoder too."""
    values = CONFIG_MAPPING["rembert"]().to_dict() | {"model_type": "rembert"}
    with refused(ConfigError, "camembert"):
        read_config(values | {"architectures": ["RemBertForMaskedLM"]})
    with pytest.raises(ConfigError) as error:
        read_config(values | {"architectures": ["RemBertForCausalLM"]})
    assert "camembert" not in str(error.value)
