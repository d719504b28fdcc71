"""OpenAI's privacy filter."""

import operator

import transformers
from hypothesis import strategies as st

from .gpt_oss import gpt_oss_keys, sinks
from .kit import IDS, SIZES, Row, labelled

# All layers have the window, and experts one activation.
ABSENT = ("layer_types", "hidden_act")
KEYS = gpt_oss_keys().map(lambda keys: {key: keys[key] for key in keys if key not in ABSENT} | IDS)
# Two labels are the ones that transformers doesn't write, and takes for the class's 33.
LABELS = labelled().filter(lambda keys: keys["num_labels"] != 2)
ROWS = {
    "openai_privacy_filter": Row(
        transformers.OpenAIPrivacyFilterConfig,
        (transformers.OpenAIPrivacyFilterForTokenClassification, transformers.OpenAIPrivacyFilterModel),
        st.builds(operator.or_, KEYS, LABELS),
        {**SIZES, **IDS},
        amend=sinks,
        reads=frozenset({"id2label", "num_labels"}),
    )
}
