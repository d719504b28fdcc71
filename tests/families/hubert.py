"""HuBERT: wav2vec 2.0's, and without a norm before the map to the model's width."""

import transformers
from hypothesis import strategies as st

from .kit import Row
from .wav2vec2 import SIZES, keys, rounded

ROWS = {
    "hubert": Row(
        transformers.HubertConfig,
        (transformers.HubertForCTC,),
        keys(feat_proj_layer_norm=st.booleans()),
        SIZES,
        amend=rounded,
    )
}
