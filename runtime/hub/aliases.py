"""Define short names of models on the Hugging Face hub.

An alias isn't pinned to a commit. It means the files that its repository contains when they are first
fetched (`first_fetch`). None of these models was tried here. Their descriptions come from their makers.
The memory that they need is computed from their public config.json (`tests/runtime/hub/test_aliases.py`).
"""

from __future__ import annotations

from typing import NamedTuple


class Alias(NamedTuple):
    """A repository of the hub, with facts that the user should know before tfm fetches it.

    - `task`: the command for the model, as in `model_names.CatalogueModel`.
    - `megabytes`: the memory for the weights in the default export, for a text of 4,096 tokens, and for the
      runtime.
    - `licence`: the licence; empty if only the model's card states it.
    - `abilities`: what the chat template supports, according to the maker.
    """

    repository: str
    task: str
    megabytes: int
    licence: str
    abilities: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """The full name of the repository, hf:ORG/NAME."""
        return f"hf:{self.repository}"


TOOLS, THINKING = "tools", "thinking"
ALIASES = {
    "qwen3-0.6b": Alias("Qwen/Qwen3-0.6B", "generate", 1795, "Apache-2.0", (TOOLS, THINKING)),
    "qwen3-1.7b": Alias("Qwen/Qwen3-1.7B", "generate", 3020, "Apache-2.0", (TOOLS, THINKING)),
    "qwen3-4b": Alias("Qwen/Qwen3-4B", "generate", 5776, "Apache-2.0", (TOOLS, THINKING)),
    "qwen3-8b": Alias("Qwen/Qwen3-8B", "generate", 10337, "Apache-2.0", (TOOLS, THINKING)),
    "llama-3.2-1b": Alias("meta-llama/Llama-3.2-1B-Instruct", "generate", 1822, "llama3.2", (TOOLS,)),
    "llama-3.2-3b": Alias("meta-llama/Llama-3.2-3B-Instruct", "generate", 4635, "llama3.2", (TOOLS,)),
    "gemma-3-270m": Alias("google/gemma-3-270m-it", "generate", 654, "gemma"),
    "gemma-3-1b": Alias("google/gemma-3-1b-it", "generate", 1521, "gemma"),
    "gemma-3-4b": Alias("google/gemma-3-4b-it", "generate", 5578, "gemma"),
    "gemma-4-e2b": Alias("google/gemma-4-E2B-it", "generate", 5557, "Apache-2.0", (TOOLS, THINKING)),
    "gemma-4-e4b": Alias("google/gemma-4-E4B-it", "generate", 8991, "Apache-2.0", (TOOLS, THINKING)),
    "smollm2-360m": Alias("HuggingFaceTB/SmolLM2-360M-Instruct", "generate", 930, "Apache-2.0"),
    "smollm2-1.7b": Alias("HuggingFaceTB/SmolLM2-1.7B-Instruct", "generate", 3664, "Apache-2.0"),
    "smollm3-3b": Alias("HuggingFaceTB/SmolLM3-3B", "generate", 4141, "Apache-2.0", (TOOLS, THINKING)),
    "phi-4-mini": Alias("microsoft/Phi-4-mini-instruct", "generate", 5459, "MIT", (TOOLS,)),
    "lfm2-350m": Alias("LiquidAI/LFM2-350M", "generate", 689, "lfm1.0", (TOOLS,)),
    "lfm2-1.2b": Alias("LiquidAI/LFM2-1.2B", "generate", 1574, "lfm1.0", (TOOLS,)),
    "granite-4.0-h-350m": Alias("ibm-granite/granite-4.0-h-350m", "generate", 634, "Apache-2.0", (TOOLS,)),
    "granite-4.0-h-1b": Alias("ibm-granite/granite-4.0-h-1b", "generate", 1924, "Apache-2.0", (TOOLS,)),
    "ministral-3-3b": Alias(
        "mistralai/Ministral-3-3B-Instruct-2512-BF16", "generate", 4802, "Apache-2.0", (TOOLS,)
    ),
    "olmo-2-1b": Alias("allenai/OLMo-2-0425-1B-Instruct", "generate", 2908, "Apache-2.0"),
    "olmo-3-7b": Alias("allenai/Olmo-3-7B-Instruct", "generate", 12429, "Apache-2.0", (TOOLS,)),
    "bge-small": Alias("BAAI/bge-small-en-v1.5", "embed", 237, "MIT"),
    "multilingual-e5-base": Alias("intfloat/multilingual-e5-base", "embed", 511, "MIT"),
    "embeddinggemma-300m": Alias("google/embeddinggemma-300m", "embed", 536, "gemma"),
    "bge-reranker-base": Alias("BAAI/bge-reranker-base", "classify", 511, "MIT"),
    "bert-base-ner": Alias("dslim/bert-base-NER", "tag", 314, "MIT"),
    "distilbert-sst2": Alias(
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english", "classify", 273, "Apache-2.0"
    ),
    "opus-mt-en-de": Alias("Helsinki-NLP/opus-mt-en-de", "translate", 296, ""),
    "t5-small": Alias("google-t5/t5-small", "translate", 368, "Apache-2.0"),
    "pegasus-xsum": Alias("google/pegasus-xsum", "summarize", 890, ""),
}
