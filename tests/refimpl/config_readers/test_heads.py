"""Labels and how their logits are read, as a config states them."""

import pytest
import transformers
from families.kit import SIZES
from tfm.refimpl.config import Classify
from tfm.refimpl.config_readers.heads import labels
from tfm.refimpl.config_readers.keys import Keys
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.families import read_config

BASE = {"model_type": "bert", **SIZES}
RAW = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}
CLASSIFY = {**BASE, "architectures": ["BertForSequenceClassification"]}


def head(**more):
    return read_config({**CLASSIFY, **more})[0].head


@pytest.mark.parametrize(
    "keys",
    [{}, {"num_labels": 1}, {"num_labels": 12}, {"id2label": {"1": "b", "0": "a"}}],
    ids=["none", "one", "twelve", "named"],
)
def test_labels_are_those_of_transformers(keys):
    theirs = transformers.BertConfig(**keys)
    for stated in (keys, theirs.to_dict()):
        assert labels(Keys(stated, "config.json")) == theirs.num_labels
    assert head(**keys).labels == theirs.num_labels


@pytest.mark.parametrize(
    ("keys", "kind"),
    [
        ({}, "single"),
        ({"problem_type": None, "num_labels": 1}, "multi"),
        ({"problem_type": "single_label_classification"}, "single"),
        ({"problem_type": "multi_label_classification"}, "multi"),
        ({"problem_type": "regression", "num_labels": 1}, "regression"),
        ({"sentence_transformers": RAW, "num_labels": 1}, "regression"),
        ({"sentence_transformers": {"version": "4.1.0"}, "num_labels": 1}, "multi"),
        ({"sentence_transformers": RAW, "problem_type": "multi_label_classification"}, "multi"),
    ],
)
def test_how_logits_are_read(keys, kind):
    assert isinstance(head(**keys), Classify)
    assert head(**keys).kind == kind


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 3}, "num_labels must be the number of names in"),
        ({"num_labels": 2**40}, "labels must be 1 to"),
        ({"id2label": {}}, "labels must be 1 to"),
        ({"num_labels": 0}, "num_labels must be at least 1"),
        (
            {"problem_type": "ranking"},
            "problem_type must be one of regression, single_label_classification, ",
        ),
        ({"problem_type": "single_label_classification", "num_labels": 1}, "one of regression, multi_label"),
        ({"is_decoder": True}, "is_decoder must be false"),
        ({"architectures": ["BertForQuestionAnswering"], "num_labels": 3}, "id2label must be two labels"),
    ],
)
def test_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        read_config({**CLASSIFY, **keys})
