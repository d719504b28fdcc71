"""The error for a model_type that isn't read says what kind of model it is, and its nearest kin."""

import pytest
from helpers.refused import refused
from tfm.refimpl.checkpoint.config_readers.unknown_type import INSTEAD, NEAR, NONE_NEAR
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.errors import ConfigError
from transformers.models.auto.configuration_auto import CONFIG_MAPPING


@pytest.mark.parametrize(
    ("kind", "told", "advice"),
    [
        ("wavlm", "audio", INSTEAD),
        ("vit", "image", INSTEAD),
        ("voxtral", "text_config llama", "separate"),
        ("paligemma", "later", INSTEAD),
        ("switch_transformers", "capacity", INSTEAD),
        ("lilt", "page", INSTEAD),
        ("canine", "characters", INSTEAD),
        ("hunyuan_vl", "text_config", NEAR.format("hunyuan_v1_dense, hunyuan_v1_moe")),
        ("colmodernvbert", "vlm_config.text_config modernbert", "separate"),
        ("flex_olmo", "text", NEAR.format("olmoe, qwen3_moe")),
        ("diffllama", "text", NEAR.format("glm (except lambda_std_dev), glm4 (except")),
        ("zamba", "text", NONE_NEAR),
    ],
)
def test_what_a_model_is_and_what_is_near(kind, told, advice):
    values = CONFIG_MAPPING[kind]().to_dict() | {"model_type": kind}
    with refused(ConfigError, kind, *told.split(), advice) as error:
        read_config(values)
    assert (INSTEAD in str(error.value)) == (advice != "separate")


def test_kin_have_the_class_that_is_named():
    """An encoder's keys may be those of a decoder too."""
    values = CONFIG_MAPPING["rembert"]().to_dict() | {"model_type": "rembert"}
    with refused(ConfigError, "camembert"):
        read_config(values | {"architectures": ["RemBertForMaskedLM"]})
    with pytest.raises(ConfigError) as error:
        read_config(values | {"architectures": ["RemBertForCausalLM"]})
    assert "camembert" not in str(error.value)
