"""Command A Vision."""

from .cohere2 import cohere2_keys
from .kit import SIZES
from .llava import SIGLIP, row

# Another scale of logits is refused, as the class has none.
ROWS = {
    "cohere2_vision": row(
        "Cohere2Vision",
        cohere2_keys().map(lambda keys: keys | {"logit_scale": 1.0}),
        SIGLIP,
        {**SIZES, "logit_scale": 1.0},
        alignment_intermediate_size=8,
    )
}
