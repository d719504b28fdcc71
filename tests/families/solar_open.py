"""Solar Open."""

import transformers

from .glm4_moe import choice_biases, sigmoid_experts
from .kit import SIZES, decoder

ROWS = {
    "solar_open": decoder(
        transformers.SolarOpenConfig,
        transformers.SolarOpenForCausalLM,
        sigmoid_experts().map(
            lambda keys: {
                k: v for k, v in keys.items() if k not in ("intermediate_size", "first_k_dense_replace")
            }
        ),
        {key: size for key, size in SIZES.items() if key != "intermediate_size"},
        amend=choice_biases,
    )
}
