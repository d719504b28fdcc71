"""Falcon Mamba."""

import operator

import transformers
from hypothesis import strategies as st

from .kit import decoder
from .mamba import SIZES, mamba_keys

EPS = st.fixed_dictionaries({"mixer_rms_eps": st.sampled_from([1e-6, 1e-2])})
ROWS = {
    "falcon_mamba": decoder(
        transformers.FalconMambaConfig,
        transformers.FalconMambaForCausalLM,
        st.builds(operator.or_, mamba_keys(), EPS),
        SIZES,
    )
}
