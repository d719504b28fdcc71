"""VaultGemma."""

import transformers
from hypothesis import strategies as st

from .gemma2 import sandwich
from .kit import decoder

ROWS = {
    "vaultgemma": decoder(
        transformers.VaultGemmaConfig,
        transformers.VaultGemmaForCausalLM,
        st.integers(1, 3).flatmap(sandwich),
    )
}
