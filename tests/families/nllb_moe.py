"""NLLB-MoE, with the experts that its router chooses."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from . import bart, m2m_100
from .kit import Row


def _experts(experts: Any) -> Any:
    """Each expert's mlp for the tokens that chose it, as transformers 4 computed it. transformers 5.24 takes
    the mask's 0 and 1 for numbers of experts, so that none beside experts 0 and 1 is computed."""

    def forward(x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
        outputs = torch.stack([experts[f"expert_{i}"](x) for i in range(experts.num_experts)], 1)
        return (outputs * shares[:, :, None]).sum(1) * (1 - experts.moe_token_dropout)

    return forward


def _amend(model: Any) -> None:
    """As M2M100's; the router in the model's numbers, and the experts that it chooses."""
    m2m_100.amend(model)
    for module in model.modules():
        if hasattr(module, "router"):
            module.router.dtype = model.dtype
            module.experts.forward = _experts(module.experts)


MORE: dict[str, Any] = {
    "num_experts": st.sampled_from([2, 3, 5]),
    "router_bias": st.booleans(),
    "encoder_sparse_step": st.sampled_from([0, 1, 2]),
    "decoder_sparse_step": st.sampled_from([1, 2, 3]),
    "moe_token_dropout": st.sampled_from([0.2, 0.0, 0.5]),
    "normalize_router_prob_before_dropping": st.booleans(),
    "batch_prioritized_routing": st.booleans(),
    "expert_capacity": st.sampled_from([1, 64]),
}
ROWS = {
    "nllb-moe": Row(
        transformers.NllbMoeConfig,
        (transformers.NllbMoeForConditionalGeneration,),
        bart.pairs(
            pad_token_id=st.sampled_from([1, 0, 5]),
            max_position_embeddings=st.sampled_from([32, 64]),
            **MORE,
        ),
        bart.SIZES,
        amend=_amend,
        reads=frozenset({"pad_token_id"}),
    )
}
