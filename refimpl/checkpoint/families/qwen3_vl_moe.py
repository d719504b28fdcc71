"""The text part of Qwen3-VL with experts: Qwen 3 MoE without windows, with M-RoPE positions."""

from ...config import Decoder
from ..config_readers.gguf_keys import SECTIONED
from ..config_readers.gguf_rope import SECTIONS
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, text_model, without_sections
from ..weights.weight_map import weight_map
from . import Gguf, Task, qwen3_moe
from .llama import QK_NORM
from .llama import WEIGHTS as LLAMA
from .qwen2_vl import LEFT_OUT, ignore_image_keys
from .qwen2_vl import PREFIX as PREFIX
from .qwen3_vl import DEEPSTACK

MODEL_TYPES = ("qwen3_vl_moe",)
ARCHITECTURES: dict[str, Task] = {"Qwen3VLMoeForConditionalGeneration": "lm", "Qwen3VLMoeModel": "pool"}


def config(keys: Keys, task: Task) -> Decoder:
    ignore_image_keys(keys)
    texts = {"qwen3_vl_moe_text": TEXT, "qwen3_vl_moe": TEXT}
    return text_model(keys, task, texts, "qwen3_vl_moe_text", tied=False)


def _text(keys: Keys, task: Task) -> Decoder:
    ignore_image_keys(keys)
    # Windows have no key here, and the weights of chosen experts always sum to one.
    keys.harmless(norm_topk_prob=(True,), use_sliding_window=(False,), sliding_window=(None,))
    values = {**without_sections(keys, 5e5).values, "norm_topk_prob": True}
    if not {"num_experts", "num_local_experts"} & values.keys():
        values["num_experts"] = 60
    return qwen3_moe.config(keys.replaced(values), task)


TEXT = TextModel(
    _text,
    {"vocab_size": 151_936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
     "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 128_000,
     "num_experts_per_tok": 4, "moe_intermediate_size": 1408},
)  # fmt: skip
# All experts of a layer are in one tensor: inputs first on hubs, outputs first as transformers 5 writes it.
WEIGHTS = (
    LLAMA
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{i}.mlp.gate.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate, up <- layers.{i}.mlp.experts.gate_up_proj[{e}] : either_order
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.mlp.experts.down_proj[{e}] : either_order
""")
    + LEFT_OUT
)


GGUF = Gguf(
    "qwen3vlmoe",
    {**qwen3_moe.KEYS, **SECTIONED, **DEEPSTACK},
    UNPERMUTED_QK_WEIGHTS + EXPERTS,
    arrays=(SECTIONS,),
)
