"""Idefics3 and SmolVLM."""

from .llava import TOWER, row, texts

ROWS = {
    "idefics3": row("Idefics3", texts("llama"), TOWER, scale_factor=1, pad_token_id=1),
    "smolvlm": row("SmolVLM", texts("llama"), TOWER, scale_factor=1, pad_token_id=1),
}
