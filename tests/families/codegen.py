"""CodeGen."""

from functools import partial

import transformers
from transformers.models.codegen.modeling_codegen import CodeGenRotaryEmbedding

from .gptj import gptj, positions
from .kit import decoder

ROWS = {
    "codegen": decoder(
        transformers.CodeGenConfig,
        transformers.CodeGenForCausalLM,
        gptj(),
        {"vocab_size": 50, "n_embd": 128, "n_layer": 2, "n_head": 2},
        amend=partial(positions, CodeGenRotaryEmbedding),
    )
}
