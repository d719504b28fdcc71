"""The error for a model_type that isn't read says what kind of model it is, and its nearest kin."""

import pytest
from helpers.refused import refused
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.errors import ConfigError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("wavlm", "audio model"),
        ("vit", "image model"),
        ("voxtral", "text part (text_config, a llama)"),
        ("paligemma", "also see later tokens"),
        ("switch_transformers", "beyond its capacity"),
        ("lilt", "its place on a page"),
        ("canine", "a vector for every few characters"),
        ("qwen4_exp", "its text part (text_config) either. No supported type has"),
        (
            "hunyuan_vl",
            "(text_config) either. The nearest supported types, which have the same config keys, are: "
            "hunyuan_v1_dense,",
        ),
        ("colmodernvbert", "text part (vlm_config.text_config, a modernbert)"),
        ("flex_olmo", "same config keys, are: olmoe,"),
        ("diffllama", "glm (except lambda_std_dev)"),
        ("zamba", "It is a text model. No supported type"),
    ],
)
def test_what_a_model_is_and_what_is_near(kind, said):
    values = CONFIG_MAPPING[kind]().to_dict() | {"model_type": kind}
    with refused(ConfigError, kind, said):
        read_config(values)


def test_kin_have_the_class_that_is_named():
    """An encoder's keys may be those of a decoder too."""
    values = CONFIG_MAPPING["rembert"]().to_dict() | {"model_type": "rembert"}
    with refused(ConfigError, "camembert"):
        read_config(values | {"architectures": ["RemBertForMaskedLM"]})
    with pytest.raises(ConfigError) as error:
        read_config(values | {"architectures": ["RemBertForCausalLM"]})
    assert "camembert" not in str(error.value)
